"""What ./run gpu does, stage by stage. A stage gets the run (gpu.py) and the time at which it must be
done, and returns its outcome; what it measures goes to gpu.results."""

import collections
import functools
import json
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


def run_tests(name, chosen, gpu, until):
    """Those that the filter chooses, in several processes at once, as ctest would run them."""
    shards = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    parts = []
    for i in range(shards):
        env = {**test_env(gpu), "GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(i)}
        parts.append(Program([gpu.bin / "sidechannel_tests", f"--gtest_filter={chosen}"],
                             f"{name}-{i}", env))
    results, failures = collections.Counter(), []
    for program in parts:
        code = program.wait(until)
        # From its log, which says what it had done, whatever became of it.
        found = test_results(program.text())
        results.update(found.values())
        bad = [test for test, result in found.items() if result == "FAILED"]
        for test in (test for test, result in found.items() if result == "RUN"):
            bad.append(f"{test} (ran out of time)" if code is None else
                       f"{test} (exit code {code}: {program.last_line()})")
        if code != 0 and not bad:
            bad.append(f"{program.log.stem}: " + ("out of time" if code is None else
                                                  f"exit code {code}: {program.last_line()}"))
        failures += bad
    details = {"command": f"sidechannel_tests '--gtest_filter={chosen}'", "shards": shards,
               "tests_passed": results["OK"], "tests_skipped": results["SKIPPED"],
               "failures": failures}
    if failures:
        return failed(f"{len(failures)}: {', '.join(failures[:12])}", **details)
    if results["OK"] == 0:
        return failed("no test ran", **details)
    return passed(f"{results['OK']} tests, {results['SKIPPED']} skipped", **details)


tests = functools.partial(run_tests, "tests", "Cuda*")
programs = functools.partial(run_tests, "programs", "-Cuda*")


def kernels(gpu, until):
    out = processes.LOGS / "kernels.json"
    out.unlink(missing_ok=True)
    with Clocks() as clocks:
        program = Program([gpu.bin / "bench_cuda", f"--benchmark_out={out}",
                           "--benchmark_out_format=json"], "kernels", gpu.env)
        outcome = outcome_of(program, until)
    if not out.exists() or not out.read_text().strip():
        return outcome
    text = out.read_text()
    try:
        found = json.loads(text)
    except ValueError:  # stopped in the middle: what is there, up to the last whole entry
        found = json.loads(text[:text.rindex("}")] + "}]}")
    keep = ("label", "min_us", "spread", "GB/s", "TFLOP/s", "floor_us", "share", "library_us")
    kernels, errors = {}, []
    for result in found["benchmarks"]:
        name = result["name"].split("/iterations")[0]
        if result.get("error_occurred"):
            errors.append(f"{name}: {result['error_message']}")
            continue
        kernels[name] = {"us": result["real_time"],
                         **{key: result[key] for key in keep if key in result}}
    gpu.results["kernels"] = {"context": found["context"], "clocks": clocks.summary(),
                              "results": kernels}
    if errors and outcome.status == "passed":
        outcome = failed(f"{len(errors)}: {errors[0][:300]}")
    if outcome.status == "passed" and python_with_torch():  # what is there when time is up is kept
        theirs, _ = beside_pytorch(gpu, "kernels", until)
        gpu.results["kernels"]["pytorch"] = theirs or {}
        outcome = passed(f"PyTorch: {len(theirs or {})} of its kernels measured")
    return outcome._replace(details={"command": "bench_cuda", "errors": errors,
                                     "measured": len(kernels)})


def beside_pytorch(gpu, script, until, *options, log=""):
    """What a script of bench/pytorch measured, None where it did not, and its outcome."""
    log = log or f"pytorch-{script}"
    out = processes.LOGS / f"{log}.json"
    out.unlink(missing_ok=True)
    env = {"SIDECHANNEL_COMMIT": gpu.results["commit"], "PYTHONUNBUFFERED": "1"}
    if "LD_LIBRARY_PATH" in gpu.env:  # for ours alone: PyTorch finds its own libraries
        options += ("--library-path", gpu.env["LD_LIBRARY_PATH"])
    program = Program([python_with_torch(), f"bench/pytorch/{script}.py", "--device", "cuda",
                       "--program", gpu.bin / "bench_step", "--json", out, *options], log, env)
    outcome = outcome_of(program, until)
    return json.loads(out.read_text()) if out.exists() else None, \
        outcome._replace(details={"command": shlex.join(program.command[1:])})


def compare(gpu, name, until, *options):
    with Clocks() as clocks:
        found, outcome = beside_pytorch(gpu, "compare", until, *options, log=name)
    if found:
        gpu.results[name] = {**found, "clocks": clocks.summary()}
    return outcome


def steps(gpu, until):
    if python_with_torch():
        return compare(gpu, "steps", until)
    out = processes.LOGS / "steps.json"
    out.unlink(missing_ok=True)
    program = Program([gpu.bin / "bench_step", "--device", "cuda", f"--benchmark_out={out}",
                       "--benchmark_out_format=json"], "steps", gpu.env)
    outcome = outcome_of(program, until)
    if outcome.status == "passed":
        rows = tables.step_rows(json.loads(out.read_text()))
        gpu.results["steps"] = {"results": rows}
        return passed("PyTorch: not run (no Python with torch that finds the GPU)")
    return outcome


def compile(gpu, until):
    if not python_with_torch():
        return not_run("no Python with torch that finds the GPU")
    # The paper's step first; whatever is there when time is up is kept.
    return compare(gpu, "compile", until, "--modes", "compile,max-autotune", "--rounds", "1",
                   "--steps", "paper,demo", "--precisions", "tf32,fp32")


def profile(gpu, until):
    tool = tool_of_nvidia("ncu")
    if not tool:
        return not_run("no Nsight Compute (ncu)")
    # The third call of each kernel, in a step whose launches the host makes one by one; where
    # that chooses none, some launches in a row from the middle of a step.
    for chosen in (["--kernel-id", "::regex:.+:3"], ["--launch-skip", "700", "--launch-count", "40"]):
        program = Program([tool, *ncu.OPTIONS, *chosen, gpu.bin / "bench_step", "--device", "cuda",
                           "--benchmark_filter=training_step/paper/tf32/eager"], "profile", gpu.env)
        outcome = outcome_of(program, until)
        found = ncu.kernels(program.text())
        if len(found) > 3 or time.monotonic() + 15 > until:
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
    programs = {}
    for name in ("memcheck", "racecheck", "initcheck", "synccheck"):
        # Calls that the runtime refuses are what some tests are about.
        options = ["--report-api-errors", "no"] if name == "memcheck" else []
        programs[name] = Program(
            [tool, "--tool", name, *options, "--error-exitcode", "86",
             gpu.bin / "sidechannel_tests", "--gtest_filter=Cuda*"], name, test_env(gpu))
    results = {}
    for name, program in programs.items():
        code = program.wait(until)
        text = program.text()
        done = len(re.findall(r"^\[       OK \]", text, re.MULTILINE))
        summary = re.findall(r"=+ (ERROR SUMMARY: .*|RACECHECK SUMMARY: .*)", text)
        refused = re.search(r"=+ .*(Device not supported|not supported|Unable to).*", text)
        found = re.search(r"=+ (Error|Invalid|Race|Uninitialized|Barrier|Potential).*", text)
        if refused:
            results[name] = f"not run ({refused.group().lstrip('= ')[:200]})"
        elif found or code == 86:
            results[name] = f"FAILED: {found.group().lstrip('= ') if found else summary}"[:300]
        elif code is None:
            results[name] = f"nothing found in {done} tests, then out of time"
        elif code != 0:
            results[name] = f"FAILED: exit code {code}: {program.last_line()}"
        else:
            results[name] = f"nothing found in {done} tests"
    details = {"command": f"compute-sanitizer --tool {'|'.join(programs)} sidechannel_tests "
                          "--gtest_filter=Cuda*", "tools": results}
    bad = [f"{name}: {text}" for name, text in results.items() if text.startswith("FAILED")]
    if bad:
        return failed("; ".join(bad), **details)
    if all(text.startswith("not run") for text in results.values()):
        return not_run(results["memcheck"].removeprefix("not run "), **details)
    return passed("; ".join(f"{name}: {text}" for name, text in results.items()), **details)


def paper(gpu, until):
    details = {"runs": {}}
    for norm in ("instance", "none"):
        folder = ROOT / "runs" / "paper-gpu" / norm
        program = Program([gpu.bin / "localization", "run", "--preset", "paper", "--norm", norm,
                           "--device", "cuda", "--out", folder], f"paper-{norm}", gpu.env)
        # Asked to end, it saves its state first.
        code = program.wait(until, gently=30)
        summary = folder / "summary.json"
        details["runs"][norm] = {
            "command": shlex.join(program.command), "exit_code": code,
            "summary": json.loads(summary.read_text()) if summary.exists() else None}
        keep_run(gpu, folder, f"paper-{norm}")
        if code is None or code == INTERRUPTED:
            return Outcome("timed out", f"{norm}: {program.last_line()}", details)
        if code != 0:
            return failed(f"{norm}: exit code {code}: {program.last_line()}", **details)
    figure = gpu.folder / "figure1-paper.png"
    for python in pythons():
        drawing = [python, "experiments/figures/figure1.py", "runs/paper-gpu/instance",
                   "runs/paper-gpu/none", "--out", figure]
        if shutil.which(python) and Program(drawing, "figure").wait(time.monotonic() + 120) == 0:
            return passed(f"{figure}", **details)
    return passed("not drawn (no Python with numpy and matplotlib)", **details)


def keep_run(gpu, folder, name):
    """What a run has so far, where results go elsewhere; optimizer states and probes are too
    large."""
    def small(entry):
        return None if re.search(r"checkpoint|/probes", entry.name) else entry

    if gpu.folder != ROOT / "bench/results" and folder.exists():
        with tarfile.open(gpu.folder / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(folder, name, filter=small)


# In this order, the most worth first: seconds at most. With prebuilt programs all but the last two fit
# into ten minutes.
STAGES = {"build": (build, 420), "tests": (tests, 70), "kernels": (kernels, 70), "steps": (steps, 130),
          "profile": (profile, 60), "programs": (programs, 150), "sanitizers": (sanitizers, 80),
          "compile": (compile, 240), "paper": (paper, 24 * 3600)}
# What may run out of time without being a failure.
OPEN_ENDED = {"compile", "paper"}
