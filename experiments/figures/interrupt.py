"""SIGINT, SIGTERM and SIGHUP end a script in one line, whatever it does: the figures' half of
experiments/run/interrupt.h, whose rules these are. Scripts import it before what takes its time."""

import atexit
import os
import signal
import sys

EXIT_CODE = 75

name = os.path.basename(sys.argv[0])
words = "interrupted"
children = {}    # programs that a signal is passed on to and that are waited for: whether each has it
received = None  # the first signal
_delays = 0


def catch(module):
    """From now on, in a script that is run; nothing in one that is imported."""
    if module == "__main__":
        _handle(_on_signal)


def ignore():
    """From now on, where they were caught: all is done, and Python takes its time to leave."""
    if signal.getsignal(signal.SIGTERM) == _on_signal:
        _handle(signal.SIG_IGN)


def _handle(handler):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, handler)


def _on_signal(number, _frame):
    global received
    if received == number == signal.SIGINT:  # a second one does not wait
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    received = number
    pass_on(number)
    if not children and not _delays:
        end()


def pass_on(number):
    """To the children, once each: a second one would not let them save their states."""
    for child, has_it in list(children.items()):
        if not has_it:
            children[child] = True
            child.send_signal(number)


def end():
    """No exception, which libraries might catch, or report as one of their own."""
    try:
        line = f"{name}: {words}\n".encode(errors="backslashreplace")
        os.write(2, b"\n" + line if os.isatty(2) else line)
    except OSError:
        pass  # the exit code says it, too
    atexit._run_exitfuncs()  # matplotlib's temporary folder
    os._exit(EXIT_CODE)


class Delay:
    """A context that a signal does not end within, but behind."""

    def __enter__(self):
        global _delays
        _delays += 1

    def __exit__(self, *_):
        global _delays
        _delays -= 1
        if received and not children and not _delays:
            end()
