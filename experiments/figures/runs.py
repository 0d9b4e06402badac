#!/usr/bin/env python3
"""Watching and comparing runs: `./run runs`, and where pip has installed the package `sidechannel runs`.

Words, tables and CSV need nothing but Python; pictures need NumPy and matplotlib.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import argparse  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402

import output  # noqa: E402
import page  # noqa: E402
import program  # noqa: E402
from run_folder import (  # noqa: E402
    DIFFUSION, HOW, LOCALIZATION, OVERLAP, PATHS, PREDICTIONS, Folder, differing, find, runs_of,
    setting_text, settings_text, short_names, words_of)
from values import (  # noqa: E402
    Error, UsageError, files_read, is_number, is_object, parsed, read_bytes, read_json)
from words import counted, digits, fixed, percent, printable, table  # noqa: E402

NAME = "runs"

# --- list -----------------------------------------------------------------------------------------


def usual(runs, names):
    """The value of each of these settings that more than half of the runs have, where there is one."""
    found = {}
    for name in names:
        value, count = Counter(setting_text(run.settings.get(name)) for run in runs).most_common(1)[0]
        if 2 * count > len(runs):
            found[name] = value
    return found


def block(runs):
    """The lines about runs of one program, of one sweep or of none."""
    kind, sweep = runs[0].kind, runs[0].sweep
    names = differing(runs)
    most = usual(runs, names)
    about = (f"{counted(len(runs), 'run')} of {kind.name}" + (f" in the sweep {sweep}" if sweep else "") +
             (f"; where nothing else stands: {settings_text(most.items())}" if most else ""))
    measures = [measure for measure in kind.measures if measure.listed]
    rows = [["run", "state", "loss", *(measure.name for measure in measures), "settings"]]
    for run in runs:
        other = [(name, text) for name in names
                 if (text := setting_text(run.settings.get(name))) != most.get(name)]
        rows.append([run.path, run.standing, words_of(run, "loss", digits),
                     *(words_of(run, measure.name, measure.form) for measure in measures),
                     settings_text(other)])
    said = [any(cell not in ("-", "") for cell in column[1:]) for column in zip(*rows)]
    sides = "<<>" + ">" * len(measures) + "<"
    return [printable(about),
            *table([list(itertools.compress(row, said)) for row in rows],
                   list(itertools.compress(sides, said)))]


def as_json(run):
    return {"path": str(run.path), "program": run.kind.name, "state": run.state,
            "phases": [dict(zip(("phase", "steps", "of", "seconds"), phase)) for phase in run.phases],
            **run.measures, "settings": run.settings}


def list_runs(options):
    runs, errors = [], []
    for folder in options.folders:
        found, faults = find(folder)
        runs += found
        errors += faults
    readable = []
    for run in runs:
        try:
            as_json(run)  # all that is asked of it below
            readable.append(run)
        except Error as error:
            errors.append(error)
    if options.json:
        print(json.dumps([as_json(run) for run in readable], indent=2))
    else:
        together = {}
        for run in readable:
            together.setdefault((run.sweep is not None, run.kind, run.sweep), []).append(run)
        print("\n\n".join("\n".join(block(together[key])) for key in sorted(
            together, key=lambda key: key[0])) or "no runs")
    if errors:
        sys.stdout.flush()
        for error in errors[:-1]:
            output.note(f"{NAME}: {printable(error)}")
        raise errors[-1]


# --- show -----------------------------------------------------------------------------------------


def unlike(settings, others):
    """Pairs of a setting and its value where that is not the other one's."""
    return [(name, value) for name, value in settings.items() if name not in HOW
            and (name not in others or others[name] != value)
            and not (name == "precision" and others.get(name) == "auto")]


def preset_of(run, folder):
    """The settings that its preset alone comes to, by the run's program, and then by its norm too; None
    where there is no such program to ask, or no such preset any more."""
    line = [path_of(run.kind.name, folder), "settings", "--preset",
            str(run.settings.get("preset", ""))]

    def ask(*more):
        done = subprocess.run([*line, *more], capture_output=True, timeout=20, check=True)
        return parsed(done.stdout, line[0])

    try:
        own = ask()
        norm = run.settings.get("norm")
        if not isinstance(norm, str) or own.get("norm") == norm:
            return own
        return {**ask("--norm", norm), "norm": own.get("norm")}
    except (OSError, ValueError, subprocess.SubprocessError, Error):
        return None


def path_of(name, folder):
    """Of a program: in a folder of programs, or else where the system finds it."""
    path = os.path.join(folder, name)
    return path if os.path.exists(path) else shutil.which(name) or path


def above(run):
    """What the run belongs to: its sweep's folder, or the run whose network it evaluates, and the
    settings there; None where it stands by itself."""
    folder = Path(os.path.abspath(run.path)).parent
    sweep = folder.parent / "plan.json"
    for file, needs in ((sweep, folder.name == "cells"), (folder / "config.json", True)):
        if needs and os.path.exists(file):
            settings = read_json(file).get("settings")
            if is_object(settings):
                return os.path.relpath(file.parent), settings
    return None


def settings_lines(run, options):
    """What the run is, beside what it belongs to or its preset; and how to go on where it is not done."""
    belongs = above(run)
    if belongs:
        own = settings_text(unlike(run.settings, belongs[1]))
        yield f"settings: of {belongs[0]}" + (f", with {own}" if own else "")
        return
    preset = run.settings.get("preset")
    others = preset_of(run, options.bin) if run.kind in (LOCALIZATION, DIFFUSION) else None
    if others is None:
        yield f"settings: {settings_text(unlike(run.settings, {}))}"
        return
    own = unlike(run.settings, others)
    yield f"settings: preset {preset}" + (f", but {settings_text(own)}" if own else "")
    if run.state in ("interrupted", "trained"):
        flags = [word for name, value in own
                 for word in ("--" + name.replace("_", "-"), setting_text(value))]
        model = [] if run.trains else ["--model", str(run.config["model"])]
        yield "goes on with: " + shlex.join([path_of(run.kind.name, options.bin), "run", "--preset",
                                             str(preset), *flags, *model, "--out", str(run.path)])


def phase_line(run, name, done, of, seconds):
    line = run.last(name)
    text = f"{name}: {done} of {of} steps" if of else f"{name}: {done} batches"
    if seconds:
        text += f" in {page.duration(seconds)}"
    said = [f"{what} {form(line[key])}" for what, key, form in (
        ("loss", "loss", digits), ("slope", "interior_slope", fixed)) if is_number(line.get(key))]
    losses = line.get("losses")
    if isinstance(losses, list) and losses and all(map(is_number, losses)):
        said.append(f"loss {digits(losses[0])} at the first layer, {digits(losses[-1])} at the last")
    return f"{text}; {', '.join(said)}" if said else text


FOLLOWS, SOMETHING = 0.5, 0.05  # slopes: figure1.py's criterion, and training_notice's


def result_words(run):
    """What came out, in a sentence."""
    results, measures = run.results, run.measures
    if run.kind is LOCALIZATION:
        beyond, slope = f"beyond its receptive field, R = {results['receptive_field']}", measures["slope"]
        knows = ("follows the position" if slope is not None and slope >= FOLLOWS else
                 "knows something of the position" if slope is not None and slope >= SOMETHING else
                 "does not know the position")
        return ((f"no position lies {beyond}" if slope is None else
                 f"{beyond}, it {knows} (slope {fixed(slope)}; 1 is perfect)") +
                f"; localized: {words_of(run, 'localized', percent)} of all positions, "
                f"{words_of(run, 'localized beyond R', percent)} of those beyond R, the farthest "
                f"{words_of(run, 'distance', page.number)} from an edge")
    if run.kind is OVERLAP:
        return (f"mean squared error {digits(measures['error'])} where {results.get('overlap')} of "
                f"{results.get('length')} positions are shared; answering 0 has 1")
    if run.kind is DIFFUSION:
        return "; ".join(
            f"pairs {what}: {words_of(run, 'valid' + more, percent)} of the plans are valid, "
            f"{words_of(run, 'solved' + more, percent)} of the pairs solved"
            for what, more in (("held out", ""), ("trained", ", trained")))
    if run.kind is PATHS:
        return (f"what lies outside changes index {results.get('index')} by "
                f"{words_of(run, 'change', digits)} (rms)")
    return "see " + run.kind.results


def made_by(run):
    def said(*keys):
        return next((str(run.config[key]) for key in keys if run.config.get(key)), "unknown")

    changed = " (modified)" if run.config.get("modified") else ""
    return (f"made by: commit {said('commit')[:12]}{changed}, {said('compiler')}, on "
            f"{said('gpu', 'device')}; {said('machine')}")


def files_of(run):
    states = {phase.state for phase in run.kind.phases}
    return sorted(path.name for path in run.path.iterdir() if path.suffix in (".npy", ".safetensors")
                  and path.name not in states)


def show(options):
    runs = runs_of([options.folder])
    if len(runs) > 1:
        raise UsageError(f"{options.folder}: holds {len(runs)} runs, expected one; `{NAME} list "
                         f"{options.folder}` names them")
    run = runs[0]
    time_of = f", {page.duration(run.seconds)}" if run.seconds else ""
    lines = [f"{run.path}: {run.kind.name}, {run.standing}{time_of}"]
    lines += settings_lines(run, options)
    lines += [phase_line(run, *phase) for phase in run.phases]
    if not run.trains:
        lines.append(f"model: {run.config['model']}")
    if run.results is not None:
        lines.append(f"result: {result_words(run)}")
        if isinstance(run.results.get("notice"), str):
            lines.append(f"notice: {run.results['notice']}")
    if run.state == "failed":
        said = read_bytes(run.path / "failure.txt").decode(errors="replace").strip() \
            if run.has("failure.txt") else "the loss was no number any more (failure.safetensors)"
        lines.append(f"failure: {said}")
    lines += [made_by(run), f"files: {', '.join(files_of(run)) or 'none yet'}"]
    print("\n".join(map(printable, lines)))


# --- compare --------------------------------------------------------------------------------------

MOST_COLUMNS = 6


def comparison(runs, names):
    """A row for each thing that may differ, beginning with its name."""
    rows = [["", *names]]
    if len({run.kind for run in runs}) > 1:
        rows.append(["program", *(run.kind.name for run in runs)])
    rows.append(["state", *(run.standing for run in runs)])
    rows += [[name, *(setting_text(run.settings.get(name)) for run in runs)] for name in differing(runs)]
    forms = {"loss": digits, **{measure.name: measure.form for run in runs
                                for measure in run.kind.measures}}
    rows += [[name, *(words_of(run, name, form) for run in runs)] for name, form in forms.items()
             if any(run.measures.get(name) is not None for run in runs)]
    if any(run.seconds for run in runs):
        rows.append(["time", *(page.duration(run.seconds) if run.seconds else "-" for run in runs)])
    return rows


def compare(options):
    if options.output is not None:
        pictures().check(options)
    elif options.metric or options.title is not None:
        raise UsageError(f"{'--metric' if options.metric else '--title'}: has no effect without --output")
    runs = runs_of(options.runs)
    if len(runs) < 2:
        raise UsageError(f"{printable(runs[0].path)}: is one run, expected two or more to compare")
    names = short_names(runs)
    rows = comparison(runs, names)
    if len(runs) > MOST_COLUMNS:
        rows = list(zip(*rows))
    lines = table(rows, "<" * len(rows[0]))
    if not differing(runs):
        lines.append("no setting differs that results depend on")
    if options.output is not None:
        if not draw(runs, names, options, predictions=True):
            raise Error(NOTHING_YET)
    program.tell(lines, [options.output])


# --- plot -----------------------------------------------------------------------------------------


def pictures():
    """What draws. Where there is no matplotlib this ends the program in a line."""
    import curves
    return curves


NOTHING_YET = "nothing to draw yet: metrics.jsonl has no line"


def draw(runs, names, options, predictions=False):
    """Whether there is anything to draw: it is written then."""
    curves = pictures()
    metrics = curves.drawable(runs, options.metric)
    if not metrics and not (predictions and curves.with_predictions(runs)):
        return False
    program.check_outputs([("--output", options.output)])
    curves.write(lambda: curves.picture(runs, names, metrics, predictions, options.title),
                 options.output)
    return True


EVERY = 1  # seconds between two looks at runs that are followed


def followed(paths, follow):
    """The runs, again whenever one of them has written, until none is under way."""
    before = None
    while True:
        files_read.clear()
        runs = [Folder(path) for path in paths]
        now = [(len(run.lines), run.results is not None, run.has(PREDICTIONS)) for run in runs]
        if now != before:
            yield runs
        before = now
        if not follow or not any(run.locked for run in runs):
            return
        time.sleep(EVERY)


def check_file(options, flag, file):
    if options.follow and is_no_file(file):
        raise UsageError(f"{flag} {file}: --follow writes it again and again, expected a file")


def is_no_file(path):
    return path in program.STANDARD_OUTPUT or program.is_stream(path)


def plot(options):
    pictures().check(options)
    check_file(options, "--output", options.output)
    interrupt.words = "stopped"
    runs = runs_of(options.runs)
    names = short_names(runs)
    drawn = False
    for now in followed([run.path for run in runs], options.follow):
        drawn = draw(now, names, options) or drawn
    if not drawn:
        raise Error(NOTHING_YET)
    program.tell([f"figure: {options.output} (data: {', '.join(printable(run.path) for run in runs)})"],
                 [options.output])


# --- export ---------------------------------------------------------------------------------------


def export_runs(options):
    import export
    if options.csv is None and options.tensorboard is None:
        raise UsageError("export: expected --csv FILE, --tensorboard FOLDER or both")
    if options.tensorboard == "":
        raise UsageError("--tensorboard: expected the name of a folder")
    if options.csv is not None:
        check_file(options, "--csv", options.csv)
        if not options.csv.endswith(".csv") and not is_no_file(options.csv):
            raise UsageError(f"--csv {options.csv}: expected a name that ends in .csv")
    interrupt.words = "stopped"
    runs = runs_of(options.runs)
    names = short_names(runs)
    events = None if options.tensorboard is None else export.Events(options.tensorboard, names)
    for now in followed([run.path for run in runs], options.follow):
        if options.csv is not None:
            program.check_outputs([("--csv", options.csv)])
            program.write_file(options.csv, export.csv_of(now, names))
        if events:
            with interrupt.Delay():
                events.add(now)
    if events:
        events.close()
    files = [file for file in (options.csv, options.tensorboard) if file is not None]
    program.tell([f"exported: {', '.join(files)} (data: "
                  f"{', '.join(printable(run.path) for run in runs)})"], files)


# --- The program ----------------------------------------------------------------------------------

EXAMPLES = """examples:
  {0} list                                          all runs below runs/
  {0} show runs/demo/instance                       one of them
  {0} compare runs/demo/instance runs/demo/none --output compare.png
  {0} plot runs/demo --metric gradient_norm --output norms.png
  {0} export runs/demo --csv runs.csv --tensorboard events

A run may be finished, interrupted or under way; --follow adds what a run writes until it ends."""


def parser_of(prog):
    def command(name, function, text):
        parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        parser.set_defaults(function=function)
        return parser

    def runs(parser):
        parser.add_argument("runs", nargs="+", metavar="RUN",
                            help="the folder of a run, or one with runs below it: all of them")

    parser = program.ArgumentParser(
        prog=prog, description="Watches and compares runs.", epilog=EXAMPLES.format(prog),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = command("list", list_runs, "a table of all runs in folders and below them")
    listing.add_argument("folders", nargs="*", default=["runs"], metavar="FOLDER",
                         help="where to look (runs)")
    listing.add_argument("--json", action="store_true", help="all that is known of them, as JSON")
    showing = command("show", show, "one run: its settings, how far it is, what came out")
    showing.add_argument("folder", metavar="RUN", help="its folder")
    showing.add_argument("--bin", default="build/cpu/bin", metavar="FOLDER",
                         help="of the programs, which know what a preset means (build/cpu/bin)")
    comparing = command("compare", compare, "a table of the settings that differ and of the results")
    runs(comparing)
    comparing.add_argument("--output", metavar="FILE", help="also a picture of curves and predictions, "
                           ".png, .pdf or .svg")
    plotting = command("plot", plot, "curves of metrics.jsonl, as a picture")
    runs(plotting)
    plotting.add_argument("--output", required=True, metavar="FILE", help=".png, .pdf or .svg")
    for drawing in (comparing, plotting):
        drawing.add_argument("--metric", action="append", default=[], metavar="NAME",
                             help="what to draw, once or more: loss, slope, gradient_norm, "
                             "probe.losses.1 (loss and slope)")
        drawing.add_argument("--title", help="above the picture")
    exporting = command("export", export_runs, "all numbers, for other tools")
    runs(exporting)
    exporting.add_argument("--csv", metavar="FILE", help="one number a row, with its run, the settings "
                           "that differ, phase, step and metric")
    exporting.add_argument("--tensorboard", metavar="FOLDER", help="event files, by tensorboardX or "
                           "tensorboard")
    for following in (plotting, exporting):
        following.add_argument("--follow", action="store_true", help="go on until no run is under way")
    return parser


def main(arguments):
    files_read.clear()
    options = parser_of(globals().get("CALLED", "./run runs")).parse_args(arguments)
    options.function(options)


if __name__ == "__main__":
    sys.exit(program.exit_code_of(NAME, main, sys.argv[1:]))
