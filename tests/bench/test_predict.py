"""Tests of bench/predict: python3 -m unittest discover -s tests/bench"""

import dataclasses
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "tools"))
sys.path.insert(0, str(ROOT / "bench" / "predict"))

import measured  # noqa: E402
import model  # noqa: E402
import predict  # noqa: E402
import to_come  # noqa: E402

MACHINE = model.Machine()


class Model(unittest.TestCase):
    def test_all_that_was_measured_is_predicted(self):
        self.assertEqual(predict.check(MACHINE), [])
        rows = predict.errors(MACHINE)
        kernels = [row for row in rows if row[4] == predict.KERNELS_WITHIN]
        self.assertEqual((len(kernels), len(rows)), (178, 186))
        self.assertEqual({row[0].rpartition("/")[0] for row in kernels}, set(measured.cases()))
        self.assertLess(10 * len(model.FITTED), len(kernels))

    def test_wrong_constants_are_rejected(self):
        for name, factor in (("l2", 0.5), ("l2_write", 0.5), ("cold", 0.5), ("ffma", 0.5), ("clock", 0.5),
                             ("multiprocessors", 0.5), ("alone", 2), ("l2_latency", 2), ("cycles", 2)):
            wrong = dataclasses.replace(MACHINE, **{name: type(getattr(MACHINE, name))(
                factor * getattr(MACHINE, name))})
            self.assertGreater(len(predict.check(wrong)), 3, name)

    def test_the_fit_stays_where_it_is(self):
        cases, times = measured.cases(), predict.kernel_times()
        fitted = predict.fit(MACHINE, cases, times)
        for name, time in times.items():
            before, after = (predict.kernel(name, m, cases) for m in (MACHINE, fitted))
            self.assertLess(abs(after / before - 1), 0.03, name)

    def test_what_a_multiprocessor_holds(self):
        def holds(threads, registers, shared=0):
            return model.resident(model.Launch("", 1, threads, registers, shared), MACHINE)

        self.assertEqual(holds(256, 212), 1)  # 212 are given out as 216: 8 x 32 x 216 = 55,296
        self.assertEqual(holds(256, 128), 2)
        self.assertEqual(holds(256, 129), 1)
        self.assertEqual(holds(256, 32), 8)  # 2,048 threads
        self.assertEqual(holds(32, 32), 32)  # blocks
        self.assertEqual(holds(128, 32, 113 * 1024), 2)  # 227 KB and 1 KB for each
        self.assertEqual(holds(128, 32, 114 * 1024), 1)
        with self.assertRaises(ValueError):
            holds(128, 32, 228 * 1024)

    def test_more_of_anything_takes_longer(self):
        launch = measured.rows(measured.SHAPES["paper"], False, True)[0]
        before = model.time(launch, MACHINE)
        for name in ("blocks", "read", "write", "mma", "instructions", "loop", "stages", "fetch"):
            more = dataclasses.replace(launch, **{name: 4 * getattr(launch, name)})
            self.assertGreater(model.time(more, MACHINE), before, name)
        self.assertGreater(model.time(launch, MACHINE, cold=1), before)
        self.assertGreater(model.time(launch, MACHINE, alone=True), before)
        early = dataclasses.replace(launch, early=True)
        self.assertAlmostEqual(model.time(early, MACHINE), before - MACHINE.gap)

    def test_clusters_leave_places_empty(self):
        self.assertEqual([MACHINE.places(cluster) for cluster in (1, 2, 4, 8)], [132, 132, 120, 120])

    def test_a_step_has_the_launches_that_were_counted(self):
        # CUB's two are recorded as one.
        for name, launches in (("demo", 61), ("paper", 229), ("paper-batch-norm", 259),
                               ("overlap", 229)):
            self.assertEqual(len(measured.step(name, True, MACHINE)), launches + 1, name)

    def test_what_is_kept_is_what_is_predicted(self):
        self.assertEqual(predict.PREDICTED.read_text(), predict.predictions(MACHINE),
                         "python3 bench/predict/predict.py --write rewrites it")

    def test_variants_are_named_as_in_the_tables(self):
        kernels = predict.RESULTS.parents[1] / "kernels" / "cuda"
        tables = "".join(file.read_text() for file in sorted(kernels.rglob("*.cu")))
        names = {name for variants in to_come.variants().values() for name in variants}
        self.assertGreater(len(names), 12)
        self.assertEqual([name for name in sorted(names) if f'"{name}"' not in tables], [])


if __name__ == "__main__":
    unittest.main()
