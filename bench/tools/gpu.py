#!/usr/bin/env python3
"""Everything that wants a GPU, in one run: what ./run gpu calls, from the project's root.

    python3 bench/tools/gpu.py [--paper] [--only STAGES] [--limit SECONDS] [--continue FOLDER]

Stages, in this order, the most worth first; each has a share of the time (stages.py), and none stops
the others:

    build         unless programs that ./run bundle --binaries built run here
    tests         those of the CUDA kernels, in several processes at once
    kernels       bench_cuda: every kernel beside what the GPU could do at most, and beside libraries
    steps         training steps, beside PyTorch where there is one: eager and as CUDA graphs; and that
                  of the paper's network in TF32 under torch.compile
    variants      bench_cuda --variants: every kernel that could do another's work
    profile       Nsight Compute on each kernel of one paper-scale step: what it waits for
    programs      all other tests, as on the CPU
    sanitizers    compute-sanitizer's four tools over the tests of the CUDA kernels, where it is there
    compile       the other steps under torch.compile
    paper         with --paper: Figure 1 at the paper's scale; continues where an earlier call stopped

The results go to bench/results/gpu-NAME-COMMIT.json, or to $OUT where that is set, and are written
after every stage; there, so are the ends of the logs (logs.txt) and every minute what the paper's runs
have so far (paper-NORM.tar.xz), with a state to go on from: five files, under 10 MB together.

--continue takes the results of an earlier call from the folder that this one wrote. What passed there,
of the same commit on the same kind of GPU, is not run again, and what was cut short goes on. The
paper's runs go on whatever the commit.

The exit code is 1 when a stage failed.
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

LIMIT = 580  # seconds, without --limit


class Gpu:
    """One call of this script."""

    def __init__(self, arguments):
        self.arguments, self.continued = arguments, arguments.continued
        self.deadline = time.monotonic() + (arguments.limit or LIMIT) - 5
        names = arguments.only or [name for name in STAGES if name != "paper" or arguments.paper]
        self.stages = [name for name in STAGES if name in names or name == "build"]
        self.bin, self.env = None, {}
        self.results = {"commit": binaries.commit(),
                        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                        "command": shlex.join(["./run", "gpu"] + sys.argv[1:]),
                        "machine": describe_machine(), "stages": []}
        name = self.results["machine"]["gpu"].get("name", "none")
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.elsewhere = bool(os.environ.get("OUT"))
        self.folder = pathlib.Path(os.environ["OUT"]) if self.elsewhere else ROOT / "bench/results"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"gpu-{slug}-{self.results['commit']}.json"
        if self.continued and self.elsewhere:  # what came back of both calls, comes back of this one
            for archive in self.continued.glob("paper-*.tar.xz"):
                if archive.parent.resolve() != self.folder.resolve():
                    shutil.copy(archive, self.folder)
        self.former = {}  # the stages of the call that this one continues
        if self.continued and (self.continued / self.file.name).exists():
            before = read_results(self.continued / self.file.name)
            self.former = {stage["name"]: stage for stage in before["stages"]}
            self.results = {**before, **self.results, "continues": before["date"]}
        self.entries = dict(self.former)

    def done(self, name):
        """What a stage that was cut short had done."""
        return self.former.get(name, {}).get("done", [])

    def write(self):
        self.results["stages"] = [self.entries[name] for name in STAGES if name in self.entries]
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1) + "\n")
        part.replace(self.file)

    def until(self, name):
        """When a stage must be done."""
        now, share = time.monotonic(), STAGES[name][1]
        if name == "paper" and not self.arguments.limit:
            return float("inf")
        if name != "build":
            to_come = self.stages[self.stages.index(name):]
            share /= sum(STAGES[other][1] for other in to_come
                         if other != "paper" or self.arguments.limit)
        return now + share * (self.deadline - now)

    def stage(self, name):
        start, until = time.monotonic(), self.until(name)
        print(f"{name}: ", end="", flush=True)
        if name != "build" and self.former.get(name, {}).get("status") == "passed":
            print("passed before")
            return
        if until < start + 1:
            outcome = not_run("no time left")
        elif name != "build" and self.bin is None:
            outcome = not_run("nothing was built")
        else:
            try:
                outcome = STAGES[name][0](self, until)
            except Exception as error:  # of this script: the other stages still run
                outcome = failed(f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - start
        if outcome.status == "timed out" and name in OPEN_ENDED:
            outcome = outcome._replace(status="stopped")
        entry = {"name": name, "status": outcome.status, "seconds": round(seconds, 1)}
        if outcome.reason:
            entry["reason"] = outcome.reason
        entry.update(outcome.details or {})
        if outcome.status != "not run" or name not in self.former:
            self.entries[name] = entry
        self.write()
        self.keep_logs()
        print(f"{outcome.status}, {seconds:.1f} s{'; ' if outcome.reason else ''}{outcome.reason}"
              .replace("\n", " ")[:400], flush=True)

    def run(self):
        print(f"{self.results['machine']['gpu'].get('name', 'no GPU')}, commit "
              f"{self.results['commit']}{', continued' if self.former else ''}", flush=True)
        self.write()
        for name in self.stages:
            self.stage(name)
        for line in self.summary():
            print(line[:160])
        return any(stage["status"] in ("FAILED", "timed out") for stage in self.results["stages"])

    def summary(self):
        """What was measured, in fewer than 90 lines: with a line a stage, fewer than 100."""
        tables_of_it = [("kernels", tables.kernel_summary, 28), ("steps", tables.step_summary, 10),
                        ("variants", tables.variant_summary, 26),
                        ("profile", lambda results: ncu.table(results["profile"]), 16)]
        for name, table, most in tables_of_it:
            if name in self.results:
                lines = table(self.results).splitlines()
                yield from ["", f"{name}:", *lines[:most]]
                if len(lines) > most:
                    yield f"... and {len(lines) - most} more"
        yield ""
        yield str(self.file)

    def keep_logs(self):
        """Beside the results, where those go elsewhere: the ends of all logs in one file."""
        if not self.elsewhere:
            return
        with open(self.folder / "logs.txt", "w", encoding="utf-8") as file:
            for log in sorted(processes.LOGS.glob("*.log")):
                file.write(f"=== {log.name}\n{log.read_text(errors='replace')[-10_000:]}\n")


def read_results(file):
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"gpu: {file}: {error}")


def folder_of_results(text):
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return pathlib.Path(text)


def main():
    parser = argparse.ArgumentParser(prog="./run gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--paper", action="store_true", help="also Figure 1 at the paper's scale")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="STAGES",
                        help=f"of {','.join(STAGES)}")
    parser.add_argument("--limit", type=float, metavar="SECONDS",
                        help=f"for all stages together (default: {LIMIT}, and none for --paper)")
    parser.add_argument("--continue", type=folder_of_results, metavar="FOLDER", dest="continued",
                        help="what an earlier call wrote: goes on where that stopped")
    arguments = parser.parse_args()
    for name in arguments.only or []:
        if name not in STAGES:
            parser.error(f"{name}: expected one of {', '.join(STAGES)}")
    if arguments.limit is not None and not arguments.limit > 0:
        parser.error(f"--limit {arguments.limit:g}: expected more than 0 seconds")

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
    processes.LOGS.mkdir(parents=True)
    return 1 if Gpu(arguments).run() else 0


if __name__ == "__main__":
    sys.exit(main())
