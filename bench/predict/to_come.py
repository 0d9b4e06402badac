"""Launches that no GPU has timed, described as measured.py describes those that one has: kernels and
variants by the names under which bench_cuda times them, and steps. Registers and lengths of code are the
compiler's (COMPILED); how much of the code is run, and how often, is assumed as in measured.py.
"""

import functools
import json
from dataclasses import replace
from pathlib import Path

import measured
from measured import FETCH, FLOAT, MULTIPROCESSORS, ONCE, SHAPES, ceil_div
from model import Launch

COMPILED = "compiled-a564f4a.json"


@functools.cache
def code(shape, split, *words):
    """[registers, instructions, of these in the loop that multiplies] of the kernel of that shape whose
    name has all words. The loop is the same in all kernels of a shape."""
    kernels = json.loads(Path(__file__).with_name(COMPILED).read_text())["kernels"]
    of_shape = {name: (k[0], k[3], k[4]) for name, k in kernels.items()
                if f"device::{shape}" in name and ("Split<" in name) == split}
    found = [k for name, k in of_shape.items() if all(word in name for word in words)]
    if len(found) != 1:
        raise ValueError(f"{COMPILED}: {len(found)} kernels have {shape} and {words}")
    return *found[0][:2], min(k[2] for k in of_shape.values())


# --- Hidden layers ------------------------------------------------------------------------------

# (positions, threads, shape) of kernels/cuda/conv_norm_act/rows_mma.cu and rows_wgmma.cu; split ones have
# the same shapes.
TILES = {
    "h = 64, 160 positions": (160, 512, "RowShape<64, 5, 5, 2, true, 2>"),
    "h = 64, 64 positions": (64, 384, "RowShape<64, 5, 2, 2, true, 1>"),
    "h = 64, 32 positions": (32, 384, "RowShape<64, 5, 1, 2, true, 1>"),
    "h = 32, 160 positions": (160, 256, "RowShape<32, 5, 5, 1, true, 1>"),
    "h = 32, 32 positions": (32, 256, "RowShape<32, 5, 1, 1, true, 1>"),
}
WGMMA = {
    "TF32 wgmma, 160 positions, clusters of 2": (160, 512, "WgmmaShape<5, 2, 80, 2, 2>"),
    "TF32 wgmma, 160 positions": (160, 512, "WgmmaShape<5, 2, 80, 2, 1>"),
    "TF32 wgmma, 152 positions, clusters of 2": (152, 384, "WgmmaShape<5, 1, 152, 2, 2>"),
    "TF32 wgmma, 64 positions, clusters of 2": (64, 384, "WgmmaShape<5, 1, 64, 2, 2>"),
}


def tiles(channels, tf32):
    """{variant: (positions, threads, shape)} for hidden layers of so many channels."""
    if tf32:
        found = {f"TF32 {name}": tile for name, tile in TILES.items()}
        found.update(WGMMA if channels == 64 else {})
    else:
        found = {f"split TF32 {name}": tile for name, tile in TILES.items()}
    return {name: tile for name, tile in found.items()
            if "wgmma" in name or f"h = {channels}," in name}


@functools.cache
def counted(rows_, weights):
    """Instructions of a helper's warp for a stage: `rows_` of those for four numbers of the rows (an
    address, a place, the load, three operations on each, their rounding), a dozen for four weights.
    Scaled to what FETCH gives for the measured kernel, of 160 positions and 128 helpers."""
    _, _, _, length, loop, _ = measured.compiled()["conv1d_mma: mma_rows_kernel<64, 5, false>"]
    return FETCH * (length - loop) / (6 * 30 + 10 * 12) * (rows_ * 30 + weights * 12)


def rows(s, variant, backward=False, alone=False, **how):
    """A hidden layer's convolution, or its input gradient; unless `alone` between two normalizations:
    statistics are merged and rows normalized before it, moments or sums taken after it, and on the way
    back y of both layers is read, and dy kept."""
    wgmma, split = "wgmma" in variant, variant.startswith("split")
    positions, threads, shape = tiles(s.channels, not split)[variant]
    ends = (f", {str(backward).lower()}, device::PlainSource, device::PlainSink",) if alone else (
        ("GradientSource", "GradientSink") if backward else ("ActivatedSource", "MomentsSink"))
    registers, length, loop = code(shape, split, *ends)
    h, stages, images = s.channels, s.channels // 16, 2 if split else 1
    x, y, length_out = (s.y, s.x, s.length) if backward else (s.x, s.y, s.length_out)
    blocks, cluster = s.samples * ceil_div(length_out, positions), 2 if "clusters of 2" in variant else 1
    loop = 0 if wgmma else loop  # products that one instruction begins, 64 times longer than mma.sync's
    rest, helpers = length - loop, threads - (256 if "64, 5" in shape or "5, 2, 80" in shape else 128)
    kept = x if backward and not alone else 0  # dy, stored by helpers beside the products: it flows
    read = x if alone or not backward else 2 * x + y
    stage = 4 * ((positions + s.taps - 1) | 1) * 16 + 16 * s.taps * h * FLOAT
    beside = positions * (h + 8) * FLOAT if backward and not alone else 0
    return Launch(
        f"rows, {variant}", blocks, threads, registers,
        (stages if wgmma else 2 * images) * stage + beside, instructions=ONCE * rest,
        fetch=(1.5 if split else 1) * counted(
            ceil_div((positions + s.taps - 1) * 4, helpers) * (5 / 3 if backward and not alone else 1),
            0 if wgmma else s.taps * 4 * h // helpers),
        loop=loop * stages, stages=stages, ahead=2, roles=2, cluster=cluster,
        barriers=0 if alone else 3, fresh=read + s.w, write=y,
        read=blocks * (s.w / cluster + (s.taps - 1) * h * FLOAT) + read + kept,
        **{"wgmma" if wgmma else "mma": (3 if split else 1) * 2.0 * blocks * positions * s.taps * h * h},
        **how)


def parameter_gradients(s, layers, split):
    """Of layers in a row: as few launches as take 16 layers each, one round of blocks, and the sums of
    all splits."""
    h, sums, found = s.channels, s.taps * s.channels ** 2 + s.channels, []
    registers, length, loop = code(f"WeightShape<{h}, 5>", split, "ActivatedInput")
    launches, images, helpers = ceil_div(layers, 16), 2 if split else 1, 128 if split else 256
    for i in range(launches):
        count = layers * (i + 1) // launches - layers * i // launches
        splits = max(1, MULTIPROCESSORS // (2 * count))
        chunks, rest = s.samples * ceil_div(s.length_out, 64), length - loop
        stages, blocks = ceil_div(chunks, splits), 2 * splits * count
        stage = images * (h // 8 * (64 + s.taps) * 16 + 64 * h * FLOAT)
        found.append(Launch(
            f"parameter gradients, {count} layers", blocks, 128 + helpers, registers, 2 * stage,
            read=count * (s.x + 2 * s.y), fresh=count * (s.x + s.y), write=count * splits * sums * FLOAT,
            instructions=ONCE * rest, loop=loop * 8 * stages, stages=stages, ahead=2, roles=2, barriers=1,
            fetch=(1.5 if split else 1) * counted(ceil_div(68 * h // 8, helpers), 16 * h // helpers),
            mma=images * (images + 1) / 2 * 2.0 * blocks * stages * 64 * s.taps * h * h / 2))
    found.append(Launch("parameter gradients, sums", layers * ceil_div(sums, 256), 256, 32,
                        read=layers * splits * sums * FLOAT, write=layers * sums * FLOAT, instructions=60,
                        stages=ceil_div(splits, 8)))
    return found


def layers_in_a_row(shapes, variant, backward, hidden=False):
    """Launches of kernels/cuda/conv_norm_act with what of each is cold: for `hidden` activations that are
    kept too."""
    first, last, split = shapes[0], shapes[-1], variant.startswith("split")
    saved = sum(s.x + s.y for s in shapes)
    gone = max(0.0, 1 - measured.Machine.l2_holds / saved)
    found = []
    if "wgmma" in variant:
        weights = len(shapes) * first.w
        found.append((Launch("weights for wgmma", int(weights // FLOAT // 256), 256, 19, read=weights,
                             fresh=weights, write=weights, instructions=60), 0))
    positions = tiles(first.channels, not split)[variant][0]
    blocks = first.samples * ceil_div(last.length_out, positions)
    if not backward:
        for s in shapes:
            launch = rows(s, variant)
            found.append((replace(launch, read=launch.read + (s.x if hidden else 0)), 0))
        found.append((Launch("end of a row", blocks, 256, 40, read=last.y, fresh=last.y, write=last.y,
                             instructions=200, barriers=1), 0))
        return found
    found.append((Launch("begin of the way back", blocks, 256, 62, 8960, read=2 * last.y,
                         fresh=2 * last.y, write=last.y, instructions=200, barriers=1), gone / 2))
    found += [(rows(s, variant, True), gone / 3) for s in reversed(shapes)]
    gradients = parameter_gradients(first, len(shapes), split)
    found += [(launch, 0.75 * gone) for launch in gradients[:-1]] + [(gradients[-1], 0)]
    return [*found, (Launch("normalizations' parameters", len(shapes), 512, 32, 4096,
                            read=len(shapes) * 2 * FLOAT * blocks * first.channels, stages=4,
                            instructions=100, barriers=1), 0)]


# --- Perceptrons --------------------------------------------------------------------------------

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


# --- The loss -----------------------------------------------------------------------------------

SUM_RANGE = 8192  # elements that a block of kernels/cuda/blocked_sum.cuh sums


def mse_forward(sets, size):
    """Blocks of a range each, whose sums one more a set adds."""
    ranges, read = ceil_div(size, SUM_RANGE), FLOAT * sets * size
    ranged = measured.kernel("mse: sum_ranges<SquaredError, StoreMean>", sets * ranges, 1024, read=read,
                             fresh=read, loop=30 * min(8, ceil_div(size, 1024)), barriers=0.5)
    return [ranged, Launch("mse, of ranges", sets, 1024, 32, read=8 * sets * ranges, instructions=100,
                           barriers=0.5)][:1 + (ranges > 1)]


# --- What is kept -------------------------------------------------------------------------------

def kernels():
    """{name of a benchmark: launches}"""
    found = {}
    for shape in ((31, 19200, 64, 256), (7, 512, 32, 256)):
        name = "x".join(map(str, shape)) + "/tf32"
        found[f"mlp_forward/{name}"] = mlp_forward(*shape, False)
        found[f"mlp_forward/{name.replace('/', '/kept/')}"] = mlp_forward(*shape, True)
        found[f"mlp_backward/{name}"] = mlp_backward(*shape)
    return found


def variants():
    """{case: {variant: launches}} as bench_cuda --variants names them."""
    found = {}
    for precision in ("tf32", "fp32"):
        for name, s in SHAPES.items():
            for flip, way in enumerate(("conv1d_forward", "conv1d_backward_input")):
                if precision == "tf32":
                    found[f"{way}/{name}/tf32"] = {
                        f"TF32 h = {s.channels}, {positions} positions":
                        measured.rows(s, flip, True, positions) for positions in (160, 64, 32)}
                else:
                    found[f"{way}/{name}/fp32"] = {
                        variant: [rows(s, variant, bool(flip), alone=True)]
                        for variant in tiles(s.channels, False)}
        for name, count in (("paper", 4), ("demo", 6)):
            s = SHAPES[name]
            for way in ("forward", "backward"):
                found[f"conv_norm_act_{way}/{name}/{count} layers/{precision}"] = {
                    variant: [launch for launch, _ in layers_in_a_row([s] * count, variant,
                                                                      way == "backward")]
                    for variant in tiles(s.channels, precision == "tf32")}
    return found


def fused_step(name, variant, machine, early=False):
    """A training step with its hidden layers in a row; the ends as measured.step() has them."""
    s, split = SHAPES[name], variant.startswith("split")
    shrinks = s.taps - 1 - 2 * s.padding
    shapes = [replace(s, length=s.length - shrinks * i) for i in range(1, s.depth - 1)]
    gone = ("ma_rows", "norm_relu", "ma_weights", "add_splits", "total_columns", "norm_running",
            "update_running", "mse: sum_ranges")
    ends = [(x, cold) for x, cold in measured.step(name, not split, machine)
            if not any(word in x.name for word in gone)]
    ends += [(measured.add_splits(4, 384), 0)] * 2  # of the first layer and the last
    ends += [(x, 0) for x in mse_forward(1, s.samples * shapes[-1].length_out)]
    hidden = layers_in_a_row(shapes, variant, False) + layers_in_a_row(shapes, variant, True)
    return [(replace(x, early=early), cold) for x, cold in hidden + ends]


def wide(launch, networks):
    """The same for several networks side by side, as one launch."""
    return replace(launch, **{name: networks * getattr(launch, name) for name in (
        "blocks", "read", "fresh", "write", "ffma", "mma", "wgmma")})


def probes(machine, variant):
    """The probes' step and a batch of the map, at the paper's scale: the network's way forward, and all
    probes at once."""
    s = SHAPES["paper"]
    count = (31, s.samples * s.length)
    first = measured.normals(s.samples, s.length) + measured.one_channel_in(s, False)
    network = [(x, 0) for x in first]
    network += layers_in_a_row([s] * (s.depth - 2), variant, False, hidden=True)
    network += [(x, 0) for x in measured.one_channel_out(s)]
    parameters = count[0] * (64 * 256 + 256 * 256 + 3 * 256 + 1)
    answers = FLOAT * count[0] * count[1]
    losses = mse_forward(*count) + measured.elements("mse: map_elements<Gradient, float>", 2 * answers,
                                                     answers, serial=4)
    step = (network + [(x, 1) for x in mlp_forward(*count, 64, 256, True)] + [(x, 0) for x in losses]
            + [(x, 1) for x in mlp_backward(*count, 64, 256)]
            + [(x, 1) for x in measured.sum_of_squares(parameters) + measured.adam(parameters)])
    squares = Launch("sums of squares", count[0] * ceil_div(s.x // FLOAT, SUM_RANGE), 1024, 32,
                     read=count[0] * s.x, fresh=count[0] * s.x, barriers=0.5)
    batch = (network + [(x, 1) for x in mlp_forward(*count, 64, 256, False)] + [(squares, 1)]
             + [(replace(x, blocks=count[0] * x.blocks, read=count[0] * x.read,
                         fresh=count[0] * x.fresh), 0) for x in measured.moments(s.samples, s.length)])
    return step, batch


def steps(machine):
    """{name: (launches with their cold shares, networks)}"""
    by_mma, by_wgmma = "TF32 h = 64, 160 positions", "TF32 wgmma, 160 positions, clusters of 2"
    narrow, narrow_wgmma = "TF32 h = 64, 64 positions", "TF32 wgmma, 64 positions, clusters of 2"
    found = {}
    for name, variant, words in (
            ("paper", by_mma, "mma.sync"), ("paper", by_wgmma, "wgmma"),
            ("paper-batch-norm", narrow, "mma.sync"), ("paper-batch-norm", narrow_wgmma, "wgmma"),
            ("overlap", narrow, "mma.sync"), ("overlap", narrow_wgmma, "wgmma"),
            ("demo", "TF32 h = 32, 32 positions", "mma.sync")):
        found[f"{name}/tf32, layers in a row, {words}"] = fused_step(name, variant, machine), 1
        found[f"{name}/tf32, layers in a row, {words}, launches that overlap"] = (
            fused_step(name, variant, machine, True), 1)
    found["paper/fp32, layers in a row, split TF32"] = (
        fused_step("paper", "split TF32 h = 64, 160 positions", machine), 1)
    for variant, words in ((by_mma, "mma.sync"), (by_wgmma, "wgmma")):
        for what, launches in zip(("probes of", "map of"), probes(machine, variant)):
            found[f"{what} paper/tf32, all at once, {words}"] = launches, 1
    for name, variant in (("paper", by_mma), ("paper-batch-norm", narrow), ("overlap", narrow)):
        for networks in (2, 4, 8):
            # Those of all networks at the same place of their steps; the queues hide each other's gaps.
            found[f"{name}/tf32, {networks} networks in queues, each"] = (
                [(wide(x, networks), cold) for x, cold in fused_step(name, variant, machine, True)],
                networks)
    return found
