"""Tests of bench/tools: python3 -m unittest discover -s tests/bench"""

import json
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "tools"))

import tables  # noqa: E402

STEP = {"preset": "paper", "precision": "tf32", "ours_seconds": [9e-4, 8e-4, 7e-4],
        "ours_eager_seconds": [3e-3], "ours_at_once_4_seconds": [5e-4, 4e-4, 3e-4],
        "launches_eager": 700.0, "launches": [0.0],
        "graph_launches": [1.0], "allocations": [0.0], "synchronizations": [0.0],
        "arena_MB": [381.7], "peak_memory_MB": [412.0], "share": [0.36],
        "pytorch_eager_seconds": [6e-3], "pytorch_graph_seconds": [2.4e-3],
        "pytorch_max-autotune_seconds": [1.6e-3]}

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
       "variants": {"results": {"conv1d_forward/paper/tf32": {
           "tf32_mma_64": {"us": 5.5, "difference": 0.0}, "slow": {"us": 15.25, "difference": 3e-4},
           "wrong": {"us": 1.5, "difference": None}}}}}


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
        # The fastest first, the chosen one bold.
        case = "| conv1d_forward/paper/tf32 |"
        self.assertIn(f"{case} wrong |  | 1.5 µs | 6.5 µs | 7 µs | not finite |\n"
                      f"{case} **tf32_mma_64** |  | 5.5 µs | 6.5 µs | 7 µs | 0 |\n"
                      f"{case} slow |  | 15.2 µs | 6.5 µs | 7 µs | 0.0003 |\n", text)
        # The median of the rounds; twice as fast as the fastest of PyTorch's ways.
        self.assertIn("| ≤ 1.1 ms | 0.8 ms | 36 % | 3 ms |", text)
        self.assertIn("| 6 ms |", text)
        # Four at once: twice the throughput of one after another.
        self.assertRegex(text, r"\| 4 \| 0.8 ms \| [^|]* \| 0.4 ms \| 2 \|")
        self.assertRegex(text, r"\| 8 \| 0.8 ms \| [^|]* \| not measured \| not measured \|")
        self.assertIn("| 1.6 ms | 2 |", text)
        self.assertIn("| 700 | 0 | 1 | 0 | 0 | 382 MB | 412 MB |", text)

    def test_the_newest_result_counts(self):
        older = {**GPU, "commit": "0ld0000", "date": "2025-12-31 00:00 UTC"}
        text = self.document({"gpu-z.json": older, "gpu-a.json": GPU})
        self.assertIn("abc1234", text)
        self.assertNotIn("0ld0000", text)

    def test_goals_on_the_cpu(self):
        cpu = {"commit": "c", "cores": 2, "machine": "m", "pytorch": "2.0+cpu", "results": [
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


if __name__ == "__main__":
    unittest.main()
