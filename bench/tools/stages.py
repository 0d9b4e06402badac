"""What ./run gpu does, stage by stage. A stage gets the run (gpu.py) and the time at which it must be
done, and returns its outcome; what it measures goes to gpu.results."""

import collections
import contextlib
import functools
import json
import lzma
import math
import os
import re
import shlex
import shutil
import tarfile
import time

import binaries
import ncu
import processes
import tables
from machine import Clocks, nvcc, python_with_torch, pythons, tool_of_nvidia
from processes import ROOT, Outcome, Program, failed, not_run, outcome_of, passed

INTERRUPTED = 75  # exit code of a program that saved its state
RUNS = ROOT / "runs" / "paper-gpu"


def test_results(log):
    """{test: OK, FAILED, SKIPPED, or RUN for one that never ended}, from GoogleTest's output."""
    found = {}
    for result, test in re.findall(r"\[ *(RUN|OK|FAILED|SKIPPED) *\] (\w+(?:/\w+)*\.\w+(?:/\w+)*)", log):
        if result == "RUN" or found.get(test) == "RUN":  # the summary at the end names them again
            found[test] = result
    return found


def build(gpu, until):
    found, env = binaries.prebuilt()
    if found:
        gpu.bin, gpu.env = found, env
        gpu.results["programs"] = "prebuilt"
        return passed("prebuilt programs run here")
    why = env
    if not nvcc():
        return not_run(f"prebuilt programs: {why}; and there is no nvcc")
    folder = ROOT / "build" / "gpu"
    options, env = binaries.cublas_options(folder / "cublas")
    capability = gpu.results["machine"]["gpu"].get("compute_cap", "9.0").replace(".", "")
    configure = ["cmake", "-S", ".", "-B", folder, "-DCMAKE_BUILD_TYPE=Release",
                 "-DSIDECHANNEL_CUDA=ON", "-DSIDECHANNEL_TESTS=ON", "-DSIDECHANNEL_BENCH=ON",
                 f"-DCMAKE_CUDA_ARCHITECTURES={capability}-real",
                 f"-DSIDECHANNEL_NVCC={nvcc()}"] + options
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    if binaries.BUNDLE.exists():
        known = os.environ.get("CMAKE_PREFIX_PATH", "")
        env["CMAKE_PREFIX_PATH"] = f"{binaries.BUNDLE}:{known}".rstrip(":")
    jobs = str(len(os.sched_getaffinity(0)))
    for name, command in (("configure", configure),
                          ("build", ["cmake", "--build", folder, "-j", jobs])):
        program = Program(command, name, env)
        if program.wait(until) != 0:
            errors = [line for line in program.text().splitlines() if "error" in line.lower()]
            return failed(f"{name}: {errors[0][:300] if errors else program.last_line()}",
                          prebuilt=why)
    gpu.bin, gpu.env = folder / "bin", {}
    gpu.results["programs"] = f"built here, for sm_{capability}"
    return passed(f"prebuilt programs: {why}")


def test_env(gpu):
    return {**gpu.env, "SIDECHANNEL_TEST_DATA": str(ROOT / "tests"),
            "SIDECHANNEL_BIN_DIR": str(gpu.bin)}


def without(chosen, done):
    """A filter of GoogleTest's that chooses what `chosen` does, but for these tests."""
    return chosen + ("" if not done else ":" if "-" in chosen else "-") + ":".join(done)


def run_tests(name, chosen, gpu, until):
    """Those that the filter chooses, in several processes at once, as ctest would run them."""
    done = gpu.done(name)
    shards = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    parts = []
    for i in range(shards):
        env = {**test_env(gpu), "GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(i)}
        parts.append(Program([gpu.bin / "sidechannel_tests", f"--gtest_filter={without(chosen, done)}"],
                             f"{name}-{i}", env))
    results, failures, late = {test: "OK" for test in done}, [], []
    for program in parts:
        code = program.wait(until)
        # From its log, which says what it had done, whatever became of it.
        found = test_results(program.text())
        results.update(found)
        bad = [test for test, result in found.items() if result == "FAILED"]
        unfinished = [test for test, result in found.items() if result == "RUN"]
        if code is None:
            late += [f"{test} (ran out of time)" for test in unfinished] or \
                    [f"{program.log.stem}: out of time"]
        else:
            end = f"exit code {code}: {program.last_line()}"
            bad += [f"{test} ({end})" for test in unfinished]
            if code != 0 and not bad:
                bad.append(f"{program.log.stem}: {end}")
        failures += bad
    count = collections.Counter(results.values())
    details = {"command": f"sidechannel_tests '--gtest_filter={chosen}'", "shards": shards,
               "tests_passed": count["OK"], "tests_skipped": count["SKIPPED"],
               "failures": failures + late}
    if failures:
        return failed(f"{len(failures + late)}: {', '.join((failures + late)[:12])}", **details)
    if late:
        done = [test for test, result in results.items() if result in ("OK", "SKIPPED")]
        return Outcome("timed out", f"{count['OK']} tests passed; {', '.join(late[:12])}",
                       {**details, "done": done})
    if count["OK"] == 0:
        return failed("no test ran", **details)
    return passed(f"{count['OK']} tests, {count['SKIPPED']} skipped", **details)


tests = functools.partial(run_tests, "tests", "Cuda*")
programs = functools.partial(run_tests, "programs", "-Cuda*")


def bench_cuda(gpu, name, until, keep, *options):
    """Adds to gpu.results[name] what bench_cuda measures of what it lacks: of each case
    keep(result)."""
    out = processes.LOGS / f"{name}.json"
    out.unlink(missing_ok=True)
    results = gpu.results.get(name, {}).get("results", {})
    rest = [f"--benchmark_filter=-^({'|'.join(results)})/iterations"] if results else []
    with Clocks() as clocks:
        program = Program([gpu.bin / "bench_cuda", *options, *rest, f"--benchmark_out={out}",
                           "--benchmark_out_format=json"], name, gpu.env)
        outcome = outcome_of(program, until)
    if not out.exists() or not out.read_text().strip():
        return outcome
    text = out.read_text()
    try:
        found = json.loads(text)
    except ValueError:  # stopped in the middle: what is there, up to the last whole entry
        found = json.loads(text[:text.rindex("}")] + "}]}")
    errors = []
    for result in found["benchmarks"]:
        case = result["name"].split("/iterations")[0]
        if result.get("error_occurred"):
            errors.append(f"{case}: {result['error_message']}")
        else:
            results[case] = keep(result)
    gpu.results[name] = {"context": found["context"], "clocks": clocks.summary(), "results": results}
    if errors and outcome.status == "passed":
        outcome = failed(f"{len(errors)}: {errors[0][:300]}")
    return outcome._replace(details={"command": shlex.join(["bench_cuda", *options]), "errors": errors,
                                     "measured": len(results)})


def kernels(gpu, until):
    def keep(result):
        names = ("label", "min_us", "spread", "GB/s", "TFLOP/s", "floor_us", "share", "library_us")
        return {"us": result["real_time"], **{name: result[name] for name in names if name in result}}

    outcome = bench_cuda(gpu, "kernels", until, keep)
    if outcome.status == "passed" and python_with_torch():  # what is there when time is up is kept
        theirs, _ = beside_pytorch(gpu, "kernels", until)
        gpu.results["kernels"]["pytorch"] = theirs or {}
        outcome = outcome._replace(reason=f"PyTorch: {len(theirs or {})} of its kernels measured")
    return outcome


# Of a result from the chosen kernel's, as a share of its largest entry. One with operands in TF32
# differs from one without by about 2^-11 of the terms, a wrong one by about all of it.
MOST_DIFFERENCE = 1e-2


def variants(gpu, until):
    def keep(result):
        names = [key.removeprefix("us of ") for key in result if key.startswith("us of ")]
        return {name: {key: value if math.isfinite(value := result[f"{key} of {name}"]) else None
                       for key in ("us", "difference")} for name in names}

    outcome = bench_cuda(gpu, "variants", until, keep, "--variants")
    found = [(case, name, variant["difference"])
             for case, all_of_it in gpu.results.get("variants", {}).get("results", {}).items()
             for name, variant in all_of_it.items()]
    wrong = [f"{case} by {name}: differs by {difference}" for case, name, difference in found
             if difference is None or difference > MOST_DIFFERENCE]
    if wrong and outcome.status == "passed":
        return outcome._replace(status="FAILED", reason="; ".join(wrong[:5]))
    return outcome._replace(reason=outcome.reason or f"{len(found)} kernels")


def beside_pytorch(gpu, script, until, *options, json_of=None):
    """What a script of bench/pytorch measured (json_of: in that file), None where it did not, and its
    outcome."""
    out = json_of or processes.LOGS / f"pytorch-{script}.json"
    if not json_of:
        out.unlink(missing_ok=True)
    env = {"SIDECHANNEL_COMMIT": gpu.results["commit"], "PYTHONUNBUFFERED": "1"}
    if "LD_LIBRARY_PATH" in gpu.env:  # for ours alone: PyTorch finds its own libraries
        options += ("--library-path", gpu.env["LD_LIBRARY_PATH"])
    program = Program([python_with_torch(), f"bench/pytorch/{script}.py", "--device", "cuda",
                       "--program", gpu.bin / "bench_step", "--json", out, *options],
                      f"pytorch-{script}", env)
    outcome = outcome_of(program, until)
    return json.loads(out.read_text()) if out.exists() else None, \
        outcome._replace(details={"command": shlex.join(program.command[1:])})


def compare(gpu, until, *options):
    """Adds to the rows of steps what compare.py measures of what they lack."""
    out = processes.LOGS / "steps.json"
    out.write_text(json.dumps(gpu.results.get("steps", {"results": []})))
    with Clocks() as clocks:
        found, outcome = beside_pytorch(gpu, "compare", until, "--continue", "--rounds", "1", *options,
                                        json_of=out)
    if found["results"]:
        gpu.results["steps"] = {**found, "clocks": clocks.summary()}
    return outcome


def steps(gpu, until):
    if python_with_torch():
        # The second is the peer to beat; it compiles for minutes, and may not keep the first from
        # its half of the time.
        half = (time.monotonic() + until) / 2
        first = compare(gpu, half, "--modes", "eager,graph")
        peer = compare(gpu, until, "--modes", "compile,max-autotune", "--steps", "paper",
                       "--precisions", "tf32")
        return next((outcome for outcome in (first, peer) if outcome.status != "passed"), peer)
    out = processes.LOGS / "steps.json"
    out.unlink(missing_ok=True)
    program = Program([gpu.bin / "bench_step", "--device", "cuda", f"--benchmark_out={out}",
                       "--benchmark_out_format=json"], "steps", gpu.env)
    outcome = outcome_of(program, until)
    if outcome.status == "passed":
        gpu.results["steps"] = {"results": tables.step_rows(json.loads(out.read_text()))}
        return passed("PyTorch: not run (no Python with torch that finds the GPU)")
    return outcome


def compile(gpu, until):
    if not python_with_torch():
        return not_run("no Python with torch that finds the GPU")
    return compare(gpu, until, "--modes", "compile,max-autotune")


def profile(gpu, until):
    tool = tool_of_nvidia("ncu")
    if not tool:
        return not_run("no Nsight Compute (ncu)")
    start = time.monotonic()
    until = min(until, start + 60)
    # The third call of each kernel, in a step whose launches the host makes one by one; where
    # that chooses none, some launches in a row from the middle of a step.
    for end, chosen in ((start + (until - start) * 2 / 3, ["--kernel-id", "::regex:.+:3"]),
                        (until, ["--launch-skip", "700", "--launch-count", "40"])):
        program = Program([tool, *ncu.OPTIONS, *chosen, gpu.bin / "bench_step", "--device", "cuda",
                           "--benchmark_filter=training_step/paper/tf32/eager"], "profile", gpu.env)
        outcome = outcome_of(program, end)
        found = ncu.kernels(program.text())
        if len(found) > 3:
            break
    if found:
        gpu.results["profile"] = found
    elif outcome.status == "passed":
        outcome = failed(f"no kernel was profiled: {program.last_line()}")
    return outcome._replace(details={"command": shlex.join(["ncu", *program.command[1:]])})


def sanitizers(gpu, until):
    tool = tool_of_nvidia("compute-sanitizer")
    if not tool:
        return not_run("no compute-sanitizer")
    before, programs = gpu.done("sanitizers"), {}
    for name in ("memcheck", "racecheck", "initcheck", "synccheck"):
        # Calls that the runtime refuses are what some tests are about.
        options = ["--report-api-errors", "no"] if name == "memcheck" else []
        chosen = without("Cuda*", before[name] if before else [])
        programs[name] = Program([tool, "--tool", name, *options, "--error-exitcode", "86",
                                  gpu.bin / "sidechannel_tests", f"--gtest_filter={chosen}"],
                                 name, test_env(gpu))
    results, done, late = {}, {}, False
    for name, program in programs.items():
        code = program.wait(until)
        text = program.text()
        late |= code is None
        done[name] = (before[name] if before else []) + \
            [test for test, result in test_results(text).items() if result == "OK"]
        summary = re.findall(r"=+ (ERROR SUMMARY: .*|RACECHECK SUMMARY: .*)", text)
        refused = re.search(r"=+ .*(Device not supported|not supported|Unable to).*", text)
        found = re.search(r"=+ (Error|Invalid|Race|Uninitialized|Barrier|Potential).*", text)
        if refused:
            results[name] = f"not run ({refused.group().lstrip('= ')[:200]})"
        elif found or code == 86:
            results[name] = f"FAILED: {found.group().lstrip('= ') if found else summary}"[:300]
        elif code is None:
            results[name] = f"nothing found in {len(done[name])} tests, then out of time"
        elif code != 0:
            results[name] = f"FAILED: exit code {code}: {program.last_line()}"
        else:
            results[name] = f"nothing found in {len(done[name])} tests"
    details = {"command": f"compute-sanitizer --tool {'|'.join(programs)} sidechannel_tests "
                          "--gtest_filter=Cuda*", "tools": results}
    bad = [f"{name}: {text}" for name, text in results.items() if text.startswith("FAILED")]
    if bad:
        return failed("; ".join(bad), **details)
    if all(text.startswith("not run") for text in results.values()):
        return not_run(results["memcheck"].removeprefix("not run "), **details)
    reason = "; ".join(f"{name}: {text}" for name, text in results.items())
    if late:
        return Outcome("timed out", reason, {**details, "done": done})
    return passed(reason, **details)


def paper(gpu, until):
    if gpu.continued:
        take_runs(gpu.continued, bool(gpu.former))
    until -= min(40, (until - time.monotonic()) / 2)  # to save the state, and to pack it
    details = {"runs": {}}
    for norm in ("instance", "none"):
        folder = RUNS / norm
        keep = functools.partial(keep_run, folder, gpu.folder if gpu.elsewhere else None)

        def meanwhile():
            with contextlib.suppress(OSError):  # a state that is just being replaced
                keep()

        program = Program([gpu.bin / "localization", "run", "--preset", "paper", "--norm", norm,
                           "--device", "cuda", "--out", folder], f"paper-{norm}", gpu.env)
        try:  # asked to end, it saves its state first
            code = program.wait(until, gently=30, meanwhile=meanwhile)
        finally:
            keep()
        summary = folder / "summary.json"
        details["runs"][norm] = {
            "command": shlex.join(program.command), "exit_code": code,
            "summary": json.loads(summary.read_text()) if summary.exists() else None}
        if code is None or code == INTERRUPTED:
            return Outcome("timed out", f"{norm}: {program.last_line()}", details)
        if code != 0:
            return failed(f"{norm}: exit code {code}: {program.last_line()}", **details)
    figure = gpu.folder / "figure1-paper.png"
    for python in pythons():
        drawing = [python, "experiments/figures/figure1.py", RUNS / "instance", RUNS / "none",
                   "--out", figure]
        if shutil.which(python) and Program(drawing, "figure").wait(time.monotonic() + 35) == 0:
            return passed(f"{figure}", **details)
    return passed("not drawn (no Python with numpy and matplotlib)", **details)


def take_runs(folder, all_of_them):
    """What keep_run kept in the folder, where no run is. Without the map that was begun, unless
    `all_of_them`: it goes on with probes that are trained again to the same bits."""
    for archive in sorted(folder.glob("paper-*.tar.xz")):
        run = RUNS / archive.name.removeprefix("paper-").removesuffix(".tar.xz")
        if run.exists():
            continue
        with tarfile.open(archive) as file:
            file.extractall(RUNS)
        if not all_of_them:
            (run / "map_checkpoint.safetensors").unlink(missing_ok=True)
        if not (run / "map_checkpoint.safetensors").exists() and not (run / "summary.json").exists():
            metrics = run / "metrics.jsonl"
            lines = metrics.read_text().splitlines(keepends=True)
            metrics.write_text("".join(line for line in lines if json.loads(line)["phase"] != "probe"))


# By their place among four bytes, and far enough back for the weights that a model and a state share.
OF_FLOATS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 2, "lp": 2, "pb": 2}]


def keep_run(run, folder):
    """Packs a run into a folder, if any, such that take_runs can go on with it: 7 MB at the paper's
    scale, 3 of a finished one. Left out are what a run makes again in a minute (probes and their
    state, 40 MB; the initial weights) and the states of a finished one."""
    if not folder or not (run / "config.json").exists():
        return
    finished = (run / "summary.json").exists()
    files = [file for file in run.iterdir() if re.search(r"\.(jsonl?|npy|safetensors)$", file.name) and
             not re.search("^probes|initial|checkpoint" if finished else "^probes|initial", file.name)]
    # metrics.jsonl may grow meanwhile; the states say how long it was, so it comes last.
    files.sort(key=lambda file: (file.name == "metrics.jsonl", file.suffix != ".safetensors", file.name))
    archive = folder / f"paper-{run.name}.tar.xz"
    part = archive.with_suffix(".part")
    with lzma.open(part, "w", filters=OF_FLOATS) as packed, \
            tarfile.open(fileobj=packed, mode="w|") as file:
        for path in files:
            file.add(path, f"{run.name}/{path.name}")
    part.replace(archive)


# In the order of their worth: each has this share of --limit (of what is left of it, in proportion to the
# shares of those to come, so that what one leaves goes to them). Building is done in a second where
# prebuilt programs run, and else may take so much of all.
STAGES = {"build": (build, 0.70), "tests": (tests, 0.14), "kernels": (kernels, 0.04),
          "steps": (steps, 0.22), "variants": (variants, 0.06), "profile": (profile, 0.10),
          "programs": (programs, 0.06), "sanitizers": (sanitizers, 0.10), "compile": (compile, 0.04),
          "paper": (paper, 0.24)}
# What may run out of time without being a failure.
OPEN_ENDED = {"steps", "sanitizers", "compile", "paper"}
