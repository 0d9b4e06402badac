"""The Python on the pages runs as it stands there, block after block, where a run as the demo's lies."""

import contextlib
import importlib.util
import io
import os
import re
import tempfile
import unittest
from pathlib import Path

from support import ROOT, Case, run, sc


class Page(Case):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.before, cls.there = os.getcwd(), Path(folder.name)
        cls.addClassCleanup(os.chdir, cls.before)
        os.chdir(cls.there)
        run("localization", "run", "--preset", "demo", "--iterations", 20, "--probe-iterations", 2,
            "--map-samples", 64, "--log-every", 5, "--out", "runs/demo/instance")
        if importlib.util.find_spec("matplotlib"):
            import matplotlib
            matplotlib.use("Agg")

    def blocks(self, page):
        return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)

    def execute(self, page, blocks):
        """What its names come to."""
        names = {}
        for block in blocks:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, page, "exec"), names)
        return names

    def needs(self, *modules):
        for module in modules:
            if not importlib.util.find_spec(module):
                self.skipTest(f"SKIPPED: no {module}")

    def test_python(self):
        """docs/python.md, but for what it says of PyTorch."""
        self.needs("matplotlib", "pandas")
        blocks = [block for block in self.blocks("docs/python.md") if "import torch" not in block]
        self.assertEqual(len(blocks), 5)
        names = self.execute("docs/python.md", blocks)
        self.assertEqual(names["array"].tolist(), [[5, 5, 5], [1, 1, 1]])
        self.assertLess(names["loss"].item(), 0.2)
        self.assertIsInstance(names["training"], sc.LocalizationTraining)
        self.assertTrue(Path("run.png").is_file())

    def test_python_under_pytorch(self):
        self.needs("torch")
        blocks = [block for block in self.blocks("docs/python.md") if "import torch" in block]
        self.assertEqual(len(blocks), 1)
        self.execute("docs/python.md", blocks)

    def test_first_steps(self):
        """docs/first-steps.md"""
        self.needs("matplotlib")
        names = self.execute("docs/first-steps.md", self.blocks("docs/first-steps.md"))
        self.assertEqual(names["run"].settings["norm"], "instance")
        self.assertTrue(Path("x.npy").is_file())

    def test_from_pytorch(self):
        """docs/from-pytorch.md"""
        self.needs("torch")
        blocks = self.blocks("docs/from-pytorch.md")
        self.assertEqual(len(blocks), 5)
        names = self.execute("docs/from-pytorch.md", blocks)
        self.assertEqual(names["tensor"].numpy().tolist(), [[1, 1, 1]] * 2)
        # The weights that came back are not those that went.
        self.assertGreater(abs(names["answer"] - names["expected"]).max().item(), 1e-3)
        for parameter in names["network"].parameters():
            self.assertIsNotNone(parameter.grad)


if __name__ == "__main__":
    unittest.main()
