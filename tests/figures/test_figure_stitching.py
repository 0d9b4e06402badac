"""Tests of experiments/figures/figure_stitching.py."""

import json
import unittest

from figure_test import FigureTest
from planner_folder import HORIZON, leak_of, make_planner

import figure_stitching
import planners
import style

import numpy as np

NORMS = ("group", "group_population", "position", "rms", "none")
# Of each norm the valid share of held-out pairs, by seed.
VALID = {"group": (0.5, 0.6, 0.7), "group_population": (0.1, 0.1, 0.1), "position": (0.7, 0.81, 0.9),
         "rms": (0.4, 0.7, 0.7), "none": (0.5, 0.6, 0.7)}


class FigureStitchingTest(FigureTest):
    module = figure_stitching

    def make(self, valid=None, trained=0.8, leak=leak_of, kernels=(3, 5), norms=NORMS, **how):
        place = self.folder / str(len(list(self.folder.iterdir())))
        of = {**VALID, **(valid or {})}
        runs = [norm for norm in norms if norm != "group_population"]
        twice = ["group"] if runs != list(norms) else []  # plan with population statistics, too
        return [make_planner(place / f"{kernel}-{norm}-{seed}", norm, seed, share, trained, kernel, leak,
                             of["group_population"][seed] if norm in twice else None, **how)
                for kernel in kernels for norm in runs for seed, share in enumerate(of[norm])]

    def verdicts_of(self, **how):
        claims = figure_stitching.claims(planners.load_all(self.make(**how)))
        return [claims[key]["pass"] for key in ("plans", "group", "cannot")]

    def test_files_summary_and_lines(self):
        folders = self.make()
        out, summary = self.summarizes(*folders)
        says = ("GroupNorm plans better than population GroupNorm (+50.0 ± 24.8 points); GroupNorm plans "
                "worse than LayerNorm per position (−20.3 ± 1.4 points); no difference seen from RMSNorm "
                "per position (+0.0 ± 24.8 points) and without norm (+0.0 ± 0.0 points).")
        self.assertEqual(out[:2], [f"stitching: Reach 7/7 (k = 3, multipliers 1): {says}",
                                   f"stitching: Reach 14/14 (k = 5, multipliers 1): {says}"])
        for file in (self.picture, self.summary, *folders):
            self.assertIn(str(file), out[2])
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True] * 3)
        short, long = summary["reaches"]
        for norm in NORMS:
            self.assertEqual(short["norms"][norm]["held_out"]["valid"], list(VALID[norm]))
            self.assertEqual(short["norms"][norm]["trained"]["valid"], [0.8] * 3)
        # The same networks, measured with live statistics, with which these do not plan.
        self.assertEqual(long["norms"]["group_population"]["leak"], [])
        self.assertEqual(self.summarizes(*reversed(folders))[0][:2], out[:2])

    def test_intervals(self):
        # Of Student's t, from tables.
        for freedom, value in ((1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (99, 1.984)):
            self.assertAlmostEqual(figure_stitching.t_quantile(freedom), value, 3)
        by_norm = next(iter(planners.load_all(self.make(kernels=(3,))).values()))
        found = {d.norm: d for d in figure_stitching.differences(by_norm)}
        self.assertEqual(list(found), list(NORMS[1:]))
        # Paired: from seed to seed both are better or worse together.
        self.assertAlmostEqual(found["position"].mean, -0.61 / 3)
        self.assertAlmostEqual(found["position"].half,
                               4.3027 * np.std([0.2, 0.21, 0.2], ddof=1) / 3 ** 0.5, 5)
        self.assertEqual((found["none"].mean, found["none"].half), (0, 0))

    def test_one_seed_has_no_interval(self):
        valid = {norm: shares[:1] for norm, shares in VALID.items()}
        out, summary = self.summarizes(*self.make(valid))
        self.assertTrue(out[0].endswith(
            ": one seed, so no interval: compared with population GroupNorm (+40.0 points), LayerNorm "
            "per position (−20.0 points), RMSNorm per position (+10.0 points) and without norm (+0.0 "
            "points)."),
            out[0])
        self.assertIsNone(summary["reaches"][0]["differences"][0]["half"])
        self.assertNotIn("better", out[0] + out[1])
        with style.looks():
            figure = figure_stitching.draw(planners.load_all(self.make(valid)))
            self.assertNotIn("interval over", " ".join(text.get_text() for text in figure.texts))

    def test_no_claim_has_a_direction(self):
        """Either outcome is a result."""
        for valid in ({"group": (1.0, 1.0, 1.0)}, {"group": (0.0, 0.0, 0.0)}, {}):
            self.assertEqual(self.verdicts_of(valid=valid), [True] * 3)

    def test_each_claim_fails_where_it_should(self):
        def at(norm, share, **where):
            """A leak of that norm alone, where asked."""
            def leak(of, step, noise, horizon):
                here = {"step": step, "noise": noise, "horizon": horizon}
                return share if of == norm and all(here[k] == v for k, v in where.items()) \
                    else leak_of(of, step, noise, horizon)
            return leak

        # It is the best norm that must plan, at each reach and seed.
        self.assertEqual(self.verdicts_of(trained=0.49), [False, True, True])
        folders = self.make(trained=0.4)
        for folder, verdict in ((folders[0], False), (folders[-3], True)):
            for seed in range(3):
                file = folder.parent / folder.name.replace("-0", f"-{seed}") / "summary.json"
                summary = json.loads(file.read_text())
                summary["trained"]["valid"] = 0.6
                file.write_text(json.dumps(summary))
            claims = figure_stitching.claims(planners.load_all(folders))
            self.assertIs(claims["plans"]["pass"], verdict)
        # GroupNorm must leak when it is trained, at the plans' horizon.
        self.assertEqual(self.verdicts_of(leak=at("group", 0.0, step=100)), [True, False, True])
        self.assertEqual(self.verdicts_of(leak=at("group", 0.0, step=30)), [True, True, True])
        # The others never.
        for norm in ("position", "rms", "none"):
            leak = at(norm, 1e-30, step=10, noise=2, horizon=2 * HORIZON)
            self.assertEqual(self.verdicts_of(leak=leak), [True, True, False])
        # Fields that hold everything prove nothing.
        self.assertEqual(self.verdicts_of(kernels=(101,)), [True, None, None])
        self.assertEqual(self.verdicts_of(kernels=(3, 101)), [True] * 3)
        self.assertEqual(self.verdicts_of(kernels=(3, 7)), [True] * 3)  # all of a plan, not of twice one
        self.assertEqual(self.verdicts_of(norms=("group", "group_population")), [True, True, None])

    def test_without_pairs_held_out(self):
        folders = self.make(held_out=None)
        out, summary = self.summarizes(*folders)
        self.assertTrue(out[0].endswith(": nothing to compare."), out[0])
        self.assertEqual([claim["pass"] for claim in summary["claims"].values()], [True] * 3)

    def test_the_data_is_what_is_drawn(self):
        by_reach = planners.load_all(self.make())
        with style.looks():
            figure = figure_stitching.draw(by_reach)
        for (valid, leak), by_norm in zip(zip(figure.axes[::2], figure.axes[1::2]), by_reach.values(),
                                          strict=True):
            dots = [list(line.get_xdata()) for line in valid.lines if line.get_marker() == "o"]
            self.assertEqual(dots, [[0.8] * 3] * len(NORMS) + [list(VALID[norm]) for norm in NORMS])
            means = [float(line.get_xdata()[0]) for line in valid.lines if line.get_marker() == "|"]
            np.testing.assert_allclose(means[len(NORMS):], [np.mean(VALID[norm]) for norm in NORMS])
            leaks = [list(line.get_xdata()) for line in leak.lines if line.get_marker() == "o"]
            self.assertEqual(leaks, [figure_stitching.leaks_of(by_norm[norm]) for norm in NORMS
                                     if norm != "group_population"])
            self.assertEqual(leaks[1:], [[0.0] * 3] * 3)
        texts = [text.get_text() for text in figure.texts]
        for cell in ("60 ± 10", "80 ± 10", "0.40 ± 0.10", "0", "–"):
            self.assertIn(cell, texts)

    def test_cells(self):
        form = figure_stitching.tenths
        self.assertEqual([form(share) for share in (0, 1e-9, 0.0004, 0.012, 1)],
                         ["0", "< 0.1", "< 0.1", "1.2", "100.0"])
        cell = figure_stitching.cell
        self.assertEqual([cell(values, form) for values in ([], [0.5], [0.0, 0.0], [0.1, 0.2])],
                         ["–", "50.0", "0", "15.0 ± 7.1"])

    def test_text_lies_within_the_page_and_apart(self):
        five = {norm: [*shares, 0.31, 1.0] for norm, shares in VALID.items()}
        for how in ({}, {"valid": five}, {"valid": {norm: (1.0,) for norm in NORMS}}, {"held_out": None},
                    {"kernels": (3,)}, {"kernels": (3, 5, 7)}, {"leak": lambda *_: 0.0}):
            with self.subTest(how=how), style.looks():
                by_reach = planners.load_all(self.make(**how))
                self.assert_texts_apart(figure_stitching.draw(by_reach, "A title"))

    def test_misuse(self):
        folders = self.make()
        self.refuses(2, "no planner with norm group", *folders[3:])
        self.refuses(2, r"norm none has the seeds \[0, 1\], norm group \[0, 1, 2\]", *folders[:-1])
        self.refuses(2, "have the same norm, reach and seed", *folders, folders[0])
        self.refuses(1, "no such folder", *folders, self.folder / "absent")
        file = folders[0] / "config.json"
        config = json.loads(file.read_text())
        config["settings"]["side"] = 5
        file.write_text(json.dumps(config))
        self.refuses(2, "differ in side: 5 and None", *folders)


if __name__ == "__main__":
    unittest.main()
