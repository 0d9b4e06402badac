"""Programs side by side: what each says is told apart, its time is counted, none outlives this process,
and a signal stops all of them."""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import interrupt
import output
from values import Error, UsageError

# --- One program ----------------------------------------------------------------------------------


def end_with_parent():
    """In a program: SIGTERM, upon which it saves its state, when this process dies."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(line, keep, **how):
    """A program that signals are passed on to and that keeps a file open. From a terminal Ctrl-C would
    reach it without us."""
    with interrupt.Delay():
        try:
            child = subprocess.Popen(line, pass_fds=[keep.fileno()], start_new_session=True,
                                     preexec_fn=end_with_parent, **how)
        except OSError as error:
            raise Error(f"{line[0]}: {error.strerror}") from None
        interrupt.children[child] = False
    if interrupt.received:  # before it was known
        interrupt.pass_on(interrupt.received)
    return child


def ended(child):
    """Forgets a program that has ended. That it was interrupted ends this one, too, when the others
    have saved their states."""
    del interrupt.children[child]
    if child.returncode == interrupt.EXIT_CODE and not interrupt.received:
        interrupt.received = signal.SIGTERM
    if interrupt.received:
        stop_all()
        interrupt.end()


def stop_all():
    """Returns when all programs have saved their states and their last words are out."""
    interrupt.pass_on(interrupt.received or signal.SIGTERM)
    for child in list(interrupt.children):
        child.wait()
        del interrupt.children[child]
    for thread in relays:
        thread.join(LAST_WORDS)


LAST_WORDS = 5  # seconds: a program's own child might keep its output open
relays = []     # threads that pass on what programs say


@contextmanager
def child_of(line, keep, **how):
    """A program that is waited for within."""
    child = start(line, keep, **how)
    try:
        yield child
    finally:
        child.wait()
        ended(child)


# --- Many -----------------------------------------------------------------------------------------


def usable_cores():
    """By this process's affinity, and by the quota of a container."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = map(float, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        return max(1, min(cores, int(quota / period + 0.5)))
    except (OSError, ValueError, ZeroDivisionError):  # none, or "max"
        return cores


@dataclass
class Job:
    """A run: command lines, one after the other; none where it is done already. One that is `alone` has
    all places, since it shares them itself."""

    name: str
    lines: list
    alone: bool = False
    needs: str = None   # the name of a job that must be finished first
    child: subprocess.Popen = None
    relays: list = field(default_factory=list)
    since: float = 0
    at: str = ""        # how far it is

    def has_ended(self):
        """Whether its present program has, and all that it said is out."""
        return self.child.poll() is not None and not any(relay.is_alive() for relay in self.relays)


class Crew:
    """Runs jobs, `places` at once, those that are alone last. `keep` is a file that every program
    keeps open; `spent` holds the seconds of each job by its name, and `save` writes them."""

    LOOK = 0.02     # seconds between two looks,
    SAVE = 2        # two accounts of time,
    TELL = 60       # two lines about how far all are,
    REDRAW = 0.5    # which a terminal writes over
    NOTHING = 0.5   # less than that is finding it finished

    def __init__(self, places, keep, spent, save):
        self.places, self.keep, self.spent, self.save = places, keep, spent, save
        self.running, self.done, self.failures = [], set(), {}
        self.terminal = os.isatty(2) and os.environ.get("TERM", "dumb") not in ("", "dumb")
        self.drawn = False  # a line of the terminal
        self.saying = threading.Lock()

    def run(self, jobs, on_start, on_end):
        """Calls on_start(job) before and on_end(job, error) after each, while the next ones run. What
        one program does not understand is a UsageError, which stops the others."""
        waiting = sorted(jobs, key=lambda job: job.alone)  # and else in their order
        saved = told = time.monotonic()
        while waiting or self.running:
            over = [job for job in list(self.running) if job.has_ended() and self.is_over(job)]
            over += self.begin_some(waiting, on_start)
            for job in over:
                on_end(job, self.failures.get(job.name))
            now = time.monotonic()
            if now - saved >= self.SAVE:
                saved = now
                self.account()
            if now - told >= (self.REDRAW if self.terminal else self.TELL):
                told = now
                self.tell()
            if interrupt.received:
                self.account()
                stop_all()
                interrupt.end()
            time.sleep(self.LOOK)

    def begin_some(self, waiting, on_start):
        """Takes out of `waiting` what may begin now, and returns what has ended without a beginning."""
        over = []
        for job in list(waiting):
            if job.needs in self.failures:
                self.failures[job.name] = Error(f"{job.name} needs {job.needs}, which failed")
            elif job.needs is None or job.needs in self.done:
                alone = job.alone or any(other.alone for other in self.running)
                if self.running and (alone or len(self.running) >= self.places):
                    break
                on_start(job)
                self.begin(job)
            else:
                continue
            waiting.remove(job)
            if job.name in self.failures or job.name in self.done:
                over.append(job)
        return over

    def begin(self, job):
        """Its next command line."""
        if not job.lines:
            self.done.add(job.name)
            return
        together = self.places > 1 and not job.alone
        line = job.lines.pop(0)
        try:
            job.child = start(line, self.keep, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE if together else None)
        except Error as error:
            self.failures[job.name] = error
            return
        self.running.append(job)
        job.line, job.since, job.at = line, time.monotonic(), ""
        # Through this process, whose own output may be lost: that is not the program's failure.
        label = f"{job.name}: " if together else ""
        streams = [(job.child.stdout, lambda text: self.say(label + text))]
        if together:
            streams.append((job.child.stderr, lambda text: self.hear(job, label, text)))
        job.relays = [threading.Thread(target=relay, args=of, daemon=True) for of in streams]
        relays[:] = [thread for thread in relays if thread.is_alive()] + job.relays
        for thread in job.relays:
            thread.start()

    def is_over(self, job):
        """Takes note of the end of a job's program; whether it was the last one, or failed."""
        self.running.remove(job)
        self.account(job)
        ended(job.child)
        code = job.child.returncode
        if code == 0 and job.lines:
            self.begin(job)
            return job.name in self.failures
        if code == 0:
            self.done.add(job.name)
        else:  # it has said why
            words = f"{shlex.join(job.line)}: exit code {code}"
            if code == UsageError.exit_code:
                stop_all()
                raise UsageError(words)
            self.failures[job.name] = Error(words)
        return True

    def account(self, *over):
        """Writes how long each job has taken until now, those that are over too."""
        now, new = time.monotonic(), False
        for job in (*self.running, *over):
            seconds = now - job.since
            if seconds >= self.NOTHING:
                self.spent[job.name] = round(self.spent.get(job.name, 0) + seconds, 1)
                job.since, new = now, True
        if new:
            self.save()

    # What is said, of which no word of one program lands within a line of another's.

    def say(self, text, note=False):
        with self.saying:
            if self.drawn:
                output.note("\r\x1b[K", end="")
                self.drawn = False
            if note:
                output.note(text)
            else:
                print(text, flush=True)

    def hear(self, job, label, text):
        """A line of stderr: of progress, or to be passed on."""
        progress = re.match(r"\S+ \d+/\d+(?=  )", text)
        if progress:
            job.at = progress[0]
        else:
            self.say(label + text, note=True)

    def tell(self):
        """How far all of those are that do not tell it themselves."""
        parts = [f"{job.name} {job.at}".rstrip() for job in self.running if not job.alone]
        if self.places == 1 or not parts:
            return
        line = "; ".join(parts)
        if not self.terminal:
            self.say(line, note=True)
            return
        with self.saying:
            width = os.get_terminal_size(2).columns
            output.note(f"\r{line[:width - 1]}\x1b[K", end="")
            self.drawn = True


def relay(stream, take):
    with stream:
        for line in stream:
            take(line.decode(errors="backslashreplace").rstrip("\n"))
