#!/usr/bin/env python3
"""Every figure of the paper: runs what is missing, draws it, and writes one page about all of it.

This is what ./run figures calls. A figure is a few commands, each with a folder of its own that it
continues or finds finished, and a script that draws what is there; FIGURES lists them.
"""

import ctypes
import fcntl
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import output  # noqa: E402
import page  # noqa: E402
import style  # noqa: E402
from style import Error, UsageError  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PRESETS = ("demo", "small", "paper")
SECONDS = "seconds.json"
INTERRUPTED = 75  # the programs' exit code for a run that stopped with its state saved

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


class Interrupted(Exception):
    pass


class Preset:
    """The runs and figures of one preset: a folder, which one process works on at a time."""

    def __init__(self, options):
        self.options = options
        self.source = options.preset
        self.name = Path(options.preset).name
        self.folder = Path(options.out) / self.name
        self.child = None
        self.received = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.folder / ".lock", "w")
        except OSError as error:
            raise Error(f"cannot write {error.filename}: {error.strerror}") from None
        self.wait_for_lock()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self.on_signal)

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

    def on_signal(self, number, _frame):
        self.received = number
        if self.child:
            self.child.send_signal(number)
        else:
            raise Interrupted()

    def path(self, command):
        return self.folder / command.folder

    def line(self, command, verb=None):
        """The command line; of a subcommand in `after` where `verb` is given."""
        line = [f"{self.options.bin}/{command.program}", *((verb,) if verb else command.before),
                "--out", str(self.path(command))]
        if verb:
            return line
        preset = self.source
        if Path(preset).is_dir():
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
            if code == INTERRUPTED or self.received:
                raise Interrupted()
            if code != 0:  # it has said why
                error = UsageError if code == UsageError.exit_code else Error
                raise error(f"{shlex.join(line)}: exit code {code}")

    def call(self, command, line):
        """Runs a program to its end, and keeps account of its time in spite of kill -9."""
        spent = seconds_in(self.folder)
        before, start = spent.get(command.folder, 0), time.monotonic()
        # From a terminal Ctrl-C reaches the program without us.
        try:
            self.child = subprocess.Popen(line, pass_fds=[self.lock.fileno()],
                                          start_new_session=True, preexec_fn=end_with_parent)
        except OSError as error:
            raise Error(f"{line[0]}: {error.strerror}") from None
        while True:
            try:
                code = self.child.wait(timeout=2)
            except subprocess.TimeoutExpired:
                code = None
            seconds = time.monotonic() - start
            if code is None or seconds >= 0.5:  # less than that is finding it finished
                spent[command.folder] = round(before + seconds, 1)
                style.write_json(self.folder / SECONDS, spent)
            if code is not None:
                self.child = None
                return code

    def draw(self, figure):
        """Draws a figure from its folders; an Error says what is missing."""
        picture, data = figure.files(self.folder)
        line = [sys.executable, str(HERE / figure.script),
                *(str(self.path(command)) for command in figure.runs(self.name)),
                "--out", str(picture), "--summary", str(data)]
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Error(done.stderr.strip() or f"{figure.script}: exit code {done.returncode}")
        return done.stdout.splitlines()[:-1]  # without the names of the files


def seconds_in(folder):
    """Seconds spent on each of a preset's runs, by its folder."""
    return style.read_json(folder / SECONDS) if (folder / SECONDS).exists() else {}


def end_with_parent():
    """In a program: SIGTERM, upon which it saves its state, when this process dies."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def work(preset, figures):
    """Runs and draws the figures; returns what failed, in words."""
    failures = []
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
        write_page(preset.options.out)
    return failures


# --- The page -------------------------------------------------------------------------------------


def presets_in(out):
    """The presets with a figure, the largest scale first."""
    names = {path.parent.name for path in Path(out).glob("*/figure_*.json")}
    known = [name for name in reversed(PRESETS) if name in names]
    return known + sorted(names - set(known))


def write_page(out):
    out = Path(out)
    presets = presets_in(out)
    sections = []
    for figure in FIGURES.values():
        shown = []
        for name in presets:
            folder = out / name
            picture, data = figure.files(folder)
            if not data.exists() or not picture.exists():
                continue
            times = seconds_in(folder)
            runs = figure.runs(name)
            numbers = style.read_json(data)
            shown.append(page.Result(
                preset=name, picture=picture, data=data, claims=numbers.get("claims", {}),
                notices=notices(numbers),
                provenance=[provenance(folder / run.folder) for run in runs],
                commands=[shlex.join([run.program, *run.before, *run.words(folder)])
                          for run in runs],
                seconds=[times.get(run.folder, seconds_of(folder / run.folder)) for run in runs]))
        sections.append(page.Section(figure.key, figure.title, figure.note, shown))
    style.write_file(out / "index.html", page.render(sections, presets).encode())


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
    return style.read_json(summary).get("seconds") if summary.exists() else None


def provenance(folder):
    """Who made a run: its config.json, or, of a sweep, that of a cell."""
    for config in [folder / "config.json", *sorted(folder.glob("cells/*/config.json"))]:
        if config.exists():
            return style.read_json(config)
    return {}


def verdicts(preset, figures):
    """A line for each claim of the figures that were drawn, and the count."""
    lines, counts = [], {True: 0, False: 0, None: 0}
    for figure in figures:
        _, data = figure.files(preset.folder)
        if not data.exists():
            continue
        for claim in style.read_json(data).get("claims", {}).values():
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

    preset = Preset(options)
    try:
        failures = work(preset, figures)
    except Interrupted:
        raise Stopped("stopped; the same command continues") from None
    for line in verdicts(preset, figures):
        print(line, flush=True)
    if failures:
        raise Error(f"{len(failures)} of {len(figures)} figures failed: {'; '.join(failures)}")


class Stopped(Error):
    exit_code = INTERRUPTED


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figures", main, sys.argv[1:]))
