"""Training from Python gives the bytes of the program; README's lines are such a training."""

import contextlib
import io
import os
import re
import unittest

from support import ROOT, Case, np, run, sc

STEPS = 60


def program_trains(folder, *arguments):
    run("localization", "train", "--preset", "demo", "--seed", 3, "--device", "cpu", "--iterations",
        STEPS, "--out", folder, *arguments)
    return (folder / "model.safetensors").read_bytes()


def train(steps=STEPS, seed=3, norm="instance"):
    network = sc.Localizer(depth=8, channels=32, norm=norm, seed=seed)
    adam = sc.Adam(network.parameters, 2e-3, schedule="tail", steps=steps)
    tape, random, target = sc.Tape(), sc.Random(seed=seed), sc.target_positions(64)
    for _ in range(steps):
        tape.reset()
        loss = sc.mse(network(tape.normal([8, 64, 1], random)), target)
        tape.backward(loss)
        adam.step(loss)
        random.advance()
    return network


class SameBytes(Case):
    def bytes_of(self, network):
        path = self.folder() / "model.safetensors"
        network.save(path)
        return path.read_bytes()

    def test_as_the_program_by_the_pieces(self):
        theirs = program_trains(self.folder() / "run", "--norm", "instance")
        self.assertEqual(self.bytes_of(train()), theirs)
        self.assertNotEqual(self.bytes_of(train(seed=4)), theirs)

    def test_as_the_program_by_the_training(self):
        curriculum = {"curriculum_iterations": 25, "curriculum_length": 32,
                      "curriculum_learning_rate": 1e-3, "norm": "group", "log_every": 10}
        flags = [word for name, value in curriculum.items()
                 for word in (f"--{name.replace('_', '-')}", value)]
        theirs = program_trains(self.folder() / "run", *flags)
        training = sc.LocalizationTraining("demo", seed=3, iterations=STEPS, **curriculum)
        self.assertEqual((training.total, training.done, training.line), (STEPS + 25, 0, None))
        training.run(20)
        training.run(17)
        training.run()
        self.assertEqual(training.done, STEPS + 25)
        self.assertEqual(self.bytes_of(training.network), theirs)

    def test_the_lines_are_those_of_the_program(self):
        folder = self.folder() / "run"
        program_trains(folder, "--norm", "none", "--log-every", 25)
        lines = []
        training = sc.LocalizationTraining("demo", norm="none", seed=3, iterations=STEPS, log_every=25)
        training.run(callback=lambda done, line: lines.append((done, line)))
        theirs = sc.Run(folder).metrics["train"]
        self.assertEqual([done for done, _ in lines], [25, 50, 60])
        for name in ("step", "loss", "interior_slope", "output_std", "learning_rate", "gradient_norm"):
            self.assertEqual([line[name] for _, line in lines], theirs[name].tolist(), name)

    def test_readme_trains_the_demo(self):
        readme = (ROOT / "README.md").read_text()
        code, = [block for block in re.findall(r"```python\n(.*?)```", readme, re.S)
                 if "sc.Localizer" in block]
        self.assertLessEqual(len([line for line in code.splitlines() if line.strip()]), 16)
        self.assertEqual(code.count("10_000"), 2)
        self.assertEqual(sc.localization_settings("demo", norm="instance")["iterations"], 10_000)
        try:
            import matplotlib
            matplotlib.use("Agg")
        except ImportError:
            self.skipTest("SKIPPED: no matplotlib")
        folder = self.folder()
        before = os.getcwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                shorter = code.replace("10_000", str(STEPS)).replace("seed=0", "seed=3")
                exec(compile(shorter, "README", "exec"), {})
        finally:
            os.chdir(before)
        self.assertTrue(list(folder.glob("*.png")))
        self.assertEqual((folder / "model.safetensors").read_bytes(),
                         program_trains(self.folder() / "run", "--norm", "instance"))


class Settings(Case):
    def test_what_a_preset_comes_to(self):
        settings = sc.localization_settings("demo", norm="group", seed=7)
        self.assertEqual((settings["groups"], settings["seed"], settings["length"]), (8, 7, 64))
        for words, given in (("--iterations 0: expected", {"iterations": 0}),
                             ("rate: there is no such setting", {"rate": 1}),
                             ("itrations: there is no such setting, did you mean iterations?",
                              {"itrations": 1}),
                             ("device: no setting of a training in Python", {"device": "cpu"})):
            with self.assertRaises(sc.UsageError) as caught:
                sc.localization_settings("demo", **given)
            self.assertIn(words, str(caught.exception))
        settings = sc.localization_settings("demo", lr=.5, batch_size=3, steps=7)
        self.assertEqual([settings[name] for name in ("learning_rate", "batch", "iterations")],
                         [.5, 3, 7])
        with self.assertRaisesRegex(TypeError, "callback: expected something that can be called"):
            sc.LocalizationTraining("demo").run(1, callback="x")

    def test_the_target(self):
        target = sc.target_positions(64)
        np.testing.assert_allclose(target, np.arange(64) / 63 - .5, rtol=1e-6, atol=1e-7)
        self.assertEqual(sc.target_positions(1).tolist(), [0])
        self.assertAlmostEqual(sc.interior_slope(.3 * target, 16), .3, places=6)
        self.assertTrue(np.isnan(sc.interior_slope(target, 32)))


class Stops(Case):
    def training(self):
        return sc.LocalizationTraining("demo", norm="none", depth=3, channels=4, seed=3,
                                       iterations=STEPS, log_every=10)

    def test_what_a_callback_raises_comes_out(self):
        training = self.training()

        def fail(done, line):
            if done == 30:
                raise ZeroDivisionError("on purpose")

        with self.assertRaisesRegex(ZeroDivisionError, "on purpose"):
            training.run(callback=fail)
        self.assertEqual(training.done, 30)
        training.run()
        whole = self.training()
        whole.run()
        for one, other in zip(training.network.parameters, whole.network.parameters):
            np.testing.assert_array_equal(one.value.numpy(), other.value.numpy())

    def test_a_callback_may_use_the_engine_but_not_the_training(self):
        training, answers = self.training(), []

        def look(done, line):
            answers.append(training.network.predict(np.ones((1, 20))).shape)
            with self.assertRaisesRegex(sc.Error, "training: is running"):
                training.run(1)

        training.run(callback=look)
        self.assertEqual(answers, [(1, 20)] * 6)

    def test_a_step_that_cannot_be_made(self):
        training = sc.LocalizationTraining("demo", norm="none", learning_rate=1e30, iterations=50,
                                           log_every=10)
        with self.assertRaisesRegex(sc.Error, r"step \d+: loss .*; stopped before the update; first "):
            training.run()


if __name__ == "__main__":
    unittest.main()
