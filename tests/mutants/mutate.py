#!/usr/bin/env python3
"""Makes one mistake at a time in the CUDA kernels, and looks whether the tests notice.

Each mutant is the project with one barrier or wait less, or with one operator of a kernel replaced.
It is built for the emulator's race check and must fail the CUDA tests. Mutants that compute the same
as the original stand in equivalent.txt, each with the reason.

    python3 tests/mutants/mutate.py                      all mutants: some hours on two cores
    python3 tests/mutants/mutate.py --kind barrier       only barriers and waits
    python3 tests/mutants/mutate.py --file norm_relu     only files whose name contains this
    python3 tests/mutants/mutate.py --sample 20          20 of them, the same ones every time
    python3 tests/mutants/mutate.py --list               which there are

Exit code 0 when every mutant that is not equivalent was noticed. Results: build/mutants/results.json.
"""

import argparse
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"
EQUIVALENT = pathlib.Path(__file__).with_name("equivalent.txt")

BARRIER = re.compile(
    r"(emu::)?(__syncthreads(_\w+)?\(\)"
    r"|__syncwarp\([^;]*\)"
    r"|cp_async_wait(<[^>]*>)?\([^;]*\)"
    r"|cp_async_commit\(\)"
    r"|\w+\.sync\(\)"
    r"|(named_)?barrier_\w+(<[^>]*>)?\([^;]*\)"
    r"|cluster_(arrive|wait)\(\));"
)
OPERATORS = {
    " + ": " - ",
    " - ": " + ",
    " * ": " + ",
    " / ": " * ",
    " % ": " / ",
    " < ": " <= ",
    " <= ": " < ",
    " > ": " >= ",
    " >= ": " > ",
    " == ": " != ",
    " != ": " == ",
    " += ": " -= ",
    " && ": " || ",
}
OPERATOR = re.compile("|".join(re.escape(op) for op in sorted(OPERATORS, key=len, reverse=True)))


def device_lines(text):
    """The numbers of the lines, from 0, that stand in __global__ or __device__ functions."""
    inside, depth, opened = False, 0, False
    for number, line in enumerate(text.splitlines()):
        code = line.split("//")[0]
        if not inside and ("__global__" in code or "__device__" in code):
            inside, depth, opened = True, 0, False
        if not inside:
            continue
        if opened:
            yield number
        depth += code.count("{") - code.count("}")
        opened = opened or "{" in code
        # A declaration ends without a body; a function ends where its braces close.
        if (opened and depth <= 0) or (not opened and code.rstrip().endswith(";")):
            inside = False


def mutants_of(path):
    text = path.read_text()
    lines = text.splitlines()
    name = path.relative_to(ROOT).as_posix()
    for number in device_lines(text):
        line = lines[number]
        code = line.split("//")[0]
        if "static_assert" in code or not code.strip():
            continue
        for kind, matches in (("barrier", BARRIER.finditer(code)), ("index", OPERATOR.finditer(code))):
            for nth, match in enumerate(matches):
                new = ";" if kind == "barrier" else OPERATORS[match.group()]
                mutated = line[: match.start()] + new + line[match.end() :]
                # Known by its text, not by its line number, which other edits move.
                key = f"{name} | {line.strip()} | {match.group().strip()} #{nth}"
                yield {"key": key, "file": name, "line": number + 1, "kind": kind, "text": mutated}


def all_mutants():
    folder = ROOT / "kernels" / "cuda"
    for path in sorted([*folder.rglob("*.cu"), *folder.rglob("*.cuh")]):
        if "cub" not in path.parts:  # not compiled by the emulator
            yield from mutants_of(path)


def equivalents():
    """Mutant -> why it computes the same."""
    known = {}
    if EQUIVALENT.exists():
        for line in EQUIVALENT.read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                key, reason = line.rsplit(" ::: ", 1)
                known[key.strip()] = reason.strip()
    return known


def run(command, limit):
    """Exit code and output; 124 when it took longer than `limit` seconds."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit)
        return done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return 124, "took too long"


def tests_for(name):
    """The filter of the tests that are most likely to notice a mistake in a file."""
    for part, tests in (
        ("conv1d", "CudaConv1d*"),
        ("norm_relu", "CudaNorm*"),
        ("linear", "CudaLinear*"),
        ("adam", "CudaAdam*"),
        ("random", "CudaRandom*"),
        ("moments", "CudaMoments*"),
    ):
        if part in name:
            return tests
    return "Cuda*"


class Workshop:
    """A copy of the project, built for the race check."""

    def __init__(self, jobs):
        self.source, self.build, self.jobs = WORK / "source", WORK / "build", jobs
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.splitlines()
        for name in listed:
            origin, copy = ROOT / name, self.source / name
            if origin.is_file() and not (copy.exists() and copy.read_bytes() == origin.read_bytes()):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin, copy)
        code, output = run(
            ["cmake", "-S", self.source, "-B", self.build, "-G", "Ninja",
             "-DCMAKE_BUILD_TYPE=Release", "-DSIDECHANNEL_CUDA=EMULATED",
             "-DSIDECHANNEL_EMULATOR=race", "-DSIDECHANNEL_EXPERIMENTS=OFF",
             "-DSIDECHANNEL_BENCH=OFF", "-DSIDECHANNEL_TESTS=ON", "-DSIDECHANNEL_WERROR=OFF"],
            600,
        )
        if code != 0:
            sys.exit(f"mutate.py: the copy cannot be configured\n{output}")
        code, output = self.compile()
        if code != 0:
            sys.exit(f"mutate.py: the copy cannot be built\n{output[-4000:]}")
        code, output = self.test("Cuda*")
        if code != 0:
            sys.exit(f"mutate.py: the tests fail without any mutant\n{output[-4000:]}")

    def compile(self):
        return run(["cmake", "--build", self.build, "-j", str(self.jobs),
                    "--target", "sidechannel_tests"], 3600)

    def test(self, tests):
        # A mutant may loop for ever; the whole suite takes under a minute.
        return run([self.build / "bin" / "sidechannel_tests", f"--gtest_filter={tests}",
                    "--gtest_fail_fast", "--gtest_brief=1"], 300)

    def verdict(self, mutant):
        path = self.source / mutant["file"]
        original = path.read_text()
        lines = original.splitlines()
        lines[mutant["line"] - 1] = mutant["text"]
        path.write_text("\n".join(lines) + "\n")
        try:
            code, output = self.compile()
            if code != 0:
                return "does not compile", ""
            for tests in dict.fromkeys([tests_for(mutant["file"]), "Cuda*"]):
                code, output = self.test(tests)
                if code != 0:
                    failed = re.search(r"\[  FAILED  \] (\S+)", output)
                    return "killed", failed.group(1) if failed else f"exit code {code}"
            return "survived", ""
        finally:
            path.write_text(original)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=["barrier", "index"])
    parser.add_argument("--file", default="", help="only files whose name contains this")
    parser.add_argument("--sample", type=int, help="only so many, spread evenly")
    parser.add_argument("--list", action="store_true", help="print them and stop")
    parser.add_argument("--jobs", type=int, default=2, help="of the compiler")
    arguments = parser.parse_args()

    mutants = [m for m in all_mutants()
               if arguments.file in m["file"] and arguments.kind in (None, m["kind"])]
    if arguments.sample and arguments.sample < len(mutants):
        # In an order that is the same every time, and mixes the files.
        mutants.sort(key=lambda m: hashlib.sha256(m["key"].encode()).digest())
        mutants = mutants[: arguments.sample]
    if not mutants:
        sys.exit("mutate.py: no such mutants")
    if arguments.list:
        for m in mutants:
            print(f"{m['file']}:{m['line']}: {m['kind']}: {m['text'].strip()}")
        print(f"{len(mutants)} mutants")
        return 0

    known = equivalents()
    workshop = Workshop(arguments.jobs)
    results, start = [], time.monotonic()
    for i, mutant in enumerate(mutants):
        if mutant["key"] in known:
            verdict, by = "equivalent", known[mutant["key"]]
        else:
            verdict, by = workshop.verdict(mutant)
        results.append({"verdict": verdict, "by": by, **mutant})
        print(f"[{i + 1}/{len(mutants)}] {verdict}: {mutant['file']}:{mutant['line']}: "
              f"{mutant['text'].strip()}" + (f"  ({by})" if by else ""), flush=True)
        (WORK / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    count = {v: sum(r["verdict"] == v for r in results)
             for v in ("killed", "survived", "equivalent", "does not compile")}
    print(f"{len(results)} mutants in {time.monotonic() - start:.0f} s: "
          + ", ".join(f"{n} {v}" for v, n in count.items()))
    for result in results:
        if result["verdict"] == "survived":
            print(f"survived: {result['key']}")
    return 1 if count["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
