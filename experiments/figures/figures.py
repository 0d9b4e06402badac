#!/usr/bin/env python3
"""Every figure: runs what is missing, draws it, and writes one page about all of it.

This is what ./run figures calls. A figure is a few commands, each with a folder of its own that it
continues or finds finished, and a script that draws what is there; FIGURES lists them.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import argparse  # noqa: E402
import fcntl  # noqa: E402
import shlex  # noqa: E402
import subprocess  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from pathlib import Path  # noqa: E402

import crew  # noqa: E402
import output  # noqa: E402
import results  # noqa: E402
import style  # noqa: E402
from style import Error, UsageError  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# How many seeds, from 0, each figure is made of. Sweeps over seeds have their presets' own.
SEEDS = {"demo": 1, "small": 3, "paper": 1}
MORE_SEEDS = {**SEEDS, "small": 5}
PRESETS = tuple(SEEDS)
PRESET_FILES = os.path.relpath(ROOT / "experiments" / "presets")
# The words that ask for many figures at once, and what stands above them on the page.
HEADINGS = {"all": "", "leak": "Beyond the paper: the temporal U-Net"}

# --- What there is to run -------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One run of one of the experiments' programs."""

    program: str
    folder: str            # below that of the preset, or of the seed; of a report, its file
    arguments: tuple = ()
    before: tuple = ()     # a subcommand
    after: tuple = ()      # subcommands to call on the folder when the run is finished
    is_sweep: bool = False  # of cells, which it makes side by side itself
    seed: int = 0
    has_seeds: bool = False  # a sweep over them, too, with presets of its own
    needs: object = None   # another command, whose results this one takes
    preset: str = ""       # the name of its file in a folder of presets, where not the program's
    is_file: bool = False  # of such a preset the program knows no name
    is_report: bool = False  # a file, by a program that takes no preset, beside what the run left

    def with_seed(self, seed):
        if seed == 0 or self.has_seeds:
            return self
        return replace(self, seed=seed, arguments=(*self.arguments, "--seed", str(seed)),
                       needs=self.needs and self.needs.with_seed(seed))

    @property
    def name(self):
        return results.place_of(self.seed) + self.folder

    def words(self, folder):
        """The arguments, with the folder of the runs that they name, in a preset's."""
        folder = folder / results.place_of(self.seed)
        return [argument.format(folder=folder) for argument in self.arguments]

    def preset_words(self, source):
        """What says the preset: a name, or a file in our folders or in that of a user."""
        if self.is_report:
            return []
        if source not in PRESETS:
            return ["--preset", f"{Path(source) / (self.preset or self.program)}.json"]
        if self.is_file:
            return ["--preset", f"{PRESET_FILES}/{self.preset}/{source}.json"]
        return ["--preset", f"{self.preset}/{source}" if self.has_seeds else source]


def localization(folder, *arguments, **how):
    return Command("localization", folder, arguments, before=("run",), **how)


# Figure 1's two have the settings and the folders of ./run demo, which may have trained them.
WITH_NORM = localization("instance", "--norm", "instance")
PLAIN = localization("none", "--norm", "none")
PER_POSITION = localization("position", "--norm", "position")
CONSTANT = localization("constant", "--norm", "instance", "--input", "constant")
BATCH = localization("batch", "--norm", "batch")
POPULATION = localization("batch-population", "--norm", "batch", "--eval-statistics", "population",
                          "--model", f"{{folder}}/{BATCH.folder}/model.safetensors", needs=BATCH)
PATHS = Command("localization", "instance-paths", (
    "--norm", "instance", "--model", f"{{folder}}/{WITH_NORM.folder}/model.safetensors"),
    before=("paths",), needs=WITH_NORM)
OVERLAP = Command("overlap", "overlap", before=("run",), is_sweep=True)
GROUPS, CROSSTALK = (Command("sweep", name, before=("run",), after=("collect",), is_sweep=True,
                             has_seeds=True, preset=name) for name in ("groups", "crosstalk"))


def unet(folder, norm, *arguments, **how):
    return localization(folder, "--network", "unet", "--probes", "none", "--norm", norm, *arguments,
                        preset="unet", is_file=True, **how)


# GroupNorm with running statistics learns as GroupNorm does.
UNET = unet("unet-group", "group_population")
UNETS = (UNET, unet("unet-population", "group_population", "--eval-statistics", "population", "--model",
                    f"{{folder}}/{UNET.folder}/model.safetensors", needs=UNET),
         unet("unet-position", "position"), unet("unet-none", "none"))


def leak(run, when, model):
    """What a localizer hears from beyond its receptive field, in a report beside it."""
    return Command("leak", f"{run.folder}/leak-{when}.json", (
        "--model", f"{{folder}}/{run.folder}/{model}.safetensors", "--no-layers"),
        before=("measure",), needs=run, is_report=True)


LOCALIZERS = (WITH_NORM, PER_POSITION, PLAIN)
LEAKS = tuple(leak(run, when, model) for run in LOCALIZERS
              for when, model in (("initial", "model-initial"), ("trained", "model")))
# Planners differ in how far their layers hear, and in their norm alone. GroupNorm with running statistics
# learns as GroupNorm does, and plans once with each.
REACHES = {"short": ("--kernel-size", "3", "--multipliers", "1"),
           "long": ("--kernel-size", "5", "--multipliers", "1"),
           "all": ("--kernel-size", "5", "--multipliers", "1,1")}
PLANNERS = {(reach, norm): Command("diffusion", f"planner-{reach}-{norm}", ("--norm", norm, *size),
                                   before=("run",))
            for reach, size in REACHES.items()
            for norm in ("group_population", "position", "rms", "none")}
LEARNERS = tuple(PLANNERS["short", norm] for norm in ("group_population", "position", "none"))

# The controls of figures 4 and 5 have the size of the networks there, which need not be that of figure
# 1's, and their own learning rate and number of iterations. A network that cannot learn more than its
# edges does not need many of them: that of a constant input, which has no message to learn, has as many
# as the one without norm, and a short map, as all its sequences are the same.
INSTEAD = {
    "small": {(PLAIN, BATCH): localization("plain-as-batch", "--norm", "none", "--length", "64",
                                           "--depth", "8", "--channels", "32"),
              (CONSTANT, WITH_NORM): localization(
                  "constant-short", *CONSTANT.arguments, "--iterations", "4000", "--warmup", "200",
                  "--map-samples", "512"),
              (PATHS, WITH_NORM): replace(
                  PATHS, arguments=(*PATHS.arguments, "--sequences", "60")),
              (PER_POSITION, GROUPS): localization(
                  "position-as-groups", "--norm", "position", "--length", "64", "--depth", "8",
                  "--batch", "16")},
    "paper": {(PLAIN, BATCH): localization("plain-as-batch", "--norm", "none", "--length", "250")},
}


@dataclass(frozen=True)
class Figure:
    key: str
    title: str
    commands: tuple       # in the order in which the script takes their folders
    script: str
    note: str = ""        # for the page: what departs from the paper
    together: bool = False  # all seeds in one picture
    group: str = "all"    # one of HEADINGS
    seeds: dict = field(default_factory=lambda: SEEDS)  # how many, by preset

    def runs(self, preset, seeds):
        """The commands for a preset, of these seeds."""
        instead = INSTEAD.get(preset, {})
        chosen = [next((other for (command_, beside), other in instead.items()
                        if command is command_ and beside in self.commands), command)
                  for command in self.commands]
        return list(dict.fromkeys(command.with_seed(seed) for command in chosen for seed in seeds))

    def drawings(self, count):
        """Where there are so many seeds: the seed that each drawing lies at, and those it shows."""
        return {0: range(count)} if self.together else {seed: [seed] for seed in range(count)}

    def files(self, folder, seed=0):
        """The picture and its data, in a preset's folder."""
        return tuple(folder / results.place_of(seed) / f"figure_{self.key}.{suffix}"
                     for suffix in ("png", "json"))


FIGURES = {figure.key: figure for figure in (
    Figure("1", "Figure 1: with InstanceNorm a network knows where it is",
           (WITH_NORM, PLAIN, PER_POSITION), "figure1.py",
           "Beside the paper's two: LayerNorm of each position alone, as in transformers."),
    Figure("2", "Figure 2, measured: norms carry what receptive fields do not hold",
           (WITH_NORM, PATHS), "figure2.py",
           "In the paper a drawing, without data: what it illustrates, measured on Figure 1's network."),
    Figure("multihop", "Farther than one message reaches", (WITH_NORM, PLAIN), "figure_multihop.py",
           "Not a figure of the paper: it draws Section 3.2's argument."),
    Figure("3", "Figure 3: two sequences are told apart by what they share", (OVERLAP,), "figure3.py"),
    Figure("constant", "Control: a constant input carries no message", (WITH_NORM, CONSTANT),
           "figure_constant.py", "Not a figure of the paper, which says it in Section 3.2."),
    Figure("4", "Figure 4: the more groups, the better", (GROUPS, PER_POSITION), "figure4.py",
           together=True),
    Figure("5", "Figure 5: BatchNorm communicates too", (BATCH, PLAIN), "figure5.py"),
    Figure("6", "Figure 6: population statistics end it", (BATCH, POPULATION), "figure6.py"),
    Figure("crosstalk", "Crosstalk: the more samples share statistics, the less BatchNorm carries",
           (CROSSTALK,), "figure_crosstalk.py", "Not a figure of the paper, which says it at the end of "
           "Section 3.3.", together=True),
    Figure("unet", "The U-Net knows where it is", UNETS, "figure_unet.py",
           "Problem 2.1 on the network that the paper's introduction takes up: Janner et al.'s temporal "
           "U-Net.", group="leak"),
    Figure("learning", "The leak while it learns", (*LOCALIZERS, *LEAKS, *LEARNERS),
           "figure_learning.py", "How much networks hear from beyond their receptive fields, before, "
           "while and after they learn.", together=True, group="leak"),
    Figure("stitching", "Stitching with the norm alone changed", tuple(PLANNERS.values()),
           "figure_stitching.py", "Whether a planner by diffusion puts pieces together better with a "
           "norm that cannot leak.", together=True, group="leak", seeds=MORE_SEEDS),
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

    def seeds(self, figure):
        """How many a figure is made of."""
        return self.options.seeds or figure.seeds.get(self.source, 1)

    def path(self, command):
        return self.folder / command.name

    def lines(self, command, places):
        """The command lines; none where all is there that they would make."""
        if command.is_report and self.path(command).exists():  # it is written at once
            return []
        return [self.line(command, None, places), *(self.line(command, verb) for verb in command.after)]

    def line(self, command, verb=None, places=1):
        """The command line; of a subcommand in `after` where `verb` is given."""
        line = [f"{self.options.bin}/{command.program}", *((verb,) if verb else command.before),
                "--out", str(self.path(command))]
        if verb:
            return line
        line += [*command.preset_words(self.source), *command.words(self.folder)]
        if self.options.device is not None:
            line += ["--device", self.options.device]
        if command.is_sweep and self.options.jobs is not None:
            line += ["--jobs", self.options.jobs]
        threads = self.options.threads if places == 1 or command.is_sweep else self.share(places)
        return line + (["--threads", threads] if threads is not None else [])

    def share(self, places):
        """The threads of each of several runs at once. What is no number, the programs refuse."""
        threads = self.options.threads or "0"
        if not threads.isdecimal():
            return threads
        return str(max(1, (int(threads) or crew.usable_cores()) // places))

    def places(self, runs):
        """How many runs at once. Networks as small as these lose more by sharing cores than by sharing
        caches; on a GPU, which several processes would take turns on, one."""
        jobs, device = int(self.options.jobs or 0), self.options.device or "auto"
        on_gpu = device.startswith("cuda") or (device == "auto" and Path("/dev/nvidiactl").exists())
        return max(1, min(runs, jobs or (1 if on_gpu else crew.usable_cores())))

    def check(self, commands):
        """What one run of a preset's file does not understand, no other will: that is said once, before
        any begins."""
        for command in {(command.program, command.preset): command for command in reversed(commands)
                        if not command.is_report}.values():
            file = Path(command.preset_words(self.source)[-1])
            if self.source not in PRESETS and not file.exists():
                raise UsageError(f"preset {self.source}: has no {file.name}")
            line = [*self.line(command), "--check"]
            try:
                with crew.child_of(line, self.lock, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE) as child:
                    said = child.communicate()[1].decode(errors="backslashreplace").strip()
            except Error:  # a program that is not there: said when it is to be run
                continue
            if child.returncode == UsageError.exit_code:
                output.note(said)
                raise UsageError(f"{shlex.join(line)}: exit code {child.returncode}")

    def draw(self, figure, seed, runs):
        """Draws a figure from the folders of its runs; an Error says what is missing."""
        picture, data = figure.files(self.folder, seed)
        folders = [str(self.path(run)) for run in runs if not run.is_report]
        line = [sys.executable, str(HERE / figure.script), *folders,
                "--out", str(picture), "--summary", str(data)]
        with crew.child_of(line, self.lock, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            out, err = (text.decode(errors="backslashreplace") for text in child.communicate())
        if child.returncode != 0:
            raise Error(err.strip() or f"{figure.script}: exit code {child.returncode}")
        return out.splitlines()[:-1]  # without the names of the files


def work(preset, figures):
    """Runs and draws the figures; returns what failed, in words."""
    todo = {(figure.key, seed): (figure, figure.runs(preset.name, of)) for figure in figures
            for seed, of in figure.drawings(preset.seeds(figure)).items()}
    # Of each run all seeds, one after the other: the longest ones come first.
    commands = list(dict.fromkeys(
        command for figure in figures
        for command in figure.runs(preset.name, range(preset.seeds(figure)))))
    places = preset.places(sum(not command.is_sweep for command in commands))
    preset.check(commands)
    failures, left_out = {}, []

    def on_start(job):
        begun.append(job)
        what = shlex.join(job.lines[0]) if job.lines else f"{preset.folder / job.name}: done already"
        print(f"[{len(begun)}/{len(jobs)}] {what}", flush=True)

    def on_end(job, error):
        for (key, seed), (figure, runs) in list(todo.items()):
            mine = [jobs[command] for command in runs]
            if job not in mine or (not error and any(m.name not in team.done for m in mine)):
                continue
            del todo[key, seed]
            try:
                if error:
                    raise error
                for line in preset.draw(figure, seed, runs):
                    several = len(figure.drawings(preset.seeds(figure))) > 1
                    team.say(f"  {line}" + (f" [seed {seed}]" if several else ""))
            except Error as failure:
                failures.setdefault(key, failure)
            left_out[:] = results.write_page(preset.options.out, FIGURES, PRESETS, HEADINGS)

    spent = results.seconds_in(preset.folder)
    team = crew.Crew(places, preset.lock, spent,
                     lambda: style.write_json(preset.folder / results.SECONDS, spent))
    begun = []
    jobs = {command: crew.Job(command.name,
                              preset.lines(command, places), command.is_sweep,
                              command.needs and command.needs.name)
            for command in commands}
    team.run(jobs.values(), on_start, on_end)
    if failures:
        of = f"{len(failures)} of {len(figures)} figures failed"
        left_out.insert(0, f"{of}: " + "; ".join(f"figure {key}: {failure}"
                                                 for key, failure in failures.items()))
    return left_out


# --- The program ----------------------------------------------------------------------------------


def chosen(keys):
    """Figures by their keys and by the words for many, in the order of FIGURES."""
    keys = keys or ["all"]
    for key in keys:
        if key not in FIGURES and key not in HEADINGS:
            *names, last = *FIGURES, *HEADINGS
            raise UsageError(f"there is no figure {key}: expected {', '.join(names)} or {last}")
    return [figure for figure in FIGURES.values() if figure.key in keys or figure.group in keys]


MOST_SEEDS, MOST_JOBS = 100, 512


def whole_number(flag, text, least, most):
    if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= most):
        raise UsageError(f"{flag} {text}: expected a whole number from {least} to {most}")
    return int(text)


EXAMPLES = """\
examples:
  ./run figures                             every figure of the paper, demo scale
  ./run figures 1 3 --seeds 3 --jobs 2      two of them, of three seeds
  ./run figures all --preset small          larger networks, of three seeds
  ./run figures leak --device cuda:1        the temporal U-Net, on the second GPU
"""


def main(arguments):
    parser = style.ArgumentParser(
        prog="./run figures", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs what the figures of the paper, and those beyond it, need, as far as it is not "
        "there yet,\ndraws them, and writes one page about all of them.", epilog=EXAMPLES)
    parser.add_argument("figures", nargs="*", metavar="FIGURE",
                        help=f"{', '.join(FIGURES)}; all: those of the paper (the default); leak: the "
                        "last three, about the temporal U-Net")
    parser.add_argument("--preset", default="demo", help="demo (the default), small, paper, or a "
                        "folder with localization.json, overlap.json, groups.json and crosstalk.json; "
                        "for leak also unet.json and diffusion.json")
    parser.add_argument("--seeds", help="of how many seeds, from 0, a figure is made (small: 3, but 5 "
                        "for stitching; else 1); of sweeps over seeds their presets say it")
    parser.add_argument("--device", help="auto, cpu or cuda[:N]")
    parser.add_argument("--jobs", help="runs at once, 0 for one for each core, or one on a GPU; they "
                        "share --threads")
    parser.add_argument("--threads", help="CPU threads")
    parser.add_argument("--out", default="runs", help="folder of the presets' runs and figures, and of "
                        "index.html (runs)")
    parser.add_argument("--bin", default="build/cpu/bin", help="folder of the programs")
    options = parser.parse_args(arguments)
    figures = chosen(options.figures)
    if options.seeds is not None:
        options.seeds = whole_number("--seeds", options.seeds, 1, MOST_SEEDS)
    if options.jobs is not None:
        whole_number("--jobs", options.jobs, 0, MOST_JOBS)
    if options.preset not in PRESETS and not Path(options.preset).is_dir():
        raise UsageError(f"preset {options.preset}: expected {', '.join(PRESETS)} or a folder")

    interrupt.words = "stopped; the same command continues"
    preset = Preset(options)
    failures = work(preset, figures)
    for line in results.verdicts(options.out, preset.folder, figures):
        print(line, flush=True)
    if failures:
        raise Error("; ".join(failures))


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figures", main, sys.argv[1:]))
