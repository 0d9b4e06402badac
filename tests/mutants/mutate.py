#!/usr/bin/env python3
"""Makes one mistake at a time in the CUDA kernels, and looks whether the tests notice.

Each mutant is the project with one barrier or wait less, or with one operator of a kernel replaced.
It must fail the CUDA tests on the emulator, as it is or under its race check. Mutants that compute
the same as the original stand in equivalent.txt, each with the reason. README.md tells the rest.

    python3 tests/mutants/mutate.py                      all mutants
    python3 tests/mutants/mutate.py --kind barrier       only barriers and waits
    python3 tests/mutants/mutate.py --file norm/         only files that match this
    python3 tests/mutants/mutate.py --sample 20          20 of them, the same ones every time
    python3 tests/mutants/mutate.py --equivalent         whether the equivalent ones survive indeed
    python3 tests/mutants/mutate.py --alone --sample 20  the same verdicts in builds of their own?
    python3 tests/mutants/mutate.py --list               which there are

Exit code 0 when every mutant that is not equivalent was noticed. Verdicts are kept in
build/mutants/results.json: an interrupted run goes on where it was, and after a change only those
mutants run again that it concerns.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time

from mutants import ROOT, all_mutants, kernel_files
from workshop import WORK, Program, files_with, measured, read, run_test, test_sources

EQUIVALENT = pathlib.Path(__file__).with_name("equivalent.txt")
RESULTS = WORK / "results.json"


def equivalents(mutants):
    """Key of a mutant -> why it computes the same."""
    known = {}
    for line in EQUIVALENT.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            key, reason = line.rsplit(" ::: ", 1)
            known[key.strip()] = reason.strip()
    unknown = known.keys() - {m.key for m in mutants}
    if unknown:
        sys.exit("mutate.py: in equivalent.txt, but not in the kernels:\n" + "\n".join(unknown))
    return known


class Verdicts:
    """What is known of mutants, in a file, each with a digest of what it rests on."""

    def __init__(self):
        self.known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self.lock = threading.Lock()
        self.tests = test_sources()
        self.digests = {}
        self.files_with = {name: files_with(name)
                           for name in (f.relative_to(ROOT).as_posix() for f in kernel_files())}

    def digest_of_files(self, names):
        """Of the files, or of those that match ("folder", pattern, pattern)."""
        names = tuple(names)
        if names not in self.digests:
            files = names
            if "*" in names[-1]:
                files = sorted({f.relative_to(ROOT).as_posix()
                                for pattern in names[1:] for f in (ROOT / names[0]).rglob(pattern)})
            whole = hashlib.sha256()
            for name in files:
                whole.update(read(name).encode())
            self.digests[names] = whole.hexdigest()
        return self.digests[names]

    def digest(self, mutant, test):
        """Of the mutant, its kernels and all headers, the emulator and the harness, and of the
        test that noticed it, or of all tests."""
        parts = [
            mutant.key, mutant.new,
            self.digest_of_files([mutant.file, *self.files_with[mutant.file]]),
            self.digest_of_files(["kernels", "*.h", "*.cuh"]),
            self.digest_of_files(["tests/emulator", "*.h", "*.cuh", "*.cpp"]),
            self.digest_of_files(["tests/harness", "*.h", "*.cpp"]),
            self.tests[test] if test else "\n".join(sorted(self.tests.values())),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def of(self, mutant):
        entry = self.known.get(mutant.key)
        if entry is None or entry["by"] not in ("", *self.tests):
            return None
        return entry if entry["digest"] == self.digest(mutant, entry["by"]) else None

    def add(self, mutant, verdict, by="", how=""):
        with self.lock:
            self.known[mutant.key] = {"verdict": verdict, "by": by, "how": how,
                                      "digest": self.digest(mutant, by)}
            WORK.mkdir(parents=True, exist_ok=True)
            new = RESULTS.with_suffix(".new")
            new.write_text(json.dumps(self.known, indent=0) + "\n")
            new.replace(RESULTS)
        print(f"{verdict}: {mutant.file}:{mutant.line}: {mutant.line_of(read(mutant.file))}"
              + (f"  ({by}{how})" if by else ""), flush=True)


def first_to_notice(program, tests, mutant=None):
    for test in tests:
        code, _, _ = run_test(program, test.name, test.seconds, mutant)
        if code != 0:
            return test.name
    return ""


def judge(mutants, jobs, verdicts):
    """Runs the mutants; adds a verdict for each."""
    shutil.rmtree(WORK / "schemata", ignore_errors=True)
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    print(f"{len(mutants)} mutants to run", flush=True)

    def run_schemata(program, tests, reaching, some, how):
        """Those that survive."""

        def run(mutant):
            by = first_to_notice(program, [t for t in tests if t.name in reaching[mutant.key]],
                                 mutant.id)
            if by:
                verdicts.add(mutant, "killed", by, how)
            return by

        return [m for m, by in zip(some, pool.map(run, some)) if not by]

    # As schemata, first in the build that is the fastest.
    files = {m.file for m in mutants}
    present = [m for m in all_mutants() if m.file in files]
    program = Program("emulated", jobs).with_mutants(present, WORK / "schemata")
    tests = measured(program, jobs, watch=True)
    reaching = {m.key: {t.name for t in tests if m.id in t.reached} for m in present}
    single = [m for m in mutants if not reaching[m.key]]
    left = run_schemata(program, tests, reaching, [m for m in mutants if reaching[m.key]], "")
    race = Program("emulated-race", jobs) if left or single else None
    if left:
        program = race.with_mutants(left, WORK / "schemata")
        tests = measured(program, jobs, set().union(*(reaching[m.key] for m in left)))
        left = run_schemata(program, tests, reaching, left, ", race check")
    for mutant in left:
        verdicts.add(mutant, "survived")
    if not single:
        return

    # In constant expressions: one build each, for the tests that run anything of the file.
    near = {name: set().union(*(reaching[m.key] for m in present if m.file == name))
            for name in files}
    program = race.with_mutants([], WORK / "schemata")
    tests = measured(program, jobs, set().union(*(near[m.file] for m in single)))

    def run_single(mutant):
        with tempfile.TemporaryDirectory(dir=WORK) as folder:
            program = race.with_one(mutant, pathlib.Path(folder))
            if program is None:
                verdicts.add(mutant, "does not compile")
                return
            by = first_to_notice(program, [t for t in tests if t.name in near[mutant.file]])
            verdicts.add(mutant, "killed" if by else "survived", by, ", built alone")

    list(pool.map(run_single, single))


def judge_alone(mutants, jobs, verdicts):
    """Builds the mutants one by one; whether each ends as it did as one of the schemata."""
    programs = {"": Program("emulated", jobs), ", race check": Program("emulated-race", jobs)}
    every = measured(programs[""].with_mutants([], WORK / "schemata"), jobs=jobs)

    def agrees(mutant):
        before = verdicts.of(mutant)
        with tempfile.TemporaryDirectory(dir=WORK) as folder:
            base = programs.get(before["how"], programs[", race check"])
            program = base.with_one(mutant, pathlib.Path(folder))
            tests = [t for t in every if before["by"] in ("", t.name)]
            now = "killed" if program and first_to_notice(program, tests) else "survived"
        same = now == before["verdict"]
        print(f"{'same' if same else 'DIFFERENT'}: {before['verdict']}: {mutant.key}", flush=True)
        return same

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(agrees, mutants)))


def table(mutants, verdicts, known):
    """Counts by file."""
    columns = ("killed", "survived", "equivalent", "does not compile", "not run")
    counts = collections.defaultdict(collections.Counter)
    for m in mutants:
        entry = verdicts.of(m)
        verdict = "equivalent" if m.key in known else entry["verdict"] if entry else "not run"
        counts[m.file.removeprefix("kernels/cuda/")][verdict] += 1
        counts["all"][verdict] += 1
    rows = ["| file | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in sorted(counts, key=lambda name: (name == "all", name)):
        rows.append(f"| {name} | " + " | ".join(str(counts[name][c]) for c in columns) + " |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=["barrier", "product", "index"])
    parser.add_argument("--file", default="", help="only files that match this regular expression")
    parser.add_argument("--sample", type=int, help="only so many")
    parser.add_argument("--equivalent", action="store_true", help="run those, and nothing else")
    parser.add_argument("--alone", action="store_true",
                        help="build those with a verdict one by one, and compare")
    parser.add_argument("--list", action="store_true", help="print them and stop")
    parser.add_argument("--table", action="store_true", help="print the verdicts by file and stop")
    parser.add_argument("--jobs", type=int, default=2, help="builds or mutants at a time")
    arguments = parser.parse_args()

    mutants = list(all_mutants())
    known = equivalents(mutants)
    mutants = [m for m in mutants
               if re.search(arguments.file, m.file) and arguments.kind in (None, m.kind)]
    if arguments.equivalent:
        mutants = [m for m in mutants if m.key in known]
    if arguments.sample:
        # In an order that is the same every time, and mixes the files.
        mutants = [m for m in mutants if m.key not in known]
        mutants.sort(key=lambda m: hashlib.sha256(m.key.encode()).digest())
        mutants = mutants[: arguments.sample]
    if not mutants:
        sys.exit("mutate.py: no such mutants")
    if arguments.list:
        for m in mutants:
            print(f"{m.file}:{m.line}: {m.kind}: {m.line_of(read(m.file))}")
        print(f"{len(mutants)} mutants")
        return 0

    verdicts = Verdicts()
    if arguments.alone:
        return 0 if judge_alone([m for m in mutants if verdicts.of(m)], arguments.jobs,
                                verdicts) else 1
    start = time.monotonic()
    if not arguments.table:
        todo = [m for m in mutants if verdicts.of(m) is None
                and (arguments.equivalent or m.key not in known)]
        if todo:
            judge(todo, arguments.jobs, verdicts)
    print(table(mutants, verdicts, {} if arguments.equivalent else known))
    print(f"{len(mutants)} mutants, {time.monotonic() - start:.0f} s")
    survived = [m for m in mutants if (arguments.equivalent or m.key not in known)
                and verdicts.of(m) and verdicts.of(m)["verdict"] == "survived"]
    if arguments.equivalent:
        noticed = [m for m in mutants if m not in survived]
        for m in noticed:
            print(f"not equivalent: {m.key}")
        return 1 if noticed else 0
    for m in survived:
        print(f"survived: {m.key}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
