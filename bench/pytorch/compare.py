#!/usr/bin/env python3
"""The training step of bench_step beside the same step in PyTorch, on the same device in one run.

    python3 bench/pytorch/compare.py [--device cpu|cuda] [--steps demo,paper]
                                     [--modes eager,graph,compile,max-autotune]
                                     [--json FILE [--continue]]

Each round runs ours, then PyTorch's; the table shows the medians over the rounds and the ratio of the
two. A step: noise, forward, loss, backward, Adam.

On the CPU, with all cores, PyTorch runs eagerly, with `compile` also under torch.compile; Adam is the
faster of its two implementations. On a GPU, in TF32 and in fp32, PyTorch runs

    eager         with the fused Adam
    graph         the whole step as one CUDA graph
    compile       torch.compile, mode "reduce-overhead" (which records CUDA graphs, too)
    max-autotune  torch.compile in that mode

and batch norm in groups of four in the faster of two ways: the whole batch with norms of its parts,
and, as the paper trains, eight micro-batches whose gradients add up.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

try:
    import torch
except ImportError:
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: not run (this Python has no torch)")

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(pathlib.Path(__file__).parent), str(ROOT / "bench" / "tools"),
             str(ROOT / "experiments" / "figures")]
import output  # noqa: E402
import source  # noqa: E402
import tables  # noqa: E402
from localizer import Localizer, PackedLocalizer  # noqa: E402
from machine import describe_machine  # noqa: E402

COMPILED = {"compile": "reduce-overhead", "max-autotune": "max-autotune"}


def run(command, library_path):
    """What one of our programs prints."""
    env = {**os.environ, **({"LD_LIBRARY_PATH": library_path} if library_path else {})}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


def workloads(program, library_path):
    """What bench_step trains: {name: settings and sizes}."""
    if not os.access(program, os.X_OK):
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {program} is not there; ./run bench builds it")
    found = json.loads(run([program, "--workloads"], library_path))
    return {name: {"name": name, "samples_per_set": 1, "groups": 1, **settings}
            for name, settings in found.items()}


def run_ours(arguments, device, names):
    """One round of bench_step."""
    return json.loads(run([
        arguments.program, "--benchmark_format=json", "--benchmark_min_time=1",
        f"--benchmark_filter=training_step/({'|'.join(names)})/",
        *(["--device", "cuda"] if device == "cuda" else [])], arguments.library_path))


def use_precision(precision):
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


class TorchStep:
    """One training step in PyTorch."""

    def __init__(self, step, mode, device, precision="fp32", fused=True, micro_batches=1):
        torch.manual_seed(0)
        self.device, self.precision, self.mode = device, precision, mode
        self.parts = micro_batches
        use_precision(precision)
        self.batch, self.length = step["batch"] // micro_batches, step["length"]
        if step["norm"] == "pack":
            network = PackedLocalizer(step["depth"], step["channels"], step["kernel_size"])
            self.overlap = step["length"] // 2
            self.target = torch.tensor([-1.0, 1.0]).repeat(self.batch)[:, None, None].to(device)
        else:
            network = Localizer(step["depth"], step["channels"], step["kernel_size"], step["norm"],
                                step["groups"], step["samples_per_set"])
            self.overlap = None
            self.target = torch.linspace(-0.5, 0.5, self.length, device=device)[:, None] \
                .expand(self.batch, self.length, 1)
        network = network.to(device)
        options = {"fused": True} if fused else {}
        if mode == "graph":
            options["capturable"] = True
        self.optimizer = torch.optim.Adam(network.parameters(), step["learning_rate"], **options)
        self.network = network
        if mode in COMPILED:
            self.network = torch.compile(network, mode=COMPILED[mode] if device == "cuda" else None)
        self.run = self.step
        for _ in range(3):
            self.step()
        if mode == "graph":
            self.capture()

    def draw(self):
        if self.overlap is None:
            return torch.randn(self.batch, self.length, 1, device=self.device)
        noise = torch.randn(self.batch, 2 * self.length - self.overlap, device=self.device)
        pairs = torch.stack([noise[:, :self.length], noise[:, self.length - self.overlap:]], 1)
        return pairs.view(2 * self.batch, self.length, 1)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(self.parts):
            loss = torch.nn.functional.mse_loss(self.network(self.draw()), self.target)
            (loss / self.parts if self.parts > 1 else loss).backward()
        self.optimizer.step()
        return loss

    def capture(self):
        """The step as a CUDA graph, as PyTorch's documentation records whole networks."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph
        self.run = graph.replay

    def timed(self, steps):
        """Seconds a step, of `steps` that follow each other."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            result = self.run()
        if self.device == "cuda":
            torch.cuda.synchronize()
        else:
            result.item()
        return (time.perf_counter() - start) / steps

    def seconds(self, at_least):
        """The median time of a step over at least so many seconds. On the CPU three steps or more,
        one by one; on a GPU ten runs or more of steps that nothing waits for, as ours."""
        use_precision(self.precision)
        steps, least = 1, 3
        if self.device == "cuda":
            steps, least = max(3, min(1000, int(0.03 / self.timed(5)))), 10
        times = []
        while sum(times) * steps < at_least or len(times) < least:
            times.append(self.timed(steps))
        return statistics.median(times)


def torch_steps(step, mode, device, precision):
    """The step in each way that this PyTorch can compute it in this mode."""
    ways = [{"fused": True}] if device == "cuda" else [{"fused": False}, {"fused": True}]
    if device == "cuda" and step["norm"] == "batch":
        ways.append({"fused": True, "micro_batches": step["batch"] // step["samples_per_set"]})
    steps = []
    for way in ways:
        try:
            steps.append(TorchStep(step, mode, device, precision, **way))
        except Exception as error:  # an older PyTorch, or no compiler for torch.compile
            reason = str(error).splitlines() or [type(error).__name__]
            print(f"{step['name']}: PyTorch {mode}, {way}: not run ({reason[0]})", file=sys.stderr)
    return steps


def text_of(seconds):
    return f"{seconds * 1e3:.3g} ms"


def compare(arguments, device, steps, precisions, modes, rows, write):
    """Rows of results, one for each step and precision, added to those that are there;
    write(rows) as they come."""
    gpu = device == "cuda"
    theirs = {}
    known = {(row["preset"], row["precision"]): row for row in rows}
    for step in steps:
        for precision in precisions:
            if (step["name"], precision) not in known:
                rows.append({"preset": step["name"], "precision": precision, "ours_seconds": []})
                known[step["name"], precision] = rows[-1]
    wanted = [known[step["name"], precision] for step in steps for precision in precisions]
    for round_number in range(arguments.rounds or (2 if gpu else 3)):
        if any(len(row["ours_seconds"]) <= round_number for row in wanted):
            tables.step_rows(run_ours(arguments, device, [step["name"] for step in steps]), wanted)
            write(rows)
        for mode in modes:
            for step in steps:
                for precision in precisions:
                    key = (step["name"], precision, mode)
                    measured = known[key[:2]].setdefault(f"pytorch_{mode}_seconds", [])
                    if len(measured) > round_number:
                        continue
                    if key not in theirs:
                        theirs[key] = torch_steps(step, mode, device, precision)
                    if times := [way.seconds(0.3 if gpu else 2) for way in theirs[key]]:
                        measured.append(min(times))
                        write(rows)
    return rows


def show(rows, device):
    for row in rows:
        name = f"{row['preset']:16} {row['precision']}"
        if not row["ours_seconds"]:
            print(f"{name} ours: not measured")
            continue
        mine = statistics.median(row["ours_seconds"])
        share = 100 * statistics.median(row["share"]) if "share" in row else float("nan")
        units = "the units' peak" if device == "cuda" else "the FMA peak of all cores"
        print(f"{name} ours {text_of(mine)} a step, {share:.0f} % of {units}, "
              f"arena {row['arena_MB'][0]:.0f} MB")
        if "ours_eager_seconds" in row:
            print(f"{name} ours, launched one by one, "
                  f"{text_of(statistics.median(row['ours_eager_seconds']))} a step")
        for mode in ("eager", "graph", "compile", "max-autotune"):
            if times := row.get(f"pytorch_{mode}_seconds"):
                theirs = statistics.median(times)
                print(f"{name} PyTorch {mode} {text_of(theirs)} a step: "
                      f"ours is {theirs / mine:.2f} times as fast")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", help="default: the first two on the CPU, all on a GPU")
    parser.add_argument("--modes", help="default: eager on the CPU; eager,graph on a GPU")
    parser.add_argument("--precisions", default="tf32,fp32", help="on a GPU")
    parser.add_argument("--rounds", type=int, help="default: 3 on the CPU, 2 on a GPU")
    parser.add_argument("--program", default=str(ROOT / "build/cpu/bin/bench_step"))
    parser.add_argument("--library-path", help="LD_LIBRARY_PATH for that program alone")
    parser.add_argument("--json", help="also write the results to this file, as they come")
    parser.add_argument("--continue", action="store_true", dest="go_on",
                        help="measure only what that file lacks")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("compare.py: not run (this PyTorch finds no GPU)")
    if arguments.go_on and not arguments.json:
        parser.error("--continue: expected --json FILE")
    rows = json.loads(pathlib.Path(arguments.json).read_text())["results"] if arguments.go_on else []
    known = workloads(arguments.program, arguments.library_path)
    names = arguments.steps.split(",") if arguments.steps else list(known)
    if device == "cpu" and not arguments.steps:
        names = names[:2]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--steps {unknown[0]}: expected of {', '.join(known)}")
    steps = [known[name] for name in names]
    modes = (arguments.modes or ("eager,graph" if device == "cuda" else "eager")).split(",")

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    precisions = ["fp32"]
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        precisions = arguments.precisions.split(",")
        if COMPILED.keys() & set(modes):  # each step and precision compiles the same functions
            torch._dynamo.config.recompile_limit = 100
    commit = os.environ.get("SIDECHANNEL_COMMIT") or source.commit() or "unknown"
    description = {"date": time.strftime("%Y-%m-%d"), "pytorch": torch.__version__, "cores": cores,
                   "commit": commit,
                   "machine": describe_machine()["cpu"]}
    if device == "cuda":
        description.update(gpu=torch.cuda.get_device_name(), cudnn=torch.backends.cudnn.version())
    print(f"PyTorch {torch.__version__}, {description.get('gpu', f'{cores} cores')}, commit {commit}",
          flush=True)

    def write(rows):
        if arguments.json:
            text = json.dumps({**description, "results": rows}, indent=2)
            output.write_output(arguments.json, (text + "\n").encode())

    show(compare(arguments, device, steps, precisions, modes, rows, write), device)


if __name__ == "__main__":
    main()
