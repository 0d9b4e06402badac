"""What the figures' data is read with: errors in one line, files, and values that make sense."""

import json
import math
import os
import reprlib
import stat
from pathlib import Path

# --- Errors ---------------------------------------------------------------------------------------


class Error(Exception):
    """A file that is missing, damaged or cannot be written. One line; exit code 1."""

    exit_code = 1


class UsageError(Error):
    """A request that makes no sense. One line; exit code 2."""

    exit_code = 2


# --- Values ---------------------------------------------------------------------------------------

MOST = 1e100     # beyond the squares of f32, and far enough from infinity to draw
MOST_COUNT = 2**53


def is_number(value, least=-MOST, most=MOST):
    return isinstance(value, (int, float)) and not isinstance(value, bool) \
        and least <= value <= most


def is_count(value, least=1, most=MOST_COUNT):
    return isinstance(value, int) and is_number(value, least, most)


def shown(value):
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_object(value):
    return isinstance(value, dict)


def is_number_or_null(value, least=-MOST, most=MOST):
    return value is None or is_number(value, least, most)


def need(path, values, key, fits, what):
    """The value of a key, which fits()."""
    if key not in values:
        raise Error(f"{path}: has no {key}")
    if not fits(values[key]):
        raise Error(f"{path}: {key} is {shown(values[key])}, expected {what}")
    return values[key]


def need_objects(path, values, key):
    return need(path, values, key, lambda value: isinstance(value, list) and all(map(is_object, value)),
                "a list of objects")


# For need(): what fits, and its words.


def _from_to(least, most):
    least_too = f" from {least}" if least > -MOST else ""
    return f"{least_too} to {most}" if most < MOST else least_too and f"{least_too} on"


def whole(least=1, most=MOST_COUNT):
    return lambda value: is_count(value, least, most), \
        f"an integer{_from_to(least, MOST if most == MOST_COUNT else most)}"


def number(least=-MOST, most=MOST, null=False):
    return (lambda value: is_number(value, least, most) or (null and value is None),
            f"a number{_from_to(least, most)}{' or null' if null else ''}")


def one_of(names):
    return (lambda value: isinstance(value, str) and value in names), f"one of {', '.join(names)}"


def need_shares(path, values, key):
    """A part of |J| and of J², as the leak meter has it."""
    shares = need(path, values, key, is_object, "an object")
    return {part: need(f"{path}: {key}", shares, part, *number(0, 1)) for part in ("l1", "squared")}


# --- Files ----------------------------------------------------------------------------------------

files_read = []  # of which no output may be one


def read_bytes(path):
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise Error(f"{path}: not a file")
        files_read.append(path)
        return path.read_bytes()
    except OSError as error:
        raise Error(f"{path}: {error.strerror or error}") from None


def _finite(text):
    """A number of a JSON file. Python reads NaN and Infinity, which are no JSON, and makes infinity of
    what is too large; nothing of that is ever to be drawn or counted."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _integer(text):
    return int(text) if len(text) < 20 else _finite(text)


def results_in(folder, name, otherwise):
    """A program's results, in a folder that its run has; `otherwise` tells what makes them."""
    path = Path(folder)
    if not path.is_dir():
        raise Error(f"{path}: no such folder")
    if not (path / name).exists():
        raise Error(f"{path}: no {name}{otherwise}")
    return path / name


def parsed(data, where):
    """The JSON object in bytes, or an Error that begins with `where` they are from."""
    try:
        value = json.loads(data, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise Error(f"{where}: not JSON, perhaps truncated ({error})") from None
    if not is_object(value):
        raise Error(f"{where}: not a JSON object")
    return value


def read_json(path):
    return parsed(read_bytes(path), path)


def read_lines(path):
    """The objects of a file of lines, but for a last one without its end: that is being written."""
    lines = read_bytes(path).split(b"\n")[:-1] if os.path.exists(path) else []
    return [parsed(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]
