#!/usr/bin/env python3
"""Every figure of the paper: runs what is missing, draws it, and writes one page about all of it.

This is what ./run figures calls. A figure is a few commands, each with a folder of its own that it
continues or finds finished, and a script that draws what is there; FIGURES lists them.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import contextlib  # noqa: E402
import ctypes  # noqa: E402
import fcntl  # noqa: E402
import shlex  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import output  # noqa: E402
import page  # noqa: E402
import style  # noqa: E402
from style import Error, UsageError  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PRESETS = ("demo", "small", "paper")
SECONDS = "seconds.json"

# --- What there is to run -------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One run of one of the experiments' programs."""

    program: str
    folder: str           # below that of the preset
    arguments: tuple = ()
    before: tuple = ()    # a subcommand
    after: tuple = ()     # subcommands to call on the folder when the run is finished

    def words(self, folder):
        """The arguments, with the folder of the runs that they name."""
        return [argument.format(folder=folder) for argument in self.arguments]


def localization(folder, *arguments):
    return Command("localization", folder, arguments, before=("run",))


# The control of figure 5 has the size of the network with BatchNorm, which need not be that of figure
# 1's, and its own learning rate and number of iterations, which a network that cannot learn more than
# its edges does not need many of.
PLAIN_AS_BATCH = {
    "small": ("plain-as-batch", "--length", "64", "--depth", "8", "--channels", "32"),
    "paper": ("plain-as-batch", "--length", "250"),
}

# Figure 1's two have the settings and the folders of ./run demo, which may have trained them.
WITH_NORM = localization("instance", "--norm", "instance")
PLAIN = localization("none", "--norm", "none")
CONSTANT = localization("constant", "--norm", "instance", "--input", "constant")
BATCH = localization("batch", "--norm", "batch")
POPULATION = localization("batch-population", "--norm", "batch", "--eval-statistics", "population",
                          "--model", f"{{folder}}/{BATCH.folder}/model.safetensors")
PATHS = Command("localization", "instance-paths", (
    "--norm", "instance", "--model", f"{{folder}}/{WITH_NORM.folder}/model.safetensors"),
    before=("paths",))
OVERLAP = Command("overlap", "overlap", before=("run",))
GROUPS = Command("groups", "groups", before=("run",), after=("collect",))


@dataclass(frozen=True)
class Figure:
    key: str
    title: str
    commands: tuple       # in the order in which the script takes their folders
    script: str
    note: str = ""        # for the page: what departs from the paper

    def runs(self, preset):
        """The commands for a preset."""
        folder, *size = PLAIN_AS_BATCH.get(preset, (PLAIN.folder,))
        plain = localization(folder, *PLAIN.arguments, *size)
        return [plain if command is PLAIN and BATCH in self.commands else command
                for command in self.commands]

    def files(self, folder):
        """The picture and its data, in a preset's folder."""
        return tuple(folder / f"figure_{self.key}.{suffix}" for suffix in ("png", "json"))


FIGURES = {figure.key: figure for figure in (
    Figure("1", "Figure 1: with InstanceNorm a network knows where it is", (WITH_NORM, PLAIN),
           "figure1.py"),
    Figure("2", "Figure 2, measured: norms carry what receptive fields do not hold",
           (WITH_NORM, PATHS), "figure2.py",
           "In the paper a drawing, without data: what it illustrates, measured on Figure 1's network."),
    Figure("multihop", "Farther than one message reaches", (WITH_NORM, PLAIN), "figure_multihop.py",
           "Not a figure of the paper: it draws Section 3.2's argument."),
    Figure("3", "Figure 3: two sequences are told apart by what they share", (OVERLAP,), "figure3.py"),
    Figure("constant", "Control: a constant input carries no message", (WITH_NORM, CONSTANT),
           "figure_constant.py", "Not a figure of the paper, which says it in Section 3.2."),
    Figure("4", "Figure 4: the more groups, the better", (GROUPS,), "figure4.py"),
    Figure("5", "Figure 5: BatchNorm communicates too", (BATCH, PLAIN), "figure5.py"),
    Figure("6", "Figure 6: population statistics end it", (BATCH, POPULATION), "figure6.py"),
)}

# --- Running it -----------------------------------------------------------------------------------


class Preset:
    """The runs and figures of one preset: a folder, which one process works on at a time."""

    def __init__(self, options):
        self.options = options
        self.source = options.preset
        self.name = Path(options.preset).resolve().name
        if not self.name:
            raise UsageError(f"preset {options.preset}: expected a folder that has a name")
        if not options.out:
            raise UsageError("--out: expected the name of a folder")
        self.folder = Path(options.out) / self.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.folder / ".lock", "w")
        except OSError as error:
            raise Error(f"cannot write {error.filename}: {error.strerror}") from None
        self.wait_for_lock()

    def wait_for_lock(self):
        """The programs hold it too: where this process was killed, they may live a little longer."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{self.folder}: waiting for another process that works on it", flush=True)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        except OSError as error:  # each run's folder is still one process's at a time
            output.note(f"{self.folder}: this file system has no locks ({error.strerror}): nothing "
                        "keeps a second ./run figures from drawing here at the same time")

    def path(self, command):
        return self.folder / command.folder

    def line(self, command, verb=None):
        """The command line; of a subcommand in `after` where `verb` is given."""
        line = [f"{self.options.bin}/{command.program}", *((verb,) if verb else command.before),
                "--out", str(self.path(command))]
        if verb:
            return line
        preset = self.source
        if preset not in PRESETS:
            preset = str(Path(preset) / f"{command.program}.json")
        line += ["--preset", preset]
        line += command.words(self.folder)
        for name in ("device", "threads"):
            if getattr(self.options, name) is not None:
                line += [f"--{name}", getattr(self.options, name)]
        return line

    def run(self, command):
        for verb in (None, *command.after):
            line = self.line(command, verb)
            code = self.call(command, line)
            if code != 0:  # it has said why
                error = UsageError if code == UsageError.exit_code else Error
                raise error(f"{shlex.join(line)}: exit code {code}")

    def call(self, command, line):
        """Runs a program to its end, and keeps account of its time in spite of kill -9."""
        spent = seconds_in(self.folder)
        before, start = spent.get(command.folder, 0), time.monotonic()
        with self.child(line, stdout=subprocess.PIPE) as child:
            # Through this process, whose own output may be lost: that is not the program's failure.
            relay = threading.Thread(target=print_lines, args=(child.stdout,), daemon=True)
            relay.start()
            while True:
                try:
                    code = child.wait(timeout=2)
                    relay.join()
                except subprocess.TimeoutExpired:
                    code = None
                seconds = time.monotonic() - start
                if code is None or seconds >= 0.5:  # less than that is finding it finished
                    spent[command.folder] = round(before + seconds, 1)
                    style.write_json(self.folder / SECONDS, spent)
                if code is not None:
                    return code

    @contextlib.contextmanager
    def child(self, line, **how):
        """A program that is waited for within, and that signals are passed on to; that it was
        interrupted ends this one, too. From a terminal Ctrl-C would reach it without us."""
        try:
            child = interrupt.child = subprocess.Popen(
                line, pass_fds=[self.lock.fileno()], start_new_session=True,
                preexec_fn=end_with_parent, **how)
        except OSError as error:
            raise Error(f"{line[0]}: {error.strerror}") from None
        try:
            yield child
        finally:
            child.wait()
            interrupt.child = None
            if interrupt.received or child.returncode == interrupt.EXIT_CODE:
                interrupt.end()

    def draw(self, figure):
        """Draws a figure from its folders; an Error says what is missing."""
        picture, data = figure.files(self.folder)
        line = [sys.executable, str(HERE / figure.script),
                *(str(self.path(command)) for command in figure.runs(self.name)),
                "--out", str(picture), "--summary", str(data)]
        with self.child(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            out, err = (text.decode(errors="backslashreplace") for text in child.communicate())
        if child.returncode != 0:
            raise Error(err.strip() or f"{figure.script}: exit code {child.returncode}")
        return out.splitlines()[:-1]  # without the names of the files


def print_lines(stream):
    for line in stream:
        print(line.decode(errors="backslashreplace"), end="", flush=True)


def seconds_in(folder):
    """Seconds spent on each of a preset's runs, by its folder."""
    file = folder / SECONDS
    seconds = style.read_json(file) if file.exists() else {}
    for run in seconds:
        style.need(file, seconds, run, *style.number(0))
    return seconds


def end_with_parent():
    """In a program: SIGTERM, upon which it saves its state, when this process dies."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def work(preset, figures):
    """Runs and draws the figures; returns what failed, in words."""
    failures, left_out = [], []
    done = set()
    todo = [command for figure in figures for command in figure.runs(preset.name)]
    total = len(dict.fromkeys(todo))
    for figure in figures:
        try:
            for command in figure.runs(preset.name):
                if command in done:
                    continue
                done.add(command)
                print(f"[{len(done)}/{total}] {shlex.join(preset.line(command))}", flush=True)
                preset.run(command)
            for line in preset.draw(figure):
                print(f"  {line}", flush=True)
        except UsageError:  # what one program does not understand, no other will
            raise
        except Error as error:
            failures.append(f"figure {figure.key}: {error}")
        left_out = write_page(preset.options.out)
    if failures:
        of = f"{len(failures)} of {len(figures)} figures failed"
        left_out.insert(0, f"{of}: {'; '.join(failures)}")
    return left_out


# --- The page -------------------------------------------------------------------------------------


def presets_in(out):
    """The presets with a figure, the largest scale first."""
    names = {path.parent.name for path in Path(out).glob("*/figure_*.json")}
    known = [name for name in reversed(PRESETS) if name in names]
    return known + sorted(names - set(known))


def write_page(out):
    """Returns what is not on it, for files that make no sense, in words."""
    out = Path(out)
    presets = presets_in(out)
    sections, left_out = [], {}
    for figure in FIGURES.values():
        shown = []
        for name in presets:
            try:
                if all(file.exists() for file in figure.files(out / name)):
                    shown.append(result(figure, name, out / name))
            except Error as error:  # of a file that several figures may share
                left_out[f"not on the page: {error}"] = None
        sections.append(page.Section(figure.key, figure.title, figure.note, shown))
    text = page.render(sections, presets)
    style.write_file(out / "index.html", text.encode(errors="backslashreplace"))
    return list(left_out)


def result(figure, preset, folder):
    picture, data = figure.files(folder)
    numbers = style.read_json(data)
    times = seconds_in(folder)
    runs = figure.runs(preset)
    return page.Result(
        preset=preset, picture=style.read_bytes(picture), data=style.read_bytes(data),
        file=data.name, claims=style.read_claims(data, numbers), notices=notices(numbers),
        provenance=[provenance(folder / run.folder) for run in runs],
        commands=[shlex.join([run.program, *run.before, *run.words(folder)]) for run in runs],
        seconds=[times.get(run.folder, seconds_of(folder / run.folder)) for run in runs])


def notices(value):
    """What the programs said of networks that learned nothing, anywhere in a figure's data but in what
    it does not draw (of a sweep's cells it draws the best)."""
    if isinstance(value, list):
        return [notice for item in value for notice in notices(item)]
    if not isinstance(value, dict):
        return []
    own = [value["notice"]] if isinstance(value.get("notice"), str) else []
    return own + [notice for key, item in value.items() if key != "cells" for notice in notices(item)]


def seconds_of(folder):
    """Of a run that was made before, by its own account; None where it has none."""
    summary = folder / "summary.json"
    if not summary.exists():
        return None
    return style.need(summary, {"seconds": None, **style.read_json(summary)}, "seconds",
                      *style.number(0, null=True))


def provenance(folder):
    """Who made a run: its config.json, or, of a sweep, that of a cell."""
    for config in [folder / "config.json", *sorted(folder.glob("cells/*/config.json"))]:
        if config.exists():
            made = style.read_json(config)
            style.need(config, {"settings": {}, **made}, "settings", style.is_object, "an object")
            return made
    return {}


def verdicts(preset, figures):
    """A line for each claim of the figures that were drawn, and the count."""
    lines, counts = [], {True: 0, False: 0, None: 0}
    for figure in figures:
        _, data = figure.files(preset.folder)
        claims = {}
        with contextlib.suppress(Error):  # the page was without it then
            claims = style.read_claims(data, style.read_json(data))
        for claim in claims.values():
            counts[claim["pass"]] += 1
            lines.append(f"  figure {figure.key:9}{page.VERDICTS[claim['pass']]:6}"
                         f"{page.number(claim['ours']):>8}  {claim['criterion']}")
    if not lines:
        return []
    summary = f"{counts[True]} of {counts[True] + counts[False]} claims pass"
    if counts[None]:
        summary += f", {counts[None]} have nothing to measure at this scale"
    return [*lines, f"{summary}; page: {preset.options.out}/index.html"]


# --- The program ----------------------------------------------------------------------------------


def chosen(keys):
    """Figures by their keys, in the order of FIGURES."""
    if not keys or "all" in keys:
        return list(FIGURES.values())
    for key in keys:
        if key not in FIGURES:
            raise UsageError(f"there is no figure {key}: expected {', '.join(FIGURES)} or all")
    return [figure for figure in FIGURES.values() if figure.key in keys]


def main(arguments):
    parser = style.ArgumentParser(
        prog="./run figures", description="Runs what the figures of the paper need, as far as it is "
        "not there yet, draws them, and writes one page about all of them.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE",
                        help=f"{', '.join(FIGURES)}, or all (the default)")
    parser.add_argument("--preset", default="demo", help="demo (the default), small, paper, or a "
                        "folder with localization.json, overlap.json and groups.json")
    parser.add_argument("--device", help="auto, cpu or cuda[:N]")
    parser.add_argument("--threads", help="CPU threads")
    parser.add_argument("--out", default="runs", help="folder of the presets' runs and figures, and of "
                        "index.html (runs)")
    parser.add_argument("--bin", default="build/cpu/bin", help="folder of the programs")
    options = parser.parse_args(arguments)
    figures = chosen(options.figures)
    if options.preset not in PRESETS and not Path(options.preset).is_dir():
        raise UsageError(f"preset {options.preset}: expected {', '.join(PRESETS)} or a folder")

    interrupt.words = "stopped; the same command continues"
    preset = Preset(options)
    failures = work(preset, figures)
    for line in verdicts(preset, figures):
        print(line, flush=True)
    if failures:
        raise Error("; ".join(failures))


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figures", main, sys.argv[1:]))
