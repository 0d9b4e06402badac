"""What the tests of the figures share."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

FIGURES = Path(__file__).resolve().parents[2] / "experiments" / "figures"
sys.path.insert(0, str(FIGURES))

import style  # noqa: E402

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402


class FigureTest(unittest.TestCase):
    """Tests of one script: give it its `module`."""

    module = None

    @property
    def program(self):
        return self.module.__name__ + ".py"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.picture = self.folder / "out" / "figure.png"
        self.summary = self.folder / "out" / "figure.json"

    def run_main(self, *arguments):
        """Exit code, lines of stdout, lines of stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = style.exit_code_of(self.program, self.module.main, [str(a) for a in arguments])
        return code, out.getvalue().splitlines(), err.getvalue().splitlines()

    def draws(self, *arguments):
        """The lines printed about a figure."""
        code, out, err = self.run_main(*arguments, "--out", self.picture)
        self.assertEqual((code, err), (0, []))
        self.assertEqual(self.picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        return out

    def refuses(self, code, message, *arguments):
        """Fails, where a picture is asked for."""
        self.fails(code, message, *arguments, "--out", self.picture)

    def summarizes(self, *arguments):
        """The lines printed, and what the summary says."""
        out = self.draws(*arguments, "--summary", self.summary)
        return out, json.loads(self.summary.read_text())

    def verdicts(self, *arguments):
        """Of all claims, in their order."""
        return [claim["pass"] for claim in self.summarizes(*arguments)[1]["claims"].values()]

    def assert_formats(self, name, *arguments):
        """Beside PNG; the lines printed."""
        for suffix, magic in (("pdf", b"%PDF"), ("svg", b"<?xml")):
            out = self.folder / f"{name}.{suffix}"
            code, lines, err = self.run_main(*arguments, "--out", out)
            self.assertEqual((code, err), (0, []))
            self.assertTrue(out.read_bytes().startswith(magic))
        return lines

    def fails(self, code, message, *arguments):
        got, out, err = self.run_main(*arguments)
        self.assertEqual((got, out), (code, []), err)
        self.assertEqual(len(err), 1, err)
        self.assertRegex(err[0], f"^{self.program}: .*{message}")
        self.assertFalse(self.picture.exists())

    def assert_texts_apart(self, figure):
        """No text leaves the page, and none touches another. Returns each with its box."""
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        texts = [*figure.texts, *(t for legend in figure.legends for t in legend.get_texts()),
                 *(t for axes in figure.axes for t in
                   (axes.xaxis.label, axes.yaxis.label, *axes.texts, *axes.get_xticklabels(),
                    *axes.get_yticklabels()))]
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text()]
        page = figure.bbox
        for i, (text, box) in enumerate(boxes):
            self.assertTrue(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.width
                            and box.y1 <= page.height, f"{text!r} leaves the page")
            for other, other_box in boxes[i + 1:]:
                self.assertFalse(box.overlaps(other_box), f"{text!r} touches {other!r}")
        return boxes
