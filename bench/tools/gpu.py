#!/usr/bin/env python3
"""Everything that wants a GPU, in one run: what ./run gpu calls, from the project's root.

    python3 bench/tools/gpu.py [--paper] [--only STAGES] [--limit SECONDS]

Stages, in this order, the most worth first; each has a time limit of its own, and none stops the
others:

    build         unless programs that ./run bundle --binaries built run here
    tests         those of the CUDA kernels, in several processes at once
    kernels       bench_cuda: every kernel beside what the GPU could do at most, and beside libraries
    steps         training steps, beside PyTorch where there is one: eager and as CUDA graphs
    profile       Nsight Compute on each kernel of one paper-scale step: what it waits for
    programs      all other tests, as on the CPU
    sanitizers    compute-sanitizer's four tools over the tests of the CUDA kernels, where it is there
    compile       PyTorch again, under torch.compile, also with max-autotune
    paper         with --paper: Figure 1 at the paper's scale; continues where an earlier call stopped

The results go to bench/results/gpu-NAME-COMMIT.json, or to $OUT where that is set, and are written
after every stage; there, so are the ends of the logs (logs.txt) and what the paper's runs have so
far, without checkpoints (paper-NORM.tar.gz): a few megabytes together. The exit code is 1 when a
stage failed.
"""

import argparse
import glob
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import time

import binaries
import ncu
import processes
import tables
from machine import describe_machine, gpu_fields
from processes import ROOT, failed, not_run
from stages import OPEN_ENDED, STAGES


class Gpu:
    """One call of this script."""

    def __init__(self, arguments):
        self.arguments = arguments
        limit = arguments.limit or (float("inf") if arguments.paper else 580)
        self.deadline = time.monotonic() + limit
        self.bin, self.env = None, {}
        self.results = {"commit": binaries.commit(),
                        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                        "command": shlex.join(["./run", "gpu"] + sys.argv[1:]),
                        "machine": describe_machine(), "stages": []}
        name = self.results["machine"]["gpu"].get("name", "none")
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        folder = pathlib.Path(os.environ["OUT"]) if os.environ.get("OUT") else ROOT / "bench/results"
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / f"gpu-{slug}-{self.results['commit']}.json"

    def write(self):
        self.file.write_text(json.dumps(self.results, indent=1) + "\n")

    def stage(self, name):
        start = time.monotonic()
        run, limit = STAGES[name]
        until = min(start + limit, self.deadline - 5)
        print(f"{name}: ", end="", flush=True)
        if until - start < 10:
            outcome = not_run("no time left")
        elif name != "build" and self.bin is None:
            outcome = not_run("nothing was built")
        else:
            try:
                outcome = run(self, until)
            except Exception as error:  # of this script: the other stages still run
                outcome = failed(f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - start
        if outcome.status == "timed out" and name in OPEN_ENDED:
            outcome = outcome._replace(status="stopped")
        entry = {"name": name, "status": outcome.status, "seconds": round(seconds, 1)}
        if outcome.reason:
            entry["reason"] = outcome.reason
        entry.update(outcome.details or {})
        self.results["stages"].append(entry)
        self.write()
        self.keep_logs()
        print(f"{outcome.status}, {seconds:.1f} s{'; ' if outcome.reason else ''}{outcome.reason}",
              flush=True)

    def run(self):
        print(f"{self.results['machine']['gpu'].get('name', 'no GPU')}, "
              f"commit {self.results['commit']}", flush=True)
        self.write()
        names = self.arguments.only or [name for name in STAGES
                                        if name != "paper" or self.arguments.paper]
        if "build" not in names:
            names = ["build"] + names
        for name in STAGES:
            if name in names:
                self.stage(name)
        if "kernels" in self.results:
            print(tables.kernel_summary(self.results))
        for name in ("steps", "compile"):
            if name in self.results:
                print(tables.step_summary(self.results, name))
        if "profile" in self.results:
            print(ncu.table(self.results["profile"]))
        print(f"\n{self.file}")
        for stage in self.results["stages"]:
            print(f"{stage['status']:9} {stage['name']} ({stage['seconds']:.0f} s)")
        return any(stage["status"] in ("FAILED", "timed out") for stage in self.results["stages"])

    def keep_logs(self):
        """Beside the results, where those go elsewhere: the ends of all logs in one file."""
        if self.folder == ROOT / "bench/results":
            return
        with open(self.folder / "logs.txt", "w", encoding="utf-8") as file:
            for log in sorted(processes.LOGS.glob("*.log")):
                file.write(f"=== {log.name}\n{log.read_text(errors='replace')[-100_000:]}\n")


def main():
    parser = argparse.ArgumentParser(prog="./run gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--paper", action="store_true", help="also Figure 1 at the paper's scale")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="STAGES",
                        help=f"of {','.join(STAGES)}")
    parser.add_argument("--limit", type=float, metavar="SECONDS",
                        help="for all stages together (default: 580, none with --paper)")
    arguments = parser.parse_args()
    for name in arguments.only or []:
        if name not in STAGES:
            parser.error(f"{name}: expected one of {', '.join(STAGES)}")

    def end(number, _):
        for process in list(processes.running):
            processes.stop(process, 10)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if not gpu_fields("name") and not glob.glob("/dev/nvidia[0-9]*"):
        print("gpu: not run (there is no NVIDIA GPU here)")
        return 1
    shutil.rmtree(processes.LOGS, ignore_errors=True)
    return 1 if Gpu(arguments).run() else 0


if __name__ == "__main__":
    sys.exit(main())
