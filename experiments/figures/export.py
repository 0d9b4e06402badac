"""Runs for other tools: a tidy CSV, and event files of TensorBoard."""

import contextlib
import csv
import io
import os
import sys
from pathlib import Path

from run_folder import differing, flat, setting_text
from values import Error, UsageError, is_number

# --- CSV ------------------------------------------------------------------------------------------


def numbers_of(run):
    """(phase, step, metric, value) of every line, then of the results, which have no step."""
    for line in run.lines:
        step = line.get("step") if is_number(line.get("step")) else None
        for name, value in flat({key: value for key, value in line.items() if key != "step"}):
            yield str(line.get("phase", "")), step, name, value
    # Summaries repeat some settings, for those who have nothing else; as measures they mislead.
    results = {key: value for key, value in (run.results or {}).items()
               if key not in ("notice", "layers") and key not in run.settings}
    for name, value in flat(results):
        yield "result", None, name, value


def csv_of(runs, names):
    """One number a row, with the settings that differ between the runs; what is undefined is empty."""
    settings = differing(runs)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["run", *settings, "phase", "step", "metric", "value"])
    for run, name in zip(runs, names):
        same = [name, *(setting_text(run.settings[key]) if key in run.settings else ""
                        for key in settings)]
        rows.writerows([*same, *row] for row in numbers_of(run))
    return text.getvalue().encode(errors="surrogateescape")


# --- TensorBoard ----------------------------------------------------------------------------------


def writer_of_events():
    """What makes a writer for a folder, with add_scalar(tag, value, step), flush() and close()."""
    reasons = []
    try:
        from tensorboardX import SummaryWriter
        return lambda folder: SummaryWriter(str(folder))
    except Exception as error:  # versions that do not fit each other raise nearly anything
        reasons.append(error)
    try:
        from tensorboard.summary import Writer
        return lambda folder: Writer(str(folder))
    except Exception as error:
        reasons.append(error)
    broken = next((reason for reason in reasons if not isinstance(reason, ModuleNotFoundError)
                   or not str(reason.name).startswith("tensorboard")), None)  # but what it needs
    raise Error(f"--tensorboard: {broken}" if broken else
                f"--tensorboard: {sys.executable} has neither tensorboardX nor tensorboard "
                "(pip install tensorboardX)")


class Events:
    """Event files of runs, each in a folder of its name; what is new is added."""

    def __init__(self, folder, names):
        make, folders = writer_of_events(), [Path(folder) / name for name in names]
        self.folder = folder
        self.written = [0] * len(names)  # numbers of each; a run that goes on writes the same again
        with self.names_what_it_cannot_write():
            for path in folders:
                if path.is_dir() and any("tfevents" in name for name in os.listdir(path)):
                    raise UsageError(f"--tensorboard {folder}: has events in {path} already; name "
                                     "another folder")
            self.writers = [make(path) for path in folders]

    @contextlib.contextmanager
    def names_what_it_cannot_write(self):
        try:
            yield
        except OSError as error:
            raise Error(f"cannot write {error.filename or self.folder}: {error.strerror}") from None

    def add(self, runs):
        """What the runs have beyond what was added before. Results stand at the last step."""
        for i, (run, writer) in enumerate(zip(runs, self.writers)):
            numbers = list(numbers_of(run))
            last = max((step for _, step, _, _ in numbers if step is not None), default=0)
            with self.names_what_it_cannot_write():
                for phase, step, name, value in numbers[self.written[i]:]:
                    if value is not None:
                        writer.add_scalar(f"{phase}/{name}", value, last if step is None else step)
                writer.flush()
            self.written[i] = max(self.written[i], len(numbers))

    def close(self):
        with self.names_what_it_cannot_write():
            for writer in self.writers:
                writer.close()
