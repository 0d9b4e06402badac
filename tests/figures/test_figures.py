"""Tests of experiments/figures/figures.py: what ./run figures does, at a tiny scale.

The programs are those of the folder in SIDECHANNEL_BIN; without it their tests are skipped.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
import unittest
from pathlib import Path

from figure_test import FIGURES, FigureTest
from test_page import Reader

import figures

BIN = os.environ.get("SIDECHANNEL_BIN")
TINY = Path(__file__).resolve().parent / "tiny"
ALL = list(figures.FIGURES)
PAPER = [key for key, figure in figures.FIGURES.items() if figure.group == "all"]


def command(out, *arguments, bin_=BIN, preset=TINY):
    return [sys.executable, str(FIGURES / "figures.py"), "--preset", str(preset), "--device", "cpu",
            "--threads", "1", "--out", str(out), "--bin", os.path.abspath(bin_),
            *map(str, arguments)]


def start(out, *arguments, **how):
    return subprocess.Popen(command(out, *arguments, **how), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def run(out, *arguments, **how):
    """Exit code, stdout, stderr."""
    child = start(out, *arguments, **how)
    stdout, stderr = child.communicate(timeout=300)
    return child.returncode, stdout, stderr


def results_in(out):
    """What the figures say, without what differs between two runs of the same: times and paths."""
    def stable(value):
        if isinstance(value, dict):
            return {k: stable(v) for k, v in value.items() if k not in ("seconds", "threads")}
        return [stable(v) for v in value] if isinstance(value, list) else value

    return {str(file.relative_to(out)): stable(json.loads(file.read_text()))
            for file in out.glob("tiny/**/figure_*.json")}


def seeds_of(key, count):
    """How many pictures there are of a figure."""
    return len(figures.FIGURES[key].drawings(count))


@unittest.skipUnless(BIN, "SIDECHANNEL_BIN is not set")
class AllFigures(FigureTest):
    module = figures

    def check_page(self, out, drawn, seeds=1):
        reader = Reader((out / "index.html").read_text())
        for reference in reader.references:
            self.assertTrue(reference.startswith("data:") or reference[1:] in reader.ids, reference)
        pictures = [r for r in reader.references if r.startswith("data:image/png;base64,iVBOR")]
        self.assertEqual(len(pictures),
                         sum(seeds_of(key, seeds) for key in drawn))
        self.assertEqual(reader.text.count("Not run yet."), len(ALL) - len(drawn))
        for figure in figures.FIGURES.values():
            self.assertIn(figure.title, reader.text)
        return reader

    def test_all_of_them_killed_anywhere_and_continued(self):
        whole, killed = self.folder / "whole", self.folder / "killed"
        begin = time.monotonic()
        code, out, err = run(whole, "all", "leak", "--seeds", 2, "--jobs", 2)
        seconds = time.monotonic() - begin
        self.assertEqual(code, 0, err)
        reader = self.check_page(whole, ALL, 2)
        self.assertRegex(out.splitlines()[-1], r"of \d+ claims pass.*; page: .*/index.html$")
        # Every criterion is on the page, with its verdict.
        self.assertEqual(len(results_in(whole)), sum(seeds_of(key, 2) for key in ALL))
        for name, result in results_in(whole).items():
            self.assertTrue(result["claims"], name)
            for claim in result["claims"].values():
                self.assertIn(claim["criterion"], reader.cells)
        commits = json.loads((whole / "tiny/none/config.json").read_text())["commit"]
        self.assertIn(f"commit {commits[:12]}", reader.text)

        # As good as one that nobody killed, wherever that was.
        draw = random.Random(0)
        for _ in range(4):
            child = start(killed, "all", "leak", "--seeds", 2, "--jobs", 2)
            time.sleep(draw.uniform(0, 0.7) * seconds)
            child.kill()
            child.communicate()
        code, out, err = run(killed, "all", "leak", "--seeds", 2, "--jobs", 2)
        self.assertEqual(code, 0, err)
        self.assertEqual(results_in(killed), results_in(whole))
        self.check_page(killed, ALL, 2)

        # A finished one costs nothing, and changes nothing but the page; nor does it matter to the
        # results how many there were at once.
        files = {path: path.stat().st_mtime_ns for name in ("summary.json", "leak-*.json")
                 for path in killed.rglob(name)}
        self.assertEqual(run(killed, "all", "leak", "--seeds", 2, "--jobs", 1)[0], 0)
        self.assertEqual({path: path.stat().st_mtime_ns for path in files}, files)
        self.assertEqual(results_in(killed), results_in(whole))

    def test_each_seed_is_a_network_of_its_own(self):
        out = self.folder / "seeds"
        code, text, err = run(out, "6", "--seeds", 3, "--jobs", 3)
        self.assertEqual(code, 0, err)
        models = {file.read_bytes() for file in out.rglob("model.safetensors")}
        self.assertEqual(len(models), 3)  # and its evaluation with population statistics is of it
        for place in ("", "seed-1/", "seed-2/"):
            for run_ in ("batch", "batch-population"):
                config = json.loads((out / "tiny" / f"{place}{run_}" / "config.json").read_text())
                self.assertEqual(config["settings"]["seed"], int(place[5:-1] or 0))
        claim = json.loads((out / "tiny/figure_6.json").read_text())["claims"]["minibatch"]
        reader = self.check_page(out, ["6"], 3)
        self.assertIn(claim["criterion"], reader.cells)
        self.assertIn("Preset tiny, 3 seeds; the picture is of seed 0", reader.text)

    def test_some_of_them(self):
        out = self.folder / "some"
        code, text, err = run(out, "6", "3")
        self.assertEqual(code, 0, err)
        self.assertEqual(sorted(p.name for p in (out / "tiny").iterdir() if p.is_dir()),
                         ["batch", "batch-population", "overlap"])
        self.check_page(out, ["3", "6"])

    def stop(self, child, number, out, states, count=1):
        """By a signal, once so many states are there; returns what it said to stderr."""
        while len(list(out.glob(states))) < count:
            self.assertIsNone(child.poll())
            time.sleep(0.005)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 75, err)
        self.assertIn("stopped; the same command continues", err.splitlines()[-1])
        return err

    def test_a_signal_stops_it_and_the_same_command_continues(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            out = self.folder / f"stopped-{number}"
            child = start(out, "3")
            self.stop(child, number, out, "tiny/overlap/*/checkpoint.safetensors")
            self.assertEqual(run(out, "3")[0], 0)

    def test_a_signal_stops_all_that_run_side_by_side(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            out = self.folder / f"stopped-{number}"
            child = start(out, "1", "--seeds", 2, "--jobs", 2)
            err = self.stop(child, number, out, "tiny/**/instance/checkpoint.safetensors", 2)
            # Each has saved its state and left: its folder is free.
            for run_ in ("instance", "seed-1/instance"):
                self.assertRegex(err, rf"(?m)^{run_}: .*(stopped|interrupted)")
            self.assertFalse(list(out.glob("tiny/none")))
            self.assertEqual(run(out, "1", "--seeds", 2)[0], 0)

    def test_a_figure_that_fails_stops_no_other(self):
        programs = self.folder / "bin"
        programs.mkdir()
        for name in ("localization", "sweep"):
            (programs / name).symlink_to(Path(BIN).resolve() / name)
        (programs / "overlap").write_text("#!/bin/sh\necho 'overlap: no room' >&2\nexit 1\n")
        (programs / "overlap").chmod(0o755)
        out = self.folder / "failing"
        code, text, err = run(out, "3", "constant", bin_=programs)
        self.assertEqual(code, 1)
        self.assertEqual(err.count("no room"), 1)
        self.assertEqual(err.count("exit code 1"), 1)
        self.assertRegex(err.splitlines()[-1], "^figures: 1 of 2 figures failed: figure 3: ")
        self.check_page(out, ["constant"])

    def test_what_no_program_understands_is_said_once(self):
        code, text, err = run(self.folder / "out", "--device", "abacus")
        self.assertEqual(code, 2)
        self.assertEqual(err.count("abacus: expected"), 1, err)
        self.assertEqual(len(err.splitlines()), 2, err)
        self.assertNotIn("[1/", text)
        self.assertNotIn("claims pass", text)

    def test_it_takes_what_the_demo_has_trained(self):
        """./run demo calls the program like this; with its own preset."""
        out = self.folder / "out"
        for seed, place in ((0, "tiny"), (1, "tiny/seed-1")):
            for norm in ("instance", "none"):
                subprocess.run([f"{BIN}/localization", "run", "--preset", str(TINY / "localization.json"),
                                "--norm", norm, "--seed", str(seed), "--out", str(out / place / norm),
                                "--device", "cpu"], check=True, capture_output=True)
        models = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
        code, text, err = run(out, "1", "multihop", "--seeds", 2)
        self.assertEqual(code, 0, err)
        self.assertEqual(text.count("done already"), 4, text)
        self.assertEqual({path: path.stat().st_mtime_ns for path in models}, models)
        # And the demo asks for the folders and the settings that the figures look for.
        demo = (Path(__file__).parents[2] / "run").read_text()
        self.assertIn("local seed=0 out=runs/demo norm", demo)
        self.assertIn(f"out=runs/demo/{figures.results.place_of(7)[:-2]}$seed", demo)
        self.assertIn('run --preset demo --norm $norm --seed "$seed" --out "$out/$norm"', demo)

    def test_lines_that_stdout_does_not_take_cost_no_figure(self):
        for number, (redirected, reason) in enumerate((
                (">&-", "Bad file descriptor"), (">/dev/full", "No space left on device"),
                ("> >(exec true)", "Broken pipe"))):
            out = self.folder / str(number)
            done = subprocess.run(["bash", "-c", f'"$@" {redirected}', "bash", *command(out, "3")],
                                  stderr=subprocess.PIPE, text=True, timeout=120)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr.splitlines()[-1],
                             f"figures: cannot write standard output: {reason}")
            self.assertNotIn("figures failed", done.stderr)
            self.check_page(out, ["3"])

    def test_a_folder_called_like_a_preset_is_none(self):
        (self.folder / "demo").mkdir()
        with subprocess.Popen(command(self.folder / "out", "3", preset="demo"), cwd=self.folder,
                              stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
            self.assertTrue(child.stdout.readline().startswith("[1/1] "))
            while not list(self.folder.glob("out/demo/overlap/metrics.jsonl")):
                self.assertIsNone(child.poll())
                time.sleep(0.005)
            child.send_signal(signal.SIGTERM)
        self.assertEqual(child.returncode, 75)

    def test_two_at_once_take_turns(self):
        out = self.folder / "both"
        children = [start(out, "3"), start(out, "3")]
        texts = [child.communicate(timeout=120) for child in children]
        self.assertEqual([child.returncode for child in children], [0, 0], texts)
        self.check_page(out, ["3"])


class Misuse(FigureTest):
    module = figures

    @property
    def program(self):
        return "figures"

    def run_main(self, *arguments):
        child = subprocess.run([sys.executable, str(FIGURES / "figures.py"), *map(str, arguments)],
                               capture_output=True, text=True, cwd=self.folder)
        return child.returncode, child.stdout.splitlines(), child.stderr.splitlines()

    def test_one_line_each(self):
        for keys in (["7"], ["all", "7"], ["leak", "7"]):
            self.fails(2, "there is no figure 7: expected 1, 2, multihop, 3, constant, 4, 5, 6, "
                       "crosstalk, unet, learning, stitching, all or leak", *keys)
        self.fails(2, "preset huge: expected demo, small, paper or a folder", "--preset", "huge")
        self.fails(2, "unrecognized arguments: --speed 9", "1", "--speed", "9")
        self.fails(2, "--out: expected the name of a folder", "1", "--out", "")
        self.fails(2, "preset /: expected a folder that has a name", "--preset", "/")
        (self.folder / "file").write_text("")
        self.fails(1, "cannot write file/demo: Not a directory", "1", "--out", "file")
        for flag, least, most in (("--seeds", 1, 100), ("--jobs", 0, 512)):
            for text in (str(least - 1), str(most + 1), "1.5", "", "\u0661", "9" * 5000):
                self.fails(2, f"{flag}.*: expected a whole number from {least} to {most}", "1",
                           f"{flag}={text}")

    @unittest.skipUnless(BIN, "SIDECHANNEL_BIN is not set")
    def test_a_preset_that_lacks_a_file_is_noticed_before_anything_runs(self):
        preset = self.folder / "mine"
        shutil.copytree(TINY, preset)
        for name, keys in (("unet", ["unet"]), ("diffusion", ["1", "stitching"]), ("crosstalk", [])):
            (preset / f"{name}.json").rename(self.folder / "away")
            code, _, err = self.run_main(*keys, "--preset", "mine", "--bin", os.path.abspath(BIN))
            self.assertEqual((code, err), (2, [f"figures: preset mine: has no {name}.json"]))
            self.assertEqual(list(self.folder.glob("runs/mine/*/")), [])
            (self.folder / "away").rename(preset / f"{name}.json")

    def test_programs_that_are_not_there(self):
        code, out, err = self.run_main("3", "--bin", "nowhere")
        self.assertEqual(code, 1)
        self.assertIn("nowhere/overlap: No such file or directory", err[-1])


class WhatThereIsToRun(unittest.TestCase):
    def preset(self, source="small", seeds=None):
        """Without a folder of its own."""
        preset = object.__new__(figures.Preset)
        preset.options = types.SimpleNamespace(seeds=seeds, bin="bin", device=None, jobs=None,
                                               threads=None)
        preset.source, preset.name, preset.folder = source, Path(source).name, Path("out")
        return preset

    def line(self, key, number=0, seed=0, source="small"):
        figure = figures.FIGURES[key]
        run = figure.runs(Path(source).name, [seed])[number]
        return " ".join(self.preset(source).line(run)).replace(str(figures.PRESET_FILES), "presets")

    def test_groups_of_figures(self):
        beyond = ["unet", "learning", "stitching"]
        for keys, chosen in (([], PAPER), (["all"], PAPER), (["leak"], beyond), (["leak", "all"], ALL),
                             (["stitching", "1"], ["1", "stitching"]),
                             (["leak", "3", "unet"], ["3", *beyond])):
            self.assertEqual([figure.key for figure in figures.chosen(keys)], chosen)
        self.assertEqual(ALL, PAPER + beyond)

    def test_how_many_seeds(self):
        for source, seeds, counts in (("small", None, (3, 3, 3, 5)), ("demo", None, (1, 1, 1, 1)),
                                      ("paper", None, (1, 1, 1, 1)), ("some/folder", None, (1, 1, 1, 1)),
                                      ("small", 2, (2, 2, 2, 2))):
            preset = self.preset(source, seeds)
            self.assertEqual(tuple(preset.seeds(figures.FIGURES[key]) for key in
                                   ("1", "unet", "learning", "stitching")), counts)

    def test_command_lines(self):
        self.assertEqual(self.line("unet", 1, 2), (
            "bin/localization run --out out/seed-2/unet-population --preset presets/unet/small.json "
            "--network unet --probes none --norm group_population --eval-statistics population --model "
            "out/seed-2/unet-group/model.safetensors --seed 2"))
        self.assertEqual(self.line("unet", source="a/tiny").split("--preset ")[1].split()[0],
                         "a/tiny/unet.json")
        self.assertEqual(self.line("crosstalk"),
                         "bin/sweep run --out out/crosstalk --preset crosstalk/small")
        self.assertEqual(self.line("4", source="a/tiny").split("--preset ")[1].split()[0],
                         "a/tiny/groups.json")
        # A report stands beside the run that it is of, and takes no preset.
        self.assertEqual(self.line("learning", 3, 1), (
            "bin/leak measure --out out/seed-1/instance/leak-initial.json --model "
            "out/seed-1/instance/model-initial.safetensors --no-layers --seed 1"))
        self.assertEqual(self.line("stitching"), (
            "bin/diffusion run --out out/planner-short-group_population --preset small --norm "
            "group_population --kernel-size 3 --multipliers 1"))
        for key in ("learning", "stitching"):
            runs = figures.FIGURES[key].runs("small", range(5))
            self.assertEqual(len({run.name for run in runs}), len(runs))
            self.assertTrue({run.needs.name for run in runs if run.needs} <= {run.name for run in runs})

    def test_our_files_of_presets_are_there(self):
        for figure in figures.FIGURES.values():
            for preset in figures.PRESETS:
                for command in figure.commands:
                    if command.is_file:
                        self.assertTrue(Path(command.preset_words(preset)[1]).is_file())
                    file = Path(f"{command.preset or command.program}.json")
                    self.assertTrue(command.is_report or (TINY / file).is_file(), file)


if __name__ == "__main__":
    unittest.main()
