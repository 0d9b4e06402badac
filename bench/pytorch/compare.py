#!/usr/bin/env python3
"""The training step of bench_step beside the same step in PyTorch, on the same CPU in one run.

    python3 bench/pytorch/compare.py [--presets demo,paper] [--compile] [--json FILE]

Each round runs ours, then PyTorch's, with all cores; the table shows the medians over the rounds and
the ratio of the two. A step: noise, forward, loss, backward, Adam. PyTorch runs eagerly, and with
--compile also under torch.compile; Adam is the faster of its two implementations.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from localizer import Localizer  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load_preset(name):
    settings = json.loads((ROOT / "experiments" / "presets" / f"{name}.json").read_text())
    return {**settings, "name": name}


def ours(program, preset):
    """Seconds of one of our steps, and the benchmark's counters."""
    out = subprocess.run(
        [program, f"--benchmark_filter=training_step/{preset['name']}/", "--benchmark_format=json",
         "--benchmark_min_time=1"],
        check=True, capture_output=True, text=True).stdout
    result = json.loads(out)["benchmarks"][0]
    unit = {"us": 1e-6, "ms": 1e-3}[result["time_unit"]]
    return result["real_time"] * unit, result


class TorchStep:
    """One training step in PyTorch."""

    def __init__(self, preset, compiled, fused):
        torch.manual_seed(0)
        network = Localizer(preset["depth"], preset["channels"], preset["kernel_size"], "instance")
        self.optimizer = torch.optim.Adam(network.parameters(), preset["learning_rate"],
                                          **({"fused": True} if fused else {}))
        self.network = torch.compile(network) if compiled else network
        self.shape = (preset["batch"], preset["length"], 1)
        self.target = torch.linspace(-0.5, 0.5, preset["length"])[:, None]

    def __call__(self):
        self.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self.network(torch.randn(self.shape)),
                                            self.target.expand(self.shape))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def seconds(self, at_least=2.0):
        """The median time of a step over at least so many seconds, three steps or more."""
        times = []
        while sum(times) < at_least or len(times) < 3:
            start = time.perf_counter()
            self()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def torch_steps(preset, compiled):
    """The step with each of Adam's implementations that this PyTorch has on the CPU."""
    steps = []
    for fused in (False, True):
        try:
            step = TorchStep(preset, compiled, fused)
            for _ in range(3):
                step()
        except Exception as error:  # an older PyTorch, or no compiler for torch.compile
            print(f"{'compiled' if compiled else 'eager'}, fused={fused}: not run ({error})"
                  .splitlines()[0], file=sys.stderr)
        else:
            steps.append(step)
    return steps


def text_of(seconds):
    return f"{seconds * 1e3:.3g} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="demo,paper")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also under torch.compile")
    parser.add_argument("--program", default=str(ROOT / "build/cpu/bin/bench_step"))
    parser.add_argument("--json", help="also write the results to this file")
    arguments = parser.parse_args()
    if not os.access(arguments.program, os.X_OK):
        sys.exit(f"compare.py: {arguments.program} is not there; ./run bench builds it")

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"],
                            capture_output=True, text=True, check=False).stdout.strip()
    print(f"PyTorch {torch.__version__}, {cores} cores, commit {commit or 'unknown'}")
    results = []
    for preset in map(load_preset, arguments.presets.split(",")):
        modes = {"eager": torch_steps(preset, False)}
        if arguments.compile:
            modes["compiled"] = torch_steps(preset, True)
        our_times, counters, their_times = [], [], {mode: [] for mode in modes}
        for _ in range(arguments.rounds):
            seconds, counter = ours(arguments.program, preset)
            our_times.append(seconds)
            counters.append(counter)
            for mode, steps in modes.items():
                if steps:
                    their_times[mode].append(min(step.seconds() for step in steps))
        mine = statistics.median(our_times)
        share = statistics.median(counter["share"] for counter in counters)
        print(f"{preset['name']:6} ours {text_of(mine)} a step, {100 * share:.0f} % of the FMA peak "
              f"of all cores, arena {counters[0]['arena_MB']:.0f} MB")
        row = {"preset": preset["name"], "ours_seconds": our_times, "share_of_peak": share,
               "arena_MB": counters[0]["arena_MB"]}
        for mode, times in their_times.items():
            if times:
                theirs = statistics.median(times)
                print(f"{preset['name']:6} PyTorch {mode} {text_of(theirs)} a step: "
                      f"ours is {theirs / mine:.2f} times as fast")
                row[f"pytorch_{mode}_seconds"] = times
        results.append(row)
    if arguments.json:
        description = {"pytorch": torch.__version__, "cores": cores, "commit": commit,
                       "machine": platform.processor() or platform.machine(), "results": results}
        pathlib.Path(arguments.json).write_text(json.dumps(description, indent=2) + "\n")


if __name__ == "__main__":
    main()
