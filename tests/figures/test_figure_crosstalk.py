"""Tests of experiments/figures/figure_crosstalk.py: python3 -m unittest discover -s tests/figures"""

import json
import unittest

from figure_test import FigureTest
from sweep_folder import make_sweep, measures_of

import figure_crosstalk
import style
from results import notices
from sweeps import Sweep

AXIS = "samples_per_set"
SLOPES = {1: (0.9, 0.8), 2: (0.7, 0.6), 8: (0.3, 0.4), 32: (0.05, 0.02)}


def edges_alone(_measures):
    """With population statistics: what a network without norm could do."""
    return measures_of(0, 16, 64, 0.05)


def make_crosstalk(folder, slopes=None, population=edges_alone, **how):
    return make_sweep(folder, AXIS, slopes or SLOPES, population=population, **how)


class FigureCrosstalkTest(FigureTest):
    module = figure_crosstalk

    def load(self, *arguments, **how):
        return Sweep(make_crosstalk(self.folder / "sweep", *arguments, **how), AXIS, population=True)

    def test_files_summary_and_lines(self):
        sweep = make_crosstalk(self.folder / "sweep")
        out, summary = self.summarizes(sweep)
        self.assertEqual(out[0], "crosstalk: from 1 to 32 samples per set the slope beyond R goes from "
                         "0.850 to 0.035, the localized share of the interior from 85 % to 4 %, the gap "
                         "of the loss from 0.0255 to 0.0011; with population statistics nothing of the "
                         "interior is localized.")
        results = json.loads((sweep / "results.json").read_text())
        for cell in results["best"]:
            cell["notice"] = None
        self.assertEqual({key: summary[key] for key in results}, results)
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True] * 5)
        for claim in summary["claims"].values():
            self.assertEqual([seed["seed"] for seed in claim["seeds"]], [0, 1])

    def test_a_network_that_hears_nothing_is_no_failure_here(self):
        sweep = make_crosstalk(self.folder / "sweep")
        file = sweep / "results.json"
        results = json.loads(file.read_text())
        for cell in results["best"]:
            cell["notice"] = "it learned nothing of what lies beyond"
        results["best"][0]["measures"]["localized_fraction"] = 0.0  # its edges neither
        file.write_text(json.dumps(results))
        self.assertEqual(notices(self.summarizes(sweep)[1]), [results["best"][0]["notice"]])

    def test_each_claim_fails_where_it_should(self):
        def verdicts(*arguments, **how):
            claims = figure_crosstalk.claims(self.load(*arguments, **how))
            return [claims[key]["pass"] for key in ("slope", "share", "gap", "gap_falls", "population")]

        def one(*slopes):
            return {2 ** i: (slope,) for i, slope in enumerate(slopes)}

        self.assertEqual(verdicts(), [True] * 5)
        # At the floor a rank is a matter of noise; a step that is none is not.
        self.assertEqual(verdicts(one(0.9, 0.5, 0.001, 0.002, 0.003)), [True] * 5)
        self.assertEqual(verdicts(one(0.9, 0.5, 0.0, 0.2, 0.0)),
                         [False, False, True, False, True])
        # One seed of two that does not fall.
        rises = {value: (slopes[0], 1 - slopes[1]) for value, slopes in SLOPES.items()}
        self.assertEqual(verdicts(rises), [False, False, False, None, True])
        # A fall of networks that have all learned the same, or nothing.
        self.assertEqual(verdicts(one(0.903, 0.902, 0.901)), [False, False, False, True, True])
        self.assertEqual(verdicts(one(0.0, 0.0, 0.0)), [False, False, None, None, True])
        # A gap that does not depend on the samples, and one that stays.
        self.assertEqual(verdicts(population=lambda m: {**edges_alone(m),
                                                        "final_loss": m["final_loss"] + 0.01}),
                         [True, True, False, None, True])
        self.assertEqual(verdicts(one(0.9, 0.5, 0.3)), [True, True, False, True, True])
        # Population statistics that let something through; that are of a network which knows nothing.
        self.assertEqual(verdicts(population=lambda m: {**edges_alone(m),
                                                        "interior_localized_fraction": 0.1})[4], False)
        self.assertEqual(verdicts(population=lambda m: {**edges_alone(m),
                                                        "localized_fraction": 0.0})[4], None)
        # Nothing to compare.
        self.assertEqual(verdicts({4: (0.5,)}), [None, None, None, None, True])

    def test_the_data_is_what_is_drawn(self):
        sweep = self.load()
        with style.looks():
            *axes, = figure_crosstalk.draw(sweep).axes
        for axes_, key in zip(axes, ("interior_localized_fraction", "interior_slope", "final_loss")):
            population, minibatch = (container.lines[0] for container in axes_.containers)
            self.assertEqual(list(minibatch.get_ydata()), [row[key]["mean"] for row in sweep.rows])
            self.assertEqual(list(population.get_ydata()),
                             [row[f"population.{key}"]["mean"] for row in sweep.rows])
        self.assertEqual([t.get_text() for t in axes[-1].get_xticklabels()], ["1", "2", "8", "32"])

    def test_text_lies_within_the_page_and_apart(self):
        paper = {s: (1 - 0.1 * i,) * 5 for i, s in enumerate((1, 2, 4, 8, 16, 32))}
        for slopes, planned, title in ((None, 8, None), (paper, 90, "A title"), ({1: (0.0,)}, 1, None)):
            with self.subTest(slopes=slopes), style.looks():
                self.assert_texts_apart(figure_crosstalk.draw(self.load(slopes, planned=planned), title))

    def test_misuse_and_damaged_files(self):
        groups = make_sweep(self.folder / "groups", "groups", {1: (0.5,), 2: (0.6,)})
        self.refuses(2, "is a sweep over groups, expected one over samples_per_set", groups)
        sweep = make_crosstalk(self.folder / "sweep")
        file = sweep / "results.json"
        whole = json.loads(file.read_text())
        row, cell = whole["rows"][0], whole["best"][0]
        lacks = "population.localization_distance"
        for change, message in (
                ({"rows": [{**row, lacks: 3}]}, f"1 samples_per_set: {lacks} is 3"),
                ({"rows": [{key: value for key, value in row.items() if key != lacks}]},
                 f"1 samples_per_set: has no {lacks}"),
                ({"rows": [{**row, "population_gap": {"mean": "x"}}]}, "mean is 'x'"),
                ({"best": [{**cell, "seed": -1}]}, "a best cell: seed is -1"),
                ({"best": [{**cell, "measures": {**cell["measures"], lacks: "x"}}]},
                 f"a best cell: {lacks} is 'x'")):
            with self.subTest(message=message):
                file.write_text(json.dumps({**whole, **change}))
                self.refuses(1, message, sweep)


if __name__ == "__main__":
    unittest.main()
