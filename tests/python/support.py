"""What the tests of the Python package share. It is the one on PYTHONPATH, or the one installed."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

try:
    import sidechannel as sc
except ImportError as error:
    raise unittest.SkipTest(f"SKIPPED: no package sidechannel ({error})")

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SANITIZED = os.environ.get("SIDECHANNEL_SANITIZED", "")


def program(name):
    """A program of the same build."""
    folder = os.environ.get("SIDECHANNEL_BIN")
    if not folder:
        raise unittest.SkipTest("SKIPPED: SIDECHANNEL_BIN does not say where the programs are")
    return Path(folder) / name


def run(name, *arguments):
    result = subprocess.run([program(name), *map(str, arguments)], capture_output=True, text=True,
                            timeout=300)
    if result.returncode != 0:
        raise AssertionError(f"{name}: {result.stderr}")
    return result.stdout


def noise(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Case(unittest.TestCase):
    def folder(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def assertSays(self, error, words, f, *arguments, **keywords):
        """f raises exactly that class of exception, with exactly these words."""
        with self.assertRaises(error) as caught:
            f(*arguments, **keywords)
        self.assertIs(type(caught.exception), error)
        self.assertEqual(str(caught.exception), words)


__all__ = ["ROOT", "SANITIZED", "Case", "noise", "np", "program", "run", "sc"]
