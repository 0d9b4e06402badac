"""Launches that no GPU has timed, described as measured.py describes those that one has: a few numbers
each. What is compiled (the candidates of commit e75dde0, bench/variants.md there) has the compiler's
registers and lengths of code; what is not has estimates, and says so.

kernels() are named as their benchmarks are (`variant/...`), so that a measurement finds its prediction.
"""

from dataclasses import replace

import measured
from measured import FETCH, FLOAT, ONCE, SHAPES, ceil_div
from model import Launch


COPY = 0.2  # of the code outside of the loop, to begin a stage's copies: there is no rounding to do


def row_product(s, positions, threads, registers, code, loop, unit="mma", ahead=None, cluster=1,
                buffers=None, reads=1, sums=0, **how):
    """A hidden layer's convolution, or its input gradient: `code` instructions in all, `loop` of them
    in the loop of 16 channels. `ahead`: None for all stages under way from the beginning; a cluster's
    blocks share the weights; `reads` tensors of x's size, and `sums` over the block."""
    h, stages, rest = s.channels, s.channels // 16, code - loop
    blocks = s.samples * ceil_div(s.length_out, positions)
    shared = 4 * ((positions + s.taps - 1) | 1) * 16 * reads + 16 * s.taps * h * FLOAT
    return Launch(
        f"rows, {positions} positions, {unit}", blocks, threads, registers,
        (buffers or stages) * shared, instructions=ONCE * rest, fetch=(FETCH if ahead else COPY) * rest,
        loop=loop * stages, stages=stages, ahead=ahead or stages, roles=2 if ahead else 1,
        cluster=cluster, barriers=sums,
        read=blocks * (s.w / cluster + reads * (s.taps - 1) * h * FLOAT) + reads * s.x,
        fresh=reads * s.x + s.w, write=s.y,
        **{unit: 2.0 * blocks * positions * s.taps * h * h}, **how)


def parameter_gradients(s, layers, splits, slices, threads, registers, code, loop, ahead, early=False):
    """Of several layers in one launch (TF32 mma.sync, copies in the background), and their splits' sums
    in another."""
    h, sums = s.channels, s.taps * s.channels ** 2 + s.channels
    chunks, rest = s.samples * ceil_div(s.length_out, 64), code - loop
    stages, blocks = ceil_div(chunks, splits), slices * splits * layers
    stage = h // slices // 4 * (64 + s.taps) * 16 + 64 * h * FLOAT
    first = Launch(
        f"parameter gradients, {layers} layers", blocks, threads, registers, ahead * stage,
        read=layers * (s.x + slices * s.y), fresh=layers * (s.x + s.y),
        write=layers * splits * sums * FLOAT, instructions=ONCE * rest, fetch=COPY * rest,
        loop=loop * 4 * stages, stages=stages, ahead=ahead, barriers=1, early=early,
        mma=2.0 * blocks * stages * 64 * s.taps * h * h / slices)
    if layers == 1:
        return [first, measured.add_splits(splits, sums)]
    second = Launch("parameter gradients, sums", layers * ceil_div(sums, 256), 256, 32,
                    read=layers * splits * sums * FLOAT, write=layers * sums * FLOAT, instructions=60,
                    stages=ceil_div(splits, 8), early=early)
    return [first, second]


# (name, positions, threads, and forward and flipped: registers, code, loop), compiled at e75dde0.
ASYNC = {
    "TF32 async, h = 64, 160 positions, 8 warps": (160, 256, (116, 1264, 629), (120, 1296, 679)),
    "TF32 async, h = 64, 160 positions, 4 warps": (160, 128, (158, 2128, 1039), (170, 2360, 1200)),
    "TF32 async, h = 64, 80 positions, 4 warps": (80, 128, (116, 1288, 625), (120, 1360, 679)),
    "TF32 async, h = 64, 64 positions, 8 warps": (64, 256, (80, 808, 352), (92, 808, 368)),
    "TF32 async, h = 64, 64 positions, 4 warps": (64, 128, (100, 1160, 538), (108, 1232, 593)),
    "TF32 async, h = 64, 32 positions, 8 warps": (32, 256, (72, 592, 237), (76, 592, 251)),
    "TF32 async, h = 32, 32 positions, 4 warps": (32, 128, (72, 536, 229), (76, 560, 243)),
    "TF32 rounded, h = 64, 160 positions, 8 warps": (160, 256, (112, 1072, 439), (120, 1168, 547)),
    "TF32 rounded, h = 64, 160 positions, 4 warps": (160, 128, (162, 1872, 765), (166, 2128, 968)),
    "TF32 rounded, h = 64, 80 positions, 4 warps": (80, 128, (112, 1104, 439), (120, 1224, 547)),
}
# (slices, threads, registers, code, loop, chunks under way), of one layer and of several.
WEIGHTS = {
    "h = 64, 2 slices, 2 blocks": (2, 128, 160, 2112, 200, 4),
    "h = 64, 2 slices, 3 blocks": (2, 128, 156, 1760, 188, 3),
    "h = 64, 1 slice, 1 block": (1, 256, 152, 1968, 200, 5),
    "h = 64, 1 slice, 2 blocks": (1, 256, 128, 1472, 182, 3),
    "h = 32, 1 slice, 2 blocks": (1, 128, 148, 1664, 200, 3),
}


def by_wgmma(s, cluster, **how):
    """bench/wgmma_rows.cu of e75dde0: 168 registers and its length estimated. One warp group issues."""
    return row_product(s, 152, 128, 168, 700, 100, "wgmma", cluster=cluster, **how)


def probes_forward(probes, count, inputs, width):
    """All layers of dense probes on `count` rows in one launch by wgmma, tiles of 128 rows; weights for
    clusters of 2. No code yet."""
    weights = inputs * width + width * width + width
    blocks, x = probes * ceil_div(count, 128), FLOAT * count * inputs
    return Launch("probes, forward", blocks, 384, 168, 200 * 1024, cluster=2,
                  read=blocks * FLOAT * weights / 2 + probes * x, fresh=probes * (x + FLOAT * weights),
                  write=probes * FLOAT * count, wgmma=2.0 * probes * count * weights, instructions=200,
                  fetch=60, loop=50 * 10, stages=ceil_div(inputs + width, 32), ahead=3, barriers=2)


def kernels():
    """{name of a benchmark: launches}"""
    found = {"variant/probes_of_31_layers/19200x64x256/forward fused":
             [probes_forward(31, 19200, 64, 256)]}
    for name, s in SHAPES.items():
        for flip, way in enumerate(("conv1d_forward", "conv1d_backward_input")):
            if flip and not s.padding:
                continue
            for variant, (positions, threads, *compiled) in ASYNC.items():
                if f"h = {s.channels}," in variant:
                    found[f"variant/{way}/{name}/{variant}"] = [
                        row_product(s, positions, threads, *compiled[flip])]
            if name == "paper":
                for cluster in (1, 2, 4):
                    found[f"variant/{way}/{name}/wgmma rounded, clusters of {cluster}"] = [
                        by_wgmma(s, cluster)]
        for variant, (slices, *launch) in WEIGHTS.items():
            if f"h = {s.channels}," not in variant:
                continue
            fit = 132 * int(variant.split(", ")[-1][0]) // slices
            found[f"variant/conv1d_backward_params/{name}/TF32 async, {variant}"] = parameter_gradients(
                s, 1, min(fit, s.samples * ceil_div(s.length_out, 64)), slices, *launch)
            for splits in ((4, 8, 13) if name == "paper" else (4,) if name == "demo" else ()):
                layers = s.depth - 2
                title = f"{name}/TF32 together, {variant}, {splits} splits"
                found[f"variant/parameter_gradients_of_{layers}_layers/{title}"] = parameter_gradients(
                    s, layers, splits, slices, *launch)
    return found


# --- Steps --------------------------------------------------------------------------------------

def wide(launch, networks):
    """The same for several networks side by side, as one launch."""
    return replace(launch, **{name: networks * getattr(launch, name) for name in (
        "blocks", "read", "fresh", "write", "ffma", "mma", "wgmma")})


def fused_step(s, machine, layer, back, early=False):
    """Hidden layers of one launch each way: the normalization before it where rows are loaded, with
    statistics merged at the start, and the sums for the one after it where they are stored; on the way
    back x is read beside dy. Then the parameter gradients of all layers; the ends as they are."""
    gone, hidden = max(0.0, 1 - machine.l2_holds / (s.depth - 2) / (s.x + s.y)), s.depth - 2
    together = parameter_gradients(s, hidden, 8, *WEIGHTS["h = 64, 1 slice, 1 block"], early=early)
    ends = [(x, cold) for x, cold in measured.step("paper", True, machine)
            if not any(word in x.name for word in ("mma_rows", "norm_relu", "mma_weights"))]
    splits = [x for x, _ in ends if "add_splits" in x.name]
    columns = [x for x, _ in ends if "total_columns" in x.name]
    ends = [(replace(x, early=early), cold) for x, cold in ends if x not in splits + columns]
    ends += [(replace(x, early=early), 0) for x in (splits[0], splits[-1])]  # of the first and the last
    return ([(layer, 0)] * hidden + [(back, gone / 2)] * hidden
            + [(together[0], 0.75 * gone), (together[1], 0)] + ends)


def steps(machine):
    """{name: (launches with their cold shares, networks)} of a paper-scale step, TF32. The fused layers
    were predicted before their code was written: they are the compiled row products with 300 instructions
    and two or three sums over the block more."""
    s, today = SHAPES["paper"], measured.step("paper", True, machine)
    gone = max(0.0, 1 - machine.l2_holds / (s.depth - 2) / (s.x + s.y))
    together = parameter_gradients(s, s.depth - 2, 8, *WEIGHTS["h = 64, 1 slice, 1 block"])
    hidden = {x.name for x, _ in today if "mma_weights" in x.name}
    rest, skip = [], False
    for x, cold in today:
        if x.name not in hidden and not skip:
            rest.append((x, cold))
        skip = x.name in hidden  # its add_splits follows
    mma = row_product(s, 160, 256, 212, 2348, 728, ahead=1, buffers=2, sums=3)
    mma_back = row_product(s, 160, 256, 232, 2348, 728, ahead=1, buffers=2, reads=2, sums=3)
    wgmma = by_wgmma(s, 2, sums=3)
    wgmma_back = by_wgmma(s, 2, sums=3, reads=2, buffers=3)
    found = {
        "paper/tf32, parameter gradients of all layers in one launch":
            (rest + [(together[0], 0.75 * gone), (together[1], 0)], 1),
        "paper/tf32, and layers fused, mma.sync": (fused_step(s, machine, mma, mma_back), 1),
        "paper/tf32, and layers fused, wgmma, clusters of 2":
            (fused_step(s, machine, wgmma, wgmma_back), 1)}
    early = fused_step(s, machine, replace(wgmma, early=True), replace(wgmma_back, early=True), True)
    found["paper/tf32, and launches that overlap"] = (early, 1)
    for name in ("demo", "paper", "overlap"):
        found[f"{name}/tf32, today's launches, overlapping"] = (
            [(replace(x, early=True), cold) for x, cold in measured.step(name, True, machine)], 1)
    for name in ("demo", "paper", "paper-batch-norm", "overlap"):
        for networks in (2, 4, 8):
            # Those of all networks at the same place of their steps; the queues hide each other's gaps.
            found[f"{name}/tf32, {networks} networks in queues, each"] = (
                [(wide(replace(x, early=True), networks), cold)
                 for x, cold in measured.step(name, True, machine)], networks)
    for networks in (2, 4):
        found[f"paper/tf32, and {networks} networks side by side, each"] = (
            [(wide(x, networks), cold) for x, cold in early], networks)
    return found
