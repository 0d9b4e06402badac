"""Tests of bench/tools: python3 -m unittest discover -s tests/bench"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
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
import tables  # noqa: E402

STEP = {"preset": "paper", "precision": "tf32", "ours_seconds": [9e-4, 8e-4, 7e-4],
        "ours_eager_seconds": [3e-3], "launches_eager": 700.0, "launches": [0.0],
        "graph_launches": [1.0], "allocations": [0.0], "synchronizations": [0.0],
        "arena_MB": [381.7], "peak_memory_MB": [412.0], "share": [0.36],
        "pytorch_eager_seconds": [6e-3], "pytorch_graph_seconds": [2.4e-3]}

GPU = {"commit": "abc1234", "date": "2026-01-02 03:04 UTC", "command": "./run gpu",
       "programs": "prebuilt",
       "machine": {"gpu": {"name": "NVIDIA Test", "driver_version": "1.2"}, "cuda_of_driver": "13.0",
                   "cpu": "a CPU", "cores": 16, "system": "Linux"},
       "stages": [{"name": "tests", "status": "passed", "seconds": 34.2, "reason": "500 tests"}],
       "kernels": {"context": {"ffma_TFLOP_s": "61.2", "copy_GB_s": "4310"},
                   "clocks": {"clocks.sm": {"min": 345, "max": 1980}},
                   "pytorch": {"conv1d_forward/paper/tf32": 7.0},
                   "results": {"conv1d_forward/paper/tf32/warm":
                               {"us": 5.25, "library_us": 6.5,
                                "label": "TF32 mma.sync, by tf32_mma_64, beside cuBLASLt",
                                "TFLOP/s": 149.8, "GB/s": 1900.0, "share": 0.61},
                               "fill/new/cold": {"us": 4.5, "label": "memory", "GB/s": 2000.0,
                                                 "share": 0.5}}},
       "steps": {"results": [STEP]},
       "compile": {"results": [{"preset": "paper", "precision": "tf32", "ours_seconds": [1.0],
                                "pytorch_max-autotune_seconds": [1.6e-3]}]}}


class Tables(unittest.TestCase):
    def document(self, results):
        """A document with every table, as these results make it."""
        with tempfile.TemporaryDirectory() as folder:
            for name, result in results.items():
                (Path(folder) / name).write_text(json.dumps(result))
            text = "".join(f"before\n<!-- bench/tools/tables.py: {name} -->\n"
                           "stale\n<!-- end -->\nafter\n" for name in tables.TABLES)
            return tables.rewrite(text, Path(folder))

    def test_the_document_is_up_to_date(self):
        before = tables.DOCUMENT.read_text()
        self.assertEqual(tables.rewrite(before), before, "python3 bench/tools/tables.py rewrites it")
        for name in tables.TABLES:
            self.assertIn(f"<!-- bench/tools/tables.py: {name} -->", before)

    def test_without_results_everything_is_not_measured(self):
        text = self.document({})
        self.assertNotIn("stale", text)
        self.assertEqual(text.count("before\n"), len(tables.TABLES))
        for part in text.split("before\n")[1:]:
            self.assertIn(tables.NOT_MEASURED, part)
        self.assertIn("| ≤ 1.1 ms | not measured |", text)  # what was predicted stands beside it

    def test_rewriting_twice_is_rewriting_once(self):
        text = self.document({})
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(tables.rewrite(text, Path(folder)), text)

    def test_an_empty_region_is_filled(self):
        with tempfile.TemporaryDirectory() as folder:
            text = tables.rewrite("<!-- bench/tools/tables.py: gpu-peaks -->\n<!-- end -->\n",
                                  Path(folder))
        self.assertIn("TFLOP/s", text)

    def test_results_of_a_gpu(self):
        text = self.document({"gpu-test-abc1234.json": GPU})
        self.assertIn("NVIDIA Test, driver 1.2 (CUDA 13.0)", text)
        self.assertIn("345 to 1980 MHz", text)
        self.assertIn("| tests | passed | 34 s | 500 tests |", text)
        self.assertIn("61.2 TFLOP/s |", text)
        self.assertIn("4.31 TB/s |", text)
        self.assertIn("| 5.25 µs | 61 % | 150 TFLOP/s, `tf32_mma_64` | 6.5 µs, cuBLASLt | 7 µs |", text)
        self.assertIn("| fill/new | memory |  | 4.5 µs | 50 % | not measured |  | 2,000 GB/s |  |  |",
                      text)
        # The median of the rounds; twice as fast as the fastest of PyTorch's ways.
        self.assertIn("| ≤ 1.1 ms | 0.8 ms | 36 % | 3 ms |", text)
        self.assertIn("| 6 ms |", text)
        self.assertIn("| 1.6 ms | 2 |", text)
        self.assertIn("| 700 | 0 | 1 | 0 | 0 | 382 MB | 412 MB |", text)

    def test_the_newest_result_counts(self):
        older = {**GPU, "commit": "0ld0000", "date": "2025-12-31 00:00 UTC"}
        text = self.document({"gpu-z.json": older, "gpu-a.json": GPU})
        self.assertIn("abc1234", text)
        self.assertNotIn("0ld0000", text)

    def test_goals_on_the_cpu(self):
        cpu = {"commit": "c", "cores": 2, "pytorch": "2.0+cpu", "results": [
            {"preset": "demo", "ours_seconds": [1e-3], "share": [0.6],
             "pytorch_eager_seconds": [2e-3]}]}
        text = self.document({"cpu-2cores-c.json": cpu})
        self.assertIn("| 1 ms | 60 % | 55 % | 2 ms | 2 | **3: missed** |", text)

    def test_an_unknown_table_is_an_error(self):
        with self.assertRaises(SystemExit):
            tables.rewrite("<!-- bench/tools/tables.py: nonsense -->\n<!-- end -->\n")

    def test_steps_without_pytorch(self):
        found = {"benchmarks": [
            {"name": "training_step/paper/tf32/replayed/iterations:1/manual_time", "real_time": 800.0,
             "time_unit": "us", "launches": 0.0, "graph_launches": 1.0, "arena_MB": 381.7},
            {"name": "training_step/paper/tf32/eager/iterations:1/manual_time", "real_time": 3000.0,
             "time_unit": "us", "launches": 700.0},
            {"name": "training_step/paper/fp32/eager/iterations:1/manual_time",
             "error_occurred": True}]}
        (row,) = tables.step_rows(found)
        self.assertAlmostEqual(row["ours_seconds"][0], 8e-4)
        self.assertAlmostEqual(row["ours_eager_seconds"][0], 3e-3)
        self.assertEqual((row["launches_eager"], row["graph_launches"]), (700.0, [1.0]))


class FakeGpu(unittest.TestCase):
    """The stages of ./run gpu with programs that only pretend."""

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
            paper, only = False, None
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
        shards = outcome.details["shards"]
        self.assertEqual(outcome.details["tests_passed"], shards)
        self.assertEqual(outcome.details["tests_skipped"], shards)

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
        self.assertEqual(outcome.status, "FAILED")
        self.assertIn("CudaThing.Hangs (ran out of time)", outcome.reason)
        self.assertNotIn("CudaThing.Works", outcome.reason)
        self.assertEqual(outcome.details["tests_passed"], outcome.details["shards"])

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
  memcheck) echo "[       OK ] CudaThing.Works (1 ms)"; echo "========= ERROR SUMMARY: 0 errors" ;;
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

    def test_paper_runs_are_kept_without_their_checkpoints(self):
        run = self.folder / "run"
        run.mkdir()
        for name in ("model.safetensors", "checkpoint.safetensors", "checkpoint.safetensors.previous",
                     "probes.safetensors", "map.npy"):
            (run / name).write_text(name)
        this = self.gpu()
        stages.keep_run(this, run, "paper-none")
        with tarfile.open(this.folder / "paper-none.tar.gz") as archive:
            self.assertEqual(sorted(archive.getnames()),
                             ["paper-none", "paper-none/map.npy", "paper-none/model.safetensors"])


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
