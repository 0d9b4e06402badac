"""Tests of experiments/figures/figure_multihop.py."""

import unittest

from figure_test import FigureTest
from test_figure1 import make_run

import figure1
import figure_multihop
import style

import numpy as np


class FigureMultihopTest(FigureTest):
    module = figure_multihop

    def pair(self, length=72, depth=4):  # R = 8, one hop: 24, half: 36
        return (make_run(self.folder / f"a{length}", "instance", length=length, depth=depth),
                make_run(self.folder / f"b{length}", "none", length=length, depth=depth))

    def localize(self, run, *layers):
        """Localizes in each layer just these indices."""
        localized = np.zeros_like(np.load(run / "localized.npy"))
        for row, indices in zip(localized, layers):
            row[list(indices)] = True
        np.save(run / "localized.npy", localized)

    def test_files_summary_and_lines(self):
        a, b = self.pair()
        every = range(72)
        self.localize(a, (0, 71), (0, 1), (0, 30), every)
        out, summary = self.summarizes(a, b)
        self.assertEqual(out[0], "distance: with InstanceNorm the output localizes 100 % of the "
                         "indices beyond the one-hop limit 3R = 24, layer 3 is the first to pass "
                         "it: several hops; without norm it ends at 8 (R = 8).")
        self.assertEqual(summary["one_hop"], 24)
        self.assertEqual(summary["instance"]["farthest"], [1, 2, 31, 36])
        self.assertEqual(summary["none"]["farthest"], [2, 4, 6, 8])
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True, True])

    def test_claims_fail_where_they_should(self):
        a, b = self.pair()
        self.localize(a, (), (), (), (*range(24), *range(48, 72)))  # all within one hop
        self.localize(b, (), (), (), (10,))
        out, summary = self.summarizes(a, b)
        self.assertIn("up to 24 from an edge: not beyond the one-hop limit", out[0])
        claims = summary["claims"]
        self.assertEqual((claims["several_hops"]["ours"], claims["several_hops"]["pass"]),
                         (0.0, False))
        self.assertIs(claims["no_hop"]["pass"], False)
        self.localize(a, (), (), (), (*range(24), 36))  # one of 24 is no message
        self.localize(b, (), (), (), ())  # and a control that failed no control
        self.assertEqual(self.verdicts(a, b), [False, None])
        out, summary = self.summarizes(*self.pair(length=48))
        self.assertIn("no index lies beyond 3R = 24 from both edges, so one hop would do", out[0])
        self.assertIsNone(summary["claims"]["several_hops"]["pass"])

    def test_the_data_is_what_is_drawn(self):
        a, b = self.pair()
        self.localize(a, (0,), (0, 71, 2), (), range(72))
        a, b = style.load_run(a), style.load_run(b)
        with style.looks():
            panels = figure_multihop.draw(a, b).axes
        mesh = np.reshape(panels[0].collections[0].get_array(), (36, 4)).T
        expected = np.zeros((4, 36))
        expected[0, 0] = 0.5
        expected[1, 0], expected[1, 2] = 1, 0.5
        expected[3] = 1
        self.assertTrue(np.array_equal(mesh, expected))
        for axes in panels:
            cone, hop = axes.lines
            self.assertEqual(list(cone.get_ydata()), [2, 4, 6, 8, 8])
            self.assertEqual(list(hop.get_ydata()), [6, 12, 18, 24, 24])

    def test_the_middle_of_an_odd_length_counts_once(self):
        a, _ = self.pair(length=73)
        self.localize(a, (36,), (), (), ())
        run = style.load_run(a)
        self.assertEqual(figure1.folded(run).shape, (4, 37))
        self.assertEqual(figure1.folded(run)[0, 36], 1)
        self.assertEqual(figure1.farthest(run), [37, 0, 0, 0])

    def test_text_lies_within_the_page_and_apart(self):
        for length, depth, title in ((72, 4, None), (600, 32, "A title"), (160, 12, None),
                                     (64, 8, None), (21, 4, None), (9, 1, None)):
            with self.subTest(length=length), style.looks():
                a, b = map(style.load_run, self.pair(length, depth))
                self.assert_texts_apart(figure_multihop.draw(a, b, title))

    def test_misuse(self):
        a, b = self.pair()
        self.fails(2, "--out", a, b)
        self.refuses(2, "expected one run with norm and then one without", b, a)
        self.refuses(2, "differ in length", a, self.pair(length=24)[1])
        self.refuses(1, "no such folder", a, self.folder / "absent")


if __name__ == "__main__":
    unittest.main()
