"""The GIL, signals, threads, and a thousand of everything."""

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unittest

from support import SANITIZED, Case, noise, np, sc


def others_ran_while(f):
    """Whether another thread of Python's came to its turn while f ran: nobody makes f give way, so that
    it does only where f lets the GIL go."""
    stop, turns = threading.Event(), 0

    def count():
        nonlocal turns
        while not stop.is_set():
            turns += 1
            time.sleep(0.0001)

    thread = threading.Thread(target=count)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        seen = turns
        f()
        return turns > seen
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


class Ends(Case):
    def test_with_threads_that_go_on(self):
        """A thread that comes back from the engine when Python has ended must not end the process."""
        work = {"a training": "t = sc.LocalizationTraining(iterations=10**6); f = t.run",
                "passes": "n = sc.Localizer()\n"
                          "def f():\n"
                          " while True: n.predict(np.zeros((64, 64)))"}
        for what, lines in work.items():
            for _ in range(3):
                child = subprocess.run([sys.executable, "-c", "import threading, time\n"
                                        f"import numpy as np, sidechannel as sc\n{lines}\n"
                                        "threading.Thread(target=f, daemon=True).start()\n"
                                        "time.sleep(.2)"], capture_output=True, text=True, timeout=120)
                # A build for debugging counts on stderr what such a thread still holds.
                self.assertEqual(child.returncode, 0, f"{what}: {child.stderr}")

    def test_a_fork_beside_threads_that_wait(self):
        """The child has none of them, and its end waits for nobody."""
        child = subprocess.run([sys.executable, "-c", "import os, sys, threading\n"
                                "import numpy as np, sidechannel as sc\n"
                                "n = sc.Localizer(2, 4)\n"
                                "def f():\n"
                                " while True: n.predict(np.zeros((1, 8)))\n"
                                "for _ in range(4): threading.Thread(target=f, daemon=True).start()\n"
                                "for _ in range(50):\n"
                                " pid = os.fork()\n"
                                " if pid == 0: sys.exit(0)\n"
                                " assert os.waitpid(pid, 0)[1] == 0"],
                               capture_output=True, text=True, timeout=120)
        self.assertEqual(child.returncode, 0, child.stderr)


class Gil(Case):
    def test_is_free_while_a_kernel_runs(self):
        device = sc.Device("cpu", threads=1)
        tape = sc.Tape(device)
        channels = 256
        x = tape.constant(noise(4, 512, channels, dtype=np.float32))
        w = tape.constant(noise(5, channels, channels, dtype=np.float32))
        b = tape.constant(np.zeros(channels, dtype=np.float32))
        # One kernel: no turn between two. On a busy machine the other thread may miss some.
        self.assertTrue(any(others_ran_while(lambda: sc.conv1d(x, w, b, 2)) for _ in range(200)))

    def test_the_check_notices(self):
        numbers = list(range(200_000))
        self.assertFalse(any(others_ran_while(lambda: sum(numbers)) for _ in range(20)))

    def test_is_free_while_a_training_runs(self):
        training = sc.LocalizationTraining("demo", norm="none", iterations=10000)
        self.assertTrue(any(others_ran_while(lambda: training.run(20)) for _ in range(200)))

    def test_a_tape_that_another_thread_resets(self):
        tape, x = sc.Tape(), np.ones(64, dtype=np.float32)
        leaves, stop = [tape.leaf(x)], time.monotonic() + 1

        def reset():
            while time.monotonic() < stop:
                tape.reset()
                leaves[0] = tape.leaf(x)

        thread = threading.Thread(target=reset)
        thread.start()
        while time.monotonic() < stop:
            for ask in (tape.gradient, lambda leaf: leaf.value):
                try:
                    ask(leaves[0])
                except sc.Error:
                    pass
        thread.join()

    def test_threads_take_turns_on_a_device(self):
        """Which a queue that works on one kernel at a time does not do by itself."""
        def work(seed):
            tape = sc.Tape()
            x = tape.leaf(noise(8, 64, 8, seed=seed, dtype=np.float32))
            w = tape.constant(noise(5, 8, 8, seed=seed, dtype=np.float32))
            y = sc.conv1d(x, w, tape.constant(np.zeros(8, dtype=np.float32)), 2)
            tape.backward(sc.mse(y, np.zeros((8, 64, 8), dtype=np.float32)))
            return tape.gradient(x).numpy()

        expected = [work(seed) for seed in range(4)]
        wrong = []

        def compare(seed):
            for _ in range(50):
                if not np.array_equal(work(seed), expected[seed]):
                    wrong.append(seed)

        threads = [threading.Thread(target=compare, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_one_tape_reset_under_anothers_feet(self):
        """An Error or an answer, and never a crash."""
        tape, stop, strange = sc.Tape(), threading.Event(), []

        def use():
            while not stop.is_set():
                try:
                    x = tape.constant(np.ones((4, 64, 4), dtype=np.float32))
                    sc.relu(x).numpy()
                except sc.Error as error:
                    if "reset" not in str(error):
                        strange.append(error)

        threads = [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            tape.reset()
            time.sleep(0.0005)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(strange, [])


class CtrlC(Case):
    def interrupted(self, code):
        """What is left to say for a Python that got SIGINT when it had said that it was ready."""
        child = subprocess.Popen([sys.executable, "-B", "-c", textwrap.dedent(code)], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.kill)
        self.assertEqual(child.stdout.readline(), "ready\n", child.stderr)
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        out, error = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 0, error)
        return out

    def test_ends_a_training_between_two_steps(self):
        out = self.interrupted("""
            import sidechannel as sc
            training = sc.LocalizationTraining("demo", norm="none", iterations=100_000_000)
            training.run(1)
            print("ready", flush=True)
            try:
                training.run()
            except KeyboardInterrupt:
                done = training.done
                training.run(2)
                print(done > 1, training.done - done)
            """)
        self.assertEqual(out, "True 2\n")

    def test_ends_the_leak_meter(self):
        out = self.interrupted("""
            import sidechannel as sc
            network = sc.Localizer(depth=6, channels=8)
            sc.leak(network, length=32, inputs=1, outputs=1)
            print("ready", flush=True)
            try:
                sc.leak(network, length=64, inputs=5000, outputs=16)
            except KeyboardInterrupt:
                print("ended", sc.leak(network, length=32, inputs=1, outputs=1)["inputs"])
            """)
        self.assertEqual(out, "ended 1\n")


def resident():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) << 10


class Memory(Case):
    def check(self, f, times=1000, most=8 << 20):
        """f leaves no memory behind, once it has run for a while: less than a few KiB each time, where
        its arrays and networks have ten and more."""
        if "address" in SANITIZED:
            for _ in range(50):
                f()
            self.skipTest("SKIPPED: AddressSanitizer holds what is freed; it has looked at 50 of them")
        for _ in range(times // 5):
            f()
        gc.collect()
        before = resident()
        for _ in range(times):
            f()
        gc.collect()
        self.assertLess(resident() - before, most)

    def test_the_check_notices(self):
        kept = []
        with self.assertRaises(AssertionError):
            self.check(lambda: kept.append(np.ones(1 << 14)), times=200)

    def test_tensors_and_arrays(self):
        array = noise(256, 256, dtype=np.float32)

        def cycle():
            sc.from_dlpack(array).numpy()
            sc.tensor(array).numpy()
            np.from_dlpack(sc.tensor(array).copy())

        self.check(cycle)

    def test_tapes_and_networks(self):
        x, target = noise(2, 64, 1, dtype=np.float32), sc.target_positions(64)

        def cycle():
            network = sc.Localizer(depth=3, channels=16)
            adam, tape = sc.Adam(network.parameters), sc.Tape()
            loss = sc.mse(network(tape.constant(x)), target)
            tape.backward(loss)
            adam.step(loss)

        self.check(cycle)

    def test_steps_on_one_tape(self):
        network, tape = sc.Localizer(depth=3, channels=16), sc.Tape()
        target = sc.target_positions(64)

        def cycle():
            tape.reset()
            x = tape.constant(noise(2, 64, 1, dtype=np.float32))
            with self.assertRaises(sc.Error):
                sc.mse(network(x), target[:7])
            tape.backward(sc.mse(network(x), target))

        self.check(cycle)

    def test_devices(self):
        def cycle():
            device = sc.Device("cpu", threads=2)
            sc.relu(sc.Tape(device).constant(np.ones(4, dtype=np.float32)))

        self.check(cycle, times=300)
        gc.collect()
        before = len(os.listdir("/proc/self/task"))
        cycle()
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/task")), before)

    def test_trainings(self):
        def cycle():
            sc.LocalizationTraining("demo", norm="none", depth=3, iterations=4).run(
                callback=lambda done, line: None)

        self.check(cycle, times=100)


class Errors(Case):
    def test_are_what_python_expects_of_them(self):
        self.assertTrue(issubclass(sc.Error, RuntimeError))
        self.assertTrue(issubclass(sc.UsageError, (sc.Error, ValueError)))
        self.assertTrue(issubclass(sc.OutOfMemory, (sc.MachineError, MemoryError)))
        self.assertEqual(sc.Error.__module__, "sidechannel._core")

    def test_have_the_engines_sentences(self):
        tape = sc.Tape()
        x, w, b = (tape.constant(np.zeros(shape, dtype=np.float32))
                   for shape in ((1, 8, 3), (3, 4, 2), 2))
        self.assertSays(sc.Error, "conv1d: weight expects C_in = 4, got x of C = 3", sc.conv1d, x, w, b)
        self.assertSays(sc.UsageError, "activation gelu: expected none, relu or mish", sc.activate, x,
                        "gelu")
        self.assertSays(sc.UsageError, "dtype float16: expected f32 or f64", sc.Tape, dtype=np.float16)

    def test_memory_that_is_not_there(self):
        with self.assertRaisesRegex(sc.OutOfMemory, "out of memory: could not get 3.6 PiB"):
            sc.Tensor.zeros([10 ** 15])

    def test_what_this_build_cannot_do(self):
        info = sc.build_info()
        self.assertIn(info["cuda"], ("no", "yes", "emulated"))
        if info["cuda"] != "no":
            self.skipTest("SKIPPED: this build has a CUDA backend")
        self.assertEqual((info["gpus"], info["why_no_gpu"]), ([], "this build has no CUDA backend"))
        self.assertSays(sc.UsageError, "--device cuda: this build has no CUDA backend; use --device cpu",
                        sc.Device, "cuda")
        self.assertEqual(sc.Device("auto").name, "cpu")

    def test_the_stubs_say_what_there_is(self):
        stubs = os.path.join(os.path.dirname(sc.__file__), "_core.pyi")
        self.assertTrue(os.path.exists(os.path.join(os.path.dirname(sc.__file__), "py.typed")))
        with open(stubs) as file:
            text = file.read()
        for name in sc.__all__:
            if name not in ("Run", "NOISE", "WEIGHTS"):
                self.assertRegex(text, rf"(?m)^(class|def) {name}\b")
                self.assertTrue(getattr(sc, name).__doc__, name)


if __name__ == "__main__":
    unittest.main()
