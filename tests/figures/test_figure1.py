"""Tests of experiments/figures/figure1.py."""

import json
import os
import subprocess
import sys
import unittest

from figure_test import FIGURES, FigureTest

import figure1
import style

import numpy as np

KERNEL = 5


def make_run(path, norm, length=24, depth=4, statistics="minibatch", follows=None, plateau=False,
             samples=3, input_="noise"):
    """A run folder as `localization run` leaves it, of a network that follows the position
    everywhere, or within its receptive field only, or (on the plateau) nowhere."""
    follows = norm != "none" if follows is None else follows
    reach = KERNEL // 2 * depth
    y = style.target(length)
    interior = slice(reach, length - reach)
    localized = np.zeros((depth, length), bool)
    for layer in range(1, depth + 1):
        cone = min(KERNEL // 2 * layer + (3 * (layer - 1) if follows else 0), length)
        localized[layer - 1, :cone] = localized[layer - 1, length - cone:] = True
    mean = y.copy()
    if not follows:
        mean[interior] = 0
    if plateau:
        mean[:], localized[:] = 0, False
    noise = np.random.default_rng(0).normal(0, 0.001 if plateau else 0.02, (samples, length))
    has_interior = length > 2 * reach
    slope = float(mean[interior] @ y[interior] / (y[interior] @ y[interior])) \
        if length - 2 * reach >= 2 else None
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(
        {"settings": {"norm": norm, "groups": 2, "length": length, "input": input_}, "commit": "0"}))
    (path / "summary.json").write_text(json.dumps({
        "norm": norm, "length": length, "depth": depth, "receptive_field": reach, "seed": 0,
        "eval_statistics": statistics, "final_loss": 0.01, "interior_slope": slope,
        "output_std": 0.001 if plateau else 0.02, "notice": "it learned nothing" if plateau else None,
        "localized_fraction": [float(row.mean()) for row in localized],
        "interior_localized_fraction": [float(row[interior].mean()) if has_interior else None
                                        for row in localized],
        "localization_distance": 1, "samples": 100, "seconds": 1.5}))
    np.save(path / "predictions_mean.npy", mean)
    np.save(path / "predictions_sample.npy", (mean + noise).astype("f4"))
    np.save(path / "localized.npy", localized)
    np.save(path / "p_max.npy", np.where(localized, 0.0, 1.0))
    for name in ("layer_mean", "layer_variance"):
        np.save(path / f"{name}.npy", np.ones((depth, length)))
    return path


class Figure1Test(FigureTest):
    module = figure1

    def make(self, name, norm, **how):
        return make_run(self.folder / name, norm, **how)

    def pair(self, **how):
        return self.make("instance", "instance", **how), self.make("none", "none", **how)

    def draw(self, *arguments):
        out = self.draws(*arguments)
        self.assertEqual(len(out), 3, out)
        return out

    # --- What it draws and says ---

    def test_files_summary_and_lines(self):
        a, b = self.pair()
        out, summary = self.summarizes(a, b)
        self.assertEqual(len(out), 3, out)
        self.assertEqual(list(summary), ["claims", "instance", "none"])
        for key, run in (("instance", a), ("none", b)):
            self.assertEqual(summary[key], json.loads((run / "summary.json").read_text()))
        self.assertEqual(out[0], "(a) predictions: beyond R = 8, without norm the CNN answers 0 "
                         "(slope 0.000); with InstanceNorm it follows the position (slope 1.000).")
        self.assertIn("without norm the CNN stays within the cone", out[1])
        self.assertIn("with InstanceNorm it leaves the cone at layer 2", out[1])
        self.assertIn("100 % of the interior", out[1])
        for file in (self.picture, self.summary, a, b):
            self.assertIn(str(file), out[2])
        self.assertEqual(sorted(p.name for p in self.picture.parent.iterdir()),
                         ["figure.json", "figure.png"])

    def test_same_norm_is_keyed_by_statistics(self):
        a = self.make("mini", "batch")
        b = self.make("pop", "batch", statistics="population", follows=False)
        out, summary = self.summarizes(a, b)
        self.assertEqual(list(summary), ["claims", "minibatch", "population"])
        self.assertIn("with BatchNorm and population statistics the CNN answers 0", out[0])
        self.assertNotIn("failed", out[0])

    def test_failed_run_is_called_one(self):
        a = self.make("group", "group", plateau=True)
        out = self.draw(a, self.make("none", "none"))
        self.assertIn("with GroupNorm (G = 2) it answers 0 (slope 0.000: a failed run", out[0])

    def test_each_claim_fails_where_it_should(self):
        def verdicts(**how):
            names = {"a": "instance", "b": "none"}
            runs = {}
            for key, norm in names.items():
                runs[key] = self.folder / f"{len(list(self.folder.iterdir()))}"
                make_run(runs[key], norm, length=32)  # R = 8
                for file, change in how.get(key, {}).items():
                    path = runs[key] / file
                    if file == "summary.json":
                        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
                    else:
                        array = np.load(path)
                        change(array)
                        np.save(path, array)
            claims = figure1.claims(*map(style.load_run, runs.values()))
            self.assertIs(claims["monotone"]["pass"], how.get("monotone", True))
            return [claims[key]["pass"] for key in ("follows", "interior", "faster", "cone")]

        def share(value):  # of the interior, at the output
            def change(localized):
                localized[-1, 8:24] = np.arange(16) < value * 16
            return {"localized.npy": change}

        def within_cones(localized):
            for layer, row in enumerate(localized, 1):
                row[2 * layer:32 - 2 * layer] = False

        def one_beyond(localized):
            localized[1, 16] = True

        def nothing(localized):
            localized[:] = False

        self.assertEqual(verdicts(), [True, True, True, True])
        for slope in (0.49, 0, -1):
            self.assertEqual(verdicts(a={"summary.json": {"interior_slope": slope}}),
                             [False, True, True, True])
        # 15 pairs of neighbours in the interior, of which one in ten may be out of order.
        for swapped, monotone in ((1, True), (2, False)):
            def swap(mean):
                for i in range(10, 10 + 3 * swapped, 3):
                    mean[[i, i + 1]] = mean[[i + 1, i]]
            self.assertEqual(verdicts(a={"predictions_mean.npy": swap}, monotone=monotone), [True] * 4)
        # The same everywhere is no rise, nor are the edges looked at.
        self.assertEqual(verdicts(a={"predictions_mean.npy": lambda mean: mean.fill(0.1)},
                                  monotone=False), [True] * 4)
        self.assertEqual(verdicts(a={"predictions_mean.npy": lambda mean: mean[:8].fill(0)}), [True] * 4)
        self.assertEqual(verdicts(a=share(0.84)), [True, True, True, True])
        self.assertEqual(verdicts(a=share(0.75)), [True, False, True, True])
        self.assertEqual(verdicts(a={"localized.npy": within_cones}), [True, False, False, True])
        self.assertEqual(verdicts(b={"localized.npy": one_beyond}), [True, True, True, False])
        # A control that has not learned even its edges proves nothing.
        self.assertEqual(verdicts(b={"localized.npy": nothing}), [True, True, True, None])

    def test_every_length_and_depth(self):
        # No interior; one index of interior; R beyond the end; one layer; the paper's size.
        for length, depth, says in ((16, 4, "no index lies beyond R = 8"),
                                    (17, 4, "too few indices for a slope"), (3, 4, "no index"),
                                    (1, 1, "no index"), (9, 1, "slope 1.000"),
                                    (600, 32, "slope 1.000")):
            with self.subTest(length=length, depth=depth):
                name = f"{length}-{depth}"
                a = self.make(f"{name}/a", "instance", length=length, depth=depth)
                b = self.make(f"{name}/b", "none", length=length, depth=depth)
                self.assertIn(says, self.draw(a, b)[0])

    def test_text_lies_within_the_page_and_apart(self):
        long = {"length": 250, "depth": 32}
        a = style.load_run(self.make("a", "batch", **long))
        b = style.load_run(self.make("b", "batch", statistics="population", follows=False, **long))
        with style.looks():
            figure = figure1.draw(a, b, title="A title")
            boxes = self.assert_texts_apart(figure)
        for text, box in boxes:
            for axes in figure.axes:
                self.assertFalse(box.overlaps(axes.bbox), f"{text!r} lies on a panel")

    def test_the_data_is_what_is_drawn(self):
        a, b = map(style.load_run, self.pair())
        with style.looks():
            figure = figure1.draw(a, b)
        predictions, *maps = figure.axes
        drawn = [line.get_ydata() for line in predictions.lines]
        for run in (a, b):
            for data in (run.mean, *run.sample):
                self.assertTrue(any(np.array_equal(data, y) for y in drawn))
        self.assertEqual({line.get_xdata()[0] for line in predictions.lines
                          if len(line.get_xdata()) == 2}, {8, 24 - 8})
        for axes, run in zip(maps, (a, b)):
            mesh = axes.collections[0].get_array()
            self.assertTrue(np.array_equal(np.reshape(mesh, run.localized.shape), run.localized))
            left, right = axes.lines
            self.assertEqual(list(left.get_xdata()), [2, 2, 4, 4, 6, 6, 8, 8])
            self.assertEqual(list(right.get_xdata()), [22, 22, 20, 20, 18, 18, 16, 16])
            self.assertEqual(list(left.get_ydata()), [0.5, 1.5, 1.5, 2.5, 2.5, 3.5, 3.5, 4.5])

    def test_other_formats_and_titles(self):
        a, b = self.pair()
        self.assert_formats("figure1", a, b, "--title", r"100 $ \frac{1}$ " * 9)

    def test_as_a_program_without_display(self):
        a, b = self.pair()
        environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
        environment["MPLBACKEND"] = "TkAgg"
        command = [sys.executable, str(FIGURES / "figure1.py"), str(a), str(b), "--out"]
        done = subprocess.run([*command, "figure1.png"], cwd=self.folder, env=environment,
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(len(done.stdout.splitlines()), 3)
        self.assertTrue((self.folder / "figure1.png").exists())
        done = subprocess.run([*command, "figure1.gif"], cwd=self.folder, env=environment,
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1)

    # --- The norm that takes no statistics over positions ---

    def test_a_third_run(self):
        a, b = self.pair()
        c = self.make("position", "position", follows=False)
        out, summary = self.summarizes(a, b, c)
        self.assertEqual(list(summary), ["claims", "instance", "none", "position"])
        self.assertIs(summary["claims"]["position"]["pass"], True)
        self.assertTrue(out[1].endswith("; with LayerNorm per position it stays within the cone of its "
                                        "receptive field (0 % outside it) and ends with 0 % of the "
                                        "interior localized."), out[1])
        runs = list(map(style.load_run, (a, b, c)))
        with style.looks():
            figure = figure1.draw(*runs)
            self.assert_texts_apart(figure)
        predictions, *maps = figure.axes
        self.assertTrue(any(np.array_equal(line.get_ydata(), runs[2].mean)
                            for line in predictions.lines))
        for axes, run in zip(maps, runs, strict=True):
            mesh = axes.collections[0].get_array()
            self.assertTrue(np.array_equal(np.reshape(mesh, run.localized.shape), run.localized))
        # One index beyond R(2) is too much; a network that has not learned its edges is no evidence.
        runs[2].localized[1, 12] = True
        self.assertIs(figure1.claim_of_position(runs[2])["pass"], False)
        runs[2].localized[:] = False
        self.assertIsNone(figure1.claim_of_position(runs[2])["pass"])
        self.picture.unlink()
        self.refuses(2, "has norm none, expected position", a, b, b)
        self.refuses(2, "differ in length", a, b, self.make("short", "position", length=20))

    # --- What it refuses ---

    def test_misuse(self):
        a, b = self.pair()
        self.fails(2, "--out", a, b)
        self.fails(2, "a .png, .pdf or .svg", a, b, "--out", "figure1.gif")
        self.refuses(2, "give the run with norm first", b, a)
        self.refuses(2, "nothing to compare", a, a)
        self.refuses(2, "differ in length: 24 and 20", a, self.make("short", "none", length=20))
        self.refuses(2, "differ in depth: 4 and 2", a, self.make("flat", "none", depth=2))

    def test_missing_and_damaged_files(self):
        a, b = self.pair()
        self.refuses(1, "no such folder", a, self.folder / "absent")
        for name, message in (("config.json", "No such file"), ("summary.json", "not finished"),
                              ("predictions_mean.npy", "No such file"),
                              ("predictions_sample.npy", "No such file"),
                              ("localized.npy", "No such file"),
                              ("layer_mean.npy", "No such file")):
            file = b / name
            whole = file.read_bytes()
            damages = {"missing": None, "empty": b"", "truncated": whole[:len(whole) * 2 // 3],
                       "header only": whole[:9], "other": b"\x80\x04nonsense\n" * 20}
            for damage, content in damages.items():
                with self.subTest(file=name, damage=damage):
                    file.unlink(missing_ok=True)
                    if content is not None:
                        file.write_bytes(content)
                    self.refuses(1, message if content is None else f"{name}: not", a, b)
            file.write_bytes(whole)
        self.draw(a, b)

    def test_contents_that_do_not_fit(self):
        a, b = self.pair()
        mean = np.load(b / "predictions_mean.npy")
        for wrong, message in ((mean[1:], r"expected float64 \[24\], got float64 \[23\]"),
                               (mean.astype("f4"), "got float32"), (mean[None], r"\[1, 24\]"),
                               (mean * np.nan, "not finite")):
            np.save(b / "predictions_mean.npy", wrong)
            self.refuses(1, message, a, b)
        np.save(b / "predictions_mean.npy", mean)
        # A single number of what lies behind the picture, in a layer that it hardly shows.
        for name in ("predictions_sample", "layer_mean", "layer_variance"):
            whole = np.load(b / f"{name}.npy")
            for value in (np.nan, np.inf, -np.inf):
                wrong = whole.copy()
                wrong[1, 5] = value
                np.save(b / f"{name}.npy", wrong)
                self.refuses(1, f"{name}.npy: holds values that are not finite", a, b)
            np.save(b / f"{name}.npy", whole)
        summary = json.loads((b / "summary.json").read_text())
        for key, value in (("norm", 3), ("length", "long"), ("depth", 0), ("receptive_field", 7),
                           ("interior_slope", "steep"), ("interior_localized_fraction", [1]),
                           ("localized_fraction", [0, 0, 0, 1.5]), ("final_loss", None),
                           ("eval_statistics", None)):
            with self.subTest(key=key):
                (b / "summary.json").write_text(json.dumps({**summary, key: value}))
                self.refuses(1, f"summary.json: {key} is ", a, b)
                (b / "summary.json").write_text(
                    json.dumps({k: v for k, v in summary.items() if k != key}))
                self.refuses(1, f"summary.json: has no {key}", a, b)
        # No JSON, but Python reads it; too large for a number; too deep for the parser's stack.
        for text in ("NaN", "-Infinity", "1e999", "9" * 400, "9" * 5000, "[" * 200_000):
            (b / "summary.json").write_text(f'{{"interior_slope": {text}}}')
            self.refuses(1, "summary.json: not JSON", a, b)

    def test_a_place_that_cannot_be_written(self):
        a, b = self.pair()
        (self.folder / "file").write_text("")
        self.fails(1, "cannot write", a, b, "--out", self.folder / "file" / "figure1.png")
        (self.folder / "folder.png").mkdir()
        self.fails(1, "cannot write", a, b, "--out", self.folder / "folder.png")
        self.assertEqual(
            [name for name in os.listdir(self.folder) if "folder.png" in name], ["folder.png"])

    def test_words(self):
        self.assertEqual([style.percent(x) for x in (0, 1e-6, 0.004, 0.5, 0.996, 0.9999, 1)],
                         ["0 %", "< 0.1 %", "0.4 %", "50 %", "99.6 %", "99.9 %", "100 %"])
        self.assertEqual(style.fixed(-1e-5), "0.000")
        self.assertEqual(style.layer_ticks(8), list(range(1, 9)))
        self.assertEqual(style.layer_ticks(32), [1, 8, 16, 24, 32])
        self.assertEqual(style.layer_ticks(12), [1, 4, 8, 12])
        self.assertEqual(style.index_ticks(600), [0, 150, 300, 450, 600])


if __name__ == "__main__":
    unittest.main()
