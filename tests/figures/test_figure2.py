"""Tests of experiments/figures/figure2.py."""

import json
import unittest

from figure_test import FigureTest
from test_figure1 import make_run

import figure2
import style

import numpy as np


def make_paths(path, run, shares=(0.2, 0.3, 0.5), change=0.05, fixed=0.0, **more):
    """A folder of `localization paths`, of a run."""
    summary = style.load_run(run).summary
    length, reach, norms = summary["length"], summary["receptive_field"], summary["depth"] - 2
    shares = np.resize(shares, norms) / np.resize(shares, norms).sum()
    where = np.abs(np.arange(length) - length // 2) > reach
    squares = np.where(where, change**2 * np.linspace(0.1, 1, length), 0)
    path.mkdir()
    np.save(path / "change.npy", squares)
    np.save(path / "carried.npy", np.outer(shares, squares))
    (path / "summary.json").write_text(json.dumps({
        **{key: summary[key] for key in ("norm", "length", "depth", "receptive_field")},
        "index": length // 2 + 1, "sequences": 20, "rms_change": change,
        "largest_change_all_fixed": fixed, "layers": list(range(2, norms + 2)),
        "carried": list(shares) if change > 0 else [None] * norms, **more}))
    return path


class Figure2Test(FigureTest):
    module = figure2

    def pair(self, depth=5, **how):
        run = make_run(self.folder / "run", "instance", length=40, depth=depth)
        return run, make_paths(self.folder / "paths", run, **how)

    def test_lines_and_claims(self):
        out = self.draws(*self.pair())
        self.assertIn("receptive field of index 21 changes its answer by 0.050 (rms); the norm of "
                      "layer 4 carried the largest share (50 %)", out[0])
        self.assertEqual(self.verdicts(*(self.folder / name for name in ("run", "paths"))),
                         [True, True])
        self.assert_formats("figure", *(self.folder / name for name in ("run", "paths")))

    def test_the_claims_fail_where_they_should(self):
        self.assertEqual(self.verdicts(*self.pair(fixed=1e-9)), [True, False])

    def test_where_nothing_gets_through(self):
        run, paths = self.pair(change=0)
        self.assertIn("nothing outside", self.draws(run, paths)[0])
        self.assertEqual(self.verdicts(run, paths), [False, True])

    def test_no_text_touches_another(self):
        for depth in (3, 8, 12, 32):
            with self.subTest(depth):
                run = make_run(self.folder / f"run{depth}", "instance", length=40, depth=depth)
                paths = make_paths(self.folder / f"paths{depth}", run, shares=(0.3, -0.2, 0.6))
                with style.looks():
                    self.assert_texts_apart(figure2.draw(figure2.Paths(paths), "with InstanceNorm",
                                                         "A title"))

    def test_misuse(self):
        run, paths = self.pair()
        other = make_run(self.folder / "other", "instance", length=60, depth=5)
        self.refuses(2, "differ in length: 60 and 40", other, paths)
        self.refuses(1, "no such folder", run, run / "none")
        empty = make_paths(self.folder / "empty", run, layers=[], carried=[])
        self.refuses(2, "a network without norms", run, empty)
        (paths / "change.npy").write_bytes(b"")
        self.refuses(1, "change.npy: not a .npy file", run, paths)


if __name__ == "__main__":
    unittest.main()
