"""Tests of experiments/figures/figure_constant.py (its form is that of figure 1)."""

import unittest

from figure_test import FigureTest
from test_figure1 import make_run

import figure1
import figure_constant
import style


class FigureConstantTest(FigureTest):
    module = figure_constant

    def pair(self, **how):
        return (make_run(self.folder / "noise", "instance", length=160, depth=12),
                make_run(self.folder / "constant", "instance", length=160, depth=12,
                         input_="constant", **{"follows": False, **how}))

    def test_lines_and_claim(self):
        a, b = self.pair()
        out = self.draws(a, b)
        self.assertIn("with InstanceNorm and constant input the CNN answers 0 (slope 0.000); with "
                      "InstanceNorm it follows the position", out[0])
        self.assertEqual(self.verdicts(a, b), [True])

    def test_the_claim_fails_where_it_should(self):
        self.assertEqual(self.verdicts(*self.pair(follows=True)), [False])

    def test_a_network_that_learned_nothing_is_no_evidence(self):
        self.assertEqual(self.verdicts(*self.pair(plateau=True)), [None])

    def test_no_text_touches_another(self):
        a, b = map(style.load_run, self.pair())
        with style.looks():
            self.assert_texts_apart(figure1.draw(a, b))

    def test_misuse(self):
        a, b = self.pair()
        for runs in ((b, a), (a, a)):
            self.refuses(2, "expected one norm with noise and then with constant input|nothing to "
                         "compare", *runs)
        other = make_run(self.folder / "group", "group", length=160, depth=12, input_="constant")
        self.refuses(2, "expected one norm with noise", a, other)


if __name__ == "__main__":
    unittest.main()
