"""Every launch that bench_cuda and a training step made at b2e8185, as the launchers in kernels/cuda
decided: blocks, threads, bytes, stages. Registers, shared memory and the lengths of code are the
compiler's (compiled-b2e8185.json); how often loops are run through is counted by hand.

The launches of a step are the same at later commits, as long as the kernels' shapes are.
"""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

from model import Launch, Machine

MULTIPROCESSORS = Machine.multiprocessors
FLOAT = 4  # bytes

# Of the code outside of its hottest loop, what a warp executes: of kernels without a role for each
# warp; of those with one, once a stage to bring it, and once. The rest are edges, ways for odd
# addresses and slow divisions, and other warps' parts. Assumed, the same for all kernels.
EXECUTED, FETCH, ONCE = 0.3, 0.4, 0.2


@functools.cache
def compiled():
    return json.loads(Path(__file__).with_name("compiled-b2e8185.json").read_text())["kernels"]


def ceil_div(a, b):
    return -(-a // b)


def kernel(name, blocks, threads=256, **how):
    """`loop` in `how`: instructions that are executed again."""
    registers, _, shared, instructions, _, _ = compiled()[name]
    return Launch(name, blocks, threads, registers, shared, instructions=EXECUTED * instructions, **how)


def pipeline(name, blocks, threads, dynamic_shared, rounds, **how):
    """One that goes `rounds` times through its hottest loop, beside loads for the next stage."""
    registers, _, shared, instructions, loop, _ = compiled()[name]
    rest = instructions - loop
    return Launch(name, blocks, threads, registers, shared + dynamic_shared, loop=loop * rounds,
                  fetch=FETCH * rest, instructions=ONCE * rest, **how)


@dataclass(frozen=True)
class Shape:
    """A workload's hidden layer (bench/workloads.h)."""

    samples: int
    length: int
    channels: int
    depth: int  # convolutions of the network
    parameters: int
    padding: int = 2
    set_samples: int = 1  # samples of a set of the normalization
    taps: int = 5

    @property
    def length_out(self):
        return self.length + 2 * self.padding - self.taps + 1

    @property
    def x(self):  # bytes
        return FLOAT * self.samples * self.length * self.channels

    @property
    def y(self):
        return FLOAT * self.samples * self.length_out * self.channels

    @property
    def w(self):
        return FLOAT * self.taps * self.channels ** 2


SHAPES = {
    "demo": Shape(8, 64, 32, 8, 31905),
    "paper": Shape(32, 600, 64, 32, 620865),
    "paper-batch-norm": Shape(32, 250, 64, 32, 620865, set_samples=4),
    "overlap": Shape(64, 129, 64, 32, 620865, padding=0, set_samples=2),
}


# --- conv1d -------------------------------------------------------------------------------------

def rows(s, flip, tf32, positions=None):
    """conv1d_forward of a hidden layer and, with flipped weights, conv1d_backward_input; by tiles of so
    many positions, or else of those that choose.cu takes."""
    h, taps, length_out = s.channels, s.taps, s.length if flip else s.length_out

    def blocks_of(positions):
        return s.samples * ceil_div(length_out, positions)

    positions = positions or min((160, 64, 32) if tf32 else (160, 32),
                                 key=lambda n: ceil_div(blocks_of(n), MULTIPROCESSORS) * (n + 32))
    blocks, stages, flag = blocks_of(positions), h // 16, "true" if flip else "false"
    x, y = (s.y, s.x) if flip else (s.x, s.y)
    common = dict(read=blocks * (s.w + (taps - 1) * h * FLOAT) + y, fresh=x + s.w, write=y,
                  stages=stages)
    flop = 2.0 * blocks * positions * taps * h * h
    x_stage = 4 * ((positions + taps - 1) | 1) * 16
    if tf32:
        return [pipeline(f"conv1d_mma: mma_rows_kernel<{h}, {positions // 32}, {flag}>", blocks, 256,
                         2 * (x_stage + 16 * taps * h * FLOAT), stages, ahead=1, roles=2, mma=flop,
                         **common)]
    warps, run, groups = {(64, 160): (4, 10, 2), (64, 32): (2, 4, 4), (32, 160): (2, 10, 2),
                          (32, 32): (1, 4, 4)}[h, positions]
    stage = x_stage + taps * (h * 20 if flip else 16 * h) * FLOAT
    sums = (groups - 1) * 8 * run * warps * 32 * FLOAT
    return [pipeline(f"conv1d_ffma: ffma_rows_kernel<{h}, {warps}, {run}, {groups}, {flag}>", blocks,
                     warps * groups * 32, max(2 * stage, sums), stages * 8 // groups, ahead=2,
                     ffma=flop, barriers=1, **common)]


def add_splits(splits, sums):
    return kernel("conv1d_tiled: add_splits_kernel", ceil_div(sums, 32), read=splits * sums * FLOAT,
                  write=sums * FLOAT, stages=ceil_div(splits, 8 * 4), barriers=1)


def weights(s, tf32):
    """conv1d_backward_params of a hidden layer: two slices of channels, as many splits as fit."""
    h, taps = s.channels, s.taps
    chunks = s.samples * ceil_div(s.length_out, 64)
    splits = min(MULTIPROCESSORS // 2, chunks)
    stages, sums = ceil_div(chunks, splits), taps * h * h + h
    common = dict(read=s.x + 2 * s.y, fresh=s.x + s.y, write=splits * sums * FLOAT, stages=stages)
    shared = 2 * (h // 8 * (64 + taps) * 16 + 64 * h * FLOAT)
    flop = 2.0 * stages * 64 * taps * h * h * splits
    if tf32:
        groups = 1 if h == 64 else 4
        first = pipeline(f"conv1d_weights_mma: mma_weights_kernel<Shape<{h}> >", 2 * splits, 256,
                         shared, stages * 8 // groups, ahead=1, roles=2, mma=flop, barriers=groups,
                         **common)
    else:
        groups, threads = (2, 256) if h == 64 else (4, 128)
        first = pipeline(f"conv1d_weights_ffma: ffma_weights_kernel<Shape<{h}> >", 2 * splits, threads,
                         shared, stages * 16 // groups, ahead=2, ffma=flop, barriers=groups, **common)
        # In the end each bias's thread looks through all threads' sums.
        first = replace(first, instructions=first.instructions + 8 * threads)
    return [first, add_splits(splits, sums)]


def one_channel_in(s, flip):
    """The first convolution; flipped, the input gradient of the last one."""
    narrow, wide = (s.y, s.x) if flip else (s.x, s.y)
    runs = s.samples * ceil_div(s.length if flip else s.length_out, 4)
    return [kernel("conv1d_single: one_channel_in_kernel<4>", ceil_div(runs * s.channels // 4, 256),
                   read=narrow / s.channels, fresh=narrow / s.channels, write=wide, stages=2,
                   loop=4 * 63)]


def one_channel_out(s):
    """The last convolution: 32 channels after the other; of each, a window, then tap by tap."""
    parts = ceil_div(s.channels, 32)
    return [kernel("conv1d_single: one_channel_out_kernel<4>",
                   ceil_div(s.samples * ceil_div(s.length_out, 4) * 8, 256), read=1.25 * s.x,
                   fresh=s.x, write=s.y / s.channels, stages=3 * parts, loop=225 * (parts - 1))]


def one_channel_weights(s, last):
    """Of the first convolution, or of the last, whose bias has a launch of its own."""
    wide, tiles = s.x if last else s.y, ceil_div(s.channels, 32)
    splits = min(MULTIPROCESSORS * 4 // tiles, s.samples * ceil_div(s.length_out, 128))
    sums = s.taps * s.channels + (1 if last else s.channels)
    launches = [kernel("conv1d_single: one_channel_weights_kernel", tiles * splits, read=wide,
                       fresh=wide, write=splits * sums * FLOAT, stages=4, loop=3 * 132, barriers=1)]
    if last:
        dy = s.y / s.channels
        launches.append(kernel("conv1d_tiled: sum_columns_kernel", splits, read=dy, fresh=dy,
                               write=splits * FLOAT, stages=4, barriers=1))
    return launches + [add_splits(splits, sums)]


# --- Normalization ------------------------------------------------------------------------------

def total_columns(values, channels, parts):
    return kernel(f"linear: total_columns<{values}>", ceil_div(channels, 8),
                  read=values * FLOAT * channels * parts, write=values * FLOAT * channels,
                  stages=ceil_div(parts, 32 * 4), barriers=0.5)


def norm(s, backward, set_channels=1, set_samples=None):
    """Whole sets in a block where it holds them, else in chunks (norm/plan.cuh)."""
    samples = set_samples or s.set_samples
    positions, groups, h, size = samples * s.length, s.samples // samples, s.channels, s.x
    columns, sums = max(2, set_channels // 4), 2 if set_channels > 1 else 1
    for items in (4, 8) if backward else (4, 8, 16):
        if ceil_div(positions, items) * columns > 512:
            continue
        threads = ceil_div(ceil_div(positions, items) * columns, 32) * 32
        blocks = groups * h // (4 * columns)
        if backward:
            return [kernel(f"norm_relu_backward: backward_tile<4, {items}, (Part)0>", blocks, threads,
                           read=2 * size, fresh=2 * size, write=size, barriers=sums),
                    total_columns(2, h, groups)]
        return [kernel(f"norm_relu_forward: forward_whole_sets<4, {items}>", blocks, threads, read=size,
                       fresh=size, write=size, barriers=2 * sums)]
    chunks = ceil_div(positions, 128)
    blocks, sets, parts = groups * chunks, groups * h // set_channels, set_channels * chunks
    if backward:
        return [kernel("norm_relu_backward: backward_tile<4, 8, (Part)1>", blocks, read=2 * size,
                       fresh=2 * size, barriers=1),
                kernel("norm_relu_backward: merge_set", sets, 128, read=8 * sets * parts,
                       stages=ceil_div(parts, 128), barriers=2),
                kernel("norm_relu_backward: apply_backward<4, 8>", blocks, read=2 * size, write=size,
                       stages=2),
                total_columns(2, h, blocks)]
    return [kernel("norm_relu_forward: sum_chunks<4, 8>", blocks, read=size, fresh=size,
                   write=16 * h * blocks, barriers=2),
            kernel("norm_relu_forward: merge_chunks", sets, 128, read=16 * sets * parts,
                   stages=ceil_div(parts, 128), barriers=2, serial=4),
            kernel("norm_relu_forward: apply<4, 8, false>", blocks, read=size, write=size)]


def population_norm(s, backward):
    chunks = ceil_div(s.samples * s.length, 128)
    if not backward:
        return [kernel("norm_relu_forward: apply<4, 8, true>", chunks, read=s.x, fresh=s.x, write=s.x)]
    return [kernel("norm_relu_backward: backward_tile<4, 8, (Part)2>", chunks, read=2 * s.x,
                   fresh=2 * s.x, write=s.x, barriers=1), total_columns(2, s.channels, chunks)]


def update_running(s):
    """One thread a channel, group by group."""
    groups, size = s.samples // s.set_samples, 2 * FLOAT * s.channels
    return [kernel("norm_relu_running: update_running", 1, 64, read=groups * size, fresh=groups * size,
                   write=size, stages=groups, serial=4 * groups)]


# --- Elements, sums, the optimizer --------------------------------------------------------------

def elements(name, read, write, **how):
    """map.cuh: four elements a thread."""
    return [kernel(name, ceil_div(write, 4 * 256 * FLOAT), read=read, fresh=read, write=write, **how)]


def fill(size):
    return [kernel("fill: fill_elements<float>", ceil_div(size, 256), write=size * FLOAT)]


def normals(samples, length):
    return [kernel("random: fill_normals", ceil_div(samples * ceil_div(length, 4), 256), read=16,
                   fresh=16, write=FLOAT * samples * length)]


def mse_forward(samples, length):
    """One block. 30 instructions an element: a 64-bit modulo, and double."""
    size, rounds = FLOAT * samples * length, ceil_div(samples * length, 1024)
    return [kernel("mse: sum_ranges<SquaredError, StoreMean>", 1, 1024, read=size, fresh=size,
                   stages=rounds, loop=30 * (rounds - 1), barriers=0.5)]


def mse_backward(samples, length):
    size = FLOAT * samples * length
    return elements("mse: map_elements<Gradient, float>", 2 * size, size, serial=4)


def moments(samples, length):
    blocks, size = ceil_div(length, 32), FLOAT * samples * length
    first = kernel("moments: update", blocks, read=size, fresh=size, stages=ceil_div(samples, 8) + 1,
                   serial=4, barriers=2)
    count = kernel("moments: move_count", 1, 1, read=8, fresh=8)
    return [first, count] if blocks != 1 else [first]


def sum_of_squares(size):
    """CUB's two launches; its tiles are taken as 2048 elements."""
    blocks = min(ceil_div(size, 2048), 4 * MULTIPROCESSORS)
    return [Launch("CUB, sum of squares", blocks, read=FLOAT * size, fresh=FLOAT * size,
                   write=8 * blocks, stages=ceil_div(size, blocks * 2048), barriers=1,
                   instructions=150),
            Launch("CUB, sum of sums", 1, read=8 * blocks, write=8, barriers=1, instructions=150)]


def adam(size):
    return [kernel("adam: begin", 1, 1, read=64, fresh=64, stages=2, serial=10),
            kernel("adam: update", ceil_div(size, 1024), read=4 * FLOAT * size, fresh=4 * FLOAT * size,
                   write=3 * FLOAT * size, stages=2)]


# --- Dense layers -------------------------------------------------------------------------------

def product(m, n, k, tf32, fresh, split=False):
    """cuBLASLt's, of which only times are known. Taken as: tiles of 128 x 128 or, in TF32, of up to
    128 x 256 by wgmma; stages of 32, three ahead; K split where tiles are few."""
    tile = min(n, 256 if tf32 else 128)
    tiles = ceil_div(m, 128) * ceil_div(n, tile)
    splits = max(1, MULTIPROCESSORS // tiles) if split else 1
    blocks, depth = tiles * splits, ceil_div(k, splits)
    return Launch("cuBLASLt", blocks, 256, 128, 96 * 1024, read=blocks * (128 + tile) * depth * FLOAT,
                  fresh=fresh, write=blocks * 128 * tile * FLOAT, stages=ceil_div(depth, 32), ahead=3,
                  fetch=50, **{"wgmma" if tf32 else "ffma": 2.0 * blocks * 128 * tile * depth})


def linear(count, inputs, outputs, backward, tf32):
    x, y, chunks = count * inputs * FLOAT, count * outputs * FLOAT, ceil_div(count, 64)
    if outputs == 1 and not backward:
        return [kernel("linear: single_forward<4>", ceil_div(count, 8), read=x, fresh=x, write=y,
                       barriers=0.5)]
    if outputs == 1:
        return [kernel("linear: single_backward<4, 8>", chunks * ceil_div(inputs, 128), read=x,
                       fresh=x, write=x, barriers=1), total_columns(2, inputs, chunks)]
    blocks = chunks * ceil_div(outputs, 128)
    if not backward:
        return [product(count, outputs, inputs, tf32, x),
                kernel("linear: add_bias_and_relu<4, 8>", blocks, read=y, write=y)]
    return [kernel("linear: mask_and_sum<4, 8>", blocks, read=2 * y, fresh=2 * y, write=y, barriers=1),
            total_columns(1, outputs, chunks),
            product(count, inputs, outputs, tf32, y),
            product(outputs, inputs, count, tf32, x + y, split=True)]


# --- The cases of bench_cuda, and steps ---------------------------------------------------------

def cases():
    """{name as in bench/results, without /cold and /warm: launches}"""
    found = {}
    for name, s in SHAPES.items():
        for precision in ("fp32", "tf32"):
            tf32 = precision == "tf32"
            found[f"conv1d_forward/{name}/{precision}"] = rows(s, False, tf32)
            found[f"conv1d_backward_input/{name}/{precision}"] = rows(s, True, tf32)
            found[f"conv1d_backward_params/{name}/{precision}"] = weights(s, tf32)
        found[f"conv1d_forward/{name}/first"] = one_channel_in(s, False)
        found[f"conv1d_backward_params/{name}/first"] = one_channel_weights(s, False)
        found[f"conv1d_forward/{name}/last"] = one_channel_out(s)
        found[f"conv1d_backward_input/{name}/last"] = one_channel_in(s, True)
        found[f"conv1d_backward_params/{name}/last"] = one_channel_weights(s, True)
    paper, batch = SHAPES["paper"], SHAPES["paper-batch-norm"]
    for kind, name, channels in (
            ("instance", "paper", 1), ("group", "paper", 8), ("layer", "paper", 64),
            ("instance", "demo", 1), ("batch", "paper-batch-norm", 1), ("pack", "overlap", 1)):
        for way in ("forward", "backward"):
            found[f"norm_relu_{way}/{kind}/{name}"] = norm(SHAPES[name], way == "backward", channels)
    found["norm_relu_population_forward/paper-batch-norm"] = population_norm(batch, False)
    found["norm_relu_population_backward/paper-batch-norm"] = population_norm(batch, True)
    found["norm_update_running/paper-batch-norm"] = update_running(batch)
    found["relu_forward/paper"] = elements("relu: map_elements<Relu, float>", paper.x, paper.x)
    found["relu_backward/paper"] = elements("relu: map_elements<ReluBackward, float, float>",
                                            2 * paper.x, paper.x)
    found["copy/paper"] = elements("copy: map_elements<Copy, float>", paper.x, paper.x)
    found["fill/paper"] = fill(paper.x // FLOAT)
    for name in ("paper", "demo"):
        s = SHAPES[name]
        found[f"normal_fill/{name}"] = normals(s.samples, s.length)
        found[f"mse_forward/{name}"] = mse_forward(s.samples, s.length)
        found[f"mse_backward/{name}"] = mse_backward(s.samples, s.length)
        found[f"moments_update/{name}"] = moments(s.samples, s.length)
        found[f"sum_of_squares/{name}"] = sum_of_squares(s.parameters)
        found[f"adam/{name}"] = adam(s.parameters)
    found["windows_forward/overlap"], found["windows_backward/overlap"] = windows(32, 129, 64)
    for inputs, outputs in ((64, 256), (256, 256), (256, 1)):
        for way in ("forward", "backward"):
            for precision in ("fp32", "tf32"):
                found[f"linear_{way}/19200x{inputs}x{outputs}/{precision}"] = linear(
                    19200, inputs, outputs, way == "backward", precision == "tf32")
    return found


def windows(pairs, length, stride):
    """Forward and backward; a chain of 64-bit divisions for each of four elements."""
    apart, shared = FLOAT * pairs * 2 * length, FLOAT * pairs * (length + stride)
    return (elements("windows: map_elements<Windows>", shared, apart, serial=3),
            elements("windows: map_elements<WindowsBackward>", apart, shared, serial=8))


def step(name, tf32, machine):
    """A training step's launches in their order, each with the share of what is fresh for it that comes
    from memory: what was saved on the way forward and has left L2 since, and the parameters."""
    s = SHAPES[name]
    lengths = [s.length - (s.taps - 1 - 2 * s.padding) * i for i in range(s.depth + 1)]
    layer = [replace(s, length=length) for length in lengths]
    hidden = range(1, s.depth - 1)
    saved = sum(layer[i].x + layer[i].y for i in hidden)
    gone = max(0.0, 1 - machine.l2_holds / saved)
    launches = []

    def add(cold, *operations):
        launches.extend((launch, cold) for operation in operations for launch in operation)

    last, output = layer[s.depth - 1], lengths[s.depth]
    add(0, normals(s.samples, s.length))
    if name == "overlap":
        add(0, windows(s.samples // 2, s.length, s.length // 2)[0])
    add(0, one_channel_in(s, False))
    for i in hidden:
        add(gone * s.w / (layer[i].x + s.w), rows(layer[i], False, tf32))
        add(0, norm(layer[i + 1], False))
        if name == "paper-batch-norm":
            add(0, update_running(s))
    add(0, one_channel_out(last), mse_forward(s.samples, output), fill(1),
        mse_backward(s.samples, output), one_channel_in(last, True), one_channel_weights(last, True))
    for i in reversed(hidden):
        add(gone / 2, norm(layer[i + 1], True))
        add(gone * s.w / (layer[i].y + s.w), rows(layer[i], True, tf32))
        add(gone / 2, weights(layer[i], tf32))
    add(gone, one_channel_weights(s, False), sum_of_squares(s.parameters), adam(s.parameters))
    add(0, moments(s.samples, 1), moments(s.samples, output),
        [kernel("random: advance", 1, 1, read=16, fresh=16)])
    return launches
