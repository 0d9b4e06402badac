"""Tests of experiments/figures/figure_learning.py."""

import json
import unittest

from figure_test import FigureTest
from planner_folder import HORIZON, NOISE, STEPS, leak_of, make_localizer, make_planner, make_report

import figure_learning
import style

import numpy as np

SHARES = {"instance": (0.1, 0.4), "position": (0.0, 0.0), "none": (0.0, 0.0)}
PLANNERS = ("group", "position", "none")


class FigureLearningTest(FigureTest):
    module = figure_learning

    def make(self, seeds=2, localizers=None, leak=leak_of):
        place = self.folder / str(len(list(self.folder.iterdir())))
        return [
            *(make_localizer(place / f"{norm}-{seed}", norm, *shares, seed)
              for norm, shares in {**SHARES, **(localizers or {})}.items() for seed in range(seeds)),
            *(make_planner(place / f"planner-{norm}-{seed}", norm, seed,
                           leak=lambda *of: (1 + seed) * leak(*of),
                           population=0.3 if norm == "group" else None)
              for norm in PLANNERS for seed in range(seeds))]

    def change(self, folder, name, change):
        file = folder / name
        value = json.loads(file.read_text())
        change(value)
        file.write_text(json.dumps(value))

    def test_files_summary_and_lines(self):
        folders = self.make()
        out, summary = self.summarizes(*folders)
        self.assertEqual(out[0], "leak: while the U-Net with GroupNorm learns to plan, the share of |J| "
                         "from beyond its receptive field rises, from 5 % to 11 %; LayerNorm per "
                         "position and without norm: exactly 0 at every step; the localizer's with "
                         "InstanceNorm rises, from 10 % to 40 %.")
        for file in (self.picture, self.summary, *folders):
            self.assertIn(str(file), out[1])
        self.assertEqual(list(summary), ["claims", "planners", "localizers"])
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True] * 4)
        for claim in summary["claims"].values():
            self.assertEqual([seed["seed"] for seed in claim["seeds"]], [0, 1])
        self.assertEqual([line["step"] for line in summary["planners"]["group"]["1"]], list(STEPS))
        # In any order.
        self.assertEqual(self.summarizes(*reversed(folders))[0][0], out[0])

    def test_each_claim_fails_where_it_should(self):
        def verdicts(change=None, name="leak.json", folder=-1, **how):
            """`change` is made to a file of one of the folders."""
            folders = self.make(**how)
            if change:
                self.change(folders[folder], name, change)
            claims = self.summarizes(*folders)[1]["claims"]
            return [claims[key]["pass"] for key in ("localizer", "localizer-others", "held", "cannot")]

        self.assertEqual(verdicts(), [True] * 4)
        self.assertEqual(verdicts(localizers={"instance": (0.4, 0.4)}), [False, True, True, True])
        # One seed of two.
        self.assertEqual(verdicts(lambda report: report.update(live={"l1": 0.01, "squared": 0}),
                                  "leak-trained.json", 1), [False, True, True, True])
        # However little it is; in squares alone.
        for norm in ("position", "none"):
            self.assertEqual(verdicts(localizers={norm: (0.0, 1e-30)}), [True, False, True, True])
        self.assertEqual(verdicts(localizers={"none": (1e-30, 0.0)}), [True, False, True, True])

        def little(part, horizon=HORIZON):
            def change(leak):
                line = next(line for line in leak["lines"] if line["horizon"] == horizon)
                line[part] = {"l1": 0, "squared": 1e-30}
            return change

        self.assertEqual(verdicts(little("live")), [True, True, True, False])
        self.assertEqual(verdicts(little("live", 2 * HORIZON)), [True, True, True, False])
        for folder in (-1, -5):  # of no norm, of GroupNorm
            self.assertEqual(verdicts(little("frozen"), folder=folder), [True, True, False, True])
        # Where GroupNorm is not heard either, or nothing at all, zeros prove nothing.
        self.assertEqual(verdicts(leak=lambda *_: 0.0), [True, True, None, None])
        silent = {"first": 0, "live": [0.0], "frozen": [0.0]}
        self.assertEqual(verdicts(lambda report: report.update(profile=silent), "leak-initial.json", 2),
                         [True, None, True, True])

    def test_what_rises_and_what_falls(self):
        for pairs, says in (([(1, 2), (2, 3)], "rises"), ([(2, 1)], "falls"),
                            ([(1, 2), (2, 1)], "rises for 1 of 2 seeds"),
                            ([(1, 1)], "stays"), ([(1, 1), (2, 1)], "rises for 0 of 2 seeds")):
            self.assertEqual(figure_learning.moves(pairs), says)
        falling = self.make(leak=lambda norm, step, *_: (0.2 - 0.001 * step) * (norm == "group"))
        out, summary = self.summarizes(*falling)
        self.assertIn("receptive field falls, from 30 % to 15 %", out[0])
        # Which is a reading: no claim says which way it goes.
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True] * 4)

    def test_the_data_is_what_is_drawn(self):
        localizers, planners = figure_learning.load(self.make())
        with style.looks():
            step, noise, horizon, difference, bars = figure_learning.draw(localizers, planners).axes

        def mean(of, **where):
            """Over both seeds, the second of which leaks twice as much, and over what `where` leaves."""
            where = {"step": STEPS, "noise": NOISE, "horizon": [HORIZON], **where}
            return 1.5 * np.mean([of(leak_of("group", s, n, h)) for s in where["step"]
                                  for n in where["noise"] for h in where["horizon"]])

        for axes, key, at, more, of in (
                (step, "step", STEPS, {}, float), (noise, "noise", NOISE, {"step": [100]}, float),
                (horizon, "horizon", (32, 64, 128), {"step": [100]}, float),
                (difference, "step", STEPS, {}, lambda share: 2 * share)):
            group, *others = axes.lines
            np.testing.assert_allclose(group.get_ydata(), [mean(of, **{**more, key: [x]}) for x in at])
            for line in others:
                self.assertEqual(set(line.get_ydata()), {0.0})
                self.assertFalse(line.get_clip_on())  # zeros lie on the frame and show
        self.assertEqual([bar.get_height() for bar in bars.patches], [0.1, 0.4, 0, 0, 0, 0])
        self.assertEqual([text.get_text() for text in bars.texts], ["0"] * 4)

    def test_text_lies_within_the_page_and_apart(self):
        for how in ({}, {"seeds": 1}, {"leak": lambda *_: 0.0},
                    {"localizers": {"instance": (0.0, 0.001)}}):
            with self.subTest(how=how), style.looks():
                self.assert_texts_apart(figure_learning.draw(*figure_learning.load(self.make(**how)),
                                                             "A title"))

    def test_misuse(self):
        folders = self.make()
        localizers, planners = folders[:6], folders[6:]
        self.refuses(2, "no localizer with norm instance", *planners, *localizers[2:])
        self.refuses(2, "planners of 0 reaches were given", *localizers)
        self.refuses(2, "no planner with norm group", *localizers, *planners[2:])
        self.refuses(2, r"norm position has the seeds \[0, 1\], norm group \[0\]", *localizers,
                     planners[0], *planners[2:])
        self.refuses(2, "have the same norm, reach and seed", *folders, planners[0])
        self.refuses(2, "another run has norm instance and seed 0", *folders, localizers[0])
        wide = make_planner(self.folder / "wide", "group", 0, kernel_size=5)
        self.refuses(2, "planners of 2 reaches", *folders, wide)
        self.change(planners[3], "config.json", lambda config: config["settings"].update(iterations=7))
        self.refuses(2, "differ in iterations: 100 and 7", *folders)

    def test_missing_and_damaged_files(self):
        folders = self.make()
        localizer, planner = folders[0], folders[-1]
        self.refuses(1, "has neither the leak.json of `diffusion run` nor the reports leak-initial.json "
                     "and leak-trained.json", *folders, self.folder)
        for folder, name, message in ((localizer, "leak-trained.json", "has neither"),
                                      (localizer, "summary.json", "not finished"),
                                      (planner, "summary.json", "not finished"),
                                      (planner, "config.json", "No such file"),
                                      (planner, "leak.json", "has neither")):
            whole = (folder / name).read_bytes()
            for content in (None, b"", whole[:len(whole) // 2], b"[]"):
                with self.subTest(name=name, content=content):
                    (folder / name).unlink(missing_ok=True)
                    if content is not None:
                        (folder / name).write_bytes(content)
                    self.refuses(1, message if content is None else f"{name}: not", *folders)
            (folder / name).write_bytes(whole)
        for name, change, message in (
                ("leak.json", {"lines": []}, "leak.json: has no line of horizon 64"),
                ("leak.json", {"lines": [3]}, "lines is"), ("leak.json", {"lines": [{}]}, "has no step"),
                ("summary.json", {"norm": "batch"}, "norm is 'batch'"),
                ("summary.json", {"seed": -1}, "seed is -1"),
                ("summary.json", {"reach": {"left": 3}}, "reach: has no right"),
                ("summary.json", {"held_out": {}}, "held_out: has no inside"),
                ("config.json", {"settings": 3}, "settings is 3")):
            whole = (planner / name).read_bytes()
            with self.subTest(message=message):
                self.change(planner, name, lambda value: value.update(change))
                self.refuses(1, message, *folders)
            (planner / name).write_bytes(whole)
        whole = (planner / "leak.json").read_bytes()
        first, *others = json.loads(whole)["lines"]
        for code, lines, message in (
                (1, [{**first, "live": {"l1": 2, "squared": 0}}, *others], "live: l1 is 2"),
                (1, [{**first, "difference": None}, *others], "difference is None"),
                (1, [{**first, "inside": 1.5}, *others], "inside is 1.5"),
                (2, others, "were measured at different steps")):
            (planner / "leak.json").write_text(json.dumps({"lines": lines}))
            self.refuses(code, message, *folders)
        (planner / "leak.json").write_bytes(whole)
        make_report(localizer / "leak-trained.json", 0.4, schema=2)
        self.refuses(1, "leak-trained.json: schema is 2", *folders)


if __name__ == "__main__":
    unittest.main()
