"""Tests of experiments/figures/figure4.py: python3 -m unittest discover -s tests/figures"""

import json
import unittest

from figure_test import FigureTest

import figure4
import style

SLOPES = {1: (0.1, 0.2), 2: (0.2, 0.25), 4: (0.4, 0.5), 32: (0.7, 0.8)}


def make_sweep(folder, slopes=None, length=64, planned=8, rho=1.0):
    """A folder as `groups collect` leaves it: for each number of groups, the slopes of its seeds;
    distances rise from R to all of it."""
    slopes = SLOPES if slopes is None else slopes
    reach = 16

    def measures(slope):
        return {"localization_distance": round(reach + (slope or 0) * (length / 2 - reach)),
                "interior_slope": slope, "localized_fraction": min(1, 0.5 + (slope or 0) / 2),
                "interior_localized_fraction": slope}

    def spread(values):
        values = [value for value in values if value is not None]
        mean = sum(values) / len(values) if values else None
        n = len(values)
        return {"mean": mean, "deviation": None if n < 2 else
                (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5}

    best = [{"id": f"G{g}-seed{seed}-lr0.001", "groups": g, "seed": seed, "learning_rate": 0.001,
             "measures": measures(slope)} for g, values in slopes.items()
            for seed, slope in enumerate(values)]
    rows = [{"groups": g, "seeds": len(values),
             **{key: spread([measures(slope)[key] for slope in values])
                for key in measures(0)}} for g, values in slopes.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({
        "preset": "demo", "settings": {"length": length, "depth": 8}, "receptive_field": reach,
        "planned": planned, "finished": len(best), "cells": best, "best": best, "by_groups": rows,
        "spearman": dict.fromkeys(measures(0), rho)}))
    return folder


class Figure4Test(FigureTest):
    module = figure4

    # --- What it draws and says ---

    def test_files_summary_and_lines(self):
        sweep = make_sweep(self.folder / "sweep")
        out, summary = self.summarizes(sweep)
        self.assertEqual(out[0], "groups: from G = 1 to 32 the slope beyond R goes from 0.150 to "
                         "0.750 and the distance from 18.5 to 28; rank correlation with G 1.00 "
                         "(slope), 1.00 (distance).")
        for file in (self.picture, self.summary, sweep):
            self.assertIn(str(file), out[1])
        results = json.loads((sweep / "results.json").read_text())
        self.assertEqual({key: summary[key] for key in results}, results)
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True, True])

    def test_each_claim_fails_where_it_should(self):
        def verdicts(slope, distance, slopes=None):
            results = figure4.load(make_sweep(self.folder / "sweep", slopes))
            results["spearman"].update(interior_slope=slope, localization_distance=distance)
            return [figure4.claims(results)[key]["pass"] for key in ("slope", "distance")]

        self.assertEqual(verdicts(0.8, 0.8), [True, True])
        # Each is held to its own measure, whatever the other's: "farther" is not "better".
        self.assertEqual(verdicts(1.0, -1.0), [True, False])
        self.assertEqual(verdicts(-1.0, 1.0), [False, True])
        self.assertEqual(verdicts(0.79, 0.79), [False, False])
        # All the same is no rise.
        self.assertEqual(verdicts(None, None, {1: (0.5,), 2: (0.5,)}), [False, False])
        # A rise in ranks alone, of networks that all failed. None of them gets beyond R.
        flat = {1: (0.0001,), 2: (0.0002,), 4: (0.0003,)}
        self.assertEqual(verdicts(1.0, 1.0, flat), [False, None])
        # Nothing to compare.
        self.assertEqual(verdicts(None, None, {4: (0.5,)}), [None, None])
        self.assertEqual(verdicts(None, 1.0, {1: (None,), 2: (0.5,)}), [None, True])

    def test_unfinished_sweeps_say_so(self):
        out = self.draws(make_sweep(self.folder / "a", planned=140))
        self.assertIn("; 8 of 140 runs are finished.", out[0])
        out = self.draws(make_sweep(self.folder / "b", {4: (0.5,)}, planned=1, rho=None))
        self.assertEqual(out[0], "groups: one number of groups says nothing of a trend.")

    def test_the_data_is_what_is_drawn(self):
        results = figure4.load(make_sweep(self.folder / "sweep"))
        with style.looks():
            distance, slope = figure4.draw(results).axes
        for axes, key in ((distance, "localization_distance"), (slope, "interior_slope")):
            container, = axes.containers
            line, _, (bars,) = container.lines
            means = [row[key]["mean"] for row in results["by_groups"]]
            self.assertEqual(list(line.get_ydata()), means)
            for (low, high), row in zip(bars.get_segments(), results["by_groups"]):
                self.assertAlmostEqual((high - low)[1], 2 * row[key]["deviation"])
            seeds = sorted(line.get_ydata()[0] for line in axes.lines
                           if line.get_marker() == "_" and len(line.get_ydata()) == 1)
            self.assertEqual(seeds, sorted(cell["measures"][key] for cell in results["best"]))
        self.assertEqual([t.get_text() for t in slope.get_xticklabels()], ["1", "2", "4", "32"])
        levels = {line.get_ydata()[0] for line in distance.lines
                  if len(line.get_ydata()) == 2 and line.get_linestyle() == "--"}
        self.assertEqual(levels, {16, 32})

    def test_text_lies_within_the_page_and_apart(self):
        paper = {g: (0.1 * i, 0.12 * i) for i, g in enumerate((1, 2, 4, 8, 16, 32, 64))}
        for slopes, length, planned, title in ((None, 64, 8, None), (paper, 600, 140, "A title"),
                                               ({1: (0.0,)}, 96, 1, None),
                                               ({1: (-0.4, 0.1), 2: (1.3, 1.2)}, 64, 4, None)):
            with self.subTest(length=length), style.looks():
                results = figure4.load(make_sweep(self.folder / "sweep", slopes, length, planned))
                self.assert_texts_apart(figure4.draw(results, title))

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
        self.refuses(1, "no results.json; `groups collect` makes it", sweep)
        for content, message in ((b"", "results.json: not JSON"), (b"[]", "not a JSON object"),
                                 (b"{}", "results.json: has no planned")):
            file.write_bytes(content)
            self.refuses(1, message, sweep)
        row = whole["by_groups"][0]
        for change, message in (
                ({"settings": {}}, "has no length"), ({"by_groups": []}, "no cell is finished yet"),
                ({"best": None}, "best is None, expected a list"),
                ({"by_groups": [3]}, r"by_groups is \[3\]"),
                ({"by_groups": [{**row, "interior_slope": 3}]}, "1 groups: interior_slope is 3"),
                ({"by_groups": [{**row, "interior_slope": {"mean": "x"}}]}, "mean is 'x'"),
                ({"by_groups": [{**row, "interior_slope": {"mean": float("nan")}}]}, "not JSON"),
                ({"by_groups": [row, row]}, "do not rise"),
                ({"best": [{"groups": 7, "measures": {}}]}, "a best cell: groups is 7"),
                ({"spearman": {"interior_slope": "x"}}, "spearman: has no localization")):
            with self.subTest(message=message):
                file.write_text(json.dumps({**whole, **change}))
                self.refuses(1, message, sweep)


if __name__ == "__main__":
    unittest.main()
