#!/usr/bin/env python3
"""Any measure of a sweep against any of its axes: its mean and range over the others."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import math  # noqa: E402
import textwrap  # noqa: E402

import style  # noqa: E402
import ticks  # noqa: E402
from norms import listed  # noqa: E402
from style import INK, Page, UsageError  # noqa: E402
from values import (  # noqa: E402
    Error, is_number, is_number_or_null, is_object, need, need_objects, results_in, whole)

# Okabe and Ito's, and marks that tell lines apart in a greyscale print.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#666666", "#000000")
MARKS = ("o", "s", "D", "^", "v", "P", "X", "d")
NOT_SETTINGS = ("id", "measures", "notice")

# --- The cells ------------------------------------------------------------------------------------


def load(folder):
    """The cells of results.json that count: where the sweep chooses on an axis, the best. The names of
    what they differ in, of their measures, and of that axis, or None; of how many cells how many are not
    finished."""
    file = results_in(folder, "results.json", "; `sweep collect` makes it")
    results = style.read_json(file)
    cells = [cell for cell in need_objects(file, results, "best" if "best" in results else "cells")
             if cell.get("measures") is not None]
    if not cells:
        raise Error(f"{file}: no cell is finished yet; `sweep run` goes on")
    settings = [name for name in cells[0] if name not in NOT_SETTINGS]
    measures = {}
    for cell in cells:
        for name in settings:
            need(f"{file}: a cell", cell, name, is_setting, "a number or a text")
        of = need(f"{file}: a cell", cell, "measures", is_object, "an object")
        for name in of:
            need(f"{file}: a cell", of, name, is_number_or_null, "a number or null")
        measures.update(dict.fromkeys(of))
    choose = need(file, {"choose": "", **results}, "choose", lambda text: isinstance(text, str), "a text")
    planned, finished = (need(file, {"planned": 0, "finished": 0, **results}, name, *whole(0))
                         for name in ("planned", "finished"))
    return cells, settings, list(measures), choose.split("=")[0] or None, (planned, planned - finished)


def is_setting(value):
    return is_number(value) or (isinstance(value, str) and value.isascii() and value.isprintable()
                                and len(value) < 100)


def check(flag, name, names):
    if name not in names:
        raise UsageError(f"{flag} {name}: expected one of {', '.join(names)}")


def rising(values):
    """Each once: numbers rise, texts keep their order."""
    values = list(dict.fromkeys(values))
    return sorted(values) if all(map(is_number, values)) else values


def points_of(cells, x, y, by):
    """For each value of `by` and of x: how many cells have the measure, its mean, least and most."""
    points = []
    for line in rising([cell[by] for cell in cells]) if by else [None]:
        mine = [cell for cell in cells if by is None or cell[by] == line]
        for at in rising([cell[x] for cell in mine]):
            values = [cell["measures"].get(y) for cell in mine if cell[x] == at]
            values = [value for value in values if value is not None]
            if values:
                points.append({**({by: line} if by else {}), x: at, "cells": len(values),
                               "mean": sum(values) / len(values), "least": min(values),
                               "most": max(values)})
    return points


def reading(points, x, y, by, rest, chosen, undefined=0, unfinished=(0, 0)):
    """What the picture shows, without its numbers; in how many cells the measure is not defined, and of
    how many how many are not finished."""
    counts = sorted({point["cells"] for point in points})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    over = f"mean and range over {listed(rest)}, {each} cells each" if rest else "one cell each"
    text = f"{y} by {x}{f' for each {by}' if by else ''}: {over}" \
        f"{f', of the best {chosen} alone' if chosen else ''}."
    if undefined:
        text += f" It is not defined in {undefined} more."
    if unfinished[1]:
        text += f" Of {unfinished[0]} cells {unfinished[1]} are not finished."
    return text


# --- The picture ----------------------------------------------------------------------------------

MOST_TICKS = 8
LEAST_GAP = 0.09  # of the axis, between two values, or ticks stand at round ones instead
LONG = 22         # letters of a line's name, beside which there is no room for another
WIDE = 10     # times the least value: then an axis counts in factors
CROWDED = 32  # letters beside each other, or they stand


def lines_of(points, by):
    lines = {}
    for point in points:
        lines.setdefault(point[by] if by else None, []).append(point)
    return lines


def are_numbers(values):
    return all(map(is_number, values))


def are_crowded(values):
    return not are_numbers(values) and sum(map(len, map(str, values))) > CROWDED


def place(axes, x, values):
    """Prepares the axis, and returns where on it a value lies."""
    axes.set_xlabel(x)
    if not are_numbers(values):
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(range(len(values)), map(str, values), rotation=90 if are_crowded(values) else 0)
        return values.index
    wide = values[0] > 0 and values[-1] > WIDE * values[0]
    if wide:
        axes.set_xscale("log")
    on = [math.log(value) if wide else value for value in values]
    gaps = [(b - a) / (on[-1] - on[0]) for a, b in zip(on, on[1:])]
    at = values if len(values) <= MOST_TICKS and min(gaps, default=1) >= LEAST_GAP else \
        (ticks.of_decades if wide else ticks.between)(values[0], values[-1])
    axes.set_xticks(at, ticks.labels(at))
    axes.minorticks_off()
    return lambda value: value


def draw(points, x, y, by, words, title=None):
    width, height = 3.35, 2.1  # a column of a paper; of the panel
    lines = lines_of(points, by)
    heading = textwrap.wrap(title or "", 50)
    caption = textwrap.wrap(words, 64)
    values = rising([point[x] for point in points])
    head = 0.15 * len(heading) + 0.12
    below = 0.07 * max(map(len, map(str, values))) if are_crowded(values) else 0.1  # of its labels
    under = head + height + below + 0.4
    columns = 2 if by and max(len(f"{by} {line}") for line in lines) <= LONG else 1
    legend = 0.15 * -(-len(lines) // columns) + 0.1 if by else 0
    page = Page(under + legend + 0.13 * len(caption) + 0.1, width)
    page.text(width / 2, 0.05, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)
    axes = page.axes(0.62, head, width - 0.77, height)
    at = place(axes, x, values)
    # Beside each other, where lines have no places of their own.
    apart = 0 if are_numbers(values) else min(0.15, 0.6 / len(lines))
    handles = []
    for i, mine in enumerate(lines.values()):
        means = [point["mean"] for point in mine]
        handles.append(axes.errorbar(
            [at(point[x]) + apart * (i - (len(lines) - 1) / 2) for point in mine], means,
            yerr=[[mean - point["least"] for mean, point in zip(means, mine)],
                  [point["most"] - mean for mean, point in zip(means, mine)]],
            color=COLOURS[i % len(COLOURS)], marker=MARKS[(i + i // len(COLOURS)) % len(MARKS)], ms=4,
            mec=INK, mew=0.4, lw=1.4, elinewidth=1, capsize=2.5,
            ls="-" if are_numbers(values) else "none"))
    at = ticks.between(*axes.get_ylim())
    texts = ticks.labels(at)
    axes.set_yticks(at, texts)
    left = 0.4 + 0.065 * max(map(len, texts), default=1)
    axes.set_position([left / page.width, axes.get_position().y0, (width - left - 0.15) / page.width,
                       axes.get_position().height])
    axes.set_ylabel(y, labelpad=5)
    if by:
        page.legend(0.1, under, handles, [f"{by} {line}" for line in lines], ncol=columns,
                    fontsize=6.5)
    page.text(0.08, under + legend, "\n".join(caption), linespacing=1.25, fontsize=6.8)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "plot_sweep.py", "Draws a measure of a collected sweep against one of its axes.",
        [("sweep", "SWEEP", "folder of the sweep")], arguments,
        [("--y", {"required": True, "metavar": "MEASURE", "help": "as cells.csv names it"}),
         ("--x", {"required": True, "metavar": "AXIS", "help": "a setting in which cells differ"}),
         ("--by", {"metavar": "AXIS", "help": "another, with a line for each of its values"})])
    cells, settings, measures, chosen, unfinished = load(options.sweep)
    check("--x", options.x, settings)
    check("--y", options.y, measures)
    if options.by is not None:
        check("--by", options.by, [name for name in settings if name != options.x])
    points = points_of(cells, options.x, options.y, options.by)
    if not points:
        raise Error(f"{options.sweep}: {options.y} is not defined in any cell")
    rest = [name for name in settings if name not in (options.x, options.by, chosen)
            and len({cell[name] for cell in cells}) > 1]
    undefined = len(cells) - sum(point["cells"] for point in points)
    words = reading(points, options.x, options.y, options.by, rest, chosen, undefined, unfinished)
    style.finish(options, lambda: draw(points, options.x, options.y, options.by, words, options.title),
                 {"x": options.x, "y": options.y, "by": options.by, "over": rest, "points": points},
                 [words], [options.sweep])


if __name__ == "__main__":
    sys.exit(style.exit_code_of("plot_sweep.py", main, sys.argv[1:]))
