"""Tests of what all figures share: style.py and interrupt.py, by way of their scripts."""

import contextlib
import io
import json
import os
import pwd
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import warnings
from pathlib import Path
from unittest import mock

from figure_test import FIGURES, FigureTest
from test_figure1 import make_run
from test_figure3 import make_run as make_overlaps
from test_figure4 import make_sweep
from test_figure_crosstalk import make_crosstalk

import figure1
import figure3
import figure4
import figure_crosstalk
import figure_multihop
import style
import values

import numpy as np


class Script(FigureTest):
    """figure3.py as a program, in a folder of its own, upon a run that it can draw."""

    module = figure3

    def setUp(self):
        super().setUp()
        self.run_folder = make_overlaps(self.folder / "run")

    def command(self, *arguments):
        return [sys.executable, FIGURES / "figure3.py", self.run_folder, *arguments]

    def call(self, *arguments, **how):
        """Exit code, stdout, stderr."""
        environment = {**os.environ, **how.pop("env", {})}
        done = subprocess.run(self.command(*arguments), cwd=self.folder, capture_output=True,
                              env={k: v for k, v in environment.items() if v is not None}, **how)
        return done.returncode, done.stdout, done.stderr


class SurroundingsTest(Script):
    def test_an_output_that_is_not_utf8(self):
        for environment in ({"PYTHONIOENCODING": "ascii"},
                            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
            code, out, err = self.call("--out", self.picture, env=environment)
            self.assertEqual((code, err), (0, b""))
            self.assertIn(rb"up to \u2113/4 shared", out)

    def test_help_that_nobody_can_read(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run(self.command("--help"), stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, b"figure3.py: cannot write standard output: No space left on "
                         b"device\n")

    def test_no_home_for_matplotlib(self):
        """A folder that is none, no home at all, no room even for a temporary folder."""
        temporary = self.folder / "tmp"
        temporary.mkdir()
        for environment, how in (
                ({"MPLCONFIGDIR": "/dev/null"}, {}),
                ({"HOME": "/dev/null", "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None}, {}),
                ({"HOME": None}, {"user": self.nobody()} if os.geteuid() == 0 else {})):
            self.folder.chmod(0o777)
            temporary.chmod(0o777)
            environment = {"MPLCONFIGDIR": None, "TMPDIR": str(temporary), **environment}
            code, _, err = self.call("--out", f"{len(how)}.png", env=environment, **how)
            self.assertEqual((code, err), (0, b""))
            code, _, err = self.call("--out", "o.gif", env=environment, **how)
            self.assertEqual((code, err.count(b"\n")), (2, 1), err)
            self.assertEqual(os.listdir(temporary), [])

    def nobody(self):
        """A user whom the system has no name and no home for."""
        taken = {entry.pw_uid for entry in pwd.getpwall()}
        return next(uid for uid in range(54321, 65000) if uid not in taken)

    def test_a_matplotlibrc_that_is_no_text(self):
        (self.folder / "matplotlibrc").write_bytes(b"\xff\xfe")
        code, _, err = self.call("--out", "o.png")
        self.assertEqual((code, err.count(b"\n")), (1, 1), err)
        self.assertIn(b"figure3.py: cannot load matplotlib", err)
        (self.folder / "matplotlibrc").write_text("font.size: large\nnonsense\n")
        self.assertEqual(self.call("--out", "o.png")[::2], (0, b""))

    def test_a_pipe_is_no_file_to_read(self):
        (self.run_folder / "summary.json").unlink()
        os.mkfifo(self.run_folder / "summary.json")
        self.refuses(1, "summary.json: not a file", self.run_folder)


class OptionsTest(Script):
    def test_a_title_that_no_picture_can_show(self):
        for title, shown in (("a\x01b", r"'\\x01'"), ("bell\a", r"'\\x07'"), ("\x1b[31m", "x1b"),
                             (b"\xff".decode(errors="surrogateescape"), r"'\\udcff'"),
                             ("\x85", "x85"), ("\u4e2d", "u4e2d"), ("\ufeffa", "")):
            for out in (self.picture, self.folder / "out" / "figure.svg"):
                if shown:
                    self.fails(2, f"--title: DejaVu Sans, .* has no .*{shown}", self.run_folder,
                               "--title", title, "--out", out)
        self.refuses(2, "--title: has 501 characters", self.run_folder, "--title", "x" * 501)
        self.draws(self.run_folder, "--title", "tab\tand\nline: $x_1$ \\frac é ℓ ½ " + "w" * 460)

    def test_what_has_no_suffix_gets_a_png(self):
        for out in ("/dev/null", "-", "/dev/stdout", "/dev/fd/1", ">(cat >&2)"):
            script = f'"$@" --out {out}'
            done = subprocess.run(["bash", "-c", script, "bash", *self.command()], capture_output=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            if out != "/dev/null":
                self.assertIn(b"\x89PNG", done.stdout + done.stderr, out)
        self.fails(2, "o: a figure is a .png", self.run_folder, "--out", self.folder / "o")

    def test_two_outputs_are_two_files(self):
        (self.folder / "link.json").symlink_to(self.folder / "out" / ".." / "new.png")
        (self.folder / "here").symlink_to(self.folder)
        old = self.folder / "old.png"
        old.write_bytes(b"old")
        (self.folder / "hard.json").hardlink_to(old)
        for out, summary in (("new.png", "new.png"), ("new.png", "link.json"),
                             ("here/new.png", "./new.png"), ("old.png", "hard.json"),
                             ("-", "/dev/stdout"), ("-", "/dev/fd/1")):
            code, stdout, err = self.call("--out", out, "--summary", summary)
            self.assertEqual((code, stdout), (2, b""), err)
            self.assertRegex(err.decode(), rf"\Afigure3.py: --summary {summary}: that is the same "
                             r"file as --out\n\Z")
        self.assertFalse((self.folder / "new.png").exists())
        self.assertEqual(old.read_bytes(), b"old")
        self.refuses(2, "--summary: expected the name", self.run_folder, "--summary", "")

    def test_no_output_is_an_input(self):
        data = self.run_folder / "summary.json"
        before = data.read_bytes()
        (self.folder / "link.png").symlink_to(data)
        self.fails(2, "--out .*link.png: that is the same file as .*run/summary.json",
                   self.run_folder, "--out", self.folder / "link.png")
        self.refuses(2, "--summary .*: that is the same", self.run_folder, "--summary", data)
        self.assertEqual(data.read_bytes(), before)
        # Beside them, and again.
        for _ in range(2):
            self.assertEqual(self.call("--out", "run/o.png", "--summary", "run/o.json")[::2],
                             (0, b""))


class InterruptTest(Script):
    def test_a_signal_at_any_moment(self):
        """A new list of fonts each time, the longest of imports."""
        figure, old = self.folder / "o.png", b"\x89PNG\r\n\x1a\n"
        start = time.monotonic()
        self.call("--out", figure, env={"MPLCONFIGDIR": "/dev/null"})
        whole = time.monotonic() - start
        before = set(os.listdir(tempfile.gettempdir()))
        draw, interrupted = random.Random(0), 0
        for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] * 4:
            child = subprocess.Popen(self.command("--out", figure), stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE,
                                     env={**os.environ, "MPLCONFIGDIR": "/dev/null"})
            # Not before it has read its first lines.
            while not self.handles_signals(child) and child.poll() is None:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.9) * whole)
            child.send_signal(number)
            out, err = child.communicate(timeout=60)
            if child.returncode == 0:
                whole *= 0.7  # the first one met a busier machine
            else:
                interrupted += 1
                self.assertEqual((child.returncode, err), (75, b"figure3.py: interrupted\n"))
            self.assertEqual(figure.read_bytes()[:8], old)
            self.assertEqual(list(self.folder.glob(".*")), [])
        self.assertGreater(interrupted, 4)
        self.assertEqual({name for name in set(os.listdir(tempfile.gettempdir())) - before
                          if name.startswith("matplotlib-")}, set())

    def handles_signals(self, child):
        status = Path(f"/proc/{child.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))[8:]
        return int(caught, 16) >> (signal.SIGTERM - 1) & 1

    def test_every_script_catches_them_first(self):
        for script in sorted(FIGURES.glob("figure*.py")):
            lines = script.read_text().splitlines()
            first = lines.index("interrupt.catch(__name__)")
            self.assertEqual([line.split()[:2] for line in lines[:first]
                              if line.startswith(("import", "from"))],
                             [["import", "os"], ["import", "sys"], ["import", "interrupt"]], script)


class ValuesTest(FigureTest):
    def test_numbers(self):
        for value in (True, "1", None, [1], float("nan"), float("inf"), 1e101, -10**101):
            self.assertFalse(values.is_number(value), value)
            self.assertFalse(values.is_count(value), value)
        for value in (0, -1, 1.0, 2**53 + 1):
            self.assertTrue(values.is_number(value))
            self.assertFalse(values.is_count(value))

    def test_ticks_of_any_length(self):
        for length in (*range(1, 200), 27500, 27501, 100000, 10**9 + 7, values.MOST_COUNT):
            for ticks in (figure3.ticks(length), style.layer_ticks(length),
                          style.index_ticks(length)):
                self.assertEqual(ticks[-1], length)
                self.assertEqual(ticks, sorted(set(ticks)))
                self.assertLessEqual(len(ticks), 8)

    def test_a_claim_that_is_none(self):
        good = style.claim("says", "share > 0", 0.5, lambda v: v > 0)
        self.assertEqual(style.read_claims("f", {"claims": {"a": good}}), {"a": good})
        for change in ({"pass": "true"}, {"pass": 1}, {"pass": None}, {"ours": None}, {"ours": "x"},
                       {"ours": True}, {"paper": 3}, {"criterion": None}):
            with self.assertRaisesRegex(style.Error, "^f: a is .*, expected a claim"):
                style.read_claims("f", {"claims": {"a": {**good, **change}}})
        for data in ({}, {"claims": []}, {"claims": {"a": []}}, {"claims": {"a": {}}}):
            with self.assertRaises(style.Error):
                style.read_claims("f", data)


WRONG = (float("nan"), float("inf"), 1e300, 10**30, -10**30, -1, 0, 1.5, True, False, None, "", "x",
         "\ud800", "$x", "\x01", [], [3], {}, {"a": [None]})


class DamageTest(Script):
    """Whatever stands in a file: a figure, or one line."""

    def each(self, value, path=()):
        """All places of a JSON value."""
        if path:
            yield path
        items = value.items() if isinstance(value, dict) else \
            enumerate(value[:2]) if isinstance(value, list) else ()
        for key, item in items:
            yield from self.each(item, (*path, key))

    def damaged(self, file, number=len(WRONG)):
        """Puts so many wrong values in each place of the file, one after the other."""
        whole, choice = file.read_text(), random.Random(0)
        for path in self.each(json.loads(whole)):
            for value in choice.sample(WRONG, number):
                data = json.loads(whole)
                place = data
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = value
                file.write_text(json.dumps(data))
                yield path, value
        file.write_text(whole)

    def check(self, module, file, *arguments):
        """No exception but Error; no library's warning; claims of numbers."""
        outcomes = set()
        for path, value in self.damaged(file, 3):
            with self.subTest(script=module.__name__, path=path, value=value), \
                    warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), \
                    mock.patch.object(style, "write_figure"):
                warnings.simplefilter("error")
                self.summary.unlink(missing_ok=True)
                try:
                    module.main([*map(str, arguments), "--out", str(self.picture), "--summary",
                                 str(self.summary)])
                except style.Error as error:
                    self.assertIn(error.exit_code, (1, 2))
                    self.assertLess(len(str(error)), 400)
                    outcomes.add("error")
                else:
                    style.read_claims(self.summary, style.read_json(self.summary))
                    outcomes.add("drawn")
        self.assertEqual(outcomes, {"error", "drawn"})

    def test_every_value_in_every_place(self):
        a, b = make_run(self.folder / "a", "group"), make_run(self.folder / "b", "none")
        sweep = make_sweep(self.folder / "sweep", {1: (0.1, 0.2), 4: (0.5, 0.6)})
        self.check(figure3, self.run_folder / "summary.json", self.run_folder)
        self.check(figure4, sweep / "results.json", sweep)
        crosstalk = make_crosstalk(self.folder / "crosstalk")
        self.check(figure_crosstalk, crosstalk / "results.json", crosstalk)
        self.check(figure_multihop, a / "summary.json", a, b)
        self.check(figure1, a / "config.json", a, b)

    def test_arrays(self):
        a, b = make_run(self.folder / "a", "group"), make_run(self.folder / "b", "none")
        self.module = figure1
        for name, damage, message in (
                ("predictions_mean", lambda x: x * 1e101, "not finite, or too large"),
                ("predictions_sample", lambda x: x + np.float32("nan"), "not finite"),
                ("layer_mean", lambda x: x / 0, "not finite"),
                ("localized", lambda x: (x.view("u1") * 7).view(bool), "neither true nor false"),
                ("localized", lambda x: x.T, "expected bool")):
            with self.subTest(name=name), np.errstate(all="ignore"):
                file = b / f"{name}.npy"
                whole = file.read_bytes()
                np.save(file, damage(np.load(file)))
                self.refuses(1, f"{name}.npy: .*{message}", a, b)
                for content in (whole[:-1], whole[:60], b"", whole + b"x"):
                    file.write_bytes(content)
                    self.refuses(1, f"{name}.npy: not a .npy file, or truncated", a, b)
                file.write_bytes(whole)
        # As large as f32 can be is a picture still.
        file = b / "predictions_sample.npy"
        np.save(file, np.load(file) + np.float32(3e38))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.draws(a, b)


if __name__ == "__main__":
    unittest.main()
