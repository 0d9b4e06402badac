"""docs/figure1.ipynb runs from its first cell to its last, with a share of the demo's steps."""

import importlib.util
import json
import os
import sys
import unittest
from unittest import mock

from support import ROOT, Case

PATH = ROOT / "docs/figure1.ipynb"


class Notebook(Case):
    def test_is_kept_without_what_it_gives(self):
        notebook = json.loads(PATH.read_text())
        self.assertEqual((notebook["nbformat"], notebook["nbformat_minor"]), (4, 5))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                self.assertEqual((cell["outputs"], cell["execution_count"]), ([], None))

    def test_runs(self):
        for module in ("nbclient", "ipykernel", "matplotlib"):
            if not importlib.util.find_spec(module):
                self.skipTest(f"SKIPPED: no {module}")
        import nbclient
        import nbformat

        notebook = nbformat.read(PATH, as_version=4)
        nbformat.validate(notebook)
        folder = self.folder()
        kernel = folder / "kernels/this"  # the Python that this is
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps({
            "argv": [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f",
                     "{connection_file}"],
            "display_name": "this", "language": "python"}))
        with mock.patch.dict(os.environ, SIDECHANNEL_SHARE="0.01", JUPYTER_PATH=str(folder)):
            nbclient.NotebookClient(notebook, timeout=300, kernel_name="this",
                                    resources={"metadata": {"path": str(folder)}}).execute()
        pictures = [output for cell in notebook.cells for output in cell.get("outputs", [])
                    if "image/png" in output.get("data", {})]
        self.assertEqual(len(pictures), 1)
        self.assertTrue((folder / "figure1.png").is_file())


if __name__ == "__main__":
    unittest.main()
