"""Launches that no GPU has timed, described as measured.py describes those that one has: a few numbers
each. What is compiled (the candidates of commit e75dde0, bench/variants.md there) has the compiler's
registers and lengths of code; what is not has estimates, and says so.

kernels() are named as their benchmarks are (`variant/...`: candidates), so that a measurement finds its
prediction.
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


# kernels/cuda/mlp: registers, bytes of shared memory, and of a warp the instructions of a tile of 128
# rows, by nvcc 13.0 (of the way back in the second layer: of a chunk of 32).
# MLP_FORWARD: whether it keeps what the way back reads.
MLP_FORWARD = {False: (233, 231936, 5600), True: (236, 231936, 6500)}
MLP_FIRST, MLP_SECOND = (250, 228352, 5400), (228, 73728, 800)


def mlp_weights(networks, stages):
    return Launch("perceptrons, weights", networks * stages * 4, 256, 26, read=networks * stages * 16384,
                  fresh=networks * stages * 16384, write=networks * stages * 16384, instructions=100)


def mlp_forward(networks, rows, inputs, width, keeps):
    """Blocks stay and walk over tiles, so stores go on beside the next tile's products: they are
    counted as what flows, not as what comes at the end."""
    registers, shared, code = MLP_FORWARD[keeps]
    tiles, stages = networks * ceil_div(rows, 128), (inputs + width) // 16
    blocks, x = min(tiles, measured.MULTIPROCESSORS), FLOAT * networks * rows * inputs
    of_one = ceil_div(tiles, blocks)
    kept = networks * rows * (FLOAT * width + width // 4) if keeps else 0
    return [mlp_weights(networks, stages), Launch(
        "perceptrons, forward", blocks, 256, registers, shared, stages=of_one * stages, ahead=3,
        read=tiles * stages * 16384 + x + kept, fresh=x + kept, write=FLOAT * networks * rows / of_one,
        loop=code * of_one, mma=2.0 * blocks * of_one * 128 * width * (inputs + width))]


def mlp_backward(networks, rows, inputs, width):
    """dw of the first layer, beside g1; s of the second one; and both as gradients."""
    tiles, stages = ceil_div(rows, 128), width // 16
    firsts = max(1, min(tiles, measured.MULTIPROCESSORS // networks))
    seconds = max(1, min(tiles, measured.MULTIPROCESSORS // (2 * networks)))
    x, masks = FLOAT * networks * rows * inputs, networks * rows * width // 8
    kept = FLOAT * networks * rows * width
    of_first, of_second = width * (inputs + 1) * FLOAT, width * (width + 1) * FLOAT
    registers, shared, code = MLP_FIRST
    walked = ceil_div(tiles, firsts)
    first = Launch(
        "perceptrons, way back in the first layer", networks * firsts, 256, registers, shared,
        stages=walked * stages, ahead=2, read=networks * tiles * stages * 16384 + x + 2 * masks,
        fresh=x + 2 * masks, write=networks * firsts * of_first, loop=code * walked,
        mma=2.0 * networks * firsts * walked * 128 * width * (inputs + width))
    registers, shared, code = MLP_SECOND
    chunks = ceil_div(4 * tiles, seconds)
    second = Launch(
        "perceptrons, way back in the second layer", 2 * networks * seconds, 256, registers, shared,
        stages=chunks, ahead=3, read=kept + 2 * masks, fresh=kept + masks,
        write=networks * seconds * of_second, loop=code * chunks,
        mma=2.0 * 2 * networks * seconds * chunks * 32 * width * width / 2)
    sums = Launch(
        "perceptrons, gradients", networks * width, width, 40,
        read=networks * (firsts * of_first + seconds * of_second + FLOAT * width * width),
        fresh=networks * FLOAT * width * width, write=networks * (of_first + of_second),
        stages=ceil_div(max(firsts, seconds), 4), instructions=200, barriers=1)
    return [mlp_weights(networks, stages), first, second, sums]


def kernels():
    """{name of a benchmark: launches}"""
    found = {}
    for shape in ((31, 19200, 64, 256), (7, 512, 32, 256)):
        name = "x".join(map(str, shape)) + "/tf32"
        found[f"mlp_forward/{name}"] = mlp_forward(*shape, False)
        found[f"mlp_forward/{name.replace('/', '/kept/')}"] = mlp_forward(*shape, True)
        found[f"mlp_backward/{name}"] = mlp_backward(*shape)
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
    # The probes' step and a batch of the map: the network's way forward, and all probes at once.
    count = (31, s.samples * s.length)
    showing = replace(mma, write=s.y + s.x)  # z too
    network = ([(x, 0) for x in measured.normals(s.samples, s.length) + measured.one_channel_in(s, False)]
               + [(showing, 0)] * (s.depth - 2) + [(x, 0) for x in measured.one_channel_out(s)])
    parameters = count[0] * (64 * 256 + 256 * 256 + 3 * 256 + 1)
    answers = FLOAT * count[0] * count[1]
    losses = [measured.kernel("mse: sum_ranges<SquaredError, StoreMean>", count[0], 1024, read=answers,
                              fresh=answers, stages=ceil_div(count[1], 8 * 1024), barriers=0.5)]
    losses += measured.elements("mse: map_elements<Gradient, float>", 2 * answers, answers, serial=4)
    found["probes of paper/tf32, all at once"] = (
        network + [(x, 1) for x in mlp_forward(*count, 64, 256, True)] + [(x, 0) for x in losses]
        + [(x, 1) for x in mlp_backward(*count, 64, 256)]
        + [(x, 1) for x in measured.sum_of_squares(parameters) + measured.adam(parameters)], 1)
    squares = Launch("sums of squares", count[0] * ceil_div(s.x // FLOAT, 32768), 1024, 32,
                     read=count[0] * s.x, fresh=count[0] * s.x, stages=4, barriers=0.5)
    found["map of paper/tf32, a batch, all at once"] = (
        network + [(x, 1) for x in mlp_forward(*count, 64, 256, False)] + [(squares, 1)]
        + [(replace(x, blocks=count[0] * x.blocks, read=count[0] * x.read, fresh=count[0] * x.fresh), 0)
           for x in measured.moments(s.samples, s.length)], 1)
    for networks in (2, 4):
        found[f"paper/tf32, and {networks} networks side by side, each"] = (
            [(wide(x, networks), cold) for x, cold in early], networks)
    return found
