"""Tensors and arrays: which share their memory, how long it lives, and which are refused."""

import gc
import unittest
import weakref

from support import Case, noise, np, sc


class Shared(Case):
    def test_a_tensor_is_the_memory_of_the_array(self):
        array = noise(3, 4, dtype=np.float32)
        tensor = sc.from_dlpack(array)
        self.assertEqual((tensor.shape, tensor.dtype, tensor.device.name), ((3, 4), "f32", "cpu"))
        array[1, 2] = 7
        self.assertEqual(tensor.numpy()[1, 2], 7)
        tensor.fill(5)
        self.assertTrue((array == 5).all())

    def test_numpy_sees_the_tensors_own_memory(self):
        tensor = sc.Tensor.zeros([2, 3], dtype="f64")
        for view in (tensor.numpy(), np.asarray(tensor), np.from_dlpack(tensor)):
            self.assertEqual((view.dtype, view.shape), (np.float64, (2, 3)))
            place = view.__array_interface__["data"][0]
            self.assertEqual(place, tensor.numpy().__array_interface__["data"][0])
        tensor.numpy()[0, 1] = 3
        self.assertEqual(tensor.numpy()[0, 1], 3)

    def test_what_is_to_be_a_copy_is_one(self):
        array = noise(5, dtype=np.float32)
        shared = sc.from_dlpack(array)
        for copy in (sc.tensor(array), sc.tensor(shared), shared.copy(), shared.to(sc.Device())):
            copy.fill(0)
        copy = np.array(sc.from_dlpack(array), copy=True)
        copy[:] = 0
        self.assertFalse((array == 0).any())

    def test_a_view_keeps_the_tensor(self):
        view = sc.tensor(np.arange(1000.0), dtype="f64").numpy()
        gc.collect()
        others = [sc.tensor(np.full(1000, 7.0), dtype="f64") for _ in range(50)]
        np.testing.assert_array_equal(view, np.arange(1000.0))
        del others

    def test_a_tensor_keeps_the_array_and_lets_it_go(self):
        class Array(np.ndarray):  # which can be asked whether it lives
            pass

        array = np.arange(4, dtype=np.float32).view(Array)
        alive = weakref.ref(array)
        tensor = sc.from_dlpack(array)
        del array
        gc.collect()
        self.assertEqual(tensor.numpy().tolist(), [0, 1, 2, 3])
        del tensor
        gc.collect()
        self.assertIsNone(alive())

    def test_a_tape_keeps_what_is_on_it(self):
        tape = sc.Tape(dtype="f64")
        x = tape.leaf(np.full((1, 4), 3.0))
        loss = sc.mse(sc.reshape(x, [4]), np.zeros(4))
        gc.collect()
        trash = [np.full((1, 4), 9.0) for _ in range(100)]
        tape.backward(loss)
        self.assertEqual(tape.gradient(x).numpy().tolist(), [[1.5] * 4])
        del trash

    def test_empty_and_rank_0(self):
        for shape in ((), (0,), (3, 0, 2)):
            array = np.zeros(shape, dtype=np.float32)
            for tensor in (sc.from_dlpack(array), sc.tensor(array), sc.Tensor.zeros(shape)):
                self.assertEqual(tensor.shape, shape)
                self.assertEqual(tensor.numpy().shape, shape)

    def test_of_any_numbers(self):
        self.assertEqual(sc.tensor([[1, 2], [3, 4]]).numpy().tolist(), [[1, 2], [3, 4]])
        for dtype in ("f32", "float32", np.float32, np.dtype("f4")):
            self.assertEqual(sc.tensor(1, dtype=dtype).dtype, "f32")
        self.assertEqual(float(sc.tensor(2.5)), 2.5)
        self.assertEqual(len(sc.tensor([1, 2, 3])), 3)


class Refused(Case):
    def test_another_type(self):
        for dtype, name in (("i8", "i64"), ("f2", "f16"), ("?", "bool"), ("c8", "complex64")):
            self.assertSays(sc.Error, f"from_dlpack: expected f32 or f64, got {name}",
                            sc.from_dlpack, np.zeros(3, dtype=dtype))
        self.assertSays(sc.Error, "constant: expected f32, got f64", sc.Tape().constant, noise(3))
        self.assertSays(sc.Error, "copy_from: expected f32, got f64", sc.tensor([1]).copy_from,
                        sc.tensor([1], dtype="f64"))

    def test_gaps(self):
        array = noise(4, 6, dtype=np.float32)
        self.assertSays(
            sc.Error, "from_dlpack: expected a contiguous array, got one of shape [4, 3] with strides "
            "[6, 2] (numpy.ascontiguousarray copies it)", sc.from_dlpack, array[:, ::2])
        for gaps in (array.T, array[::-1], np.broadcast_to(array[0], (4, 6))):
            with self.assertRaisesRegex(sc.Error, "contiguous|may not be written to"):
                sc.from_dlpack(gaps)
        self.assertEqual(sc.from_dlpack(np.asfortranarray(array[:1])).shape, (1, 6))  # which has none

    def test_memory_that_may_not_be_written_to(self):
        array = noise(3, dtype=np.float32)
        array.flags.writeable = False
        self.assertSays(
            sc.Error, "from_dlpack: the array may not be written to (tensor(array) copies it)",
            sc.from_dlpack, array)
        self.assertEqual(sc.Tape().constant(array).numpy().tolist(), array.tolist())

    def test_elements_that_are_not_aligned(self):
        array = np.frombuffer(bytearray(13), dtype=np.uint8)[1:].view(np.float32)
        with self.assertRaisesRegex(sc.Error, "not aligned"):
            sc.from_dlpack(array)

    def test_what_is_no_array(self):
        for value in (3, "text", [1.0, 2.0]):
            name = type(value).__name__
            self.assertSays(
                TypeError, "constant: expected a Tensor or an array (NumPy, PyTorch, DLPack), got "
                f"{name}", sc.Tape().constant, value)

    def test_too_many_axes(self):
        with self.assertRaisesRegex(sc.Error, "at most 4 dimensions, got 5"):
            sc.from_dlpack(np.zeros((1, 1, 1, 1, 1), dtype=np.float32))

    def test_another_device(self):
        try:
            gpu = sc.Device("cuda")
        except sc.Error as error:
            self.skipTest(f"SKIPPED: {error}")
        here, there = sc.tensor([1.0]), sc.tensor([1.0], device=gpu)
        self.assertSays(
            sc.Error, "constant: expected a tensor on cuda:0, got one on cpu (Tensor.to copies it "
            "there)", sc.Tape(gpu).constant, here)
        with self.assertRaisesRegex(sc.Error, "expected a tensor on cpu, got one on cuda:0"):
            sc.Tape().constant(there)
        self.assertEqual(there.to(here.device).item(), 1)

    def test_types_that_gpus_do_not_compute_in(self):
        try:
            gpu = sc.Device("cuda")
        except sc.Error as error:
            self.skipTest(f"SKIPPED: {error}")
        with self.assertRaisesRegex(sc.UsageError, "computes in f32, not in f64"):
            sc.Tape(gpu, "f64")


if __name__ == "__main__":
    unittest.main()
