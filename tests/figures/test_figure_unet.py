"""Tests of experiments/figures/figure_unet.py."""

import json
import unittest

from figure_test import FigureTest
from test_figure1 import make_run

import figure_unet
import style

import numpy as np

LENGTH, REACH = 32, 8
KINDS = ("group", "group_population", "position", "none")


def make_unet(path, norm, follows=None, multipliers="1,2", length=LENGTH, **how):
    """A run of `localization run --network unet --probes none`, whose one layer is the output."""
    make_run(path, norm, length=length, depth=1, follows=norm == "group" if follows is None else follows,
             statistics="population" if norm == "group_population" else "minibatch", **how)
    localized = np.zeros((1, length), bool)
    edges = REACH if not how.get("plateau") else 0
    localized[:, :edges] = localized[:, length - edges:] = True
    np.save(path / "localized.npy", localized | (norm == "group" and follows is not False))
    for name, change in (("summary", {"receptive_field": REACH, "network": "unet"}),
                         ("config", {"settings": {"norm": norm, "groups": 2, "network": "unet",
                                                  "multipliers": multipliers, "length": length}})):
        file = path / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return path


class FigureUnetTest(FigureTest):
    module = figure_unet

    def make(self, name=None, **how):
        """The four folders."""
        place = self.folder / (name or str(len(list(self.folder.iterdir()))))
        return [make_unet(place / norm, norm, **how.get(norm, {}), **how.get("all", {}))
                for norm in KINDS]

    def change(self, run, change):
        localized = np.load(run / "localized.npy")
        change(localized[-1])
        np.save(run / "localized.npy", localized)

    def test_files_summary_and_lines(self):
        runs = self.make()
        out, summary = self.summarizes(*runs)
        self.assertEqual(out[0], "U-Net: of the indices that no end reaches, the U-Net localizes: "
                         "GroupNorm 100 % (slope 1.000); population GroupNorm 0 % (slope 0.000); "
                         "LayerNorm per position 0 % (slope 0.000); without norm 0 % (slope 0.000).")
        for file in (self.picture, self.summary, *runs):
            self.assertIn(str(file), out[1])
        self.assertEqual(list(summary), ["claims", *KINDS])
        for run in runs:
            self.assertEqual(summary[run.name], {**json.loads((run / "summary.json").read_text()),
                                                 "phases": [1.0 if run.name == "group" else 0.0] * 2})
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True] * 4)

    def test_group_norm_may_have_running_statistics(self):
        runs = self.make()
        said = self.summarizes(*runs)
        for name in ("summary", "config"):
            file = runs[0] / f"{name}.json"
            file.write_text(file.read_text().replace('"group"', '"group_population"'))
        self.assertEqual(self.summarizes(*runs)[0], said[0])

    def test_population_statistics_are_of_the_same_network(self):
        runs = self.make()
        for run, weights in zip(runs, (b"a", b"b", b"c", b"d")):
            (run / "model.safetensors").write_bytes(weights)
        self.refuses(2, "hold different networks", *runs)
        (runs[1] / "model.safetensors").write_bytes(b"a")
        self.summarizes(*runs)

    def test_each_claim_fails_where_it_should(self):
        def all_but(phase, share):
            def change(row):
                inner = np.arange(REACH, LENGTH - REACH)
                inner = inner[inner % 2 == phase]
                row[inner[round(share * len(inner)):]] = False
            return change

        def one(row):
            row[LENGTH // 2] = True

        for kind, change, verdicts in (
                ("group", all_but(1, 0.875), [True] * 4),
                # A phase that is not localized is no detail, whatever the other one is.
                ("group", all_but(1, 0.75), [False, True, True, True]),
                ("group", all_but(0, 0), [False, True, True, True]),
                ("group_population", one, [True, False, True, True]),
                ("position", one, [True, True, False, True]),
                ("none", one, [True, True, True, False]),
                # Of a network that has not learned its own ends either, 0 proves nothing.
                ("none", lambda row: row.fill(False), [True, True, True, None])):
            with self.subTest(kind=kind, verdicts=verdicts):
                runs = self.make()
                self.change(runs[KINDS.index(kind)], change)
                self.assertEqual(self.verdicts(*runs), verdicts)
        # Nothing lies beyond the reach.
        out, summary = self.summarizes(*self.make(all={"length": 2 * REACH}))
        self.assertIn("no index lies beyond the reach of 8", out[0])
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [None] * 4)

    def test_the_data_is_what_is_drawn(self):
        runs = self.make(all={"multipliers": "1,4,8"})
        self.change(runs[0], lambda row: row.__setitem__(slice(9, 20, 3), False))
        loaded = list(map(style.load_run, runs))
        with style.looks():
            predictions, *maps = figure_unet.draw(loaded).axes
        for run in loaded:
            self.assertTrue(any(np.array_equal(line.get_ydata(), run.mean) for line in predictions.lines))
        for axes, run in zip(maps, loaded, strict=True):
            rows = np.reshape(axes.collections[0].get_array(), (4, LENGTH // 4))
            for i, localized in enumerate(run.localized[-1]):
                self.assertEqual(rows[i % 4, i // 4], localized)

    def test_text_lies_within_the_page_and_apart(self):
        for how in ({}, {"multipliers": "1,4,8"}, {"multipliers": "1", "length": 12}):
            with self.subTest(how=how), style.looks():
                runs = list(map(style.load_run, self.make(all=how)))
                self.assert_texts_apart(figure_unet.draw(runs, title="A title"))

    def test_a_network_that_learned_nothing_is_named(self):
        runs = self.make(group={"plateau": True, "follows": False})
        self.assertEqual(self.summarizes(*runs)[1]["group"]["notice"], "it learned nothing")

    def test_misuse(self):
        runs = self.make()
        self.refuses(2, "the following arguments are required: RUN_NONE", *runs[:3])
        self.refuses(2, "none: has norm none and minibatch statistics, expected group and minibatch",
                     *reversed(runs))
        self.refuses(2, "has norm group and minibatch statistics, expected group_population and "
                     "population", runs[0], runs[0], *runs[2:])
        other = self.make(none={"length": 40})
        self.refuses(2, "differ in length: 32 and 40", *runs[:3], other[3])
        other = self.make(none={"multipliers": "1,2,4"})
        self.refuses(2, "has multipliers 1,2,4, which do not go with", *runs[:3], other[3])
        localizer = make_run(self.folder / "localizer", "group", length=LENGTH, depth=1)
        self.refuses(2, "not a run of --network unet", localizer, *runs[1:])
        self.refuses(1, "no such folder", self.folder / "absent", *runs[1:])
        file = runs[3] / "config.json"
        config = json.loads(file.read_text())
        for multipliers in (None, 3):
            config["settings"]["multipliers"] = multipliers
            file.write_text(json.dumps(config))
            self.refuses(1, "multipliers is", *runs)


if __name__ == "__main__":
    unittest.main()
