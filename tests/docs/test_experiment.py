"""The program of docs/write-an-experiment.md, compiled as it stands there (see extract.py)."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path

from blocks import folder_of

BRIEF = ("--length", 40, "--depth", 4, "--channels", 16, "--log-every", 50, "--threads", 1,
         "--iterations", 120, "--test-sequences", 64)


class Experiment(unittest.TestCase):
    def setUp(self):
        self.build = folder_of("SIDECHANNEL_DOCUMENTED")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def sides(self, out, *arguments, code=0):
        preset = self.build / "experiments/presets/sides/demo.json"
        result = subprocess.run(
            [self.build / "sides", "run", "--preset", preset, "--out", self.folder / out, "--device",
             "cpu", *map(str, arguments)], capture_output=True, text=True, timeout=300)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def summary(self, out):
        return json.loads((self.folder / out / "summary.json").read_text())

    def test_the_norm_that_carries_learns_it_and_the_others_cannot(self):
        for norm, least, most in (("instance", .3, 1.1), ("none", -.02, .02), ("position", -.02, .02)):
            with self.subTest(norm):
                said = self.sides(norm, "--norm", norm, "--iterations", 4000)
                summary = self.summary(norm)
                self.assertGreater(summary["separation"], least)
                self.assertLess(summary["separation"], most)
                self.assertIn(f"norm {norm}, separation ", said.stdout)

    def test_stopped_anywhere_it_ends_with_the_same_bytes(self):
        self.sides("whole", *BRIEF)
        self.sides("pieces", *BRIEF, "--stop-after", 70, code=75)
        self.assertFalse((self.folder / "pieces/summary.json").exists())
        self.sides("pieces", *BRIEF)
        for name in ("model.safetensors", "metrics.jsonl"):
            self.assertEqual((self.folder / "pieces" / name).read_bytes(),
                             (self.folder / "whole" / name).read_bytes(), name)
        whole, pieces = self.summary("whole"), self.summary("pieces")
        self.assertEqual(whole["separation"], pieces["separation"])
        self.assertIn("separation", self.sides("pieces", *BRIEF).stdout)  # finished: said again

    def test_refuses_in_one_line(self):
        self.assertEqual(self.sides("none", "--length", 33, code=2).stderr,
                         "sides: --length 33: no interior beyond the receptive field of --depth 8, 16 to "
                         "each side\n")
        self.assertFalse((self.folder / "none").exists())


if __name__ == "__main__":
    unittest.main()
