#!/usr/bin/env python3
"""Kernels of bench/cases.h in PyTorch, by the same names and at the same shapes.

    python3 bench/pytorch/kernels.py [--device cpu|cuda] [--json FILE]

Convolutions, norms with their ReLU, the mean squared error and Adam (fused on a GPU): on the CPU by
oneDNN and ATen on one core, for bench_kernels; on a GPU by cuDNN and ATen in a CUDA graph of many calls,
for the warm times of bench_cuda. A time is the median of blocks of calls.
"""

import argparse
import json
import statistics
import sys
import time

from compare import ROOT, output, torch, use_precision, workloads
from localizer import make_norm
from torch.nn import functional

aten = torch.ops.aten


def convolutions(step, random):
    batch, length, h, k = (step[key] for key in ("sequences", "length", "channels", "kernel_size"))
    padding = 0 if step["norm"] == "pack" else k // 2
    for part, c_in, c_out in (("", h, h), ("/first", 1, h), ("/last", h, 1)):
        x, w, b = random(batch, c_in, length), random(c_out, c_in, k), random(c_out)
        dy = random(batch, c_out, length + 2 * padding - k + 1)

        def forward():
            return functional.conv1d(x, w, b, padding=padding)

        def gradient(*wanted):
            return lambda: aten.convolution_backward(dy, x, w, [c_out], [1], [padding], [1], False, [0],
                                                     1, wanted)

        yield f"conv1d_forward/{step['name']}{part}", not part, forward
        if part != "/first":
            yield f"conv1d_backward_input/{step['name']}{part}", not part, gradient(True, False, False)
        yield f"conv1d_backward_params/{step['name']}{part}", not part, gradient(False, True, True)


def norms(step, random, *kinds):
    for kind in kinds:
        x = random(step["sequences"], step["channels"], step["length"])
        layer = make_norm(kind, step["channels"], 1, step["samples_per_set"]).to(x.device)
        with torch.enable_grad():
            wanted = (x.requires_grad_(), *layer.parameters())
            y = torch.relu(layer(x))
        dy = random(*y.shape)
        yield f"norm_relu_forward/{kind}/{step['name']}", False, lambda: torch.relu(layer(x))
        yield (f"norm_relu_backward/{kind}/{step['name']}", False,
               lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True))


def ends(step, random):
    y, target = (random(step["sequences"], step["length"]) for _ in range(2))
    one = torch.ones((), device=y.device)
    yield f"mse_forward/{step['name']}", False, lambda: functional.mse_loss(y, target)
    yield f"mse_backward/{step['name']}", False, lambda: aten.mse_loss_backward(one, y, target, 1)
    parameter = random(step["parameters"]).requires_grad_()
    parameter.grad = random(step["parameters"])
    options = {"fused": True, "capturable": True} if parameter.is_cuda else {}
    adam = torch.optim.Adam([parameter], 1e-9, **options)
    yield f"adam/{step['name']}", False, adam.step


def cases(known, random):
    """(name, whether the precision of products counts, what is timed); what each needs lives until the
    next is asked for."""
    for step in known.values():
        yield from convolutions(step, random)
    yield from norms(known["paper"], random, "instance", "layer")
    yield from norms(known["demo"], random, "instance")
    yield from norms(known["paper-batch-norm"], random, "batch")
    for name in ("paper", "demo"):
        yield from ends(known[name], random)


def median_seconds(block, calls, blocks=12):
    return statistics.median(block(calls) for _ in range(blocks)) / calls


def cpu_seconds(call):
    def block(calls):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start

    block(2)
    return median_seconds(block, max(1, min(10000, int(10e-3 / block(1)))))


def gpu_seconds(call, calls=20):
    """Of one call among many in a CUDA graph."""
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(calls):
            call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def block(_):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end)

    block(calls)
    return median_seconds(block, calls, 50)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--program", default=str(ROOT / "build/cpu/bin/bench_step"))
    parser.add_argument("--library-path", help="LD_LIBRARY_PATH for that program alone")
    parser.add_argument("--json", help="also write {case: microseconds} to this file, as they come")
    arguments = parser.parse_args()
    gpu = arguments.device == "cuda"
    if gpu and not torch.cuda.is_available():
        sys.exit("kernels.py: not run (this PyTorch finds no GPU)")
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    if gpu:  # one that graphs can be recorded on; the way back runs where the way there did
        torch.cuda.set_stream(torch.cuda.Stream())
    known = workloads(arguments.program, arguments.library_path)
    found = {}
    for name, products, call in cases(known, lambda *shape: torch.randn(*shape, device=arguments.device)):
        for precision in ("fp32", "tf32") if gpu and products else ("fp32",):
            full = f"{name}/{precision}" if gpu and products else name
            use_precision(precision)
            try:
                found[full] = 1e6 * (gpu_seconds if gpu else cpu_seconds)(call)
            except Exception as error:  # what no graph can hold
                print(f"{full}: not run ({error})", file=sys.stderr)
                continue
            print(f"{full:50} {found[full]:10.2f} us", flush=True)
            if arguments.json:
                output.write_output(arguments.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
