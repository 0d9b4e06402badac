"""Tests of experiments/figures/figure5.py and figure6.py (their form is that of figure 1)."""

import unittest

from figure_test import FigureTest
from test_figure1 import make_run

import figure5
import figure6


class Figure5Test(FigureTest):
    module = figure5

    def make(self, name, norm="batch", **how):
        return make_run(self.folder / name, norm, **how)

    def pair(self, **how):
        return self.make("batch", **how), self.make("none", "none", **how)

    def test_runs_claims_and_lines(self):
        out, summary = self.summarizes(*self.pair())
        self.assertEqual(len(out), 3)
        self.assertIn("with BatchNorm and minibatch statistics it follows the position", out[0])
        self.assertEqual(list(summary), ["claims", "batch", "none"])
        self.assertEqual({k: (c["ours"], c["pass"]) for k, c in summary["claims"].items()},
                         {"minibatch": (1.0, True), "none": (0.0, True)})

    def test_claims_fail_where_they_should(self):
        a = self.make("a", plateau=True)
        self.assertEqual(self.verdicts(a, self.make("b", "none", follows=True)), [False, False])
        # A control that failed is none.
        self.assertEqual(self.verdicts(a, self.make("c", "none", plateau=True)), [False, None])

    def test_no_interior_no_verdict(self):
        self.assertEqual(self.verdicts(*self.pair(length=12)), [None, None])

    def test_misuse(self):
        a, b = self.pair()
        self.fails(2, "--out", a, b)
        population = self.make("population", statistics="population")
        self.refuses(2, "has norm instance and minibatch statistics; expected a run with norm batch",
                     self.make("instance", "instance"), b)
        self.refuses(2, "has norm batch and population statistics; expected a run with norm batch",
                     population, b)
        self.refuses(2, "expected a run with norm none", a, population)
        self.refuses(1, "no such folder", a, self.folder / "absent")


class Figure6Test(FigureTest):
    module = figure6

    def pair(self, first, second):
        """Whether each follows the position."""
        return (make_run(self.folder / "a", "batch", follows=first),
                make_run(self.folder / "b", "batch", statistics="population", follows=second))

    def test_runs_claims_and_lines(self):
        out, summary = self.summarizes(*self.pair(True, False))
        self.assertIn("with BatchNorm and population statistics the CNN answers 0", out[0])
        self.assertEqual(list(summary), ["claims", "minibatch", "population"])
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True, True])

    def test_claims_fail_where_they_should(self):
        self.assertEqual(self.verdicts(*self.pair(False, True)), [False, False])

    def test_it_is_about_one_network(self):
        a, b = self.pair(True, False)
        for run, weights in ((a, b"one"), (b, b"two")):
            (run / "model.safetensors").write_bytes(weights)
        self.refuses(2, "hold different networks", a, b)
        (b / "model.safetensors").write_bytes(b"one")
        self.draws(a, b)

    def test_misuse(self):
        a = make_run(self.folder / "minibatch", "batch")
        b = make_run(self.folder / "none", "none")
        self.refuses(2, "expected a run with norm batch and population statistics", a, b)
        self.refuses(2, "nothing to compare", a, a)


if __name__ == "__main__":
    unittest.main()
