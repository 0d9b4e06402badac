"""Every launch of today's kernels, by operation and shape, as their launchers in kernels/cuda decide:
blocks, threads, bytes, stages. Registers and instructions are the compiler's (compiled-b2e8185.json).
"""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

from model import Launch

MULTIPROCESSORS = 132
FLOAT = 4


def ceil_div(a, b):
    return -(-a // b)


@functools.cache
def compiled():
    report = json.loads(Path(__file__).with_name("compiled-b2e8185.json").read_text())
    return report["kernels"]


EXECUTED = 0.3  # of the code outside of loops: the rest are edges, and what other warps do


def kernel(name, blocks, threads=256, shared=0, again=0, **how):
    """A launch of a compiled kernel. `again`: instructions of loops beyond what the code holds once."""
    registers, _, static, instructions, _, _ = compiled()[name]
    return Launch(name, blocks, threads, registers, static + shared,
                  instructions=EXECUTED * instructions + again, **how)


def looping(name, blocks, threads, shared, rounds, fetch=0.0, **how):
    """One with a hot loop that a warp goes through so many times; `fetch`: the share of the other code
    that brings one stage."""
    registers, _, static, instructions, loop, _ = compiled()[name]
    other = instructions - loop
    return Launch(name, blocks, threads, registers, static + shared, loop=loop * rounds,
                  fetch=fetch * other, instructions=0.2 * other, **how)


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

    def bytes(self, channels=None, length=None):
        return FLOAT * self.samples * (length or self.length) * (channels or self.channels)


SHAPES = {
    "demo": Shape(8, 64, 32, 8, 31905),
    "paper": Shape(32, 600, 64, 32, 620865),
    "paper-batch-norm": Shape(32, 250, 64, 32, 620865, set_samples=4),
    "overlap": Shape(64, 129, 64, 32, 620865, padding=0, set_samples=2),
}


# --- conv1d -------------------------------------------------------------------------------------

def tile_of(s, positions, length_out, cost):
    """Blocks and what choose.cu thinks that they cost."""
    blocks = s.samples * ceil_div(length_out, positions)
    return blocks, ceil_div(blocks, MULTIPROCESSORS) * (positions + 32) * cost


def rows(s, flip, tf32):
    """conv1d_forward of hidden layers, and with flipped weights conv1d_backward_input."""
    h, taps = s.channels, s.taps
    read_length, length_out = (s.length_out, s.length) if flip else (s.length, s.length_out)
    positions = min((160, 64, 32) if tf32 else (160, 32),
                    key=lambda n: tile_of(s, n, length_out, 1)[1])
    blocks = tile_of(s, positions, length_out, 1)[0]
    stages = h // 16
    flag = "true" if flip else "false"
    x_stage = 4 * ((positions + taps - 1) | 1) * 16
    common = dict(
        read=blocks * taps * h * h * FLOAT + s.bytes(length=length_out)
        + blocks * (taps - 1) * h * FLOAT,
        fresh=s.bytes(length=read_length) + taps * h * h * FLOAT,
        write=s.bytes(length=length_out), stages=stages)
    flop = 2.0 * blocks * positions * taps * h * h
    if tf32:
        return [looping(f"conv1d_mma: mma_rows_kernel<{h}, {positions // 32}, {flag}>", blocks, 256,
                        2 * (x_stage + taps * 2 * h // 16 * 512), stages, 0.3, ahead=1, mma=flop,
                        **common)]
    warps, run, groups = {(64, 160): (4, 10, 2), (64, 32): (2, 4, 4), (32, 160): (2, 10, 2),
                          (32, 32): (1, 4, 4)}[h, positions]
    w_stage = taps * (h * 20 if flip else 16 * h) * FLOAT
    sums = (groups - 1) * 8 * run * warps * 32 * FLOAT
    return [looping(f"conv1d_ffma: ffma_rows_kernel<{h}, {warps}, {run}, {groups}, {flag}>", blocks,
                    warps * groups * 32, max(2 * (x_stage + w_stage), sums), stages * 8 // groups, 0.1,
                    ahead=2, ffma=flop, barriers=1, **common)]


def add_splits(splits, sums):
    blocks = ceil_div(sums, 32)
    return kernel("conv1d_tiled: add_splits_kernel", blocks, read=splits * sums * FLOAT, write=sums * FLOAT,
                  stages=ceil_div(ceil_div(splits, 8), 4), barriers=1)


def weights(s, tf32):
    """conv1d_backward_params of hidden layers."""
    h, taps = s.channels, s.taps
    chunks = s.samples * ceil_div(s.length_out, 64)
    splits = min(MULTIPROCESSORS // 2, chunks)
    blocks, sums = 2 * splits, taps * h * h + h
    stages = ceil_div(chunks, splits)
    stage = (h // 2 // 4 * (69 | 1) * 16, 64 * h * FLOAT)
    flop = 2.0 * stages * 64 * taps * h * h * splits
    common = dict(read=2 * s.bytes(length=s.length_out) + s.bytes(), write=splits * sums * FLOAT,
                  fresh=s.bytes(length=s.length_out) + s.bytes(), stages=stages)
    groups = {(64, True): 1, (32, True): 4, (64, False): 2, (32, False): 4}[h, tf32]
    if tf32:
        first = looping(f"conv1d_weights_mma: mma_weights_kernel<Shape<{h}> >", blocks, 256,
                        2 * sum(stage), stages * 8 // groups, 0.3, ahead=1, mma=flop, barriers=groups,
                        **common)
    else:
        threads = {64: 256, 32: 128}[h]
        first = looping(f"conv1d_weights_ffma: ffma_weights_kernel<Shape<{h}> >", blocks, threads,
                        2 * sum(stage), stages * 16 // groups, 0.1, ahead=2, ffma=flop,
                        barriers=groups, **common)
        # The bias, in the end: a loop over all threads' sums.
        first = replace(first, instructions=first.instructions + 8 * threads)
    return [first, add_splits(splits, sums)]


def one_channel_in(s, flip):
    """The first convolution; flipped, the input gradient of the last one."""
    length = s.length if flip else s.length_out
    runs = s.samples * ceil_div(length, 4)
    blocks = ceil_div(runs * s.channels // 4, 256)
    x = FLOAT * s.samples * (s.length_out if flip else s.length)
    return [kernel("conv1d_single: one_channel_in_kernel<4>", blocks, read=x, fresh=x,
                   write=s.bytes(length=length), stages=2, loop=4 * 63)]


def one_channel_out(s):
    runs = s.samples * ceil_div(s.length_out, 4)
    return [kernel("conv1d_single: one_channel_out_kernel<4>", ceil_div(runs * 8, 256), read=1.25 * s.bytes(),
                   fresh=s.bytes(), write=FLOAT * s.samples * s.length_out,
                   stages=3 * ceil_div(s.channels, 32), loop=225 * (ceil_div(s.channels, 32) - 1))]


def one_channel_weights(s, last):
    """Of the first or the last convolution; the last one's bias has a launch of its own."""
    length = s.length if last else s.length_out  # of the wide side
    of_channels = ceil_div(s.channels, 32)
    blocks = MULTIPROCESSORS * 4 // of_channels
    splits = min(blocks, s.samples * ceil_div(s.length_out, 128))
    sums = s.taps * s.channels + (1 if last else s.channels)
    result = [kernel("conv1d_single: one_channel_weights_kernel", of_channels * splits,
                     read=s.bytes(length=length), fresh=s.bytes(length=length),
                     write=splits * sums * FLOAT, stages=4, loop=3 * 132, barriers=1)]
    if last:
        result.append(kernel("conv1d_tiled: sum_columns_kernel", splits,
                             read=FLOAT * s.samples * s.length_out,
                             fresh=FLOAT * s.samples * s.length_out,
                             write=splits * FLOAT, stages=4, barriers=1))
    return result + [add_splits(splits, sums)]


# --- Normalization and other tiles --------------------------------------------------------------

def total_columns(values, channels, parts):
    return kernel(f"linear: total_columns<{values}>", ceil_div(channels, 8),
                  read=values * FLOAT * channels * parts, write=values * FLOAT * channels,
                  stages=ceil_div(ceil_div(parts, 32), 4), barriers=0.5)


def norm(s, backward, set_channels=1, set_samples=None):
    samples = set_samples or s.set_samples
    positions, groups, h = samples * s.length, s.samples // samples, s.channels
    size = s.bytes()
    columns = max(2, set_channels // 4)
    for items in (4, 8) if backward else (4, 8, 16):
        per_warp = 32 // columns
        threads = ceil_div(ceil_div(positions, items), per_warp) * per_warp * columns
        if ceil_div(positions, items) * columns <= 512:
            blocks = groups * h // (4 * columns)
            if not backward:
                return [kernel(f"norm_relu_forward: forward_whole_sets<4, {items}>", blocks, threads, read=size,
                               fresh=size, write=size, barriers=2 + (set_channels > 1))]
            return [kernel(f"norm_relu_backward: backward_tile<4, {items}, (Part)0>", blocks, threads, read=2 * size,
                           fresh=2 * size, write=size, barriers=1 + 0.5 * (set_channels > 1)),
                    total_columns(2, h, groups)]
    chunks = ceil_div(positions, 128)
    blocks, sets = groups * chunks, groups * h // set_channels
    parts = set_channels * chunks
    whole = dict(read=size, write=size)
    if not backward:
        return [kernel("norm_relu_forward: sum_chunks<4, 8>", blocks, read=size, fresh=size, barriers=2,
                       write=16 * groups * h * chunks),
                kernel("norm_relu_forward: merge_chunks", sets, 128, read=16 * sets * parts,
                       stages=ceil_div(parts, 128), barriers=2, serial=4),
                kernel("norm_relu_forward: apply<4, 8, false>", blocks, **whole)]
    return [kernel("norm_relu_backward: backward_tile<4, 8, (Part)1>", blocks, read=2 * size, fresh=2 * size, barriers=1),
            kernel("norm_relu_backward: merge_set", sets, 128, read=8 * sets * parts, stages=ceil_div(parts, 128),
                   barriers=2),
            kernel("norm_relu_backward: apply_backward<4, 8>", blocks, read=2 * size, write=size, stages=2),
            total_columns(2, h, groups * chunks)]


def population_norm(s, backward):
    chunks, size = ceil_div(s.samples * s.length, 128), s.bytes()
    if not backward:
        return [kernel("norm_relu_forward: apply<4, 8, true>", chunks, read=size, fresh=size, write=size)]
    return [kernel("norm_relu_backward: backward_tile<4, 8, (Part)2>", chunks, read=2 * size, fresh=2 * size, write=size,
                   barriers=1), total_columns(2, s.channels, chunks)]


def update_running(s):
    groups = s.samples // s.set_samples
    return [kernel("norm_relu_running: update_running", 1, 64, read=1, fresh=1, stages=groups, serial=4 * groups)]


# --- Elements, sums, the optimizer --------------------------------------------------------------

def elements(name, read, write, fresh=None, **how):
    """map.cuh: four elements a thread."""
    return [kernel(name, ceil_div(write // FLOAT, 1024), read=read,
                   fresh=read if fresh is None else fresh, write=write, **how)]


def fill(size):
    return [kernel("fill: fill_elements<float>", ceil_div(size, 256), write=size * FLOAT)]


def normals(samples, length):
    return [kernel("random: fill_normals", ceil_div(samples * ceil_div(length, 4), 256), read=16, fresh=16,
                   write=FLOAT * samples * length)]


def mse_forward(samples, length):
    n = samples * length
    return [kernel("mse: sum_ranges<SquaredError, StoreMean>", 1, 1024, read=FLOAT * n, fresh=FLOAT * n,
                   stages=ceil_div(n, 1024), loop=30 * (ceil_div(n, 1024) - 1), barriers=2)]


def mse_backward(samples, length):
    return elements("mse: map_elements<Gradient, float>", 8 * samples * length, FLOAT * samples * length,
                    serial=4)


def moments(samples, length):
    blocks = ceil_div(length, 32)
    one = kernel("moments: update", blocks, read=FLOAT * samples * length, fresh=FLOAT * samples * length,
                 stages=ceil_div(samples, 8) + 1, serial=4, barriers=2)
    return [one] + ([kernel("moments: move_count", 1, 1, read=8, fresh=8)] if blocks != 1 else [])


def sum_of_squares(size):
    """CUB's two launches: blocks of 256 threads and 16 elements each, then one."""
    blocks = min(ceil_div(size, 4096), 4 * MULTIPROCESSORS)
    return [Launch("cub::DeviceReduce", blocks, read=FLOAT * size, fresh=FLOAT * size, write=blocks * 8,
                   stages=ceil_div(size, blocks * 4096), barriers=2, instructions=150),
            Launch("cub::DeviceReduce, the last", 1, read=8 * blocks, write=8, barriers=2,
                   instructions=150)]


def adam(size):
    return [kernel("adam: begin", 1, 1, read=64, fresh=64, stages=2, serial=10),
            kernel("adam: update", ceil_div(size, 1024), read=16 * size, fresh=16 * size,
                   write=12 * size, stages=2)]


# --- Dense layers -------------------------------------------------------------------------------

def product(m, n, k, tf32, fresh, transposed=False):
    """cuBLASLt's, of which only the times are known: taken as tiles of 128 x 128 (TF32: up to 256, by
    wgmma), stages of 32, and a K that is cut where there are fewer tiles than multiprocessors."""
    tile_n = min(n, 256 if tf32 else 128)
    tiles = ceil_div(m, 128) * ceil_div(n, tile_n)
    splits = max(1, MULTIPROCESSORS // tiles) if transposed else 1
    blocks, depth = tiles * splits, ceil_div(k, splits)
    flop = 2.0 * blocks * 128 * tile_n * depth
    return Launch("cuBLASLt", blocks, 256, 128, 96 * 1024, read=blocks * (128 + tile_n) * depth * FLOAT,
                  fresh=fresh, write=blocks * 128 * tile_n * FLOAT, stages=ceil_div(depth, 32),
                  ahead=3, fetch=50, **{"wgmma" if tf32 else "ffma": flop})


def linear(rows_, inputs, outputs, backward, tf32):
    x, y = rows_ * inputs * FLOAT, rows_ * outputs * FLOAT
    if outputs == 1:
        if not backward:
            return [kernel("linear: single_forward<4>", ceil_div(rows_, 8), read=x, fresh=x, write=y,
                           barriers=0.5)]
        chunks = ceil_div(rows_, 64)
        return [kernel("linear: single_backward<4, 8>", chunks * ceil_div(inputs, 128), read=x, fresh=x,
                       write=x, barriers=1), total_columns(2, inputs, chunks)]
    chunks = ceil_div(rows_, 64)
    blocks = chunks * ceil_div(outputs, 128)
    if not backward:
        return [product(rows_, outputs, inputs, tf32, x),
                kernel("linear: add_bias_and_relu<4, 8>", blocks, read=y, write=y)]
    return [kernel("linear: mask_and_sum<4, 8>", blocks, read=2 * y, fresh=2 * y, write=y, barriers=1),
            total_columns(1, outputs, chunks),
            product(rows_, inputs, outputs, tf32, y),
            product(outputs, inputs, rows_, tf32, x + y, transposed=True)]


# --- The cases of bench_cuda --------------------------------------------------------------------

def cases():
    """{name as in bench/results, without /cold or /warm: launches}"""
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
    for name, kind, channels, samples in (
            ("paper", "instance", 1, 1), ("paper", "group", 8, 1), ("paper", "layer", 64, 1),
            ("demo", "instance", 1, 1), ("paper-batch-norm", "batch", 1, 4), ("overlap", "pack", 1, 2)):
        for way in ("forward", "backward"):
            found[f"norm_relu_{way}/{kind}/{name}"] = norm(SHAPES[name], way == "backward", channels,
                                                           samples)
    batch_norm, paper = SHAPES["paper-batch-norm"], SHAPES["paper"]
    for way in ("forward", "backward"):
        found[f"norm_relu_population_{way}/paper-batch-norm"] = population_norm(batch_norm,
                                                                                way == "backward")
    found["norm_update_running/paper-batch-norm"] = update_running(batch_norm)
    size = paper.bytes()
    found["relu_forward/paper"] = elements("relu: map_elements<Relu, float>", size, size)
    found["relu_backward/paper"] = elements("relu: map_elements<ReluBackward, float, float>", 2 * size, size)
    found["copy/paper"] = elements("copy: map_elements<Copy, float>", size, size)
    found["fill/paper"] = fill(size // FLOAT)
    for name in ("paper", "demo"):
        s = SHAPES[name]
        found[f"normal_fill/{name}"] = normals(s.samples, s.length)
        found[f"mse_forward/{name}"] = mse_forward(s.samples, s.length)
        found[f"mse_backward/{name}"] = mse_backward(s.samples, s.length)
        found[f"moments_update/{name}"] = moments(s.samples, s.length)
        found[f"sum_of_squares/{name}"] = sum_of_squares(s.parameters)
        found[f"adam/{name}"] = adam(s.parameters)
    pairs = FLOAT * 32 * 2 * 129
    extent = FLOAT * 32 * (129 + 64)
    found["windows_forward/overlap"] = elements("windows: map_elements<Windows>", pairs, pairs, serial=3)
    found["windows_backward/overlap"] = elements("windows: map_elements<WindowsBackward>", pairs, extent, serial=8)
    for inputs, outputs in ((64, 256), (256, 256), (256, 1)):
        for way in ("forward", "backward"):
            for precision in ("fp32", "tf32"):
                found[f"linear_{way}/19200x{inputs}x{outputs}/{precision}"] = linear(
                    19200, inputs, outputs, way == "backward", precision == "tf32")
    return found
