"""Tests of experiments/figures/plot_sweep.py: python3 -m unittest discover -s tests/figures

That of a whole sweep calls the program in the folder in SIDECHANNEL_BIN; without it it is skipped.
"""

import csv
import itertools
import json
import os
import subprocess
import time
import unittest

from figure_test import FigureTest
from sweep_folder import make_sweep

import plot_sweep
import style


def make(folder, over, measures, **results):
    """A folder as `sweep collect` leaves it: a cell for each combination of the axes' values."""
    cells = []
    for values in itertools.product(*over.values()):
        cell = dict(zip(over, values))
        cells.append({"id": ",".join(f"{name}={value}" for name, value in cell.items()), **cell,
                      "measures": measures(cell), "notice": None})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"cells": cells, **results}))
    return folder


BIN = os.environ.get("SIDECHANNEL_BIN")
OVER = {"norm": ["instance", "group"], "depth": [8, 12, 16], "seed": [0, 1, 2, 3]}


def measured(cell):
    """A slope that rises with the depth, the more so with one of the norms, and by seed."""
    gain = 2 if cell["norm"] == "group" else 1
    return {"slope": gain * cell["depth"] / 100 + cell["seed"] / 1000, "loss": None}


class PlotSweepTest(FigureTest):
    module = plot_sweep

    def sweep(self, over=None, measures=measured, **results):
        return make(self.folder / "sweep", over or OVER, measures, **results)

    def plots(self, *arguments):
        return self.summarizes(self.folder / "sweep", *arguments)

    def test_mean_and_range_over_the_rest(self):
        self.sweep()
        out, summary = self.plots("--x", "depth", "--y", "slope", "--by", "norm")
        self.assertEqual(out[0], "slope by depth for each norm: mean and range over seed, 4 cells each.")
        self.assertIn(str(self.picture), out[1])
        self.assertEqual([(point["norm"], point["depth"], point["cells"]) for point in summary["points"]],
                         [(norm, depth, 4) for norm in OVER["norm"] for depth in OVER["depth"]])
        last = summary["points"][-1]
        self.assertAlmostEqual(last["mean"], 0.3215)
        self.assertEqual((last["least"], last["most"]), (0.32, 0.323))
        # Without lines of their own the norms are among the rest.
        out, summary = self.plots("--x", "depth", "--y", "slope")
        self.assertEqual(out[0], "slope by depth: mean and range over norm and seed, 8 cells each.")
        self.assertEqual(len(summary["points"]), 3)
        out, summary = self.plots("--x", "norm", "--y", "slope")
        self.assertEqual([point["norm"] for point in summary["points"]], ["instance", "group"])

    def test_the_data_is_what_is_drawn(self):
        self.sweep()
        cells, *_ = plot_sweep.load(self.folder / "sweep")
        points = plot_sweep.points_of(cells, "depth", "slope", "norm")
        with style.looks():
            axes, = plot_sweep.draw(points, "depth", "slope", "norm", "words").axes
        self.assertEqual(len(axes.containers), 2)
        for container, norm in zip(axes.containers, OVER["norm"]):
            line, _, (bars,) = container.lines
            mine = [point for point in points if point["norm"] == norm]
            self.assertEqual(list(line.get_xdata()), OVER["depth"])
            self.assertEqual(list(line.get_ydata()), [point["mean"] for point in mine])
            for (low, high), point in zip(bars.get_segments(), mine):
                self.assertAlmostEqual(low[1], point["least"])
                self.assertAlmostEqual(high[1], point["most"])
        self.assertEqual([tick.get_text() for tick in axes.get_xticklabels()], ["8", "12", "16"])

    def test_numbers_rise_whatever_their_order_and_wide_ones_count_in_factors(self):
        self.sweep({"learning_rate": [1e-2, 1e-4, 1e-3], "seed": [0]},
                   lambda cell: {"slope": cell["learning_rate"]})
        _, summary = self.plots("--x", "learning_rate", "--y", "slope")
        rates = [point["learning_rate"] for point in summary["points"]]
        self.assertEqual(rates, [1e-4, 1e-3, 1e-2])
        with style.looks():
            axes, = plot_sweep.draw(summary["points"], "learning_rate", "slope", None, "words").axes
        self.assertEqual(axes.get_xscale(), "log")
        self.assertEqual([tick.get_text() for tick in axes.get_xticklabels()],
                         ["0.0001", "0.001", "0.01"])

    def test_cells_that_are_missing_or_undefined_do_not_count(self):
        def measures(cell):
            if cell["depth"] == 8:
                return None  # not finished
            return {"slope": None if cell["depth"] == 12 and cell["seed"] else 1.0}

        self.sweep(measures=measures)
        out, summary = self.plots("--x", "depth", "--y", "slope")
        self.assertEqual([(point["depth"], point["cells"]) for point in summary["points"]],
                         [(12, 2), (16, 8)])
        self.assertIn("2 to 8 cells each. It is not defined in 6 more.", out[0])
        self.sweep(measures=measures, planned=24, finished=16)
        out, _ = self.plots("--x", "depth", "--y", "slope")
        self.assertTrue(out[0].endswith(" Of 24 cells 8 are not finished."), out[0])

    def test_ticks_tell_values_apart_and_have_room(self):
        def ticks_of(values, measure=lambda value: value):
            self.sweep({"x": values}, lambda cell: {"slope": measure(cell["x"])})
            _, summary = self.plots("--x", "x", "--y", "slope")
            with style.looks():
                figure = plot_sweep.draw(summary["points"], "x", "slope", None, "words")
                self.assert_texts_apart(figure)
                return [[tick.get_text() for tick in axis.get_ticklabels()]
                        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis)]

        self.assertEqual(ticks_of([1000000, 1000001, 1000002])[0], ["1000000", "1000001", "1000002"])
        self.assertEqual(ticks_of([10, 11, 12, 200])[0], ["10", "20", "50", "100", "200"])
        ticks_of([0, 10, 100, 1000])
        for near in (1e5, 1e-14):
            texts = ticks_of([1, 2], lambda x: near * (1 + 1e-9 * x))[1]
            self.assertGreater(len(set(texts)), 1)
            self.assertEqual(len(set(texts)), len(texts))

    def test_where_a_sweep_chooses_only_the_best_count(self):
        make_sweep(self.folder / "sweep", "groups", {1: (0.1, 0.2), 4: (0.5, 0.6)})
        file = self.folder / "sweep/results.json"
        results = json.loads(file.read_text())
        results["cells"] = [{**cell, "measures": {"interior_slope": 9}} for cell in results["cells"]]
        file.write_text(json.dumps({**results, "choose": "learning_rate=max:interior_slope"}))
        out, summary = self.plots("--x", "groups", "--y", "interior_slope")
        self.assertEqual(out[0], "interior_slope by groups: mean and range over seed, 2 cells each, of "
                         "the best learning_rate alone. Of 8 cells 4 are not finished.")
        self.assertAlmostEqual(summary["points"][0]["mean"], 0.15)

    def test_text_lies_within_the_page_and_apart(self):
        norms = ["instance", "group", "group_population", "position", "rms", "batch", "none"]
        for over, x, by, title in (
                (OVER, "depth", "norm", None), (OVER, "norm", None, "A title"),
                ({"norm": norms, "seed": [0, 1]}, "norm", None, None),
                ({"norm": norms, "seed": list(range(50))}, "seed", "norm", "Many lines"),
                ({"norm": norms[:2], "multipliers": ["1,2,4,8,16,32", "1,4,8,4,2,1"]}, "norm",
                 "multipliers", None)):
            cells, *_ = plot_sweep.load(self.sweep(over, lambda cell: {"slope": 0.5}))
            points = plot_sweep.points_of(cells, x, "slope", by)
            with self.subTest(x=x, by=by), style.looks():
                self.assert_texts_apart(plot_sweep.draw(points, x, "slope", by, "words " * 30, title))

    def test_other_formats(self):
        self.assert_formats("plot", self.sweep(), "--x", "depth", "--y", "slope")

    @unittest.skipUnless(BIN, "SIDECHANNEL_BIN is not set")
    def test_a_sweep_killed_and_continued_its_table_and_its_plot(self):
        out = self.folder / "sweep"
        line = [f"{BIN}/sweep", "run", "--program", "localization", "--over", "norm=instance,none",
                "--over", "depth=3..5", "--over", "seed=0..3", "--device", "cpu", "--out", str(out)]
        for value in ("length=20", "channels=8", "kernel_size=3", "batch=4", "iterations=50",
                      "map_samples=128", "probes=none"):
            line += ["--set", value]
        child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(out.glob("cells/*/summary.json")) and child.poll() is None:
            time.sleep(0.002)
        child.kill()
        child.wait()
        self.assertLess(len(list(out.glob("cells/*/summary.json"))), 24)
        for words in (line, [f"{BIN}/sweep", "collect", "--out", str(out)]):
            subprocess.run(words, check=True, capture_output=True)
        with open(out / "cells.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([(row["norm"], row["depth"], row["seed"]) for row in rows],
                         [(norm, str(depth), str(seed)) for seed in range(4) for depth in (3, 4, 5)
                          for norm in ("instance", "none")])
        for row in rows:
            summary = json.loads((out / "cells" / row["id"] / "summary.json").read_text())
            self.assertEqual(float(row["final_loss"]), summary["final_loss"])
            self.assertEqual(float(row["localized_fraction"]), summary["localized_fraction"][-1])
        _, summary = self.plots("--x", "depth", "--y", "localized_fraction", "--by", "norm")
        self.assertEqual([(point["norm"], point["depth"], point["cells"]) for point in summary["points"]],
                         [(norm, depth, 4) for norm in ("instance", "none") for depth in (3, 4, 5)])

    def test_misuse_and_damaged_files(self):
        sweep = self.sweep()
        self.refuses(2, "--y", sweep, "--x", "depth")
        self.refuses(2, "--x lenght: expected one of norm, depth, seed", sweep, "--x", "lenght", "--y",
                     "slope")
        self.refuses(2, "--y depth: expected one of slope, loss", sweep, "--x", "norm", "--y", "depth")
        self.refuses(2, "--by norm: expected one of depth, seed", sweep, "--x", "norm", "--y", "slope",
                     "--by", "norm")
        (sweep / "plan.json").touch()
        self.refuses(2, "plan.json: is a file of the run or sweep in that folder", sweep, "--x", "norm",
                     "--y", "slope", "--summary", sweep / "plan.json")
        self.refuses(1, "loss is not defined in any cell", sweep, "--x", "norm", "--y", "loss")
        asked = (sweep, "--x", "norm", "--y", "slope")
        file = sweep / "results.json"
        whole = json.loads(file.read_text())
        cell = whole["cells"][0]
        for change, message in (
                ({"cells": 3}, "cells is 3, expected a list of objects"),
                ({"cells": []}, "no cell is finished yet; `sweep run` goes on"),
                ({"cells": [{**cell, "measures": None}]}, "no cell is finished yet"),
                ({"cells": [{**cell, "measures": 3}]}, "a cell: measures is 3, expected an object"),
                ({"cells": [{**cell, "measures": {"slope": "x"}}]}, "a cell: slope is 'x'"),
                ({"cells": [{**cell, "norm": None}]}, "a cell: norm is None"),
                ({"cells": [cell, {"id": "x", "measures": {}}]}, "a cell: has no norm"),
                ({"choose": 3}, "choose is 3, expected a text")):
            with self.subTest(message=message):
                file.write_text(json.dumps({**whole, **change}))
                self.refuses(1, message, *asked)
        file.unlink()
        self.refuses(1, "no results.json; `sweep collect` makes it", *asked)
        self.refuses(1, "no such folder", self.folder / "absent", *asked[1:])


if __name__ == "__main__":
    unittest.main()
