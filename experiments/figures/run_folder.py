"""Folders of runs in any state: finished, interrupted, under way. What stands in them says
experiments/run/run_folder.h."""

import contextlib
import fcntl
import json
import os
import re
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from page import number as three_digits
from values import (
    Error, is_count, is_number, is_number_or_null, is_object, need, read_json, read_lines, shown)
from words import digits, fixed, percent

# --- Kinds of runs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """A part of a run that goes on where it was interrupted."""

    name: str          # in metrics.jsonl
    state: str         # the file of its checkpoint
    settings: tuple    # whose sum is its number of steps; where there are none, it counts batches


@dataclass(frozen=True)
class Measure:
    """A number of a run's results."""

    name: str
    key: str           # where it stands: "held_out.valid"; of a list the last, which is the output's
    form: object       # what makes words of it
    listed: bool = True  # in the table of all runs, too


@dataclass(frozen=True)
class Kind:
    name: str
    marks: tuple       # settings that no other kind has
    phases: tuple
    results: str       # the file that is written last
    measures: tuple

    def has(self, name):
        return any(measure.name == name for measure in self.measures)


TRAINING = Phase("train", "checkpoint.safetensors", ("iterations",))
LOCALIZATION = Kind(
    "localization", ("map_samples",),
    (Phase("train", "checkpoint.safetensors", ("curriculum_iterations", "iterations")),
     Phase("probe", "probes_checkpoint.safetensors", ("probe_iterations",)),
     Phase("map", "map_checkpoint.safetensors", ())),
    "summary.json",
    (Measure("slope", "interior_slope", fixed), Measure("localized", "localized_fraction", percent),
     Measure("distance", "localization_distance", three_digits),
     Measure("localized beyond R", "interior_localized_fraction", percent, False),
     Measure("unbroken distance", "unbroken_distance", three_digits, False),
     Measure("loss of the map", "final_loss", digits, False),
     Measure("receptive field R", "receptive_field", three_digits, False)))
OVERLAP = Kind(
    "overlap", ("test_pairs", "overlap"),
    (TRAINING, Phase("test", "test_checkpoint.safetensors", ())), "result.json",
    (Measure("error", "mse", digits),))
DIFFUSION = Kind(
    "diffusion", ("walk_corridors",), (TRAINING,), "summary.json",
    (Measure("valid", "held_out.valid", percent), Measure("solved", "held_out.solved", percent),
     Measure("valid, trained", "trained.valid", percent, False),
     Measure("solved, trained", "trained.solved", percent, False)))
PATHS = Kind("localization paths", ("index", "sequences"), (), "summary.json",
             (Measure("change", "rms_change", digits),))
OTHER = Kind("another program", (), (), "summary.json", ())
KINDS = (PATHS, LOCALIZATION, OVERLAP, DIFFUSION, OTHER)
# A plan of runs, in a folder of its own: no run.
PLAN_MARK = "overlaps"

PREDICTIONS = "predictions_mean.npy"  # of a localization run
# Settings that results do not depend on.
HOW = ("preset", "device", "threads", "checkpoint_every", "stop_after", "jobs")

# --- Locks ----------------------------------------------------------------------------------------


def is_locked(folder):
    """Whether a process works in it, as FolderLock::is_held says. To look takes the lock for a moment,
    which those who want it wait for."""
    with contextlib.suppress(OSError):
        file = os.open(folder / ".lock", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return _owner_may_live(folder / ".lock.owner")


def _text(path):
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _start_of(pid):
    """The 22nd field of /proc/PID/stat, which tells a process from a later one of the same number."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split() if pid.isdecimal() else []
    return fields[19] if len(fields) > 19 else ""


def _owner_may_live(file):
    """Of the file that stands for a lock where a file system has none."""
    line = _text(file)
    host, boot, pids, pid, start = (line.split(" ") + [""] * 5)[:5]
    if not line or not boot or not start:
        return bool(line)
    if boot != _text("/proc/sys/kernel/random/boot_id").strip():
        return host != socket.gethostname()  # a host that was started anew has none of its processes
    try:
        mine = os.readlink("/proc/self/ns/pid")
    except OSError:
        mine = ""
    return mine != pids or _start_of(pid) == start


# --- One run --------------------------------------------------------------------------------------

MOST_HEADER = 10**8  # bytes, of a checkpoint


def metadata_of(file):
    """Those of a safetensors file; none where it is not there or is none."""
    try:
        with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size)) if size <= MOST_HEADER else {}
        metadata = header["__metadata__"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return metadata if is_object(metadata) else {}


def flat(values, before=""):
    """The numbers in an object of results or of a line, by name: those of lists by place, from 1, those
    of objects within as "held_out.valid". None is one that is not defined."""
    items = values.items() if is_object(values) else enumerate(values, 1)
    for name, value in items:
        if is_object(value) or isinstance(value, list):
            yield from flat(value, f"{before}{name}.")
        elif value is None or is_number(value):
            yield f"{before}{name}", value


class Folder:
    """A run as it was found: what is read once stays so. An Error names the file that makes no sense."""

    def __init__(self, path):
        self.path = Path(path)
        file = self.path / "config.json"
        if not self.path.is_dir():
            raise Error(f"{path}: no such folder")
        if not os.path.exists(file):
            raise Error(f"{path}: holds no run (no config.json)")
        self.locked = is_locked(self.path)  # before what it writes is read: nothing comes after the end
        self.config = read_json(file)
        self.settings = need(file, self.config, "settings", is_object, "an object")
        self.is_plan = PLAN_MARK in self.settings
        self.sweep = None  # its folder; see find()
        self.kind = next(kind for kind in KINDS if all(name in self.settings for name in kind.marks))

    def has(self, name):
        return os.path.exists(self.path / name)

    @cached_property
    def lines(self):
        """Of metrics.jsonl, but for one that is being written."""
        return read_lines(self.path / "metrics.jsonl")

    @cached_property
    def results(self):
        """None before they are there."""
        file = self.path / self.kind.results
        if not self.has(self.kind.results):
            return None
        results = read_json(file)
        for measure in self.kind.measures:
            name = measure.key.split(".")[0]
            if name not in results:
                raise Error(f"{file}: has no {name}")
            if not is_number_or_null(self._value(results, measure)):
                raise Error(f"{file}: {name} is {shown(results[name])}, expected numbers or null")
        return results

    @staticmethod
    def _value(results, measure):
        value = results
        for name in measure.key.split("."):
            value = value.get(name) if is_object(value) else None
        return (value[-1] if value else None) if isinstance(value, list) else value

    @property
    def trains(self):
        """Whether it has a training of its own: config.json names a model that was given."""
        return "model" not in self.config

    @cached_property
    def state(self):
        if self.results is not None:
            return "finished"
        if self.locked:
            return "under way"
        if self.has("failure.txt") or self.has("failure.safetensors"):
            return "failed"
        later = any(self.has(phase.state) for phase in self.kind.phases[1:])
        if self.kind is LOCALIZATION and self.trains and self.has("model.safetensors") and not later:
            return "trained"
        return "interrupted"

    @property
    def seconds(self):
        """That it took, where its results say so."""
        seconds = (self.results or {}).get("seconds")
        return seconds if is_number(seconds, 0) else None

    # --- How far it is ---

    def last(self, phase="train"):
        """The last line of a phase; nothing where there is none."""
        return next((line for line in reversed(self.lines) if line.get("phase") == phase), {})

    @cached_property
    def phases(self):
        """Of each that the run has: name, steps that are done, in all (None where they are not told),
        seconds until its last checkpoint (None likewise)."""
        found = []
        for phase in self.kind.phases:
            if phase.name == "train" and not self.trains \
                    or phase.name == "probe" and self.settings.get("probes") == "none":
                continue
            saved = {key: int(value) for key, value in metadata_of(self.path / phase.state).items()
                     if key in ("step", "milliseconds") and re.fullmatch("[0-9]{1,15}", str(value))}
            logged = self.last(phase.name).get("step", 0)
            steps = [self.settings.get(name, 0) for name in phase.settings]
            found.append((phase.name, max(saved.get("step", 0), logged if is_count(logged) else 0),
                          sum(steps) if steps and all(is_count(step, 0) for step in steps) else None,
                          saved["milliseconds"] / 1000 if "milliseconds" in saved else None))
        return found

    @property
    def progress(self):
        """"train 300/1000", of the phase it is in; nothing before the first step."""
        for name, done, of, _ in reversed(self.phases):
            if done:
                return f"{name} {done}/{of}" if of else f"{name} {done} batches"
        return ""

    @property
    def standing(self):
        """The state in words; of one that is not finished with how far it is."""
        far = "" if self.state in ("finished", "trained") else self.progress
        return f"{self.state}: {far}" if far else self.state

    # --- Numbers ---

    @cached_property
    def measures(self):
        """By name, with "loss" before all others: that of the last line of training. A slope is there
        while it trains, too."""
        line = self.last()
        found = {"loss": line.get("loss") if is_number(line.get("loss")) else None}
        for measure in self.kind.measures:
            found[measure.name] = None if self.results is None else self._value(self.results, measure)
        if self.results is None and self.kind.has("slope") and is_number(line.get("interior_slope")):
            found["slope"] = line["interior_slope"]
        return found

    @cached_property
    def metrics(self):
        """Of the lines, by (phase, name): a list of (step, value or None)."""
        found = {}
        for line in self.lines:
            step = line.get("step")
            if is_number(step):
                for name, value in flat({k: v for k, v in line.items() if k != "step"}):
                    found.setdefault((str(line.get("phase", "")), name), []).append((step, value))
        return found


def words_of(folder, measure, form):
    """A measure of a run, as a table has it."""
    value = folder.measures.get(measure)
    return "-" if value is None else form(value)


# --- Many -----------------------------------------------------------------------------------------


def _in_order(text):
    """For sorting: numbers within names by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part)
            for part in re.split("([0-9]+)", str(text))]


def find(top):
    """The runs in a folder and in those below it, and the Errors of what cannot be read there. Cells know
    their `sweep`."""
    top = Path(top)
    if not top.is_dir():
        raise Error(f"{top}: no such folder")
    runs, errors, seen, sweeps = [], [], set(), set()

    def take_note(error):
        errors.append(Error(f"{error.filename}: {error.strerror}"))

    for path, folders, files in os.walk(top, followlinks=True, onerror=take_note):
        place = os.path.realpath(path)
        if place in seen:  # by a link
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_in_order)
        if "plan.json" in files:
            sweeps.add(Path(path))
        if "config.json" in files:
            try:
                run = Folder(path)
            except Error as error:
                errors.append(error)
                continue
            if run.is_plan:
                sweeps.add(run.path)
            else:
                runs.append(run)
    for run in runs:
        run.sweep = next((folder for folder in run.path.parents if folder in sweeps), None)
    return runs, errors


def runs_of(paths):
    """The runs that arguments name: each a run, or a folder with some below it. Each once."""
    found = {}
    for path in paths:
        runs = [Folder(path)] if os.path.exists(Path(path) / "config.json") else []
        if not runs or runs[0].is_plan:
            runs, errors = find(path)
            if errors:
                raise errors[0]
            if not runs:
                raise Error(f"{path}: holds no run")
        for run in runs:
            found.setdefault(os.path.realpath(run.path), run)
    return list(found.values())


def short_names(runs):
    """Of each, its path from the folder that holds them all."""
    paths = [os.path.abspath(run.path) for run in runs]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared) for path in paths]


def differing(runs):
    """Names of the settings that are not the same in all runs, but for those that say how a run is
    carried out."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in HOW)
    return [name for name in names
            if any(run.settings.get(name) != runs[0].settings.get(name) for run in runs)]


def setting_text(value):
    """As behind a flag; a dash where a run has no such setting."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def settings_text(settings):
    """"norm none, seed 1", of pairs."""
    return ", ".join(f"{name} {setting_text(value)}" for name, value in settings)
