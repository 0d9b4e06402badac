#!/usr/bin/env python3
"""A report of `leak measure`, or of its PyTorch sister, as a picture: how strongly an output hears an
input, by how far the one lies behind the other, and what each normalization carries."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402

import style  # noqa: E402
from style import INK, WITH_NORM, WITHOUT_NORM, Page, percent  # noqa: E402
from values import is_number_or_null, need, need_objects, number, read_json, whole  # noqa: E402

import numpy as np  # noqa: E402

MOST_BARS = 30

# --- The report -----------------------------------------------------------------------------------


def share(path, report, key):
    """{"l1": ..., "squared": ...}, both from 0 to 1."""
    value = need(path, report, key, style.is_object, "an object")
    return {part: need(path, value, part, *number(0, 1)) for part in ("l1", "squared")}


class Report:
    def __init__(self, path):
        report = read_json(path)
        need(path, report, "schema", lambda value: value == 1, "1")
        self.words = need(path, report, "network", lambda value: isinstance(value, str), "a text")
        self.live, self.frozen = share(path, report, "live"), share(path, report, "frozen")
        self.difference = need(path, report, "difference", *number(0))
        field = need(path, report, "receptive_field", style.is_object, "an object")
        self.reach = [need(path, {side: (field.get(side) or [None])[-1]}, side, *whole(0))
                      for side in ("left", "right")]
        self.inside = need(path, field, "inside", *number(0, 1))
        self.layers = [(need(path, layer, "name", lambda value: isinstance(value, str), "a text"),
                        share(path, layer, "alone")["squared"], share(path, layer, "mean")["squared"],
                        share(path, layer, "variance")["squared"])
                       for layer in need_objects(path, report, "layers")]
        profile = report.get("profile")
        self.profile = None
        if profile is not None:
            need(path, report, "profile", style.is_object, "an object")
            values = [need(path, profile, key, lambda value: isinstance(value, list) and all(
                is_number_or_null(item, 0) for item in value), "a list of numbers")
                for key in ("live", "frozen")]
            first = need(path, profile, "first", *whole(-10**9, 0))
            self.profile = first, *(np.array(v, float) for v in values)


def reading(report):
    left, right = report.reach
    words = [f"an output hears {left} positions to the left and {right} to the right through its layers"]
    words.append("all of an input lies there" if report.inside == 1
                 else f"{percent(report.inside)} of all pairs lie there")
    words.append(f"{percent(report.live['l1'])} of what it hears (|J|) comes from beyond, with "
                 f"statistics held {percent(report.frozen['l1'])}")
    if report.layers and max(alone for _, alone, _, _ in report.layers) > 0:
        name = max(report.layers, key=lambda layer: layer[1])[0]
        words.append(f"most of it through {name}")
    return "; ".join(words) + "."


# --- The picture ----------------------------------------------------------------------------------


def draw_profile(axes, report):
    first, live, frozen = report.profile
    at = first + np.arange(len(live))
    left, right = report.reach
    axes.axvspan(-right - 0.5, left + 0.5, color=WITHOUT_NORM, alpha=0.12, lw=0)
    axes.plot(at, np.where(live > 0, live, np.nan), color=WITH_NORM, lw=1.2,
              label="statistics live")
    axes.plot(at, np.where(frozen > 0, frozen, np.nan), color=WITHOUT_NORM, lw=1.2,
              label="held at this input")
    axes.set_yscale("log")
    top = np.nanmax(live) if np.any(live > 0) else 1
    axes.set_ylim(top * 1e-6, top * 3)
    axes.set_xlim(at[0], at[-1])
    axes.set_xlabel("positions from the input to the output", labelpad=2)
    axes.set_ylabel("mean of |J|", labelpad=2)
    axes.legend(loc="lower center", ncol=2, fontsize=6.5)


def draw_layers(axes, layers):
    place = np.arange(len(layers))
    for shift, column, colour, label in ((-0.2, 2, WITH_NORM, "its means alone"),
                                         (0.2, 3, WITHOUT_NORM, "its variances alone")):
        axes.barh(place + shift, [layer[column] for layer in layers], 0.36, color=colour, label=label)
    axes.plot([layer[1] for layer in layers], place, "|", color=INK, ms=7, label="both")
    axes.set_yticks(place, [layer[0] for layer in layers], fontsize=5.5)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, None)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3), useMathText=True)
    axes.set_xlabel("of J², from beyond, through this norm alone", labelpad=2)
    axes.legend(loc="lower right", fontsize=6.5)


def draw(report, title=None):
    layers = sorted(report.layers, key=lambda layer: -layer[1])[:MOST_BARS]
    layers = [layer for layer in report.layers if layer in layers]
    heading = textwrap.wrap(title or report.words, 90)
    words = textwrap.wrap("Reading: " + reading(report), 125)
    head = 0.15 * len(heading) + 0.12
    first = 1.5 if report.profile else 0
    second = 0.55 + 0.17 * len(layers) if layers else 0
    gap = 0.5 if first and second else 0
    page = Page(head + first + gap + second + 0.55 + 0.13 * len(words))
    page.text(page.width / 2, 0.05, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)
    if report.profile:
        draw_profile(page.axes(0.7, head, page.width - 0.9, first), report)
    if layers:
        draw_layers(page.axes(1.9, head + first + gap, page.width - 2.1, second), layers)
    page.text(0.08, head + first + gap + second + 0.42, "\n".join(words), linespacing=1.25,
              fontsize=6.8)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "leak.py", "Draws a report of `leak measure --out`.",
        [("report", "REPORT", "the report, JSON")], arguments)
    report = Report(style.Path(options.report))
    style.finish(options, lambda: draw(report, options.title), {"reading": reading(report)},
                 [f"leak: {reading(report)}"], [options.report])


if __name__ == "__main__":
    sys.exit(style.exit_code_of("leak.py", main, sys.argv[1:]))
