"""Tests of experiments/figures/leak.py."""

import json
import os
import subprocess
import unittest

from figure_test import FigureTest
from planner_folder import make_report, shares

import leak
import style

import numpy as np

BIN = os.environ.get("SIDECHANNEL_BIN")
LAYERS = (("downs.0.block.2", 0.01), ("mid.block.2", 0.04), ("final.block.2", 0.02))


class LeakTest(FigureTest):
    module = leak

    def report(self, l1=0.25, layers=LAYERS, **how):
        return make_report(self.folder / "report.json", l1, layers, **how)

    def test_files_and_lines(self):
        out, summary = self.summarizes(self.report())
        self.assertEqual(out[0], "leak: an output hears 3 positions to the left and 3 to the right "
                         "through its layers; 50 % of all pairs lie there; 25 % of what it hears (|J|) "
                         "comes from beyond, with statistics held exactly nothing; most of it through "
                         "mid.block.2.")
        self.assertIn(str(self.picture), out[1])
        self.assertEqual(summary, {"reading": out[0].removeprefix("leak: ")})

    def test_nothing_is_called_nothing_and_little_is_not(self):
        self.assertIn("exactly nothing of what it hears", self.draws(self.report(0.0, [("a", 0.0)]))[0])
        self.assertNotIn("most of it", self.draws(self.report(0.0, [("a", 0.0)]))[0])
        self.assertIn("< 0.1 % of what it hears", self.draws(self.report(1e-9))[0])
        shares = {"l1": 1e-12, "squared": 1e-24}
        self.assertIn("with statistics held < 0.1 %", self.draws(self.report(frozen=shares))[0])
        field = {"left": [9], "right": [9], "inside": 1.0}
        self.assertIn("all of an input lies there", self.draws(self.report(receptive_field=field))[0])

    def test_the_data_is_what_is_drawn(self):
        report = leak.Report(self.report())
        with style.looks():
            profile, layers = leak.draw(report).axes
        values = json.loads((self.folder / "report.json").read_text())["profile"]
        for line, key in zip(profile.lines, ("live", "frozen"), strict=True):
            drawn = dict(zip(map(int, line.get_xdata()), line.get_ydata()))
            for at, value in enumerate(values[key], values["first"]):
                # Of a logarithm there is no zero.
                self.assertEqual(value or None, None if np.isnan(drawn[at]) else drawn[at], at)
        alone, mean, variance = ([shares(part * l1)["squared"] for _, l1 in LAYERS]
                                 for part in (1, 0.5, 0.8))
        self.assertEqual([patch.get_width() for patch in layers.patches], mean + variance)
        self.assertEqual(list(layers.lines[0].get_xdata()), alone)
        self.assertEqual([text.get_text() for text in layers.get_yticklabels()],
                         [name for name, _ in LAYERS])

    def test_the_largest_of_many_layers_in_their_order(self):
        many = [(f"layer{i}", 0.01 + 0.001 * (i % 40)) for i in range(50)]
        with style.looks():
            _, axes = leak.draw(leak.Report(self.report(layers=many))).axes
        names = [text.get_text() for text in axes.get_yticklabels()]
        self.assertEqual(names, [f"layer{i}" for i in range(50) if i % 40 >= 10])

    def test_text_lies_within_the_page_and_apart(self):
        long = [(f"encoder.stages.{i}.blocks.0.mlp.norm" * 2, 0.1 ** i) for i in range(5)]
        for how in ({}, {"layers": ()}, {"profile": False}, {"layers": long}, {"l1": 0.0},
                    {"layers": [("a", 0.0), ("b", 0.0)]}, {"network": "Wörter " * 40}):
            with self.subTest(how=how), style.looks():
                self.assert_texts_apart(leak.draw(leak.Report(self.report(**how)), None))

    def test_other_formats(self):
        self.assert_formats("leak", self.report(), "--title", "A $title$")

    def test_reports_that_make_no_sense(self):
        whole = json.loads(self.report().read_text())
        file = self.folder / "report.json"
        layer = whole["layers"][0]
        for change, message in (
                ({"schema": 2}, "schema is 2, expected 1"), ({"network": 3}, "network is 3"),
                ({"live": 0.5}, "live is 0.5, expected an object"), ({"live": {"l1": 0.5}}, "no squared"),
                ({"frozen": {"l1": 1.5, "squared": 0}}, "frozen: l1 is 1.5, expected a number from 0"),
                ({"receptive_field": {"left": [], "right": [3], "inside": 0.5}}, "left is None"),
                ({"receptive_field": {"left": [3], "right": [3], "inside": 2}}, "inside is 2"),
                ({"layers": [{**layer, "alone": {}}]}, "alone: has no l1"),
                ({"layers": 3}, "layers is 3"), ({"profile": []}, "profile is"),
                ({"profile": {**whole["profile"], "live": ["x"]}}, "live is"),
                ({"profile": {**whole["profile"], "frozen": [1]}}, "numbers live and 1 held"),
                ({"profile": {**whole["profile"], "first": 1}}, "first is 1")):
            with self.subTest(message=message):
                file.write_text(json.dumps({**whole, **change}))
                self.refuses(1, message, file)
        file.write_text("{")
        self.refuses(1, "not JSON", file)
        self.refuses(1, "No such file", self.folder / "absent.json")

    @unittest.skipUnless(BIN, "SIDECHANNEL_BIN is not set")
    def test_what_the_meter_writes(self):
        for norm, says in (("group", "% of what it hears"), ("none", "exactly nothing of what it hears")):
            file = self.folder / f"{norm}.json"
            subprocess.run([f"{BIN}/leak", "measure", "--norm", norm, "--multipliers", "1", "--dim", "8",
                            *(["--groups", "2"] if norm == "group" else []), "--kernel-size", "3",
                            "--length", "32", "--outputs", "2", "--inputs", "1", "--device", "cpu",
                            "--out", str(file)], check=True, capture_output=True)
            out = self.draws(file)
            self.assertIn(says, out[0])
            self.assertIn("hears 9 positions to the left", out[0])


if __name__ == "__main__":
    unittest.main()
