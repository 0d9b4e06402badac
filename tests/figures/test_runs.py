"""Tests of experiments/figures/runs.py: `./run runs` and `sidechannel runs`.

Runs that programs make are of those in the folder in SIDECHANNEL_BIN; without it their tests are
skipped.
"""

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import types
import unittest
from pathlib import Path
from unittest import mock

from figure_test import FIGURES, FigureTest

import curves
import run_folder
import runs
import style

import numpy as np

BIN = os.environ.get("SIDECHANNEL_BIN")
ROOT = FIGURES.parents[1]
TINY = Path(__file__).resolve().parent / "tiny"

SETTINGS = {"preset": "demo", "norm": "instance", "depth": 4, "learning_rate": 0.002, "iterations": 400,
            "curriculum_iterations": 0, "probes": "all", "probe_iterations": 50, "map_samples": 400,
            "seed": 0, "precision": "fp32", "threads": 1}
RESULTS = {"interior_slope": 0.8, "localized_fraction": [0.2, 1.0], "localization_distance": 12,
           "interior_localized_fraction": [None, 0.75], "unbroken_distance": 10, "final_loss": 0.01,
           "receptive_field": 4, "seconds": 12.3, "notice": None}


def line(step, phase="train", **numbers):
    return json.dumps({"phase": phase, "step": step, **numbers}) + "\n"


LINES = line(100, loss=0.08, interior_slope=None) + line(200, loss=0.04, interior_slope=0.25)


def make_run(folder, lines="", results=None, states=(), predictions=None, **settings):
    """A folder as a program leaves it: `states` are pairs of a checkpoint and its step."""
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    settings = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps({
        "settings": settings, "commit": "0123456789abcdef", "compiler": "GNU 12",
        "device": "cpu", "machine": "a machine"}))
    (folder / "metrics.jsonl").write_text(lines)
    if results is not None:
        (folder / "summary.json").write_text(json.dumps(results))
    for name, step in states:
        header = json.dumps({"__metadata__": {"step": str(step), "milliseconds": "2500"}}).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header)
    if predictions is not None:
        np.save(folder / "predictions_mean.npy", predictions)
    return folder


@contextlib.contextmanager
def held(folder):
    """As long as a process works in it."""
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


class RunsTest(FigureTest):
    module = runs
    program = "runs"

    def says(self, *arguments):
        """The lines printed, by a call that succeeds."""
        code, out, err = self.run_main(*arguments)
        self.assertEqual((code, err), (0, []))
        return out

    def cells(self, *arguments):
        return [re.split("  +", row.strip()) for row in self.says(*arguments)]

    def call(self, *arguments, python=(sys.executable,), **how):
        """The same as a program."""
        return subprocess.run([*python, FIGURES / "runs.py", *map(str, arguments)], cwd=self.folder,
                              capture_output=True, text=True, timeout=60, **how)

    def start(self, *arguments):
        return subprocess.Popen([sys.executable, FIGURES / "runs.py", *map(str, arguments)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(self, holds, child=None):
        """Waits for what a child does."""
        for _ in range(3000):
            if holds():
                return
            if child is not None:
                self.assertIsNone(child.poll(), child.poll() is not None and child.communicate())
            time.sleep(0.02)
        self.fail("waited for a minute")


class ListTest(RunsTest):
    def test_a_table_of_what_differs(self):
        make_run(self.folder / "b10", LINES, RESULTS)
        make_run(self.folder / "b9", LINES, {**RESULTS, "interior_slope": None}, norm="none",
                 threads=7)
        make_run(self.folder / "b11", LINES + line(300, loss=0.02, interior_slope=0.5))
        self.assertEqual(self.cells("list", self.folder), [
            ["3 runs of localization; where nothing else stands: norm instance"],
            ["run", "state", "loss", "slope", "localized", "distance", "settings"],
            [f"{self.folder}/b9", "finished", "0.04", "-", "100 %", "12", "norm none"],
            [f"{self.folder}/b10", "finished", "0.04", "0.800", "100 %", "12"],
            [f"{self.folder}/b11", "interrupted: train 300/400", "0.02", "0.500", "-", "-"]])
        table = self.says("list", self.folder)[1:]
        self.assertEqual({row.index(cell) + len(cell) for row, cell in zip(table, (
            " slope", " -", " 0.800", " 0.500"))}, {table[0].index("slope") + 5})  # numbers at the right

    def test_each_sweep_has_a_table(self):
        make_run(self.folder / "z", LINES, norm="none")
        for sweep in ("a", "b"):
            for seed in (0, 1):
                cell = make_run(self.folder / sweep / "cells" / f"seed{seed}", LINES, seed=seed)
            (self.folder / sweep / "plan.json").write_text("{}")
        make_run(cell / "population", LINES, seed=1, depth=5)
        self.assertEqual([row for row in self.says("list", self.folder) if "of localization" in row], [
            "1 run of localization",
            f"2 runs of localization in the sweep {self.folder}/a",
            f"3 runs of localization in the sweep {self.folder}/b; where nothing else stands: depth 4, "
            "seed 1"])

    def test_states(self):
        for name, how in {
                "finished": {"results": RESULTS}, "interrupted": {}, "under way": {},
                "trained": {"states": [("model.safetensors", 0), ("checkpoint.safetensors", 400)]},
                "interrupted later": {"states": [("model.safetensors", 0),
                                                 ("probes_checkpoint.safetensors", 20)]},
                "failed": {}, "failed, too": {}, "finished, held": {"results": RESULTS}}.items():
            make_run(self.folder / name, **how)
        (self.folder / "failed" / "failure.txt").write_text("no room\n")
        (self.folder / "failed, too" / "failure.safetensors").touch()
        with held(self.folder / "under way"), held(self.folder / "finished, held"):
            states = {Path(run["path"]).name: run["state"]
                      for run in json.loads("\n".join(self.says("list", "--json", self.folder)))}
        self.assertEqual(states, {
            "finished": "finished", "interrupted": "interrupted", "under way": "under way",
            "trained": "trained", "interrupted later": "interrupted", "failed": "failed",
            "failed, too": "failed", "finished, held": "finished"})

    def test_progress(self):
        for states, lines, expected in (
                ([], "", ""), ([], line(100, loss=1), "train 100/400"),
                ([("checkpoint.safetensors", 130)], line(100, loss=1), "train 130/400"),
                ([("checkpoint.safetensors", 400), ("probes_checkpoint.safetensors", 0)],
                 line(400, loss=1), "train 400/400"),
                ([("checkpoint.safetensors", 400)], line(20, "probe", losses=[1, 2]), "probe 20/50"),
                ([("map_checkpoint.safetensors", 3)], LINES, "map 3 batches")):
            folder = make_run(self.folder / str(len(list(self.folder.iterdir()))), lines, states=states)
            self.assertEqual(run_folder.Folder(folder).progress, expected)
        for damage in (b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x05" + bytes(7) + b"[1,2]"):
            (folder / "map_checkpoint.safetensors").write_bytes(damage)
            self.assertEqual(run_folder.Folder(folder).progress, "train 200/400", damage)

    def test_a_lock_that_is_a_file(self):
        """Where a file system has none."""
        folder = make_run(self.folder / "run")
        pid = str(os.getpid())
        here = {"host": run_folder.socket.gethostname(), "pids": os.readlink("/proc/self/ns/pid"),
                "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "pid": pid,
                "start": run_folder._start_of(pid)}
        self.assertTrue(here["start"])
        for change, held_by in (({}, True), ({"start": "1"}, False), ({"pid": "999999999"}, False),
                                ({"boot": "another"}, False), ({"boot": "another", "host": "x"}, True),
                                ({"pids": "pid:[1]"}, True), ({"start": ""}, True)):
            (folder / ".lock.owner").write_text(" ".join({**here, **change}[key] for key in (
                "host", "boot", "pids", "pid", "start")))
            self.assertEqual(run_folder.Folder(folder).state,
                             "under way" if held_by else "interrupted", change)

    def test_what_is_no_run_is_none(self):
        (self.folder / "empty").mkdir()
        (self.folder / "figures").mkdir()
        (self.folder / "figures" / "summary.json").write_text("{}")
        self.assertEqual(self.says("list", self.folder), ["no runs"])
        plan = make_run(self.folder / "sweep", overlaps="0:4", map_samples=None)
        make_run(plan / "overlap-000", LINES, overlap=0, test_pairs=8, map_samples=None)
        (plan / "self").symlink_to(self.folder)  # a circle
        lines = self.says("list", self.folder)
        self.assertEqual(len(lines), 3)
        self.assertEqual(lines[0], f"1 run of overlap in the sweep {plan}")
        self.assertRegex(lines[2], "^.*/sweep/overlap-000  interrupted: train 200/400  ")
        self.fails(1, "missing: no such folder$", "list", self.folder / "missing")
        self.fails(1, "config.json: no such folder$", "list", plan / "config.json")
        done = self.call("list")
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (1, "", "runs: runs: no such folder\n"))

    def test_damage_hides_nothing_else(self):
        make_run(self.folder / "whole", LINES, RESULTS)
        for name, file, content, message in (
                ("a", "config.json", "{", "not JSON, perhaps truncated"),
                ("b", "config.json", "{}", "has no settings"),
                ("c", "summary.json", "{}", "has no interior_slope"),
                ("d", "summary.json", json.dumps({**RESULTS, "localized_fraction": ["x"]}),
                 "localized_fraction is .*, expected numbers or null"),
                ("e", "metrics.jsonl", LINES + "nonsense\n" + LINES, ", line 3: not JSON"),
                ("f", "metrics.jsonl", line(1, loss=1) + '{"loss": NaN}\n', "line 2: not JSON")):
            folder = make_run(self.folder / name)
            (folder / file).write_text(content)
            code, out, err = self.run_main("list", self.folder)
            self.assertEqual((code, len(out), len(err)), (1, 3, 1), (out, err))
            self.assertRegex(err[0], f"^runs: {folder}/{file}.*{message}")
            for rest in ((file,), ("config.json", "metrics.jsonl")):
                for each in rest:
                    with contextlib.suppress(FileNotFoundError):
                        (folder / each).unlink()

    def test_a_line_that_is_being_written(self):
        folder = make_run(self.folder / "run", LINES + line(300, loss=0.5)[:-9])
        self.assertEqual(run_folder.Folder(folder).measures, {
            "loss": 0.04, "slope": 0.25, **dict.fromkeys((
                "localized", "distance", "localized beyond R", "unbroken distance", "loss of the map",
                "receptive field R"))})

    def test_names_of_any_bytes(self):
        make_run(self.folder / "new\nline\x1b[31m", LINES, norm="a\nb")
        make_run(Path(os.fsdecode(os.fsencode(self.folder) + b"/\xff")), LINES)
        done = self.call("list", ".")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(len(done.stdout.splitlines()), 4)
        self.assertIn("new?line?[31m", done.stdout)

    def test_words_need_nothing_but_python(self):
        folder = make_run(self.folder / "run", LINES, RESULTS)
        bare = (sys.executable, "-I", "-S")
        for arguments in (["list", "."], ["show", "run"], ["export", "run", "--csv", "-"]):
            done = self.call(*arguments, python=bare)
            self.assertEqual((done.returncode, bool(done.stdout)), (0, True), done.stderr)
        done = self.call("plot", folder, "--output", "o.png", python=bare)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertIn("cannot load matplotlib and numpy", done.stderr)

    def test_misuse(self):
        for message, *arguments in (
                ("arguments are required: COMMAND",), ("invalid choice: 'lost'", "lost"),
                ("required: RUN", "show"), ("required: --output", "plot", "x"),
                ("unrecognized arguments: --all", "list", "--all")):
            self.fails(2, message + r".* \(see --help\)$", *arguments)


class ShowTest(RunsTest):
    def stub(self, **settings):
        """A program that knows presets: `demo`, and of norm none another depth."""
        folder = self.folder / "bin"
        folder.mkdir()
        own = {**SETTINGS, "precision": "auto", **settings}
        (folder / "localization").write_text(f"""#!/bin/sh
            [ "$1 $2 $3" = "settings --preset demo" ] || exit 2
            case "$4 $5" in
              "--norm none") echo '{json.dumps({**own, "norm": "none", "depth": 7})}' ;;
              *) echo '{json.dumps(own)}' ;;
            esac""")
        (folder / "localization").chmod(0o755)
        return folder

    def test_one_that_is_finished(self):
        folder = make_run(self.folder / "run", LINES + line(50, "probe", losses=[0.5, 0.25]),
                          {**RESULTS, "notice": "this run learned nothing"},
                          [("checkpoint.safetensors", 400)], np.zeros(4), seed=3, norm="none")
        self.assertEqual(self.says("show", folder, "--bin", self.stub()), [
            f"{folder}: localization, finished, 12 s",
            "settings: preset demo, but norm none, depth 4, seed 3",
            "train: 400 of 400 steps in 2 s; loss 0.04, slope 0.250",
            "probe: 50 of 50 steps; loss 0.5 at the first layer, 0.25 at the last",
            "map: 0 batches",
            "result: beyond its receptive field, R = 4, it follows the position (slope 0.800; 1 is "
            "perfect); localized: 100 % of all positions, 75 % of those beyond R, the farthest 12 from "
            "an edge",
            "notice: this run learned nothing",
            "made by: commit 0123456789ab, GNU 12, on cpu; a machine",
            "files: predictions_mean.npy"])

    def test_how_an_interrupted_one_goes_on(self):
        folder = make_run(self.folder / "a run", LINES, learning_rate=1e-5)
        programs = self.stub()
        out = self.says("show", folder, "--bin", programs)
        self.assertIn("settings: preset demo, but learning_rate 1e-05", out)
        self.assertIn(f"goes on with: {programs}/localization run --preset demo --learning-rate 1e-05 "
                      f"--out '{folder}'", out)
        with held(folder):
            out = "\n".join(self.says("show", folder, "--bin", programs))
        self.assertIn(": localization, under way: train 200/400\n", out)
        self.assertNotIn("goes on with", out)

    def test_without_its_program(self):
        folder = make_run(self.folder / "run")
        with mock.patch.dict(os.environ, {"PATH": ""}):
            out = self.says("show", folder, "--bin", self.folder)
        self.assertEqual(out[1], "settings: " + ", ".join(
            f"{key} {value}" for key, value in SETTINGS.items() if key not in ("preset", "threads")))

    def test_what_results_say(self):
        for slope, words in ((None, "result: no position lies beyond its receptive field, R = 4;"),
                             (0.2, "it knows something of the position (slope 0.200;"),
                             (-0.3, "it does not know the position (slope -0.300;")):
            folder = make_run(self.folder / str(slope), "", {**RESULTS, "interior_slope": slope})
            self.assertIn(words, "\n".join(self.says("show", folder)))

    def test_a_cell_and_one_that_failed(self):
        sweep = self.folder / "sweep"
        folder = make_run(sweep / "cells" / "G4", norm="group", seed=2)
        (sweep / "plan.json").write_text(json.dumps({"settings": {
            key: value for key, value in SETTINGS.items() if key != "seed"}}))
        (folder / "failure.txt").write_text("no room\n")
        out = self.says("show", folder)
        self.assertEqual(out[0], f"{folder}: localization, failed")
        self.assertEqual(out[1], f"settings: of {os.path.relpath(sweep)}, with norm group, seed 2")
        self.assertIn("failure: no room", out)
        population = make_run(folder / "population", norm="group", seed=2, depth=5)
        self.assertEqual(self.says("show", population)[1],
                         f"settings: of {os.path.relpath(folder)}, with depth 5")

    def test_many_or_none(self):
        make_run(self.folder / "a")
        self.assertTrue(self.says("show", self.folder)[0].startswith(f"{self.folder}/a: "))
        make_run(self.folder / "b")
        self.fails(2, "holds 2 runs, expected one; `runs list", "show", self.folder)
        (self.folder / "c").mkdir()
        self.fails(1, "c: holds no run$", "show", self.folder / "c")
        self.fails(1, "d: no such folder$", "show", self.folder / "d")


class CompareTest(RunsTest):
    def setUp(self):
        super().setUp()
        self.a = make_run(self.folder / "a", LINES, RESULTS, predictions=np.linspace(-0.4, 0.4, 24))
        self.b = make_run(self.folder / "b", line(100, loss=0.08, interior_slope=0.01), norm="none",
                          depth=8, predictions=np.zeros(12))

    def test_a_table(self):
        self.assertEqual(self.cells("compare", self.a, self.b), [
            ["a", "b"],
            ["state", "finished", "interrupted: train 100/400"], ["norm", "instance", "none"],
            ["depth", "4", "8"], ["loss", "0.04", "0.08"], ["slope", "0.800", "0.010"],
            ["localized", "100 %", "-"], ["distance", "12", "-"], ["localized beyond R", "75 %", "-"],
            ["unbroken distance", "10", "-"], ["loss of the map", "0.01", "-"],
            ["receptive field R", "4", "-"], ["time", "12 s", "-"]])

    def test_of_other_programs(self):
        make_run(self.folder / "c", LINES, overlap=3, test_pairs=8, map_samples=None)
        (self.folder / "c" / "result.json").write_text('{"mse": 0.5}')
        out = self.says("compare", self.folder)
        self.assertRegex(out[1], "^program +localization +localization +overlap$")
        self.assertIn("overlap", [row.split()[0] for row in out])
        self.assertRegex("\n".join(out), r"\nerror +- +- +0\.5\n")

    def test_many_are_rows(self):
        for seed in range(1, 7):
            make_run(self.folder / f"s{seed}", seed=seed)
        out = self.says("compare", self.folder)
        self.assertRegex(out[0], "^ +state +norm +depth +seed +loss ")
        self.assertRegex(out[-1], "^s6 +interrupted +instance +4 +6 +- ")

    def test_less_than_two(self):
        self.fails(2, "a: is one run, expected two or more", "compare", self.a)
        self.fails(2, "a: is one run, expected two or more", "compare", self.a, f"{self.a}/../a")
        self.fails(2, "--metric: has no effect without --output$", "compare", self.a, self.b,
                   "--metric", "loss")
        same = make_run(self.folder / "same", threads=9)
        other = make_run(self.folder / "other")
        self.assertEqual(self.says("compare", same, other)[-1],
                         "no setting differs that results depend on")

    def test_a_picture(self):
        out = self.says("compare", self.a, self.b, "--output", self.picture, "--title", "Two $runs$")
        self.assertEqual(self.picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(len(out), 13)
        found = run_folder.runs_of([self.folder])
        with style.looks():
            figure = curves.picture(found, ["a", "b"], curves.drawable(found, []), True, "Two $runs$")
        self.assertEqual([len(axes.lines) for axes in figure.axes], [2, 2, 3])
        np.testing.assert_allclose(figure.axes[2].lines[1].get_xydata()[[0, -1]],
                                   [[-0.5, -0.4], [0.5, 0.4]])
        self.assert_texts_apart(figure)

    def test_arrays_that_make_no_sense(self):
        (self.b / "predictions_mean.npy").write_bytes(b"\x93NUMPY")
        self.refuses(1, "predictions_mean.npy: not a .npy file", "compare", self.a, self.b)

    def refuses(self, code, message, *arguments):
        self.fails(code, message, *arguments, "--output", self.picture)


class PlotTest(RunsTest):
    def test_curves_of_any_metric(self):
        a = make_run(self.folder / "a", LINES + line(10, "probe", losses=[0.5, 0.25])
                     + line(20, "probe", losses=[0.4, 0.125]))
        make_run(self.folder / "b", line(100, loss=0.5, gradient_norm=3), norm="none")
        found = run_folder.runs_of([self.folder])
        for metrics, panels in (
                ([], [["loss", 2], ["interior_slope", 1]]), (["slope"], [["slope", 1]]),
                (["gradient_norm", "train.loss"], [["gradient_norm", 1], ["train.loss", 2]]),
                (["losses.2"], [["losses.2", 1]]), (["probe.losses.1"], [["probe.losses.1", 1]])):
            there = curves.drawable(found, metrics)
            with style.looks():
                figure = curves.picture(found, ["a", "b"], there)
            self.assertEqual([[metric, len(axes.lines)] for metric, axes in zip(there, figure.axes)],
                             panels)
            self.assertEqual(len(figure.legends[0].get_texts()), max(count for _, count in panels))
            self.assert_texts_apart(figure)
        self.assertEqual(figure.axes[0].lines[0].get_xydata().tolist(), [[10, 0.5], [20, 0.4]])
        self.assertEqual(self.says("plot", self.folder, "--metric", "losses.2", "--output",
                                   self.picture),
                         [f"figure: {self.picture} (data: {a}, {self.folder}/b)"])
        self.picture.unlink()
        self.fails(2, "--metric lost: no run has it, expected one of loss, interior_slope, "
                   "probe.losses.1, probe.losses.2, gradient_norm$", "plot", self.folder, "--metric",
                   "lost", "--output", self.picture)

    def test_many(self):
        for count in (1, 9, 33, 60):
            for i in range(len(list(self.folder.iterdir())), count):
                make_run(self.folder / f"a-run-with-a-long-name-{i}", line(1, loss=i + 1)
                         + line(2000000, loss=0.001))
            found = run_folder.runs_of([self.folder])
            names = run_folder.short_names(found)
            with style.looks():
                figure = curves.picture(found, names, ["loss"], title="x " * 200)
            self.assertEqual(len(figure.axes[0].lines), count)
            looks = set(map(str, curves.looks_of(count)))
            self.assertEqual(len(looks), count)
            self.assert_texts_apart(figure)

    def test_formats_and_streams(self):
        make_run(self.folder / "run", LINES)
        for suffix, magic in (("pdf", b"%PDF"), ("svg", b"<?xml")):
            self.says("plot", self.folder, "--output", self.folder / f"o.{suffix}")
            self.assertTrue((self.folder / f"o.{suffix}").read_bytes().startswith(magic))
        done = subprocess.run([sys.executable, FIGURES / "runs.py", "plot", self.folder, "--output", "-"],
                              capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout[:4]), (0, b"\x89PNG"), done.stderr)
        self.assertTrue(done.stderr.startswith(b"figure: - (data: "))
        for message, *more in (("o.gif: a figure is", "--output", self.folder / "o.gif"),
                               ("--follow writes it again and again", "--output", "-", "--follow"),
                               ("--title: has 501", "--output", "o.png", "--title", "x" * 501)):
            self.fails(2, message, "plot", self.folder, *more)

    def test_nothing_yet(self):
        folder = make_run(self.folder / "run", '{"phase": "tr')
        self.fails(1, "nothing to draw yet", "plot", folder, "--output", self.picture)
        self.fails(1, "nothing to draw yet", "plot", folder, "--output", self.picture, "--metric", "x")

    def test_a_run_that_is_followed(self):
        folder = make_run(self.folder / "run")
        with held(folder):
            child = self.start("plot", folder, "--output", self.picture, "--follow")
            time.sleep(1)
            self.assertIsNone(child.poll())
            self.assertFalse(self.picture.exists())  # nothing to draw is no failure yet
            with open(folder / "metrics.jsonl", "a") as metrics:
                metrics.write(line(100, loss=0.5) + line(200, loss=0.25)[:12])
            self.until(self.picture.exists, child)
            first = self.picture.read_bytes()
            with open(folder / "metrics.jsonl", "a") as metrics:
                metrics.write(line(200, loss=0.25)[12:])
            self.until(lambda: self.picture.read_bytes() != first, child)
        out, err = child.communicate(timeout=30)
        self.assertEqual((child.returncode, err), (0, ""))
        self.assertEqual(out, f"figure: {self.picture} (data: {folder})\n")

    def test_a_signal_ends_it(self):
        folder = make_run(self.folder / "run", LINES)
        with held(folder):
            for number in (signal.SIGINT, signal.SIGTERM):
                child = self.start("plot", folder, "--output", self.picture, "--follow")
                self.until(self.picture.exists, child)
                child.send_signal(number)
                self.assertEqual(child.communicate(timeout=30), ("", "runs: stopped\n"))
                self.assertEqual(child.returncode, 75)
                self.picture.unlink()


class ExportTest(RunsTest):
    def test_csv(self):
        make_run(self.folder / "a", line(100, loss=0.1, interior_slope=None), {
            **{key: RESULTS[key] for key in ("interior_slope", "localization_distance", "final_loss",
                                             "unbroken_distance", "receptive_field")},
            "localized_fraction": [0.5], "interior_localized_fraction": [None], "norm": "instance",
            "notice": None})
        make_run(self.folder / "b", line(7, "probe", losses=[1, 2e-30]) + '{"phase"', norm="none, really")
        file = self.folder / "o.csv"
        self.assertEqual(self.says("export", self.folder / "a", self.folder / "b", "--csv", file),
                         [f"exported: {file} (data: {self.folder}/a, {self.folder}/b)"])
        self.assertEqual(file.read_text().splitlines(), [
            "run,norm,phase,step,metric,value",
            "a,instance,train,100,loss,0.1", "a,instance,train,100,interior_slope,",
            "a,instance,result,,interior_slope,0.8", "a,instance,result,,localization_distance,12",
            "a,instance,result,,final_loss,0.01", "a,instance,result,,unbroken_distance,10",
            "a,instance,result,,receptive_field,4", "a,instance,result,,localized_fraction.1,0.5",
            "a,instance,result,,interior_localized_fraction.1,",
            'b,"none, really",probe,7,losses.1,1', 'b,"none, really",probe,7,losses.2,2e-30'])
        done = self.call("export", "a", "--csv", "-")
        self.assertTrue(done.stdout.startswith("run,phase,step,metric,value\na,train,100,loss,0.1\n"))
        self.assertEqual(done.stderr, "exported: - (data: a)\n")

    def test_what_is_no_place_for_it(self):
        folder = make_run(self.folder / "run", LINES)
        (self.folder / "link.csv").symlink_to(folder / "metrics.jsonl")
        for message, *more in (
                ("export: expected --csv FILE, --tensorboard FOLDER or both",),
                ("metrics.jsonl: expected a name that ends in .csv", "--csv", folder / "metrics.jsonl"),
                ("link.csv: that is the same file as .*metrics.jsonl", "--csv",
                 self.folder / "link.csv"),
                ("--tensorboard: expected the name of a folder", "--tensorboard", ""),
                ("--follow writes it again", "--csv", "/dev/stdout", "--follow")):
            self.fails(2, message, "export", folder, *more)
        self.assertEqual((folder / "metrics.jsonl").read_text(), LINES)
        self.fails(1, "cannot write /dev/null/x.csv", "export", folder, "--csv", "/dev/null/x.csv")

    def test_a_run_that_is_followed(self):
        folder = make_run(self.folder / "run", LINES)
        file = self.folder / "o.csv"

        def steps():
            rows = csv.reader(io.StringIO(file.read_text() if file.exists() else ""))
            return [row[2] for row in rows if row[3] == "loss"]

        with held(folder):
            child = self.start("export", folder, "--csv", file, "--follow")
            self.until(lambda: steps() == ["100", "200"], child)
            with open(folder / "metrics.jsonl", "a") as metrics:
                metrics.write(line(300, loss=0.02))
            self.until(lambda: steps() == ["100", "200", "300"], child)
            (folder / "summary.json").write_text(json.dumps(RESULTS))
        self.assertEqual(child.communicate(timeout=30)[1], "")
        self.assertEqual(child.returncode, 0)
        self.assertIn("\nrun,result,,interior_slope,0.8\n", file.read_text())


class Recorder:
    """In the place of tensorboardX's writer: makes a file of its kind, and notes what it is given."""

    def __init__(self, folder):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "events.out.tfevents.1").touch()
        self.numbers, self.flushed, self.flushes = [], 0, 0
        Recorder.of[Path(folder).name] = self

    def add_scalar(self, tag, value, step):
        self.numbers.append((tag, value, step))

    def flush(self):
        self.flushed = len(self.numbers)
        self.flushes += 1

    def close(self):
        self.flush()


class TensorBoardTest(RunsTest):
    def setUp(self):
        super().setUp()
        self.a = make_run(self.folder / "a", LINES, RESULTS)
        self.b = make_run(self.folder / "b", line(10, "probe", losses=[0.5, 0.25]), norm="none")
        self.out = self.folder / "events"
        Recorder.of = {}

    def library(self, **modules):
        """Those that there are."""
        return mock.patch.dict(sys.modules, {"tensorboardX": None, "tensorboard": None,
                                             "tensorboard.summary": None, **modules})

    def test_numbers_by_run_phase_and_step(self):
        with self.library(tensorboardX=types.SimpleNamespace(SummaryWriter=Recorder)):
            self.says("export", self.a, self.b, "--tensorboard", self.out)
            self.assertEqual(Recorder.of["b"].numbers, [("probe/losses.1", 0.5, 10),
                                                        ("probe/losses.2", 0.25, 10)])
            numbers = Recorder.of["a"].numbers
            self.assertEqual(numbers[:3], [("train/loss", 0.08, 100), ("train/loss", 0.04, 200),
                                           ("train/interior_slope", 0.25, 200)])
            self.assertIn(("result/localized_fraction.2", 1.0, 200), numbers)
            self.assertNotIn(None, [value for _, value, _ in numbers])
            self.assertEqual(Recorder.of["a"].flushed, len(numbers))
            self.fails(2, f"has events in {self.out}/a already; name another", "export", self.a, self.b,
                       "--tensorboard", self.out)
            self.fails(1, "cannot write /dev/null/", "export", self.a, "--tensorboard", "/dev/null")

    def test_a_run_that_is_followed(self):
        """In this process: what goes on while it waits is done in its place."""
        turns = iter((line(20, "probe", losses=[0.4, 0.2]), line(30, "probe", losses=[0.3, 0.1])[:20],
                      line(30, "probe", losses=[0.3, 0.1])[20:], None))
        whole = (self.b / "metrics.jsonl").read_text()
        lock = contextlib.ExitStack()
        lock.enter_context(held(self.b))
        self.addCleanup(lock.close)

        def wait(_):
            self.assertEqual(Recorder.of["b"].flushed, len(Recorder.of["b"].numbers))
            more = next(turns)
            if more is None:
                lock.close()
                return
            with open(self.b / "metrics.jsonl", "a") as metrics:
                metrics.write(more)

        with self.library(tensorboardX=types.SimpleNamespace(SummaryWriter=Recorder)), \
                mock.patch.object(runs.time, "sleep", wait):
            self.says("export", self.b, "--tensorboard", self.out, "--follow")
        self.assertTrue((self.b / "metrics.jsonl").read_text().startswith(whole))
        self.assertEqual(Recorder.of["b"].flushes, 3 + 1)  # of five looks, where there was news; the end
        self.assertEqual(Recorder.of["b"].numbers, [
            (f"probe/losses.{i}", value, step) for step, losses in (
                (10, (0.5, 0.25)), (20, (0.4, 0.2)), (30, (0.3, 0.1)))
            for i, value in enumerate(losses, 1)])

    def test_a_run_that_went_back_to_its_checkpoint(self):
        import export
        with self.library(tensorboardX=types.SimpleNamespace(SummaryWriter=Recorder)):
            events = export.Events(self.out, ["b"])
            first = line(10, "probe", losses=[0.5, 0.25])
            for lines in (first + line(20, "probe", losses=[0.4, 0.2]), first,
                          first + line(20, "probe", losses=[0.4, 0.2]) + line(30, "probe", losses=[1])):
                (self.b / "metrics.jsonl").write_text(lines)
                events.add([run_folder.Folder(self.b)])
        self.assertEqual([step for _, _, step in Recorder.of["b"].numbers], [10, 10, 20, 20, 30])

    def test_without_a_library(self):
        with self.library():
            self.fails(1, r"--tensorboard: .* has neither tensorboardX nor tensorboard \(pip install "
                       r"tensorboardX\)$", "export", self.a, "--tensorboard", self.out)
        self.assertFalse(self.out.exists())
        with self.library(tensorboardX=types.SimpleNamespace()):  # which has no SummaryWriter
            self.fails(1, "--tensorboard: cannot import name 'SummaryWriter'", "export", self.a,
                       "--tensorboard", self.out)

    def read_back(self, library):
        """By TensorBoard's own reader, what was written by the library."""
        try:
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
            __import__(library)
        except ImportError as error:
            self.skipTest(f"SKIPPED: {error}")
        others = {"tensorboardX": None} if library == "tensorboard" else {}
        with mock.patch.dict(sys.modules, others):
            self.says("export", self.a, self.b, "--tensorboard", self.out)
        found = EventAccumulator(str(self.out / "a"))
        found.Reload()
        tags = found.Tags()

        def numbers(tag):
            if tag in tags["scalars"]:
                return [(event.step, event.value) for event in found.Scalars(tag)]
            return [(event.step, event.tensor_proto.float_val[0] if event.tensor_proto.float_val else
                     float(np.frombuffer(event.tensor_proto.tensor_content, "f4")[0]))
                    for event in found.Tensors(tag)]

        self.assertEqual([step for step, _ in numbers("train/loss")], [100, 200])
        np.testing.assert_allclose([value for _, value in numbers("train/loss")], [0.08, 0.04], 1e-6)
        self.assertEqual([step for step, _ in numbers("train/interior_slope")], [200])
        self.assertEqual([step for step, _ in numbers("result/interior_slope")], [200])

    def test_what_tensorboardX_writes(self):
        self.read_back("tensorboardX")

    def test_what_tensorboard_writes(self):
        self.read_back("tensorboard")


class CommandTest(RunsTest):
    """`sidechannel runs` of the package, whose compiled part it does not need."""

    def setUp(self):
        super().setUp()
        package = self.folder / "site" / "sidechannel"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "command.py").symlink_to(ROOT / "engine/python/sidechannel/command.py")
        (package / "figures").symlink_to(FIGURES)

    def sidechannel(self, *arguments):
        return subprocess.run(
            [sys.executable, "-c", "from sidechannel.command import main; main()", *arguments],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(self.folder / "site")},
            capture_output=True, text=True, timeout=60)

    def test_runs(self):
        make_run(self.folder / "runs" / "a", LINES, RESULTS)
        done = self.sidechannel("runs", "list")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(done.stdout.startswith("1 run of localization\n"), done.stdout)
        done = self.sidechannel("runs", "show")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"\Aruns: .* required: RUN \(see --help\)\n\Z")
        self.assertIn("usage: sidechannel runs [-h] COMMAND", self.sidechannel("runs", "--help").stdout)

    def test_usage(self):
        for arguments, code in (([], 2), (["train"], 2), (["--help"], 0)):
            done = self.sidechannel(*arguments)
            self.assertEqual(done.returncode, code)
            self.assertEqual((done.stdout + done.stderr).count("usage: sidechannel runs list"), 1)

    def test_is_what_pip_installs(self):
        text = (ROOT / "pyproject.toml").read_text()
        self.assertIn('sidechannel = "sidechannel.command:main"', text)
        self.assertIn('"sidechannel/figures" = "experiments/figures"', text)


@unittest.skipUnless(BIN, "SIDECHANNEL_BIN is not set")
class OfProgramsTest(RunsTest):
    """Folders as the programs leave them."""

    def make(self, program, *arguments, code=0, preset=None):
        line = [f"{BIN}/{program}", "run", "--preset", str(TINY / f"{preset or program}.json"),
                "--device", "cpu", "--threads", "1", *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr)

    def known(self, folder=None):
        found = json.loads("\n".join(self.says("list", "--json", folder or self.folder)))
        return {os.path.relpath(run["path"], self.folder): run for run in found}

    def test_every_program(self):
        self.make("localization", "--out", self.folder / "a")
        self.make("localization", "--norm", "none", "--stop-after", 150, "--out", self.folder / "b",
                  code=75)
        self.make("overlap", "--out", self.folder / "overlap")
        self.make("sweep", "--over", "samples_per_set=1,2", "--over", "seed=0", "--out",
                  self.folder / "sweep", preset="crosstalk")
        self.make("diffusion", "--out", self.folder / "planner")
        known, cell = self.known(), "samples_per_set={},learning_rate=0.001,seed=0"
        self.assertEqual({name: run["program"] for name, run in known.items()}, {
            "a": "localization", "b": "localization", "planner": "diffusion",
            **{f"overlap/overlap-{overlap:03}": "overlap" for overlap in (0, 3, 6, 9)},
            **{f"sweep/cells/{cell.format(n)}{more}": "localization" for n in (1, 2)
               for more in ("", "/population")}})
        self.assertEqual({name for name, run in known.items() if run["state"] != "finished"}, {"b"})
        self.assertEqual(known["b"]["state"], "interrupted")
        self.assertEqual(known["b"]["phases"][0]["steps"], 150)
        for run in known.values():
            self.assertTrue(run["loss"] is not None or "population" in run["path"], run)
            self.assertEqual({key for key in ("slope", "error", "valid") if key in run}, {
                "localization": {"slope"}, "overlap": {"error"}, "diffusion": {"valid"}}[run["program"]])
        summary = json.loads((self.folder / "a" / "summary.json").read_text())
        self.assertEqual(known["a"]["slope"], summary["interior_slope"])
        self.assertEqual(known["a"]["localized"], summary["localized_fraction"][-1])
        self.assertEqual(known["a"]["distance"], summary["localization_distance"])
        for path in known:  # each has something to say
            self.assertGreater(len(self.says("show", self.folder / path, "--bin", BIN)), 4)
        self.assertIn("settings: of ", self.says("show", self.folder / "overlap/overlap-003")[1])
        self.assertRegex(self.says("show", self.folder / "sweep/cells" / cell.format(2))[1],
                         "^settings: of .*/sweep, with .*samples_per_set 2.*seed 0")
        for folder in ("overlap", "sweep", "."):
            self.says("plot", self.folder / folder, "--output", self.folder / "o.png")
            self.says("export", self.folder / folder, "--csv", self.folder / "o.csv")
        self.says("compare", self.folder / "a", self.folder / "b", "--output", self.picture)

    def test_the_command_that_goes_on(self):
        folder = self.folder / "run"
        self.make("localization", "--norm", "batch", "--seed", 5, "--learning-rate", "5e-4",
                  "--stop-after", 90, "--out", folder, code=75)
        said = self.says("show", folder, "--bin", BIN)
        self.assertIn(f"settings: preset {TINY}/localization.json, but norm batch, learning_rate 0.0005, "
                      "seed 5", said)
        command = next(row for row in said if row.startswith("goes on with: "))[14:]
        subprocess.run(shlex.split(command), check=True, capture_output=True, timeout=120)
        self.assertEqual(self.known()["run"]["state"], "finished")
        self.assertEqual(self.known()["run"]["settings"]["seed"], 5)

    def test_one_that_is_only_trained(self):
        folder = self.folder / "run"
        subprocess.run([f"{BIN}/localization", "train", "--preset", str(TINY / "localization.json"),
                        "--device", "cpu", "--out", folder], check=True, capture_output=True)
        self.assertEqual(self.known()["run"]["state"], "trained")
        model = self.folder / "evaluated"
        self.make("localization", "--model", folder / "model.safetensors", "--out", model)
        run = self.known()["evaluated"]
        self.assertEqual((run["state"], run["loss"], [phase["phase"] for phase in run["phases"]]),
                         ("finished", None, ["probe", "map"]))
        self.assertIn(f"model: {folder}/model.safetensors", self.says("show", model, "--bin", BIN))

    def test_one_that_diverges(self):
        self.make("localization", "--learning-rate", "1e30", "--out", self.folder / "run", code=1)
        self.assertEqual(self.known()["run"]["state"], "failed")
        self.assertIn("failure: the loss was no number any more (failure.safetensors)",
                      self.says("show", self.folder / "run", "--bin", BIN))

    def test_one_that_is_under_way(self):
        """All commands read it meanwhile, and follow it to its end; looking disturbs it in nothing."""
        quiet, watched = self.folder / "quiet", self.folder / "watched"
        long = ["--iterations", 20000, "--probes", "none", "--log-every", 10]
        child = subprocess.Popen(
            [f"{BIN}/localization", "run", "--preset", str(TINY / "localization.json"), "--device", "cpu",
             "--threads", "1", "--out", str(watched), *map(str, long)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.until(lambda: (watched / "metrics.jsonl").exists()
                   and (watched / "metrics.jsonl").stat().st_size > 0, child)
        follower = self.start("export", watched, "--csv", self.folder / "o.csv", "--follow")
        drawer = self.start("plot", watched, "--output", self.picture, "--follow")
        states = set()
        while child.poll() is None:
            run = self.known(watched)["watched"]
            states.add(run["state"])
            self.assertIn(run["state"], ("under way", "finished"))
            self.says("show", watched, "--bin", BIN)
        self.assertEqual((child.returncode, states - {"finished"}), (0, {"under way"}),
                         child.communicate())
        child.stderr.close()
        for process in (follower, drawer):
            self.assertEqual(process.communicate(timeout=60)[1], "")
            self.assertEqual(process.returncode, 0)
        self.make("localization", *long, "--out", quiet)
        metrics = (quiet / "metrics.jsonl").read_bytes()
        self.assertEqual((watched / "metrics.jsonl").read_bytes(), metrics)
        rows = list(csv.DictReader(io.StringIO((self.folder / "o.csv").read_text())))
        self.assertEqual([float(row["value"]) for row in rows if row["metric"] == "loss"],
                         [json.loads(row)["loss"] for row in metrics.splitlines()])
        self.assertIn("result", {row["phase"] for row in rows})

    def test_one_that_was_killed(self):
        folder = self.folder / "run"
        child = subprocess.Popen(
            [f"{BIN}/localization", "run", "--preset", str(TINY / "localization.json"), "--device",
             "cpu", "--iterations", "1000000", "--out", str(folder)], stderr=subprocess.DEVNULL)
        thread = threading.Thread(target=child.wait)
        thread.start()
        self.until(lambda: (folder / "metrics.jsonl").exists()
                   and (folder / "metrics.jsonl").stat().st_size > 0, child)
        child.kill()
        thread.join()
        run = self.known()["run"]
        self.assertEqual(run["state"], "interrupted")
        self.assertGreater(run["phases"][0]["steps"], 0)
        self.assertEqual(run["phases"][0]["of"], 1000000)


if __name__ == "__main__":
    unittest.main()
