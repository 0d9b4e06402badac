"""Tests of ./run gpu without a GPU: its stages with programs that only pretend; and the whole of it, as
on a machine with a GPU, with stubs for NVIDIA's tools and for PyTorch and, where
SIDECHANNEL_EMULATED_BIN names them, with the programs of the emulated build."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "tools"))

import binaries  # noqa: E402
import gpu  # noqa: E402
import machine  # noqa: E402
import processes  # noqa: E402
import stages  # noqa: E402

EMULATED = os.environ.get("SIDECHANNEL_EMULATED_BIN")


class Stages(unittest.TestCase):
    """Each with programs that only pretend."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.programs = self.folder / "bin"
        self.programs.mkdir()
        self.patch(mock.patch.object(processes, "LOGS", self.folder / "logs"))
        self.patch(mock.patch.object(binaries, "BUNDLE", self.folder / "bundle"))
        self.patch(mock.patch.dict(os.environ, OUT=str(self.folder)))
        processes.LOGS.mkdir()

    def patch(self, patch):
        patch.start()
        self.addCleanup(patch.stop)

    def call_the_programs_by_name(self):
        self.patch(mock.patch.dict(os.environ, PATH=f"{self.programs}:{os.environ['PATH']}"))

    def program(self, name, text):
        (self.programs / name).write_text("#!/bin/sh\n" + text)
        (self.programs / name).chmod(0o755)

    def gpu(self, limit=60.0):
        class Arguments:
            paper, only, continued = False, None, None
        Arguments.limit = limit
        result = gpu.Gpu(Arguments)
        result.bin = self.programs
        return result

    def outcome_of(self, output, code=0, limit=20):
        """What the stage makes of a test program that prints this."""
        self.program("sidechannel_tests", f"cat <<'END'\n{output}\nEND\nexit {code}\n")
        return stages.tests(self.gpu(), time.monotonic() + limit)

    def test_tests_pass(self):
        outcome = self.outcome_of("""
[ RUN      ] CudaThing.Works
[       OK ] CudaThing.Works (3 ms)
[ RUN      ] Sizes/CudaThing.Cannot/7
[  SKIPPED ] Sizes/CudaThing.Cannot/7 (0 ms)
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Sizes/CudaThing.Cannot/7""")
        self.assertEqual(outcome.status, "passed", outcome.reason)
        self.assertEqual((outcome.details["tests_passed"], outcome.details["tests_skipped"]), (1, 1))

    def test_a_failing_test_is_named(self):
        outcome = self.outcome_of("""
[ RUN      ] CudaThing.Works
[       OK ] CudaThing.Works (3 ms)
[ RUN      ] CudaThing.Breaks
[  FAILED  ] CudaThing.Breaks (1 ms)
[  FAILED  ] CudaThing.Breaks""", 1)
        self.assertEqual(outcome.status, "FAILED")
        self.assertIn("CudaThing.Breaks", outcome.reason)
        self.assertNotIn("CudaThing.Works", outcome.reason)

    def test_skipped_kernels_are_a_failure(self):
        self.assertEqual(self.outcome_of("[ RUN      ] CudaThing.Works\n"
                                         "[  SKIPPED ] CudaThing.Works (0 ms)").status, "FAILED")

    def test_a_crash_names_the_test_that_it_came_in(self):
        outcome = self.outcome_of("[ RUN      ] CudaThing.Breaks\nout of luck", 139)
        self.assertEqual(outcome.status, "FAILED")
        self.assertIn("CudaThing.Breaks (exit code 139: out of luck)", outcome.reason)
        self.assertIn("exit code 127: no such thing", self.outcome_of("no such thing", 127).reason)

    def test_the_test_that_ran_out_of_time_is_named(self):
        self.program("sidechannel_tests", """
echo "[ RUN      ] CudaThing.Works"
echo "[       OK ] CudaThing.Works (3 ms)"
echo "[ RUN      ] CudaThing.Hangs"
exec sleep 60
""")
        start = time.monotonic()
        outcome = stages.tests(self.gpu(), start + 2)
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual((outcome.status, outcome.details["done"]), ("timed out", ["CudaThing.Works"]))
        self.assertIn("CudaThing.Hangs (ran out of time)", outcome.reason)

    def test_programs_that_start_late_have_the_time_that_is_left(self):
        self.program("bench_cuda", "sleep 1\n")
        program = processes.Program([self.programs / "bench_cuda"], "late")
        time.sleep(0.6)
        self.assertEqual(program.wait(time.monotonic() + 2), 0)

    def test_what_hangs_is_stopped(self):
        self.program("bench_cuda", "sleep 60\n")
        outcome = stages.kernels(self.gpu(), time.monotonic() + 1)
        self.assertEqual(outcome.status, "timed out")

    def test_kernels_keep_what_was_measured(self):
        result = {"name": "fill/paper/warm/iterations:1/manual_time", "real_time": 2.5, "share": 0.9,
                  "label": "memory"}
        error = {"name": "copy/paper/warm/iterations:1/manual_time", "error_occurred": True,
                 "error_message": "no"}
        found = json.dumps({"context": {"ffma_TFLOP_s": "60"}, "benchmarks": [result, error]})
        (self.folder / "kernels.json").write_text(found)
        self.program("bench_cuda", f'cp {self.folder}/kernels.json "${{1#--benchmark_out=}}"\n')
        this = self.gpu()
        outcome = stages.kernels(this, time.monotonic() + 20)
        self.assertEqual(outcome.status, "FAILED")  # one of them
        self.assertEqual(this.results["kernels"]["results"]["fill/paper/warm"]["us"], 2.5)
        # Stopped in the middle of its report.
        (self.folder / "kernels.json").write_text(found[:-10])
        this = self.gpu()
        stages.kernels(this, time.monotonic() + 20)
        self.assertIn("fill/paper/warm", this.results["kernels"]["results"])

    def test_pytorchs_kernels_stand_beside(self):
        result = {"name": "fill/paper/warm/iterations:1/manual_time", "real_time": 2.5, "label": "memory"}
        (self.folder / "kernels.json").write_text(json.dumps({"context": {}, "benchmarks": [result]}))
        self.program("bench_cuda", f'cp {self.folder}/kernels.json "${{1#--benchmark_out=}}"\n')
        self.program("python", 'test "$1 $6" = "bench/pytorch/kernels.py --json" && '
                               'echo \'{"fill/paper": 3.5}\' >"$7"\n')
        self.patch(mock.patch.object(stages, "python_with_torch", lambda: self.programs / "python"))
        this = self.gpu()
        outcome = stages.kernels(this, time.monotonic() + 20)
        self.assertEqual((outcome.status, outcome.details["measured"]), ("passed", 1))
        self.assertEqual(this.results["kernels"]["pytorch"], {"fill/paper": 3.5})

    def test_results_are_written_after_every_stage(self):
        self.program("bench_cuda", "exit 3\n")
        this = self.gpu()
        with contextlib.redirect_stdout(io.StringIO()):
            this.stage("kernels")
        (file,) = self.folder.glob("gpu-*.json")
        (stage,) = json.loads(file.read_text())["stages"]
        self.assertEqual((stage["name"], stage["status"]), ("kernels", "FAILED"))

    def test_no_stage_begins_without_time(self):
        this = self.gpu(limit=5)
        with contextlib.redirect_stdout(io.StringIO()):
            this.stage("kernels")
        self.assertEqual(this.results["stages"][0]["reason"], "no time left")

    def test_prebuilt_programs_of_another_source_are_not_taken(self):
        binaries.BUNDLE.mkdir()
        self.programs.rename(binaries.BUNDLE / "bin")
        self.programs = binaries.BUNDLE / "bin"
        for name in binaries.PROGRAMS:
            self.program(name, "exit 0\n")
        (binaries.BUNDLE / "SOURCE").write_text("another\n")
        self.assertEqual(binaries.prebuilt(), (None, "they are of another source"))
        (binaries.BUNDLE / "SOURCE").write_text(binaries.source_digest() + "\n")
        self.assertEqual(binaries.prebuilt(), (self.programs, {}))
        self.program("bench_cuda", "echo no such luck >&2\nexit 1\n")
        self.assertEqual(binaries.prebuilt(), (None, "bench_cuda: no such luck"))

    def test_sanitizers_say_what_they_found(self):
        self.program("compute-sanitizer", """
case "$2" in
  memcheck) echo "[ RUN      ] CudaThing.Works"; echo "[       OK ] CudaThing.Works (1 ms)"
            echo "========= ERROR SUMMARY: 0 errors" ;;
  racecheck) echo "========= Error: Race reported between Write access at x"; exit 86 ;;
  initcheck) echo "========= Error: Target application terminated. Device not supported" ;;
  synccheck) echo "[       OK ] CudaThing.Works (1 ms)"; exec sleep 60 ;;
esac
""")
        self.call_the_programs_by_name()
        outcome = stages.sanitizers(self.gpu(), time.monotonic() + 3)
        tools = outcome.details["tools"]
        self.assertEqual(outcome.status, "FAILED")
        self.assertEqual(tools["memcheck"], "nothing found in 1 tests")
        self.assertIn("Race reported", tools["racecheck"])
        self.assertTrue(tools["initcheck"].startswith("not run"), tools["initcheck"])
        self.assertIn("out of time", tools["synccheck"])

    def test_the_profile_keeps_what_kernels_wait_for(self):
        counters = {"ID": "0", "Kernel Name": "mma_rows_kernel", "gpu__time_duration.sum": "10,100",
                    "launch__registers_per_thread": "212",
                    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "0.5",
                    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "2.5"}
        rows = [counters.keys(), ["" for _ in counters], counters.values()]
        lines = [",".join(f'"{word}"' for word in row) for row in rows]
        self.program("bench_step", "exit 0\n")
        self.program("ncu", "cat <<'END'\n==PROF== Connected\n" + "\n".join(lines) + "\nEND\n")
        self.call_the_programs_by_name()
        this = self.gpu()
        outcome = stages.profile(this, time.monotonic() + 10)
        self.assertEqual(outcome.status, "passed", outcome.reason)
        self.assertEqual(this.results["profile"],
                         [{"kernel": "mma_rows_kernel", "us": 10.1, "registers": 212.0,
                           "stalls": {"long_scoreboard": 2.5, "barrier": 0.5}}])
        self.program("ncu", "echo no counters\n")
        self.assertEqual(stages.profile(self.gpu(), time.monotonic() + 10).status, "FAILED")

    def test_variants_must_agree_with_the_chosen_one(self):
        def outcome_of(difference):
            found = {"context": {}, "benchmarks": [
                {"name": "conv1d_forward/paper/tf32/iterations:1/manual_time", "real_time": 5.0,
                 "us of TF32 h = 64": 5.0, "difference of TF32 h = 64": 0.0,
                 "us of any shape": 25.0, "difference of any shape": difference}]}
            (self.folder / "variants.json").write_text(json.dumps(found))
            self.program("bench_cuda", f'cp {self.folder}/variants.json "${{2#--benchmark_out=}}"\n')
            this = self.gpu()
            return stages.variants(this, time.monotonic() + 20), this.results["variants"]["results"]

        outcome, found = outcome_of(3e-4)
        self.assertEqual((outcome.status, outcome.reason), ("passed", "2 kernels"))
        self.assertEqual(found["conv1d_forward/paper/tf32"]["any shape"],
                         {"us": 25.0, "difference": 3e-4})
        for difference in (0.5, float("inf"), float("nan")):
            outcome, _ = outcome_of(difference)
            self.assertEqual(outcome.status, "FAILED")
            self.assertIn("conv1d_forward/paper/tf32 by any shape", outcome.reason)

    def test_what_the_papers_runs_keep_can_be_carried(self):
        """Files of their sizes, of random floats: one network done, the other in its map."""
        floats = bytearray(os.urandom(7_472_000))
        floats[3::4] = os.urandom(2) * (len(floats) // 8)  # signs and exponents, of which there are few
        for norm, done in (("instance", True), ("none", False)):
            run = self.folder / "runs" / norm
            run.mkdir(parents=True)
            for name, content in (
                    ("config.json", b"{}"), ("checkpoint.safetensors", floats),
                    ("checkpoint.safetensors.previous", floats),
                    ("model.safetensors", floats[:2_494_000]),
                    ("model-initial.safetensors", os.urandom(2_494_000)),
                    ("probes.safetensors", floats), ("probes_checkpoint.safetensors", floats),
                    ("map_checkpoint.safetensors", os.urandom(392_000)), (".lock", b""),
                    ("metrics.jsonl", b'{"phase":"train"}\n{"phase":"probe"}\n'),
                    *([("summary.json", b"{}"), ("p_max.npy", os.urandom(154_000))] if done else [])):
                (run / name).write_bytes(content)
            stages.keep_run(run, self.folder)
        archives = list(self.folder.glob("paper-*"))
        self.assertEqual([file.suffix for file in archives], [".xz"] * 2)
        self.assertLess(sum(file.stat().st_size for file in archives), 9.5e6)

        for all_of_them in (True, False):
            self.patch(mock.patch.object(stages, "RUNS", self.folder / f"taken {all_of_them}"))
            stages.take_runs(self.folder, all_of_them)
            kept = {run.name: sorted(file.name for file in run.iterdir())
                    for run in stages.RUNS.iterdir()}
            self.assertEqual(kept["instance"], ["config.json", "metrics.jsonl", "model.safetensors",
                                                "p_max.npy", "summary.json"])
            state = ["map_checkpoint.safetensors"] * all_of_them
            self.assertEqual(kept["none"], ["checkpoint.safetensors", "config.json", *state,
                                            "metrics.jsonl", "model.safetensors"])
            self.assertEqual((stages.RUNS / "none" / "checkpoint.safetensors").read_bytes(), floats)
            # The probes' lines come again with the probes; a map's state says how many there were.
            lines = (stages.RUNS / "none" / "metrics.jsonl").read_text().splitlines()
            self.assertEqual(len(lines), 2 if all_of_them else 1)


# What the programs and NVIDIA's tools would say. $HANG and $CRASH name one that does.
PREFIX = """#!/bin/sh
name=${0##*/}
case "$*" in *--help*) exit 0 ;; esac
if [ "$name" = "$HANG" ]; then exec sleep 100; fi
if [ "$name" = "$CRASH" ]; then kill -SEGV $$; fi
"""
TOOLS = {
    "nvidia-smi": """case "$1" in
  --query-gpu=*) echo "${1#*=}" | sed 's/name/NVIDIA Stub/; s/compute_cap/9.0/; s/,/, /g' ;;
  *) echo "CUDA Version: 13.0" ;;
esac
""",
    "ncu": """echo "==PROF== Connected"
echo '"ID","Kernel Name","gpu__time_duration.sum"'
for i in "" 0 1 2 3; do echo "\\"$i\\",\\"kernel $i\\",\\"1,000\\""; done
""",
    "compute-sanitizer": """while [ "${1##*/}" != sidechannel_tests ]; do shift; done
"$@"
echo "========= ERROR SUMMARY: 0 errors"
"""}
PROGRAMS = {
    **dict.fromkeys(binaries.PROGRAMS, "exit 0\n"),
    "sidechannel_tests": """filter=${1#--gtest_filter=} wanted=${filter%%-*}
unwanted=":${filter#"$wanted"}:"
for test in CudaOne.Works CudaTwo.Works Files.Work; do
  case $test in ${wanted:-*}) ;; *) continue ;; esac
  case $unwanted in *[:-]$test:*) continue ;; esac
  case $test,$unwanted in Cuda*,*Cuda\\**) continue ;; esac
  echo "[ RUN      ] $test"
  if [ "$HANG" = $test ]; then exec sleep 100; fi
  echo "[       OK ] $test (1 ms)"
done
""",
    "bench_cuda": """counters='"label": "memory", "share": 0.5, "GB/s": 9'
for word; do case $word in
  --variants) counters='"us of A": 2, "difference of A": 0, "us of B": 3, "difference of B": 1e-4';;
  --benchmark_out=*) out=${word#*=} ;;
esac; done
echo "$*"
result() { echo "{\\"name\\": \\"$1/paper/iterations:1/x\\", \\"real_time\\": 2, $counters}$2"; }
echo '{"context": {}, "benchmarks": [' >"$out"
(for i in $(seq 200); do result $i ,; done; result 201; echo ']}') >>"$out"
""",
    "bench_step": """if [ "$1" = --workloads ]; then exec cat "${0%/*}/workloads.json"; fi
step='{"name": "training_step/paper/tf32/replayed/x", "real_time": 2, "time_unit": "ms", "arena_MB": 1}'
for word; do case $word in --benchmark_out=*) exec >"${word#*=}" ;; esac; done
echo "{\\"benchmarks\\": [$step]}"
""",
    "localization": """for word; do out=$word; done
mkdir -p "$out" && cd "$out" || exit
echo '{}' >config.json; echo '{"phase":"train"}' >>metrics.jsonl
if [ -e summary.json ]; then exit; fi
if [ -e checkpoint.safetensors ]; then echo w >model.safetensors; echo '{"n": 1}' >summary.json; exit; fi
if [ "$SLOW" ]; then trap 'kill $!; echo s >checkpoint.safetensors; exit 75' TERM; sleep 100 & wait; fi
echo s >checkpoint.safetensors; exit 75
"""}
WORKLOADS = {name: {"batch": 8, "sequences": 8, "length": 64, "depth": 3, "channels": 4,
                    "kernel_size": 5, "norm": "instance", "learning_rate": 1e-3, "parameters": 100}
             for name in ("demo", "paper", "paper-batch-norm")}  # kernels.py knows these
# The emulated build's programs, on as little as shows that they run.
EMULATED_PROGRAMS = {
    **dict.fromkeys(binaries.PROGRAMS, 'exec "$real" "$@"\n'),
    "sidechannel_tests": """case $1 in
  --gtest_filter=Cuda*) exec "$real" --gtest_filter='CudaWindows*' ;;
  *) exec "$real" --gtest_filter='Json*' ;;
esac
""",
    "bench_cuda": 'BENCHMARK_FILTER=/demo exec "$real" "$@"\n',
    "bench_step": """if [ "$1" = --workloads ]; then "$real" "$@" | python3 -c '
import json, sys
print(json.dumps({name: of for name, of in json.load(sys.stdin).items() if name != "overlap"}))'; exit; fi
for word; do case $word in --benchmark_filter=*) ;; *) set -- "$@" "$word" ;; esac; shift; done
exec "$real" "$@" '--benchmark_filter=training_step/demo/(fp32/replayed|tf32/at_once_2)'
""",
    "localization": """exec "$real" "$@" --length 12 --depth 3 --channels 4 --batch 4 \\
  --iterations 40 --probe-width 8 --probe-batch 4 --probe-iterations 20 --map-samples 1280 \\
  ${STOP_AFTER:+--stop-after "$STOP_AFTER"}
"""}


class Rehearsal(unittest.TestCase):
    """The whole of it, in a checkout of its own that has what it needs."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name) / "checkout"
        for folder in ("bench", "experiments/figures"):
            shutil.copytree(ROOT / folder, self.root / folder,
                            ignore=shutil.ignore_patterns("gpu-*.json"))
        shutil.copy(ROOT / "CMakeLists.txt", self.root)
        self.tools, self.bin = self.root / "tools", self.root / "build" / "bundle" / "bin"
        self.scripts(self.tools, TOOLS)
        self.scripts(self.bin, PROGRAMS)
        (self.bin / "workloads.json").write_text(json.dumps(WORKLOADS))
        (self.bin.parent / "COMMIT").write_text("abc1234\n")
        digest = subprocess.run(
            [sys.executable, "-B", "-c", "import binaries; print(binaries.source_digest())"],
            cwd=self.root / "bench" / "tools", capture_output=True, text=True, check=True)
        (self.bin.parent / "SOURCE").write_text(digest.stdout)

    def scripts(self, folder, texts, prefix=PREFIX):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(prefix + text)
            (folder / name).chmod(0o755)

    def torch(self):
        self.scripts(self.root / ".venv" / "bin", {
            "python3": f"PYTHONPATH='{ROOT / 'tests/bench/stubs'}' exec {sys.executable} -B \"$@\"\n"})

    def start(self, *arguments, out="out", **env):
        env = {**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}",
               "OUT": out and str(self.root / out), "SIDECHANNEL_EMULATOR_VERIFY": "0", **env}
        return subprocess.Popen([sys.executable, "-B", "bench/tools/gpu.py", *arguments], cwd=self.root,
                                env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def call(self, *arguments, **options):
        """(exit code, lines of output)"""
        process = self.start(*arguments, **options)
        out, errors = process.communicate(timeout=300)
        return process.returncode, (out + errors).splitlines()

    def results(self, out="out"):
        (file,) = (self.root / out).glob("gpu-*.json")
        found = json.loads(file.read_text())
        return found, {stage["name"]: stage for stage in found["stages"]}

    def test_everything_in_one_call(self):
        self.torch()
        if EMULATED:
            for name, text in EMULATED_PROGRAMS.items():
                self.scripts(self.bin, {name: text}, f"#!/bin/sh\nreal={EMULATED}/{name}\n")
        code, lines = self.call("--paper", "--limit", "600", STOP_AFTER="30")
        found, entries = self.results()
        self.assertEqual(list(entries), list(stages.STAGES))
        statuses = {name: stage["status"] for name, stage in entries.items()}
        self.assertEqual(statuses, {**dict.fromkeys(stages.STAGES, "passed"), "paper": "stopped"}, lines)
        self.assertEqual(code, 0)
        self.assertTrue(all(found[name] for name in ("kernels", "steps", "variants", "profile")))
        measured = {key for row in found["steps"]["results"] for key in row if row[key]}
        self.assertLessEqual({"ours_seconds", *(f"pytorch_{mode}_seconds" for mode in (
            "eager", "graph", "compile", "max-autotune"))}, measured)
        if EMULATED:  # fp32 beside TF32
            self.assertIn("ours_at_once_2_seconds", measured)
            variants = found["variants"]["results"]["conv1d_forward/demo/tf32"]
            self.assertLess(1e-6, variants["any shape"]["difference"])
            self.assertEqual(min(variant["difference"] for variant in variants.values()), 0)
        self.assertLess(len(lines), 100)
        self.assertLess(max(map(len, lines)), 420)
        files = list((self.root / "out").rglob("*"))
        self.assertEqual(sorted(file.name for file in files), [
            "gpu-nvidia-stub-abc1234.json", "logs.txt", "paper-instance.tar.xz"])
        self.assertLess(sum(file.stat().st_size for file in files), 1e6)

    def test_a_call_goes_on_where_another_stopped(self):
        code, lines = self.call("--paper", "--limit", "45", HANG="CudaTwo.Works")
        found, entries = self.results()
        self.assertEqual((code, entries["tests"]["status"], entries["tests"]["done"]),
                         (1, "timed out", ["CudaOne.Works"]), lines)
        self.assertEqual(entries["paper"]["status"], "stopped")
        for call, paper in ((2, "stopped"), (3, "passed")):  # each on a machine that has what came back
            shutil.rmtree(self.root / "runs")
            former, out = "out" if call == 2 else "out2", f"out{call}"
            code, lines = self.call("--paper", "--limit", "45", "--continue", former, out=out)
            found, entries = self.results(out)
            self.assertEqual((code, entries["paper"]["status"]), (0, paper), lines)
            self.assertIn("kernels: passed before", lines)
            self.assertEqual(entries["tests"]["tests_passed"], 2)
            self.assertEqual(len(found["kernels"]["results"]), 201)
            logs = (self.root / out / "logs.txt").read_text()
            for program in ("tests-0", "memcheck") if call == 2 else ():
                log = logs.split(f"=== {program}.log\n")[1].split("\n=== ")[0]
                self.assertIn("[ RUN      ] CudaTwo.Works", log)
                self.assertNotIn("[ RUN      ] CudaOne.Works", log)
        self.assertEqual(sorted(file.name for file in (self.root / "out3").glob("paper*")),
                         ["paper-instance.tar.xz", "paper-none.tar.xz"])
        # Of another commit only the paper's runs go on.
        shutil.rmtree(self.root / "runs")
        (self.bin.parent / "COMMIT").write_text("def5678\n")
        code, lines = self.call("--only", "kernels,paper", "--limit", "40", "--continue", "out3",
                                out="out4")
        found, entries = self.results("out4")
        self.assertEqual(list(entries), ["build", "kernels", "paper"])
        self.assertNotIn("kernels: passed before", lines)
        self.assertEqual(entries["paper"]["status"], "passed")

    def test_what_hangs_or_crashes_keeps_no_other_from_its_time(self):
        start = time.monotonic()
        code, lines = self.call("--limit", "25", HANG="bench_cuda", CRASH="sidechannel_tests")
        self.assertLess(time.monotonic() - start, 35)
        _, entries = self.results()
        self.assertEqual(code, 1)
        self.assertEqual({name: stage["status"] for name, stage in entries.items()}, {
            "build": "passed", "tests": "FAILED", "kernels": "timed out", "steps": "passed",
            "variants": "timed out", "profile": "passed", "programs": "FAILED", "sanitizers": "passed",
            "compile": "not run"}, lines)
        self.assertIn("exit code -11", entries["tests"]["reason"])
        for name in ("kernels", "variants"):  # of what is left, in proportion
            self.assertLess(entries[name]["seconds"], 5)

    def test_without_tools_and_without_out(self):
        missing = {"compile"}
        for name, stage in (("ncu", "profile"), ("compute-sanitizer", "sanitizers")):
            (self.tools / name).unlink()
            if not machine.tool_of_nvidia(name):
                missing.add(stage)
        code, lines = self.call("--limit", "60", out="", PATH=f"{self.tools}:/usr/bin:/bin")
        _, entries = self.results("bench/results")
        self.assertEqual(code, 0, lines)
        self.assertEqual({name for name, stage in entries.items() if stage["status"] == "not run"},
                         missing)
        self.assertFalse((self.root / "bench" / "results" / "logs.txt").exists())

    def test_a_call_that_is_ended_keeps_its_run(self):
        process = self.start("--only", "paper", SLOW="yes")
        while not (self.root / "runs" / "paper-gpu" / "instance" / "metrics.jsonl").exists():
            self.assertIsNone(process.poll())
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)
        stages.RUNS, runs = self.root / "taken", stages.RUNS
        self.addCleanup(setattr, stages, "RUNS", runs)
        stages.take_runs(self.root / "out", True)
        self.assertTrue((stages.RUNS / "instance" / "checkpoint.safetensors").exists())

    def test_bad_input_is_one_clear_line(self):
        (self.root / "out").mkdir()
        for arguments, words in ((["--continue", "nowhere"], "nowhere is no folder"),
                                 (["--limit", "0"], "--limit 0: expected more than 0 seconds"),
                                 (["--limit", "nan"], "expected more than 0 seconds"),
                                 (["--only", "nothing"], "nothing: expected one of build, ")):
            code, lines = self.call(*arguments)
            self.assertEqual(code, 2)
            self.assertIn(words, lines[-1])
        (self.root / "out" / "gpu-nvidia-stub-abc1234.json").write_text('{"date": ')
        code, lines = self.call("--continue", "out")
        self.assertEqual((code, len(lines)), (1, 1))
        self.assertIn("out/gpu-nvidia-stub-abc1234.json", lines[0])

    @unittest.skipUnless(EMULATED, "without the emulated programs")
    def test_a_map_goes_on_with_probes_that_are_trained_again(self):
        self.scripts(self.bin, {"localization": EMULATED_PROGRAMS["localization"]},
                     f"#!/bin/sh\nreal={EMULATED}/localization\n")
        once = self.root / "runs" / "paper-gpu" / "instance"
        self.call("--only", "paper", out="whole")
        whole = {name: (once / name).read_bytes() for name in (
            "p_max.npy", "layer_mean.npy", "predictions_sample.npy", "metrics.jsonl",
            "probes.safetensors")}
        for stop, former, out in (("30", [], "1"), ("30", ["--continue", "1"], "2"),
                                  ("", ["--continue", "2"], "3")):
            shutil.rmtree(self.root / "runs")
            code, lines = self.call("--only", "paper", *former, out=out, STOP_AFTER=stop)
            self.assertEqual(code, 0, lines)
            self.assertEqual((once / "summary.json").exists(), not stop)
            self.assertEqual((once / "map_checkpoint.safetensors").exists(), out != "1")
        self.assertEqual(whole, {name: (once / name).read_bytes() for name in whole})


class Scripts(unittest.TestCase):
    def test_no_gpu_is_said_in_words(self):
        if machine.gpu_fields("name"):
            self.skipTest("there is a GPU")
        result = subprocess.run([sys.executable, ROOT / "bench" / "tools" / "gpu.py"],
                                capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, "gpu: not run (there is no NVIDIA GPU here)\n")

    def test_pytorch_is_not_needed(self):
        result = subprocess.run(
            [sys.executable, "-S", "-E", ROOT / "bench" / "pytorch" / "compare.py"],
            capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("not run (this Python has no torch)", result.stderr)


if __name__ == "__main__":
    unittest.main()
