"""Programs that run with their output in a log and an end in time, and what came of them."""

import collections
import os
import shlex
import signal
import subprocess
import time

from source import ROOT

LOGS = ROOT / "build" / "gpu" / "logs"

Outcome = collections.namedtuple("Outcome", "status reason details", defaults=("", None))


def passed(reason="", **details):
    return Outcome("passed", reason, details)


def failed(reason, **details):
    return Outcome("FAILED", reason, details)


def not_run(reason, **details):
    return Outcome("not run", reason, details)


running = set()


def stop(process, gently=5.0):
    """Ends a program and what it started."""
    for number, wait in ((signal.SIGTERM, gently), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(wait)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    running.discard(process)


class Program:
    """A program that runs, with its output in a log."""

    def __init__(self, command, log, env=None):
        self.command, self.log = [str(word) for word in command], LOGS / f"{log}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as file:
            file.write(f"$ {shlex.join(self.command)}\n".encode())
            file.flush()
            self.process = subprocess.Popen(self.command, cwd=ROOT, env={**os.environ, **(env or {})},
                                            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                            start_new_session=True)
        running.add(self.process)

    def wait(self, until, gently=5.0, meanwhile=None):
        """Its exit code; None when it had to be stopped, at `until` (time.monotonic()). Every minute
        calls meanwhile()."""
        while True:
            left = max(until - time.monotonic(), 0.1)
            try:
                code = self.process.wait(min(left, 60) if meanwhile else left)
            except subprocess.TimeoutExpired:
                if time.monotonic() < until:
                    meanwhile()
                    continue
                stop(self.process, gently)
                return None
            running.discard(self.process)
            return code

    def text(self):
        return self.log.read_text(errors="replace")

    def last_line(self):
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return lines[-1][:300] if len(lines) > 1 else "no output"


def outcome_of(program, until):
    """Waits for a program that says by its exit code whether it worked."""
    limit = until - time.monotonic()
    code = program.wait(until)
    if code is None:
        return Outcome("timed out", f"after {limit:.0f} s", None)
    return passed() if code == 0 else failed(f"exit code {code}: {program.last_line()}")


def output_of(*command, env=None):
    """Standard output, or an empty string where there is no such program or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60,
                              cwd=ROOT, env={**os.environ, **(env or {})}).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
