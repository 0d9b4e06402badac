"""Tests of experiments/figures/figure3.py."""

import json
import subprocess
import sys
import unittest

from figure_test import FIGURES, FigureTest

import figure3
import style

import numpy as np

# What the demo gave.
DEMO = {0: 1.011, 4: 1.002, 8: 1.003, 12: 1.003, 14: 0.351, 16: 0.195, 18: 0.115, 20: 0.039,
        24: 0.010, 28: 0.001, 32: 0.003, 33: 1.000}


def make_run(folder, errors=None, length=33):
    """A folder as `overlap` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [{"overlap": overlap, "length": length, "mse": mse, "pairs": 100, "seed": 0,
               "seconds": 1.5} for overlap, mse in (errors or DEMO).items()]
    (folder / "summary.json").write_text(json.dumps({
        "length": length, "depth": 8, "channels": 32, "receptive_field": length // 2,
        "iterations": 3000, "batch": 16, "points": points}))
    return folder


class Figure3Test(FigureTest):
    module = figure3

    # --- What it draws and says ---

    def test_files_summary_and_lines(self):
        run = make_run(self.folder / "run")
        out, summary = self.summarizes(run)
        self.assertEqual(len(out), 2, out)
        self.assertEqual(out[0], "overlap: up to ℓ/4 shared, error 1.01; ½ is crossed at "
                         "o = 13.5 (ℓ/2 = 16.5); from 3ℓ/4 on ≤ 0.003; identical: 1.00.")
        for file in (self.picture, self.summary, run):
            self.assertIn(str(file), out[1])
        self.assertEqual(summary["points"],
                         json.loads((run / "summary.json").read_text())["points"])
        self.assertEqual({name: claim["pass"] for name, claim in summary["claims"].items()},
                         dict.fromkeys(("few_shared", "crossing", "many_shared", "identical"),
                                       True))

    def test_claims_fail_where_they_should(self):
        def verdicts(changes, drop=()):
            errors = {o: mse for o, mse in sorted({**DEMO, **changes}.items()) if o not in drop}
            run = figure3.load(make_run(self.folder / "run", errors))
            return [claim["pass"] for claim in figure3.Claims(run).summary().values()]

        self.assertEqual(verdicts({}), [True, True, True, True])
        self.assertEqual(verdicts({8: 0.94}), [False, True, True, True])
        self.assertEqual(verdicts({9: 0.94}), [True, True, True, True])  # beyond l/4
        self.assertEqual(verdicts({25: 0.11}), [True, True, False, True])
        self.assertEqual(verdicts({24: 0.11}), [True, True, True, True])  # before 3l/4
        self.assertEqual(verdicts({33: 0.94}), [True, True, True, False])
        self.assertEqual(verdicts({12: 0.3}), [True, False, True, True])  # crosses at 9.9
        self.assertEqual(verdicts({}, drop=(33,)), [True, True, True, None])
        # Worse than answering 0 is not what the paper says either.
        self.assertEqual(verdicts({4: 1.06}), [False, True, True, True])
        self.assertEqual(verdicts({33: 7.0}), [True, True, True, False])
        # Back above one half and down again, far from the middle.
        self.assertEqual(verdicts({20: 0.9}), [True, False, True, True])
        # No transition, where there are points on both sides of it: solved from the start, or never.
        solved = {o: 0.01 for o in DEMO}
        self.assertEqual(verdicts(solved), [False, False, True, False])
        self.assertEqual(verdicts(dict.fromkeys(DEMO, 1.0)), [True, False, False, True])
        self.assertEqual(verdicts({}, drop=range(14, 33)), [True, None, None, True])

    def test_the_crossing_is_between_its_neighbours(self):
        run = figure3.load(make_run(self.folder / "run", {0: 1.0, 10: 0.75, 20: 0.25, 30: 0.0}))
        self.assertEqual(figure3.Claims(run).crossing, 15)

    def test_the_data_is_what_is_drawn(self):
        run = figure3.load(make_run(self.folder / "run"))
        with style.looks():
            axes, = figure3.draw(run).axes
        lines = {tuple(line.get_xdata()): list(line.get_ydata()) for line in axes.lines}
        curve = {o: mse for o, mse in DEMO.items() if o < 33}
        self.assertEqual(lines[tuple(curve)], list(curve.values()))
        self.assertEqual(lines[(33,)], [1.0])  # a point of its own: no line leads there
        self.assertEqual({x[0] for x in lines if len(x) == 2 and x[0] == x[1]}, {16.5})

    def test_text_lies_within_the_page_and_apart(self):
        paper = {o: 1.0 if o < 64 or o == 129 else 0.01 for o in (*range(0, 129, 8), 129)}
        for length, errors, title in ((33, DEMO, None), (129, paper, "A title"),
                                      (3, {0: 1.0, 1: 1.0, 2: 0.9, 3: 1.0}, None),
                                      (33, {**DEMO, 0: 3.7}, None),
                                      (27501, {0: 1.0, 20000: 0.1}, None),
                                      (100000, {0: 1.0, 100000: 1.0}, None)):
            with self.subTest(length=length), style.looks():
                run = figure3.load(make_run(self.folder / "run", errors, length))
                self.assert_texts_apart(figure3.draw(run, title))

    def test_it_survives_greyscale(self):
        def lightness(colour):
            return np.dot([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)],
                          [0.2126, 0.7152, 0.0722])
        self.assertGreater(abs(lightness(style.WITH_NORM) - lightness(style.WITHOUT_NORM)), 0.2)

    def test_other_formats_and_unfinished_runs(self):
        run = make_run(self.folder / "run", {0: 1.0})
        self.assertEqual(self.assert_formats("figure3", run)[0],
                         "overlap: up to ℓ/4 shared, error 1.00.")

    def test_as_a_program(self):
        run = make_run(self.folder / "run")
        done = subprocess.run([sys.executable, str(FIGURES / "figure3.py"), str(run), "--out",
                               "figure3.png"], cwd=self.folder, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue((self.folder / "figure3.png").exists())

    # --- What it refuses ---

    def test_misuse(self):
        run = make_run(self.folder / "run")
        self.fails(2, "--out", run)
        self.fails(2, "a .png, .pdf or .svg", run, "--out", "figure3.gif")
        same = make_run(self.folder / "same", {33: 1.0})
        self.refuses(2, "no overlap below the whole length", same)

    def test_missing_and_damaged_files(self):
        self.refuses(1, "no such folder", self.folder / "absent")
        run = make_run(self.folder / "run")
        file = run / "summary.json"
        whole = json.loads(file.read_text())
        file.unlink()
        self.refuses(1, "no summary.json; .overlap run. with the same settings", run)
        for content, message in (
                (b"", "summary.json: not JSON"), (b"[]", "summary.json: not a JSON object"),
                (b"{", "summary.json: not JSON"), (b"{}", "summary.json: has no length")):
            file.write_bytes(content)
            self.refuses(1, message, run)
        for change, message in (
                ({"length": 0}, "length is 0, expected an integer from 1 on"),
                ({"points": []}, "has no points"),
                ({"points": [3]}, r"points is \[3\], expected a list of objects"),
                ({"points": [{"overlap": 34, "mse": 1}]}, "overlap is 34, expected"),
                ({"points": [{"overlap": 3}]}, "at overlap 3: has no mse"),
                ({"points": [{"overlap": 3, "mse": -1}]},
                 "at overlap 3: mse is -1, expected a number from 0 on"),
                ({"points": [{"overlap": 3, "mse": float("nan")}]}, "not JSON"),
                ({"points": [{"overlap": o, "mse": 1} for o in (4, 3)]}, "do not rise")):
            with self.subTest(message=message):
                file.write_text(json.dumps({**whole, **change}))
                self.refuses(1, message, run)


if __name__ == "__main__":
    unittest.main()
