"""Tests of experiments/figures/figure5.py and figure6.py (their form is that of figure 1)."""

import json
import unittest

from figure_test import FigureTest
from test_figure1 import make_run

import figure5
import figure6


class Figure5Test(FigureTest):
    module = figure5

    def pair(self):
        return (make_run(self.folder / "batch", "batch"), make_run(self.folder / "none", "none"))

    def test_runs_claims_and_lines(self):
        a, b = self.pair()
        out = self.draws(a, b, "--summary", self.summary)
        self.assertEqual(len(out), 3)
        self.assertIn("with BatchNorm and minibatch statistics it follows the position", out[0])
        summary = json.loads(self.summary.read_text())
        self.assertEqual(list(summary), ["claims", "batch", "none"])
        self.assertEqual({k: (c["ours"], c["pass"]) for k, c in summary["claims"].items()},
                         {"minibatch": (1.0, True), "none": (0.0, True)})

    def test_claims_fail_where_they_should(self):
        a = make_run(self.folder / "a", "batch", plateau=True)
        b = make_run(self.folder / "b", "none", follows=True)
        self.draws(a, b, "--summary", self.summary)
        claims = json.loads(self.summary.read_text())["claims"]
        self.assertEqual([claim["pass"] for claim in claims.values()], [False, False])
        # A control that failed is none.
        b = make_run(self.folder / "c", "none", plateau=True)
        self.draws(a, b, "--summary", self.summary)
        claims = json.loads(self.summary.read_text())["claims"]
        self.assertEqual([claim["pass"] for claim in claims.values()], [False, None])

    def test_no_interior_no_verdict(self):
        a = make_run(self.folder / "a", "batch", length=12)
        b = make_run(self.folder / "b", "none", length=12)
        self.draws(a, b, "--summary", self.summary)
        claims = json.loads(self.summary.read_text())["claims"]
        self.assertEqual([claim["pass"] for claim in claims.values()], [None, None])

    def test_misuse(self):
        a, b = self.pair()
        out = ["--out", self.picture]
        self.fails(2, "--out", a, b)
        instance = make_run(self.folder / "instance", "instance")
        population = make_run(self.folder / "population", "batch", statistics="population")
        self.fails(2, "has norm instance and minibatch statistics; expected a run with norm batch",
                   instance, b, *out)
        self.fails(2, "has norm batch and population statistics; expected a run with norm batch",
                   population, b, *out)
        self.fails(2, "expected a run with norm none", a, population, *out)
        self.fails(1, "no such folder", a, self.folder / "absent", *out)


class Figure6Test(FigureTest):
    module = figure6

    def test_runs_claims_and_lines(self):
        a = make_run(self.folder / "minibatch", "batch")
        b = make_run(self.folder / "population", "batch", statistics="population", follows=False)
        out = self.draws(a, b, "--summary", self.summary)
        self.assertIn("with BatchNorm and population statistics the CNN answers 0", out[0])
        summary = json.loads(self.summary.read_text())
        self.assertEqual(list(summary), ["claims", "minibatch", "population"])
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True, True])

    def test_claims_fail_where_they_should(self):
        a = make_run(self.folder / "a", "batch", follows=False)
        b = make_run(self.folder / "b", "batch", statistics="population", follows=True)
        self.draws(a, b, "--summary", self.summary)
        claims = json.loads(self.summary.read_text())["claims"]
        self.assertEqual([claim["pass"] for claim in claims.values()], [False, False])

    def test_it_is_about_one_network(self):
        a = make_run(self.folder / "a", "batch")
        b = make_run(self.folder / "b", "batch", statistics="population", follows=False)
        for run, weights in ((a, b"one"), (b, b"two")):
            (run / "model.safetensors").write_bytes(weights)
        self.fails(2, "hold different networks", a, b, "--out", self.picture)
        (b / "model.safetensors").write_bytes(b"one")
        self.draws(a, b)

    def test_misuse(self):
        a = make_run(self.folder / "minibatch", "batch")
        b = make_run(self.folder / "none", "none")
        self.fails(2, "expected a run with norm batch and population statistics", a, b, "--out",
                   self.picture)
        self.fails(2, "nothing to compare", a, a, "--out", self.picture)


if __name__ == "__main__":
    unittest.main()
