"""docs/python.md, whose code runs as it stands there, one block after the other."""

import contextlib
import io
import os
import re
import unittest

from support import ROOT, Case, sc


class Page(Case):
    def test_its_code_runs(self):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
        self.assertEqual(len(blocks), 5)
        names, before = {}, os.getcwd()
        os.chdir(self.folder())
        try:
            for block in blocks:
                with contextlib.redirect_stdout(io.StringIO()):
                    try:
                        exec(compile(block, "docs/python.md", "exec"), names)
                    except ModuleNotFoundError as error:
                        self.assertEqual(error.name, "torch")
        finally:
            os.chdir(before)
        self.assertEqual(names["array"].tolist(), [[5, 5, 5], [1, 1, 1]])
        self.assertLess(names["loss"].item(), 0.2)
        self.assertIsInstance(names["training"], sc.LocalizationTraining)


if __name__ == "__main__":
    unittest.main()
