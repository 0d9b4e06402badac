"""Tests of the script `run`: python3 -m unittest discover -s tests/run"""

import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run([ROOT / "run", *arguments], capture_output=True, text=True, timeout=60)


class BadUsageTest(unittest.TestCase):
    def test_is_one_line_before_anything_is_installed_or_built(self):
        for arguments, message in (
                (("frobnicate",), "there is no command frobnicate"),
                (("demo", "--seed"), "demo: expected [--seed S] with S a whole number, got --seed"),
                (("demo", "--seed", "-1"),
                 "demo: expected [--seed S] with S a whole number, got --seed -1"),
                (("demo", "--seed", "07"),
                 "demo: expected [--seed S] with S a whole number, got --seed 07"),
                (("check", "engine"), "check: too many arguments"),
                (("setup", "frobnicate"), "setup: there is no command frobnicate"),
                (("bundle", "--binary"), "bundle: expected [FOLDER] [--binaries], got --binary")):
            with self.subTest(arguments):
                result = run(*arguments)
                self.assertEqual(result.stderr, f"run: {message} (see ./run help)\n")
                self.assertEqual((result.returncode, result.stdout), (2, ""))


class BundleTest(unittest.TestCase):
    def test_builds_without_gmock(self):
        """Which `run` installs for the emulator's own tests alone."""
        needy = [path for path in (ROOT / "tests").rglob("*") if path.suffix in (".cpp", ".h", ".cu")
                 and "gmock" in path.read_text() and ROOT / "tests/emulator" not in path.parents]
        self.assertEqual(needy, [])


class RunsTest(unittest.TestCase):
    """Which installs and builds nothing: its own words and exit codes come through."""

    def test_passes_on_what_it_is_asked(self):
        with tempfile.TemporaryDirectory() as folder:
            result = run("runs", "list", folder)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "no runs\n", ""))
        result = run("runs", "list", folder)
        self.assertEqual((result.returncode, result.stdout, result.stderr),
                         (1, "", f"runs: {folder}: no such folder\n"))
        result = run("runs", "frobnicate")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertRegex(result.stderr, r"\Aruns: .*invalid choice: 'frobnicate'.* \(see --help\)\n\Z")


class HelpTest(unittest.TestCase):
    def test_names_every_command(self):
        result = run("help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        for command in ("demo", "figures", "runs", "test", "bench", "gpu", "bundle", "check", "docs",
                        "emulate", "sanitize", "setup"):
            self.assertRegex(result.stdout, rf"(?m)^  {command}\b")
        self.assertEqual(run("--help").stdout, result.stdout)

    def test_no_command_is_bad_usage(self):
        result = run()
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertEqual(result.stderr, run("help").stdout)


if __name__ == "__main__":
    unittest.main()
