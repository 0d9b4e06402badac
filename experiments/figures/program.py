"""What scripts share that need no picture: how they end, their arguments, and the files they write."""

import argparse
import json
import os
import stat

import interrupt
import output
from values import Error, UsageError, files_read

# --- Ends -----------------------------------------------------------------------------------------


class ArgumentParser(argparse.ArgumentParser):
    """argparse with one line for a misuse, as the C++ programs have it."""

    def error(self, message):
        raise UsageError(f"{message} (see --help)")


def exit_code_of(program, main, arguments):
    """Runs main(arguments); an Error becomes one line on stderr and an exit code, and so does a
    standard output that did not take all lines: the files are written then."""
    interrupt.name = program
    with output.standard_streams() as stdout:
        code = 0
        try:
            main(arguments)
        except SystemExit as end:  # --help
            code = end.code
        except MemoryError:
            output.note(f"{program}: out of memory")
            code = Error.exit_code
        except Error as error:
            output.note(f"{program}: {' '.join(str(error).split())}")
            code = error.exit_code
        stdout.flush()
        if stdout.error:
            output.note(f"{program}: cannot write standard output: {stdout.error}")
            code = code or 1
        interrupt.ignore()
        return code


# --- Files to write -------------------------------------------------------------------------------

STANDARD_OUTPUT = ("-", "/dev/stdout")


def is_stream(path):
    """Whether the path is there and neither a file nor a folder."""
    try:
        kind = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


# As the C++ programs know them, too (require_apart).
OF_A_RUN = ("config.json", "plan.json", "summary.json", "result.json", "metrics.jsonl")


def check_outputs(outputs):
    """Refuses outputs, pairs of an option and the file it names or None, of which one would be written
    over another, over what was read, or over what a run or a sweep consists of."""
    taken = {output.identity(path): path for path in files_read}
    for option, file in outputs:
        if file is None:
            continue
        if not file:
            raise UsageError(f"{option}: expected the name of a file")
        folder, name = os.path.split(file)
        if (name in OF_A_RUN or name.endswith(".safetensors")) and any(
                os.path.exists(os.path.join(folder, mark)) for mark in ("config.json", "plan.json")):
            raise UsageError(f"{option} {file}: is a file of the run or sweep in that folder")
        try:
            other = taken.setdefault(output.identity(file), option)
        except OSError as error:
            raise Error(f"cannot write {file}: {error.strerror}") from None
        if other is not option:
            raise UsageError(f"{option} {file}: that is the same file as {other}")


def write_file(path, data):
    """Writes bytes to a file that a user named, as output.py says."""
    try:
        output.write_output(path, data)
    except OSError as error:
        raise Error(f"cannot write {path}: {error.strerror or error}") from None


def write_json(path, value):
    write_file(path, (json.dumps(value, indent=2) + "\n").encode())


def tell(lines, files):
    """Prints lines about files that were written; on stderr, where one of them was standard output."""
    text = "\n".join(lines)
    if any(file in STANDARD_OUTPUT for file in files):
        output.note(text)
    else:
        print(text, flush=True)
