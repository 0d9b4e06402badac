"""Variables: how long they are valid, and the gradients of every operation against differences."""

import gc
import os
import unittest

from support import Case, noise, np, sc


class Stale(Case):
    def setUp(self):
        self.tape = sc.Tape()
        self.x = self.tape.leaf(noise(1, 4, 1, dtype=np.float32))
        self.y = sc.mse(self.x, np.zeros((1, 4, 1), dtype=np.float32))

    def test_a_variable_that_was_reset_away_is_an_error(self):
        self.tape.reset()
        other = self.tape.leaf(np.ones((1, 4, 1), dtype=np.float32))
        for use in (self.x.numpy, lambda: self.x.value, lambda: np.asarray(self.x), self.y.item,
                    lambda: sc.relu(self.x), lambda: sc.add(other, self.x), lambda: self.x + other,
                    lambda: self.tape.backward(self.y), lambda: self.tape.gradient(self.x),
                    lambda: sc.concat(other, self.x), self.y.backward):
            with self.assertRaisesRegex(sc.Error, "has been reset or rewound away"):
                use()

    def test_a_variable_keeps_its_tape(self):
        del self.tape
        gc.collect()
        self.y.backward()
        np.testing.assert_allclose(self.y.tape.gradient(self.x).numpy(), self.x.numpy() / 2, rtol=1e-6)

    def test_what_left_it_is_a_copy(self):
        value, array = self.x.value, self.x.numpy()
        before = array.copy()
        self.tape.reset()
        for _ in range(3):
            self.tape.leaf(np.full((1, 4, 1), 7, dtype=np.float32))
            sc.relu(self.tape.constant(np.full((64, 64), 7, dtype=np.float32)))
        np.testing.assert_array_equal(value.numpy(), before)
        np.testing.assert_array_equal(array, before)

    def test_a_network_that_nobody_else_keeps(self):
        def gradient(keep):
            network, tape = sc.Localizer(depth=3, channels=4, seed=1), sc.Tape()
            x = tape.leaf(noise(2, 16, 1, dtype=np.float32))
            loss = sc.mse(network(x), sc.target_positions(16))
            if not keep:
                del network
                gc.collect()
            trash = [sc.Localizer(depth=3, channels=4, seed=9) for _ in range(20)]
            tape.backward(loss)
            del trash
            return tape.gradient(x).numpy()

        np.testing.assert_array_equal(gradient(keep=False), gradient(keep=True))

    def test_of_different_tapes(self):
        other = sc.Tape().leaf(noise(1, 4, 1, dtype=np.float32))
        self.assertSays(sc.Error, "add: the inputs of an operation are of different tapes", sc.add,
                        self.x, other)
        with self.assertRaises(sc.Error):
            self.tape.gradient(other)

    def test_no_gradient(self):
        with self.assertRaisesRegex(ZeroDivisionError, "on purpose"):
            with self.tape.no_grad():
                self.assertFalse(sc.relu(self.x).requires_grad)
                raise ZeroDivisionError("on purpose")
        self.assertTrue(sc.relu(self.x).requires_grad)

    def test_accumulates(self):
        parameters = sc.ParameterList(dtype="f64")
        w = parameters.add_filled("w", [2], 3)
        tape = sc.Tape(dtype="f64")
        for accumulate, expected in ((False, 3), (True, 6), (False, 3)):
            tape.reset()
            tape.backward(sc.mse(tape.parameter(w), np.zeros(2)), accumulate=accumulate)
            self.assertEqual(w.grad.numpy().tolist(), [expected] * 2)

    def test_a_cotangent_of_the_wrong_shape(self):
        with self.assertRaisesRegex(sc.Error, "needs a cotangent of that shape"):
            self.tape.backward(sc.relu(self.x))
        with self.assertRaisesRegex(sc.Error, "needs a cotangent of that shape"):
            self.tape.backward(sc.relu(self.x), np.ones(3, dtype=np.float32))


class Silence(Case):
    """What would go wrong without a word."""

    def test_an_array_is_no_variable(self):
        x = sc.Tape(dtype="f64").leaf(np.ones(3))
        for f in (lambda: x + np.ones(3), lambda: np.ones(3) + x, lambda: np.float32(2) * x):
            self.assertRaises(TypeError, f)
        np.testing.assert_equal(np.asarray(x), np.ones(3))

    def test_gradients_of_what_a_step_leaves_out(self):
        parameters = sc.ParameterList(dtype="f64")
        for name in "ab":
            parameters.add_filled(name, [2], 1)
        adam = sc.Adam(parameters, .1, beta1=0, beta2=0)
        tape = sc.Tape(dtype="f64")
        for name in "ab":
            tape.reset()
            parameters.zero_grad()
            loss = sc.mse(tape.parameter(parameters[name]), np.zeros(2))
            tape.backward(loss)
            adam.step(loss)
        np.testing.assert_equal(parameters["a"].grad.numpy(), [0, 0])
        np.testing.assert_allclose(parameters["a"].value.numpy(), [.9, .9])

    def test_an_adam_of_fewer_parameters(self):
        parameters = sc.ParameterList()
        parameters.add_filled("a", [2], 1)
        first = sc.Adam(parameters)
        sc.Adam(parameters).step()
        first.step()
        parameters.add_filled("b", [2], 1)
        self.assertSays(sc.Error, "adam: the parameters were added to since it was made; make another",
                        first.step)
        sc.Adam(parameters).step()
        self.assertRaises(sc.Error, first.step)
        for wrong in ({"epsilon": -1}, {"learning_rate": float("inf")}):
            self.assertRaises(sc.UsageError, sc.Adam, parameters, **wrong)

    def test_a_target_of_another_shape(self):
        tape = sc.Tape(dtype="f64")
        y = tape.leaf(np.zeros((4, 6, 1)))
        for shape in ((6,), (6, 1), (4, 6), (4, 6, 1), (1, 6, 1)):
            sc.mse(y, np.zeros(shape))
        for shape in ((2, 1, 1), (3,), (8,), (12,), (6, 4, 1), (4,)):
            with self.assertRaisesRegex(sc.Error, "a target of .*, expected the shape of the prediction"):
                sc.mse(y, np.zeros(shape))
            with self.assertRaisesRegex(sc.Error, "weights of .*, expected the shape of"):
                sc.mse(y, np.zeros(6), weights=np.zeros(shape))

    def test_equal_devices_and_tapes(self):
        self.assertEqual(sc.Device(), sc.Device())
        self.assertEqual(hash(sc.Device()), hash(sc.Device()))
        self.assertNotEqual(sc.Device(threads=1), sc.Device(threads=2))
        self.assertFalse(sc.Device() in [3, None] or sc.Device() != sc.Device("cpu"))
        tape = sc.Tape("cpu")  # by its name
        self.assertEqual(tape.leaf(np.ones(1, dtype=np.float32)).tape, tape)
        self.assertNotEqual(tape, sc.Tape())

    def test_a_device_is_no_file(self):
        pipe = self.folder() / "pipe"
        os.mkfifo(pipe)
        for save in (sc.Localizer(2, 4).save, sc.Localizer(2, 4).parameters.save):
            self.assertSays(sc.Error, f"cannot write {pipe}: is no file", save, pipe)
        self.assertTrue(pipe.is_fifo())


class Gradients(Case):
    """Of c . f(x) for a random c, by central differences in f64."""

    def check(self, f, *inputs):
        tape = sc.Tape(dtype="f64")

        def value(arrays):
            tape.reset()
            with tape.no_grad():
                return f(*map(tape.constant, arrays)).numpy()

        cotangent = noise(*value(inputs).shape, seed=9)
        tape.reset()
        leaves = [tape.leaf(array) for array in inputs]
        tape.backward(f(*leaves), cotangent)
        gradients = [tape.gradient(leaf).numpy() for leaf in leaves]
        step = 1e-6
        for which, (array, gradient) in enumerate(zip(inputs, gradients)):
            differences = np.zeros_like(array)
            for place in np.ndindex(array.shape):
                moved = [np.array(other) for other in inputs]
                moved[which][place] += step
                above = value(moved)
                moved[which][place] -= 2 * step
                differences[place] = ((above - value(moved)) * cotangent).sum() / (2 * step)
            np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7,
                                       err_msg=f"input {which}")
            self.assertGreater(np.abs(differences).max(), 1e-3)

    def test_the_check_notices(self):
        with self.assertRaises(AssertionError):
            self.check(lambda x: sc.activate(x, "mish") if x.requires_grad else x, noise(5))

    def test_convolutions(self):
        x, w, b = noise(2, 7, 3), noise(3, 3, 4, seed=1), noise(4, seed=2)
        self.check(lambda x, w, b: sc.conv1d(x, w, b, 1), x, w, b)
        self.check(lambda x, w, b: sc.conv1d(x, w, b, 2, stride=2, padding_mode="circular"), x, w, b)
        turned = noise(3, 4, 3, seed=1)
        self.check(lambda x, w, b: sc.conv_transpose1d(x, w, b, 1, stride=2), x, turned, b)
        self.check(lambda x: sc.circular_pad(x, 2, 9), x)

    def test_norms(self):
        x, gamma, beta = noise(2, 6, 4), 1 + .1 * noise(4, seed=1), 3 + noise(4, seed=2)
        for options in (sc.NormOptions(), sc.NormOptions.of("group", 4, groups=2),
                        sc.NormOptions(channels_per_set=4, positions_per_set=1, activation="mish"),
                        sc.NormOptions(samples_per_set=2, activation="none"),
                        sc.NormOptions.of("rms", 4)):
            self.check(lambda x, g, b: sc.norm_act(x, g, b, options), x, gamma, beta)
        mean, variance = noise(4, seed=3), 1 + noise(4, seed=4) ** 2
        self.check(lambda x, g, b: sc.norm_act_population(x, g, b, mean, variance), x, gamma, beta)

    def test_layers_in_a_row(self):
        # Of all channels: a norm of each takes the biases away.
        x, w, b = noise(2, 5, 3), noise(3, 3, 3, seed=1), noise(3, seed=2)
        self.check(lambda x, w, b, g, h: sc.conv_norm_act(x, [(w, b, g, h), (w, b, g, h)], 1,
                                                          sc.NormOptions(channels_per_set=3,
                                                                         activation="mish")),
                   x, w, b, 1 + .1 * noise(3, seed=3), noise(3, seed=4))
        self.check(lambda x, w, b: sc.conv_norm_act(x, [(w, b)], 1, sc.NormOptions(activation="mish")),
                   x, w, b)

    def test_dense(self):
        x, w, b = noise(4, 3), noise(5, 3, seed=1), noise(5, seed=2)
        self.check(lambda x, w, b: sc.linear(x, w, b), x, w, b)
        self.check(lambda x, w, b: sc.linear(x, w, b, "mish"), x, w, b)
        layers = [noise(6, 3, seed=1), 4 + noise(6, seed=2), noise(6, 6, seed=3), 9 + noise(6, seed=4),
                  noise(1, 6, seed=5), noise(1, seed=6)]
        self.check(lambda *of: sc.mlp([of[0]], [of[1:]]), x, *layers)

    def test_the_others(self):
        a, b = noise(2, 5, 3), noise(2, 5, 3, seed=1)
        self.check(lambda x: sc.activate(x, "mish"), a)
        self.check(sc.relu, 2 + np.abs(a))
        self.check(sc.add, a, b)
        self.check(lambda a, b: a + b, a, noise(2, 3, seed=1))
        self.check(sc.concat, a, b)
        self.check(lambda x: sc.reshape(x, [6, 5]), a)
        self.check(lambda x: sc.windows(x, 3, 4, 2), noise(2, 8))
        self.check(lambda y: sc.mse(y, b, np.abs(b)), a)
        self.check(lambda y: sc.mse_of_each(y, b[0]), a)
        where = np.array(noise(5, 3, seed=3) > 0, dtype=np.float64)
        w = noise(2, seed=4)
        self.check(lambda x, h: sc.weighted_sum([(x.tape.constant(w), x)], where, h), a, b)


class Draws(Case):
    def test_depend_on_where_the_generator_stands_alone(self):
        tape, random = sc.Tape(), sc.Random(seed=3)
        first = tape.normal([4, 6], random).numpy()
        random.advance(2)
        third = tape.normal([4, 6, 1], random).numpy()[..., 0]
        self.assertFalse((first == third).any())
        random.seek(0, 1)
        np.testing.assert_array_equal(tape.normal([3, 6], random).numpy(), first[1:])
        random.seek(2)
        np.testing.assert_array_equal(tape.normal([4, 6], random).numpy(), third)
        self.assertFalse((tape.normal([4, 6], random, 7).numpy() == third).any())

    def test_rows(self):
        tape, random = sc.Tape(), sc.Random(seed=3)
        index = tape.uniform_integers(100, 5, random)
        self.assertEqual(set(index.numpy()), {0, 1, 2, 3, 4})
        table = noise(5, 2, dtype=np.float32)
        np.testing.assert_array_equal(sc.gather(table, index).numpy(), table[index.numpy().astype(int)])
        series = noise(2, 6, 1, dtype=np.float32)
        windows = sc.gather_windows(series, tape.constant(np.array([0, 3, 5], dtype=np.float32)), 3)
        np.testing.assert_array_equal(windows.numpy(), [series[0, :3], series[0, 3:], series[1, 1:4]])


if __name__ == "__main__":
    unittest.main()
