"""Numbers and lists, as sentences, tables and labels have them."""

import textwrap


def percent(share):
    """"87 %"; never "0 %" or "100 %" unless it is so."""
    text = f"{100 * share:.0f}"
    if 0 < share < 0.001:
        text = "< 0.1"
    elif (text == "0" and share > 0) or (text == "100" and share < 1):
        text = f"{min(100 * share, 99.9):.1f}"
    return f"{text} %"


def fixed(value):
    """Three decimals, without "-0.000"."""
    return f"{round(value, 3) + 0.0:.3f}"


def digits(value):
    """Three of them, as losses need."""
    return f"{value:.3g}"


def wrapped(text, width):
    """The lines of it; none begins with a percent sign."""
    return textwrap.wrap(text.replace(" %", "\u00a0%"), width)


def listed(words):
    """"a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(count, what):
    """"1 run", "3 runs"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def printable(text):
    """On one line, whatever a file's name or content has in it."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def table(rows, sides):
    """Lines of the cells of rows; `sides` has for each column "<" or ">"."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(1, *map(len, column)) for column in zip(*rows)]
    return ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths)).rstrip()
            for row in rows]
