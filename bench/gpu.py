#!/usr/bin/env python3
"""Everything that wants a GPU, in one run: what ./run gpu calls, from the project's root.

    python3 bench/gpu.py [--paper] [--only STAGES] [--limit SECONDS]

Stages, in this order, the most worth first; each has a time limit of its own, and none stops the
others:

    build         unless programs that ./run bundle --binaries built run here
    tests         those of the CUDA kernels, in several processes at once
    kernels       bench_cuda: every kernel beside what the GPU could do at most
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
import collections
import glob
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import ncu  # noqa: E402
import source  # noqa: E402
import tables  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "build" / "bundle"
LOGS = ROOT / "build" / "gpu" / "logs"
PROGRAMS = ["localization", "overlap", "groups", "sidechannel_tests", "bench_cuda", "bench_step"]
STAGES = ["build", "tests", "kernels", "steps", "profile", "programs", "sanitizers", "compile", "paper"]
# Seconds at most. With prebuilt programs all but the last two fit into ten minutes.
LIMITS = {"build": 420, "tests": 70, "kernels": 40, "steps": 130, "profile": 60, "programs": 150,
          "sanitizers": 80, "compile": 240, "paper": 24 * 3600}
# What may run out of time without being a failure.
OPEN_ENDED = {"compile", "paper"}
INTERRUPTED = 75  # exit code of a program that saved its state

Outcome = collections.namedtuple("Outcome", "status reason details", defaults=("", None))


def passed(reason="", **details):
    return Outcome("passed", reason, details)


def failed(reason, **details):
    return Outcome("FAILED", reason, details)


def not_run(reason, **details):
    return Outcome("not run", reason, details)


# --- Running programs ---------------------------------------------------------------------------

running = set()


def stop(process, gently=5.0):
    """Ends a program and what it started."""
    for number, wait in ((signal.SIGTERM, gently), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(wait)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    running.discard(process)


def test_results(log):
    """{test: OK, FAILED, SKIPPED, or RUN for one that never ended}, from GoogleTest's output."""
    found = {}
    for result, test in re.findall(r"\[ *(RUN|OK|FAILED|SKIPPED) *\] (\w+(?:/\w+)*\.\w+(?:/\w+)*)", log):
        if result == "RUN" or found.get(test) == "RUN":  # the summary at the end names them again
            found[test] = result
    return found


class Program:
    """A program that runs, with its output in a log."""

    def __init__(self, command, log, env=None):
        self.command, self.log = [str(word) for word in command], LOGS / f"{log}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as file:
            file.write(f"$ {shlex.join(self.command)}\n".encode())
            file.flush()
            self.process = subprocess.Popen(self.command, cwd=ROOT, env={**os.environ, **(env or {})},
                                            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                            start_new_session=True)
        running.add(self.process)

    def wait(self, until, gently=5.0):
        """Its exit code; None when it had to be stopped, at `until` (time.monotonic())."""
        try:
            code = self.process.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            stop(self.process, gently)
            return None
        running.discard(self.process)
        return code

    def text(self):
        return self.log.read_text(errors="replace")

    def last_line(self):
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return lines[-1][:300] if len(lines) > 1 else "no output"


def outcome_of(program, until, **options):
    """Waits for a program that says by its exit code whether it worked."""
    limit = until - time.monotonic()
    code = program.wait(until, **options)
    if code is None:
        return Outcome("timed out", f"after {limit:.0f} s", None)
    return passed() if code == 0 else failed(f"exit code {code}: {program.last_line()}")


def output_of(*command, env=None):
    """Standard output, or an empty string where there is no such program or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60,
                              cwd=ROOT, env={**os.environ, **(env or {})}).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


# --- What this is -------------------------------------------------------------------------------

def source_digest():
    """Of everything that programs are built from, so that prebuilt ones are known to be of this
    source."""
    files = [ROOT / "CMakeLists.txt"]
    for folder in ("kernels", "engine", "models", "experiments", "bench", "tests"):
        for ending in ("h", "cpp", "cu", "cuh", "txt", "cmake", "json"):
            files += (ROOT / folder).rglob(f"*.{ending}")
    digest = hashlib.sha256()
    for file in sorted(files):
        name = str(file.relative_to(ROOT))
        if not name.startswith("bench/results/"):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def commit():
    note = BUNDLE / "COMMIT"
    return source.commit() or (note.read_text().strip() if note.exists() else "") or "unknown"


def gpu_fields(*fields):
    """The first GPU's, as nvidia-smi prints them; empty where it does not know one of them."""
    line = output_of("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    values = [value.strip() for value in line.splitlines()[0].split(",")] if line else []
    return dict(zip(fields, values)) if len(values) == len(fields) else {}


def nvcc():
    found = shutil.which("nvcc") or next(iter(sorted(glob.glob("/usr/local/cuda*/bin/nvcc"))), None)
    return found or ""


def tool_of_nvidia(name):
    """The path of one of the toolkit's tools, or None."""
    folders = [folder for pattern in ("/usr/local/cuda*/bin", "/usr/local/cuda*/compute-sanitizer",
                                      "/opt/nvidia/nsight-compute/*") for folder in glob.glob(pattern)]
    return shutil.which(name, path=":".join([os.environ.get("PATH", "")] + folders))


def describe_machine():
    release = re.search(r'PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text()) \
        if os.path.exists("/etc/os-release") else None
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()) \
        if os.path.exists("/proc/cpuinfo") else None
    cuda = re.search(r"CUDA Version: *([\d.]+)", output_of("nvidia-smi"))
    compiler = re.search(r"release ([\d.]+)", output_of(nvcc(), "--version")) if nvcc() else None
    return {
        "gpu": gpu_fields("name", "driver_version", "memory.total", "compute_cap"),
        "clocks": gpu_fields("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
                             "power.limit", "temperature.gpu"),
        "cuda_of_driver": cuda.group(1) if cuda else "",
        "nvcc": compiler.group(1) if compiler else "",
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{release.group(1) if release else ''}, Linux {platform.release()}".lstrip(", "),
    }


class Clocks:
    """Reads the GPU's clocks while something runs."""

    FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")

    def __enter__(self):
        self.rows, self.done = [], threading.Event()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        return self

    def read(self):
        while not self.done.wait(1.0):
            if row := gpu_fields(*self.FIELDS):
                self.rows.append(row)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(5)

    def summary(self):
        result = {}
        for field in self.FIELDS:
            numbers = [float(number.group()) for row in self.rows
                       if (number := re.match(r"[\d.]+", row[field]))]
            if numbers:
                result[field] = {"min": min(numbers), "max": max(numbers)}
        return result


# --- Programs: prebuilt, or built here ----------------------------------------------------------

def pythons():
    return dict.fromkeys([sys.executable, "/usr/bin/python3", "python3", ".venv/bin/python3"])


def library_folders():
    """Where CUDA's libraries may lie: in a toolkit, or as PyTorch brings them."""
    folders = glob.glob("/usr/local/cuda*/lib64") + \
        glob.glob("/usr/local/cuda*/targets/x86_64-linux/lib")
    for python in pythons():
        paths = output_of(python, "-c", "import sys; print('\\n'.join(sys.path))")
        for path in paths.splitlines():
            folders += glob.glob(f"{path}/nvidia/*/lib")
    return list(dict.fromkeys(folders))


def runs_here(program, argument):
    """The environment in which a program runs here, or why it does not."""
    env = {}
    for _ in range(6):
        try:
            result = subprocess.run([program, argument], capture_output=True, text=True, timeout=60,
                                    env={**os.environ, **env}, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return None, str(error)
        if result.returncode == 0:
            return env, ""
        missing = re.search(r"loading shared libraries: (\S+): cannot open", result.stderr)
        folder = missing and next((folder for folder in library_folders()
                                   if os.path.exists(f"{folder}/{missing.group(1)}")), None)
        if not folder:
            return None, (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
        known = env.get("LD_LIBRARY_PATH", os.environ.get("LD_LIBRARY_PATH", ""))
        env = {"LD_LIBRARY_PATH": f"{known}:{folder}".lstrip(":")}
    return None, "libraries are missing"


def prebuilt():
    """(folder, environment) of the bundle's programs, or (None, why not)."""
    programs = BUNDLE / "bin"
    digest = BUNDLE / "SOURCE"
    if not programs.exists():
        return None, "none in the bundle"
    if not digest.exists() or digest.read_text().strip() != source_digest():
        return None, "they are of another source"
    for program in PROGRAMS:
        env, reason = runs_here(programs / program, "--help")
        if env is None:
            return None, f"{program}: {reason}"
    return programs, env


def cublas_options(folder):
    """For a toolkit without cuBLASLt: the one that PyTorch brings."""
    if glob.glob(f"{pathlib.Path(nvcc()).resolve().parents[1]}/include/cublasLt.h") or \
            glob.glob("/usr/include/cublasLt.h"):
        return [], {}
    for libraries in library_folders():
        found = glob.glob(f"{libraries}/libcublasLt.so*")
        include = pathlib.Path(libraries).parent / "include"
        if found and (include / "cublasLt.h").exists():
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / "libcublasLt.so"  # PyTorch's have only their full names
            link.unlink(missing_ok=True)
            link.symlink_to(found[0])
            return [f"-DCUDA_cublasLt_LIBRARY={link}", f"-DCMAKE_BUILD_RPATH={libraries}"], \
                {"CPLUS_INCLUDE_PATH": str(include)}
    return [], {}


class Gpu:
    """One call of this script."""

    def __init__(self, arguments):
        self.arguments = arguments
        limit = arguments.limit or (float("inf") if arguments.paper else 580)
        self.deadline = time.monotonic() + limit
        self.bin, self.env, self.torch = None, {}, None
        self.results = {"commit": commit(), "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
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
        until = min(start + LIMITS[name], self.deadline - 5)
        print(f"{name}: ", end="", flush=True)
        if until - start < 10:
            outcome = not_run("no time left")
        elif name != "build" and self.bin is None:
            outcome = not_run("nothing was built")
        else:
            try:
                outcome = getattr(self, name)(until)
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

    # --- The stages

    def build(self, until):
        found, env = prebuilt()
        if found:
            self.bin, self.env = found, env
            self.results["programs"] = "prebuilt"
            return passed("prebuilt programs run here")
        why = env
        if not nvcc():
            return not_run(f"prebuilt programs: {why}; and there is no nvcc")
        folder = ROOT / "build" / "gpu"
        options, env = cublas_options(folder / "cublas")
        capability = self.results["machine"]["gpu"].get("compute_cap", "9.0").replace(".", "")
        configure = ["cmake", "-S", ".", "-B", folder, "-DCMAKE_BUILD_TYPE=Release",
                     "-DSIDECHANNEL_CUDA=ON", "-DSIDECHANNEL_TESTS=ON", "-DSIDECHANNEL_BENCH=ON",
                     f"-DCMAKE_CUDA_ARCHITECTURES={capability}-real",
                     f"-DSIDECHANNEL_NVCC={nvcc()}"] + options
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        if BUNDLE.exists():
            env["CMAKE_PREFIX_PATH"] = f"{BUNDLE}:{os.environ.get('CMAKE_PREFIX_PATH', '')}".rstrip(":")
        jobs = str(len(os.sched_getaffinity(0)))
        for name, command in (("configure", configure),
                              ("build", ["cmake", "--build", folder, "-j", jobs])):
            program = Program(command, name, env)
            if program.wait(until) != 0:
                errors = [line for line in program.text().splitlines() if "error" in line.lower()]
                return failed(f"{name}: {errors[0][:300] if errors else program.last_line()}",
                              prebuilt=why)
        self.bin, self.env = folder / "bin", {}
        self.results["programs"] = f"built here, for sm_{capability}"
        return passed(f"prebuilt programs: {why}")

    def test_env(self):
        return {**self.env, "SIDECHANNEL_TEST_DATA": str(ROOT / "tests"),
                "SIDECHANNEL_BIN_DIR": str(self.bin)}

    def tests(self, until):
        return self.run_tests("tests", "Cuda*", until)

    def programs(self, until):
        return self.run_tests("programs", "-Cuda*", until)

    def run_tests(self, name, chosen, until):
        """Those that the filter chooses, in several processes at once, as ctest would run them."""
        shards = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
        parts = []
        for i in range(shards):
            env = {**self.test_env(), "GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(i)}
            parts.append(Program([self.bin / "sidechannel_tests", f"--gtest_filter={chosen}"],
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

    def kernels(self, until):
        out = LOGS / "kernels.json"
        out.unlink(missing_ok=True)
        with Clocks() as clocks:
            program = Program([self.bin / "bench_cuda", f"--benchmark_out={out}",
                               "--benchmark_out_format=json"], "kernels", self.env)
            outcome = outcome_of(program, until)
        if not out.exists() or not out.read_text().strip():
            return outcome
        text = out.read_text()
        try:
            found = json.loads(text)
        except ValueError:  # stopped in the middle: what is there, up to the last whole entry
            found = json.loads(text[:text.rindex("}")] + "}]}")
        keep = ("label", "min_us", "spread", "GB/s", "TFLOP/s", "floor_us", "share")
        kernels, errors = {}, []
        for result in found["benchmarks"]:
            name = result["name"].split("/iterations")[0]
            if result.get("error_occurred"):
                errors.append(f"{name}: {result['error_message']}")
                continue
            kernels[name] = {"us": result["real_time"],
                             **{key: result[key] for key in keep if key in result}}
        self.results["kernels"] = {"context": found["context"], "clocks": clocks.summary(),
                                   "results": kernels}
        if errors and outcome.status == "passed":
            outcome = failed(f"{len(errors)}: {errors[0][:300]}")
        return outcome._replace(details={"command": "bench_cuda", "errors": errors,
                                         "measured": len(kernels)})

    def python_with_torch(self):
        """One whose PyTorch finds the GPU, or an empty string."""
        if self.torch is None:
            check = "import torch; print(torch.cuda.is_available())"
            self.torch = next((python for python in pythons()
                               if output_of(python, "-c", check) == "True"), "")
        return self.torch

    def compare(self, name, until, *options):
        out = LOGS / f"{name}.json"
        out.unlink(missing_ok=True)
        env = {"SIDECHANNEL_COMMIT": self.results["commit"], "PYTHONUNBUFFERED": "1"}
        if "LD_LIBRARY_PATH" in self.env:  # for ours alone: PyTorch finds its own libraries
            options += ("--library-path", self.env["LD_LIBRARY_PATH"])
        with Clocks() as clocks:
            program = Program([self.python_with_torch(), "bench/pytorch/compare.py", "--device", "cuda",
                               "--program", self.bin / "bench_step", "--json", out, *options],
                              name, env)
            outcome = outcome_of(program, until)
        if out.exists():
            self.results[name] = {**json.loads(out.read_text()), "clocks": clocks.summary()}
        return outcome._replace(details={"command": shlex.join(program.command[1:])})

    def steps(self, until):
        if self.python_with_torch():
            return self.compare("steps", until)
        out = LOGS / "steps.json"
        out.unlink(missing_ok=True)
        program = Program([self.bin / "bench_step", "--device", "cuda", f"--benchmark_out={out}",
                           "--benchmark_out_format=json"], "steps", self.env)
        outcome = outcome_of(program, until)
        if outcome.status == "passed":
            rows = tables.step_rows(json.loads(out.read_text()))
            self.results["steps"] = {"results": rows}
            return passed("PyTorch: not run (no Python with torch that finds the GPU)")
        return outcome

    def compile(self, until):
        if not self.python_with_torch():
            return not_run("no Python with torch that finds the GPU")
        # The paper's step first; whatever is there when time is up is kept.
        return self.compare("compile", until, "--modes", "compile,max-autotune", "--rounds", "1",
                            "--steps", "paper,demo", "--precisions", "tf32,fp32")

    def profile(self, until):
        tool = tool_of_nvidia("ncu")
        if not tool:
            return not_run("no Nsight Compute (ncu)")
        # The third call of each kernel, in a step whose launches the host makes one by one; where
        # that chooses none, some launches in a row from the middle of a step.
        for chosen in (["--kernel-id", "::regex:.+:3"], ["--launch-skip", "700", "--launch-count", "40"]):
            program = Program([tool, *ncu.OPTIONS, *chosen, self.bin / "bench_step", "--device", "cuda",
                               "--benchmark_filter=training_step/paper/tf32/eager"], "profile", self.env)
            outcome = outcome_of(program, until)
            found = ncu.kernels(program.text())
            if len(found) > 3 or time.monotonic() + 15 > until:
                break
        if found:
            self.results["profile"] = found
        elif outcome.status == "passed":
            outcome = failed(f"no kernel was profiled: {program.last_line()}")
        return outcome._replace(details={"command": shlex.join(["ncu", *program.command[1:]])})

    def sanitizers(self, until):
        tool = tool_of_nvidia("compute-sanitizer")
        if not tool:
            return not_run("no compute-sanitizer")
        programs = {}
        for name in ("memcheck", "racecheck", "initcheck", "synccheck"):
            # Calls that the runtime refuses are what some tests are about.
            options = ["--report-api-errors", "no"] if name == "memcheck" else []
            programs[name] = Program(
                [tool, "--tool", name, *options, "--error-exitcode", "86",
                 self.bin / "sidechannel_tests", "--gtest_filter=Cuda*"], name, self.test_env())
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

    def paper(self, until):
        details = {"runs": {}}
        for norm in ("instance", "none"):
            folder = ROOT / "runs" / "paper-gpu" / norm
            program = Program([self.bin / "localization", "run", "--preset", "paper", "--norm", norm,
                               "--device", "cuda", "--out", folder], f"paper-{norm}", self.env)
            # Asked to end, it saves its state first.
            code = program.wait(until, gently=30)
            summary = folder / "summary.json"
            details["runs"][norm] = {
                "command": shlex.join(program.command), "exit_code": code,
                "summary": json.loads(summary.read_text()) if summary.exists() else None}
            self.keep_run(folder, f"paper-{norm}")
            if code is None or code == INTERRUPTED:
                return Outcome("timed out", f"{norm}: {program.last_line()}", details)
            if code != 0:
                return failed(f"{norm}: exit code {code}: {program.last_line()}", **details)
        figure = self.folder / "figure1-paper.png"
        for python in pythons():
            drawing = [python, "experiments/figures/figure1.py", "runs/paper-gpu/instance",
                       "runs/paper-gpu/none", "--out", figure]
            if shutil.which(python) and Program(drawing, "figure").wait(time.monotonic() + 120) == 0:
                return passed(f"{figure}", **details)
        return passed("not drawn (no Python with numpy and matplotlib)", **details)

    def keep_run(self, folder, name):
        """What a run has so far, where results go elsewhere; optimizer states and probes are too
        large."""
        def small(entry):
            return None if re.search(r"checkpoint|/probes", entry.name) else entry

        if self.folder != ROOT / "bench/results" and folder.exists():
            with tarfile.open(self.folder / f"{name}.tar.gz", "w:gz") as archive:
                archive.add(folder, name, filter=small)

    # --- All of them

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
            for log in sorted(LOGS.glob("*.log")):
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
        for process in list(running):
            stop(process, 10)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if not gpu_fields("name") and not glob.glob("/dev/nvidia[0-9]*"):
        print("gpu: not run (there is no NVIDIA GPU here)")
        return 1
    shutil.rmtree(LOGS, ignore_errors=True)
    return 1 if Gpu(arguments).run() else 0


if __name__ == "__main__":
    sys.exit(main())
