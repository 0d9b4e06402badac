"""Runs as objects, of folders in every state."""

import json
import unittest

from support import Case, np, run, sc


def line(**values):
    return json.dumps(values) + "\n"


class Runs(Case):
    def run_folder(self, metrics="", **files):
        folder = self.folder()
        (folder / "config.json").write_text(json.dumps({"settings": {"norm": "instance", "length": 6},
                                                        "commit": "abc"}))
        if metrics:
            (folder / "metrics.jsonl").write_text(metrics)
        for name, array in files.items():
            np.save(folder / f"{name}.npy", array)
        return folder

    def test_of_nothing(self):
        folder = self.folder()
        self.assertSays(sc.Error, f"{folder}: holds no run (no config.json)", sc.Run, folder)
        self.assertSays(sc.Error, f"{folder / 'no'}: no such folder", sc.Run, folder / "no")

    def test_that_has_just_begun(self):
        folder = self.run_folder()
        begun = sc.Run(str(folder))
        self.assertEqual((begun.settings["norm"], begun.config["commit"]), ("instance", "abc"))
        self.assertEqual((begun.metrics, begun.arrays, begun.maps, begun.finished), ({}, [], {}, False))
        self.assertSays(sc.Error, f"{folder}: has no summary.json yet", lambda: begun.summary)
        self.assertSays(sc.Error, f"{folder}: has no model.safetensors yet", begun.model)
        self.assertSays(sc.Error, f"{folder}: has no localized.npy (arrays: none yet)", begun.array,
                        "localized")

    def test_metrics(self):
        text = (line(phase="train", step=100, loss=.5, interior_slope=None)
                + line(phase="train", step=200, loss=.25, interior_slope=.75)
                + line(phase="probe", step=100, losses=[1, 2, 3])
                + '{"phase":"train","step":300,"lo')  # which is being written
        metrics = sc.Run(self.run_folder(text)).metrics
        self.assertEqual(list(metrics), ["train", "probe"])
        self.assertEqual(metrics["train"]["step"].tolist(), [100, 200])
        self.assertEqual(metrics["train"]["step"].dtype, np.int64)
        self.assertEqual(metrics["train"]["loss"].tolist(), [.5, .25])
        self.assertTrue(np.isnan(metrics["train"]["interior_slope"][0]))
        self.assertEqual(metrics["probe"]["losses"].tolist(), [[1, 2, 3]])

    def test_damaged_metrics(self):
        for damage in ("{broken\n", "[1]\n", '{"loss": NaN}\n'):
            folder = self.run_folder(line(phase="train", step=1) + damage)
            with self.assertRaisesRegex(sc.Error, f"{folder / 'metrics.jsonl'}, line 2: "):
                sc.Run(folder).metrics

    def test_frames(self):
        folder = self.run_folder(line(phase="train", step=100, loss=.5)
                                 + line(phase="probe", step=7, losses=[1, 2]))
        try:
            import pandas
        except ImportError:
            words = "frame: needs pandas, which is not installed (metrics gives arrays)"
            self.assertSays(sc.Error, words, sc.Run(folder).frame)
            self.skipTest("SKIPPED: no pandas")
        self.assertIsInstance(sc.Run(folder).frame(), pandas.DataFrame)
        self.assertEqual(sc.Run(folder).frame().loc[100, "loss"], .5)
        self.assertEqual(list(sc.Run(folder).frame("probe")), ["losses.0", "losses.1"])

    def test_figures(self):
        try:
            import matplotlib
        except ImportError:
            self.assertSays(sc.Error, "figure: needs matplotlib, which is not installed",
                            sc.Run(self.run_folder()).figure)
            self.skipTest("SKIPPED: no matplotlib")
        matplotlib.use("Agg")
        empty = self.run_folder()
        self.assertSays(sc.Error, f"{empty}: has nothing to draw yet", sc.Run(empty).figure)
        metrics = line(phase="train", step=1, loss=.5) + line(phase="train", step=2, loss=.4)
        whole = self.run_folder(metrics, predictions_mean=np.linspace(-.5, .5, 6),
                                predictions_sample=np.zeros((2, 6), dtype=np.float32),
                                localized=np.eye(3, 6, dtype=bool))
        for folder, panels in ((self.run_folder(metrics), 1), (whole, 3)):
            figure = sc.Run(folder).figure()
            self.assertEqual(len(figure.axes), panels)
            figure.savefig(self.folder() / "run.png")

    def test_of_the_program(self):
        folder = self.folder() / "run"
        run("localization", "run", "--preset", "demo", "--norm", "none", "--device", "cpu", "--depth", 3,
            "--channels", 4, "--iterations", 40, "--probe-iterations", 20, "--map-samples", 64,
            "--log-every", 20, "--out", folder)
        finished = sc.Run(folder)
        self.assertTrue(finished.finished)
        self.assertEqual(finished.metrics["train"]["step"].tolist(), [20, 40])
        self.assertEqual(finished.maps["localized"].shape, (3, 64))
        self.assertEqual(finished.predictions.shape, (64,))
        self.assertEqual(finished.summary["norm"], "none")
        self.assertEqual(finished.model().config["channels"], 4)


if __name__ == "__main__":
    unittest.main()
