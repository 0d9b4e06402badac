"""Modules, networks and their files; the leak of a network, beside the program's."""

import json
import unittest

from support import Case, noise, np, run, sc


class Modules(Case):
    def test_are_the_operations_on_their_parameters(self):
        parameters = sc.ParameterList(dtype="f64", seed=4)
        conv = sc.Conv1d(parameters, "conv", 2, 3, 5, 2, stride=2, padding_mode="circular")
        turned = sc.ConvTranspose1d(parameters, "turned", 3, 2, 4, 1, stride=2)
        options = sc.NormOptions(channels_per_set=2, activation="mish")
        norm = sc.NormAct(parameters, "norm", 2, options)
        linear = sc.Linear(parameters, "linear", 2, 7)
        tape = sc.Tape(dtype="f64")
        x = tape.constant(noise(3, 8, 2))

        def of(name):
            return [tape.parameter(parameters[f"{name}.{kind}"]) for kind in ("weight", "bias")]

        y = conv(x)
        np.testing.assert_array_equal(
            y.numpy(), sc.conv1d(x, *of("conv"), 2, stride=2, padding_mode="circular").numpy())
        z = turned(y)
        np.testing.assert_array_equal(
            z.numpy(), sc.conv_transpose1d(y, *of("turned"), 1, stride=2).numpy())
        np.testing.assert_array_equal(norm(z).numpy(), sc.norm_act(z, *of("norm"), options).numpy())
        rows = sc.reshape(z, [24, 2])
        np.testing.assert_array_equal(linear(rows, "relu").numpy(),
                                      sc.linear(rows, *of("linear"), "relu").numpy())
        self.assertEqual(parameters.names(),
                         [f"{name}.{kind}" for name in ("conv", "turned", "norm", "linear")
                          for kind in ("weight", "bias")])
        self.assertEqual([p.name for p in parameters], parameters.names())
        self.assertEqual(len(parameters), 8)
        self.assertIn("conv.bias", parameters)
        with self.assertRaises(KeyError):
            parameters["conv"]

    def test_running_statistics(self):
        parameters = sc.ParameterList()
        norm = sc.NormAct(parameters, "norm", 3, sc.NormOptions(samples_per_set=4), track_running=True)
        tape = sc.Tape()
        x = noise(4, 8, 3, dtype=np.float32)
        for statistics, moved in (("minibatch", False), ("population", False), ("training", True)):
            norm(tape.constant(x), statistics)
            mean = parameters.state_dict()["norm.running_mean"]
            self.assertEqual(bool(mean.any()), moved, statistics)
        np.testing.assert_allclose(mean, .1 * x.mean((0, 1)), rtol=1e-5, atol=1e-7)
        running = sc.Tensor.zeros([3]), sc.tensor(np.ones(3))
        one = tape.constant(np.ones(3, dtype=np.float32))
        sc.norm_act(tape.constant(x), one, one, sc.NormOptions(samples_per_set=4),
                    running_mean=running[0], running_variance=running[1])
        np.testing.assert_array_equal(running[0].numpy(), mean)

    def test_of_another_type_than_the_input(self):
        conv = sc.Conv1d(sc.ParameterList(), "conv", 1, 1, 1)
        self.assertSays(sc.Error, "conv1d: its parameters are f32 on cpu, its input f64 on cpu", conv,
                        sc.Tape(dtype="f64").constant(noise(1, 2, 1)))

    def test_adam_takes_steps(self):
        parameters = sc.ParameterList(dtype="f64")
        w = parameters.add_filled("w", [1], 1)
        adam, tape = sc.Adam(parameters, .1), sc.Tape(dtype="f64")
        for _ in range(3):
            tape.reset()
            loss = sc.mse(tape.parameter(w), np.zeros(1))
            tape.backward(loss)
            adam.step(loss)
        # By hand: g = 2 w, and m / sqrt(v) of Kingma & Ba's Algorithm 1.
        value, m, v = 1.0, 0.0, 0.0
        for t in range(1, 4):
            g = 2 * value
            m, v = .9 * m + .1 * g, .999 * v + .001 * g * g
            value -= .1 * (m / (1 - .9 ** t)) / (np.sqrt(v / (1 - .999 ** t)) + 1e-8)
        self.assertAlmostEqual(w.value.item(), value, places=14)
        self.assertEqual((adam.steps, adam.halted), (3, False))
        tape.reset()
        tape.backward(sc.mse(tape.parameter(w), np.full(1, np.inf)))
        adam.step()
        self.assertTrue(adam.halted)
        self.assertAlmostEqual(w.value.item(), value, places=14)


class Files(Case):
    networks = {
        "localizer": lambda **how: sc.Localizer(depth=4, channels=6, kernel_size=3, norm="group",
                                                groups=3, seed=2, **how),
        "packed": lambda **how: sc.Localizer.packed(3, 4, 3, seed=2, **how),
        "unet": lambda **how: sc.TemporalUnet(2, 8, [1, 2], 3, 9, groups=4, seed=2, **how)}

    def test_come_back(self):
        for name, make in self.networks.items():
            with self.subTest(name):
                network, path = make(), self.folder() / "model.safetensors"
                network.save(path)
                again = sc.load_model(path)
                self.assertIs(type(again), type(network))
                self.assertEqual(again.config, network.config)
                other = self.folder() / "again.safetensors"
                again.save(other)
                self.assertEqual(path.read_bytes(), other.read_bytes())
                self.assertEqual(sc.load_model(path, dtype="f64").dtype, "f64")

    def test_are_missing_or_damaged(self):
        path = self.folder() / "model.safetensors"
        with self.assertRaisesRegex(sc.Error, f"{path}: |cannot open {path}"):
            sc.load_model(path)
        path.write_bytes(b"no such thing")
        with self.assertRaisesRegex(sc.Error, str(path)):
            sc.load_model(path)

    def test_state_dicts(self):
        for name, make in self.networks.items():
            with self.subTest(name):
                network = make()
                state = network.parameters.state_dict()
                other = make()
                for parameter in other.parameters:
                    parameter.value.fill(0)
                other.parameters.load_state_dict(state)
                for key, value in other.parameters.state_dict().items():
                    np.testing.assert_array_equal(value, state[key])
        network = self.networks["localizer"]()
        state = network.parameters.state_dict()
        self.assertEqual(state["blocks.0.conv.weight"].shape, (6, 6, 3))  # as PyTorch has it
        np.testing.assert_array_equal(
            state["blocks.0.conv.weight"].transpose(2, 1, 0),
            network.parameters["blocks.0.conv.weight"].value.numpy())
        for change, words in (({"conv_in.bias": np.zeros(5, dtype=np.float32)}, "conv_in.bias is f32"),
                              ({"more": np.zeros(5)}, "has a tensor more"),
                              ({"conv_in.bias": np.full(6, np.nan, dtype=np.float32)}, "nan at")):
            with self.assertRaisesRegex(sc.Error, words):
                network.parameters.load_state_dict({**state, **change})
        for key, value in network.parameters.state_dict().items():
            np.testing.assert_array_equal(value, state[key])


class Answers(Case):
    def test_predictions_are_what_the_tape_gives(self):
        network = sc.Localizer(depth=4, channels=6, seed=2)
        x = noise(3, 20, dtype=np.float32)
        tape = sc.Tape()
        y, layers = network(tape.constant(x[..., None]), statistics="minibatch", hidden=True)
        self.assertEqual([layer.shape for layer in layers], [(3, 20, 6)] * 3)
        np.testing.assert_allclose(network.predict(x), y.numpy()[..., 0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(network.predict(x.astype(np.float64)[..., None])[..., 0],
                                      network.predict(x))
        with self.assertRaisesRegex(sc.Error, r"expected sequences \[n, l, 1\] or \[n, l\], got \[20\]"):
            network.predict(x[0])

    def test_a_u_net_at_a_step(self):
        network = sc.TemporalUnet(2, 8, [1, 2], 3, 9, groups=4, seed=2)
        x = noise(2, 8, 2, dtype=np.float32)
        tape = sc.Tape()
        at = [network(tape.constant(x), np.full(2, step, dtype=np.float32)).numpy() for step in (0, 5)]
        self.assertTrue((at[0] != at[1]).any())
        network.step = 5
        for answer in (network(tape.constant(x)).numpy(), network.predict(x)):
            np.testing.assert_allclose(answer, at[1], rtol=1e-5, atol=1e-6)
        self.assertEqual((network.step, network.stride, network.channels_in), (5, 2, 2))

    def test_what_it_hears(self):
        network = sc.Localizer(depth=4, channels=6, kernel_size=3)
        self.assertEqual((network.reach, network.radius), ((4, 4), 4))
        self.assertEqual(network.receptive_field(10)[:6],
                         [(0, 4), (0, 5), (0, 6), (0, 7), (0, 8), (1, 9)])
        self.assertEqual([(name, kind) for name, kind, _ in network.norms],
                         [("blocks.0.norm", "instance"), ("blocks.1.norm", "instance")])

    def test_what_cannot_be_built(self):
        for words, settings in (("kernel size 4: expected an odd number", {"kernel_size": 4}),
                                ("depth 1: expected at least 2 convolutions", {"depth": 1}),
                                ("groups 5: expected a divisor of the 32 channels",
                                 {"norm": "group", "groups": 5})):
            self.assertSays(sc.UsageError, words, sc.Localizer, **settings)
        with self.assertRaisesRegex(sc.UsageError, "norm fancy: expected none, instance"):
            sc.Localizer(norm="fancy")


class Leak(Case):
    def test_is_what_the_program_says(self):
        path = self.folder() / "model.safetensors"
        sc.Localizer(depth=4, channels=6, kernel_size=3, seed=2).save(path)
        asked = ("--length", 24, "--inputs", 2, "--outputs", 5, "--tile", 12, "--halo", 2, "--pad", 8,
                 "--seed", 3, "--device", "cpu")
        report = json.loads(run("leak", "measure", "--model", path, "--json", *asked))
        ours = sc.leak(sc.load_model(path), length=24, inputs=2, outputs=5, tile=12, halo=2, pad=8,
                       seed=3)
        self.assertEqual(ours, report)
        self.assertTrue(ours["leaks"])

    def test_of_ones_own_sequences(self):
        network = sc.Localizer(depth=4, channels=6, kernel_size=3, seed=2)
        x = noise(2, 24, dtype=np.float32)
        report = sc.leak(network, x, outputs=5)
        self.assertEqual((report["inputs"], report["input"]), (2, [1, 1, 24]))
        self.assertEqual(report, sc.leak(network, x[..., None].astype(np.float64), outputs=5))
        self.assertGreater(report["live"]["l1"], 0)
        self.assertEqual(report["frozen"]["l1"], 0)
        with self.assertRaisesRegex(sc.UsageError, "length: an input that is given has its own"):
            sc.leak(network, x, length=24)

    def test_without_norm_there_is_none(self):
        report = sc.leak(sc.Localizer(depth=4, channels=6, kernel_size=3, norm="none"), inputs=1)
        self.assertEqual((report["live"]["l1"], report["leaks"], report["layers"]), (0, False, []))


if __name__ == "__main__":
    unittest.main()
