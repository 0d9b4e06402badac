"""Tests of experiments/figures/figure4.py: python3 -m unittest discover -s tests/figures"""

import json
import unittest

from figure_test import FigureTest
from sweep_folder import make_sweep as make
from test_figure1 import make_run

import figure4
import style
import sweeps
from sweeps import Sweep

SLOPES = {1: (0.1, 0.2), 2: (0.2, 0.25), 4: (0.4, 0.5), 32: (0.7, 0.8)}


def make_sweep(folder, slopes=None, *arguments, **how):
    return make(folder, "groups", slopes or SLOPES, *arguments, **how)


class Figure4Test(FigureTest):
    module = figure4

    # --- What it draws and says ---

    def test_files_summary_and_lines(self):
        sweep = make_sweep(self.folder / "sweep")
        out, summary = self.summarizes(sweep)
        self.assertEqual(out[0], "groups: from G = 1 to 32 the slope beyond R goes from 0.150 to "
                         "0.750, the distance from 18.5 to 28, the unbroken one from 17.5 to 27; rank "
                         "correlation with G 1.00 (slope), 1.00 (distance), 1.00 (unbroken); standard "
                         "deviation over 2 seeds: slope 0.035 to 0.071, distance 0.707 to 1.41, "
                         "unbroken 0.707 to 1.41.")
        for file in (self.picture, self.summary, sweep):
            self.assertIn(str(file), out[1])
        results = json.loads((sweep / "results.json").read_text())
        self.assertEqual({key: summary[key] for key in results}, results)
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()],
                         [True, True, True, False])
        for key in ("slope", "distance", "unbroken"):
            self.assertEqual([seed["seed"] for seed in summary["claims"][key]["seeds"]], [0, 1])

    def test_each_claim_fails_where_it_should(self):
        def verdicts(slopes=None, change=None):
            """`change` sets measures of the best cells, by their number."""
            folder = make_sweep(self.folder / "sweep", slopes)
            file = folder / "results.json"
            results = json.loads(file.read_text())
            for i, cell in enumerate(results["best"]):
                cell["measures"].update(change(i) if change else {})
            file.write_text(json.dumps(results))
            claims = figure4.claims(Sweep(folder, "groups"))
            return [claims[key]["pass"] for key in ("slope", "distance", "unbroken")]

        one = {g: (slopes[0],) for g, slopes in SLOPES.items()}
        self.assertEqual(verdicts(one), [True, True, True])
        # Each is held to its own measure, whatever the other's: "farther" is not "better".
        self.assertEqual(verdicts(one, lambda i: {"localization_distance": 30 - i}),
                         [True, False, True])
        self.assertEqual(verdicts(one, lambda i: {"unbroken_distance": 30 - i}), [True, True, False])
        self.assertEqual(verdicts(one, lambda i: {"interior_slope": 1 - 0.1 * i}), [False, True, True])
        # One seed that does not rise is enough.
        self.assertEqual(verdicts(None, lambda i: {"interior_slope": 1 - 0.1 * i} if i % 2 else {}),
                         [False, True, True])
        # All the same is no rise.
        self.assertEqual(verdicts({1: (0.5,), 2: (0.5,)}), [False, False, False])
        # A rise in ranks alone, of networks that all failed. None of them gets beyond R.
        flat = {1: (0.0001,), 2: (0.0002,), 4: (0.0003,)}
        self.assertEqual(verdicts(flat), [False, None, None])
        # Nor is there a rise to be had where all reach the middle.
        self.assertEqual(verdicts(one, lambda i: {"localization_distance": 32}), [True, None, True])
        # Nothing to compare.
        self.assertEqual(verdicts({4: (0.5,)}), [None, None, None])
        self.assertEqual(verdicts({1: (None,), 2: (0.5,)}), [None, True, True])

    def test_the_deviation_over_seeds(self):
        def verdict(*slopes):
            claim = figure4.claims(Sweep(make_sweep(self.folder / "sweep", {1: slopes, 2: slopes}),
                                         "groups"))["deviation"]
            return claim["ours"], claim["pass"]

        self.assertEqual(verdict(0.5, 0.5, 0.5), (0, True))
        ours, passes = verdict(0.5, 0.9)  # 24 and 30 of 32
        self.assertAlmostEqual(ours, 18 ** 0.5 / 32)
        self.assertFalse(passes)
        self.assertEqual(verdict(0.5), (None, None))

    def test_rank_correlation(self):
        def rho(*values):
            return sweeps.rank_correlation(list(zip((1, 2, 4, 8, 16), values)))

        self.assertEqual(rho(0, 1, 10, 11), 1)
        self.assertEqual(rho(3, 2, 1, 0), -1)
        # scipy.stats.spearmanr([1, 2, 4, 8, 16], [1, 3, 3, 2, 9]), as in sweep_collect_test.cpp
        self.assertAlmostEqual(rho(1, 3, 3, 2, 9), 0.6668859288553503, 14)
        for values in ((1,), (), (5, 5)):
            self.assertIsNone(rho(*values))

    def controls(self, **how):
        return [make_run(self.folder / f"control-{how}-{i}", "position", follows=False, depth=8,
                         **{"length": 64, **how}) for i in range(2)]

    def test_the_norm_that_cannot_communicate_stands_beside(self):
        sweep = make_sweep(self.folder / "sweep")
        controls = self.controls()
        out, summary = self.summarizes(sweep, *controls)
        self.assertIn("; LayerNorm per position reaches 16.", out[0])
        self.assertIs(summary["claims"]["position"]["pass"], True)
        self.assertEqual(len(summary["controls"]), 2)
        loaded = Sweep(sweep, "groups")
        with style.looks():
            runs = figure4.load_controls(controls, loaded)
            distance, slope = figure4.draw(loaded, runs).axes
            self.assert_texts_apart(figure4.draw(loaded, runs))
        for axes, value in ((distance, 16), (slope, 0)):
            self.assertEqual([list(line.get_ydata()) for line in axes.lines
                              if list(line.get_xdata()) == [-1]], [[value], [value]])
        # One that localizes what it cannot, one that localizes nothing at all.
        for change, verdict in ((True, False), (False, None)):
            run = figure4.load_controls(controls, loaded)[0]
            run.localized[-1] = change
            self.assertIs(figure4.claims(loaded, [run])["position"]["pass"], verdict)
        self.picture.unlink()
        self.refuses(2, "has norm instance, expected position", sweep,
                     make_run(self.folder / "instance", "instance", length=64, depth=8))
        self.refuses(2, "has length 60 and R = 16, the sweep length 64", sweep,
                     *self.controls(length=60))

    def test_unfinished_sweeps_say_so(self):
        out = self.draws(make_sweep(self.folder / "a", planned=140))
        self.assertIn("; 8 of 140 runs are finished.", out[0])
        out = self.draws(make_sweep(self.folder / "b", {4: (0.5,)}, planned=1, rho=None))
        self.assertEqual(out[0], "groups: one number of groups says nothing of a trend.")

    def test_the_data_is_what_is_drawn(self):
        sweep = Sweep(make_sweep(self.folder / "sweep"), "groups")
        with style.looks():
            distance, slope = figure4.draw(sweep).axes
        drawn = ((distance.containers[0], "unbroken_distance"),
                 (distance.containers[1], "localization_distance"),
                 (slope.containers[0], "interior_slope"))
        for container, key in drawn:
            line, _, (bars,) = container.lines
            self.assertEqual(list(line.get_ydata()), [row[key]["mean"] for row in sweep.rows])
            for (low, high), row in zip(bars.get_segments(), sweep.rows):
                self.assertAlmostEqual((high - low)[1], 2 * row[key]["deviation"])
        for axes, keys in ((distance, ("unbroken_distance", "localization_distance")),
                           (slope, ("interior_slope",))):
            seeds = sorted(line.get_ydata()[0] for line in axes.lines
                           if line.get_marker() == "_" and len(line.get_ydata()) == 1)
            self.assertEqual(seeds, sorted(cell["measures"][key] for cell in sweep.best
                                           for key in keys))
        self.assertEqual([t.get_text() for t in slope.get_xticklabels()], ["1", "2", "4", "32"])
        self.assertEqual([t.get_text() for t in slope.texts if t.get_text().endswith("Norm")],
                         ["LayerNorm", "InstanceNorm"])
        levels = {line.get_ydata()[0] for line in distance.lines
                  if len(line.get_ydata()) == 2 and line.get_linestyle() == "--"}
        self.assertEqual(levels, {16, 32})

    def test_text_lies_within_the_page_and_apart(self):
        paper = {g: (0.1 * i, 0.12 * i) for i, g in enumerate((1, 2, 4, 8, 16, 32, 64))}
        for slopes, length, planned, title in ((None, 64, 8, None), (paper, 600, 140, "A title"),
                                               ({1: (0.0,)}, 96, 1, None),
                                               ({1: (-0.4, 0.1), 2: (1.3, 1.2)}, 64, 4, None)):
            with self.subTest(length=length), style.looks():
                sweep = Sweep(make_sweep(self.folder / "sweep", slopes, length, planned), "groups")
                self.assert_texts_apart(figure4.draw(sweep, title=title))

    # --- What it refuses ---

    def test_misuse(self):
        sweep = make_sweep(self.folder / "sweep")
        self.fails(2, "--out", sweep)
        self.fails(2, "a .png, .pdf or .svg", sweep, "--out", "figure4.gif")

    def test_missing_and_damaged_files(self):
        self.refuses(1, "no such folder", self.folder / "absent")
        sweep = make_sweep(self.folder / "sweep")
        file = sweep / "results.json"
        whole = json.loads(file.read_text())
        file.unlink()
        self.refuses(1, "no results.json; `sweep collect` makes it", sweep)
        for content, message in ((b"", "results.json: not JSON"), (b"[]", "not a JSON object"),
                                 (b"{}", "results.json: has no by")):
            file.write_bytes(content)
            self.refuses(1, message, sweep)
        row, cell = whole["rows"][0], whole["best"][0]
        for change, message in (
                ({"settings": {}}, "has no length"), ({"rows": []}, "no cell is finished yet"),
                ({"by": 3}, "by is 3, expected a list of texts"),
                ({"planned": 0}, "planned is 0"),
                ({"best": None}, "best is None, expected a list"),
                ({"rows": [3]}, r"rows is \[3\]"),
                ({"best": []}, "no cell is finished yet"),
                ({"rows": [{**row, "interior_slope": 3}]}, "1 groups: interior_slope is 3"),
                ({"rows": [{**row, "interior_slope": {"mean": "x"}}]}, "mean is 'x'"),
                ({"rows": [{**row, "interior_slope": {"mean": float("nan")}}]}, "not JSON"),
                ({"rows": [row, row]}, "do not rise"),
                ({"best": [{**cell, "measures": {**cell["measures"], "receptive_field": 0}}]},
                 "a best cell: receptive_field is 0"),
                ({"best": [{"groups": 7, "measures": {}}]}, "a best cell: groups is 7"),
                ({"best": [{"groups": 1, "measures": {}}]}, "a best cell: has no seed"),
                ({"best": [{"groups": 1, "seed": 0, "measures": {}}]}, "a best cell: has no local")):
            with self.subTest(message=message):
                file.write_text(json.dumps({**whole, **change}))
                self.refuses(1, message, sweep)


if __name__ == "__main__":
    unittest.main()
