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
import ticks  # noqa: E402
from style import INK, WITH_NORM, WITHOUT_NORM, Page, percent  # noqa: E402
from values import (  # noqa: E402
    is_number_or_null, need, need_objects, need_shares, number, read_json, whole)

import numpy as np  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

MOST_BARS, MOST_LETTERS = 30, 50

# --- The report -----------------------------------------------------------------------------------


class Report:
    def __init__(self, path):
        report = read_json(path)
        need(path, report, "schema", lambda value: value == 1, "1")
        self.words = need(path, report, "network", lambda value: isinstance(value, str), "a text")
        self.live, self.frozen, self.mean, self.variance = (
            need_shares(path, report, key) for key in ("live", "frozen", "mean", "variance"))
        self.difference = need(path, report, "difference", *number(0))
        field = need(path, report, "receptive_field", style.is_object, "an object")
        self.reach = [need(path, {side: (field.get(side) or [None])[-1]}, side, *whole(0))
                      for side in ("left", "right")]
        self.inside = need(path, field, "inside", *number(0, 1))
        self.layers = [(need(path, layer, "name", lambda value: isinstance(value, str), "a text"),
                        *(need_shares(path, layer, key)["squared"]
                          for key in ("alone", "mean", "variance")))
                       for layer in need_objects(path, report, "layers")]
        self.profile = profile_in(path, report)

    @property
    def heard(self):
        """Whether anything is; a network that hears nothing is no evidence. None where it is not said."""
        return None if self.profile is None else bool(np.nansum(self.profile[1]) > 0)


def profile_in(path, report):
    """The first distance, and the mean of |J| from there on with statistics live and held; NaN where no
    pair lies so far apart. None where there is none, as of images."""
    if report.get("profile") is None:
        return None
    profile = need(path, report, "profile", style.is_object, "an object")
    live, frozen = (need(path, profile, key, lambda value: isinstance(value, list) and value and all(
        is_number_or_null(item, 0) for item in value), "a list of numbers") for key in ("live", "frozen"))
    if len(live) != len(frozen):
        raise style.Error(f"{path}: profile has {len(live)} numbers live and {len(frozen)} held")
    return (need(path, profile, "first", *whole(-10**9, 0)), np.array(live, float),
            np.array(frozen, float))


def exactly(share):
    return "exactly nothing" if share == 0 else percent(share)


def reading(report):
    left, right = report.reach
    words = [f"an output hears {left} positions to the left and {right} to the right through its layers"]
    words.append("all of an input lies there" if report.inside == 1
                 else f"{percent(report.inside)} of all pairs lie there")
    words.append(f"{exactly(report.live['l1'])} of what it hears (|J|) comes from beyond, with "
                 f"statistics held {exactly(report.frozen['l1'])}")
    if report.layers and max(alone for _, alone, _, _ in report.layers) > 0:
        name = max(report.layers, key=lambda layer: layer[1])[0]
        words.append(f"most of it through {name}")
    return "; ".join(words) + "."


# --- The picture ----------------------------------------------------------------------------------

LINES = ((WITH_NORM, "-", "statistics live"), (INK, (0, (3, 2)), "held at what they are"))
DECADES = 6  # below the largest value


def draw_profile(axes, report):
    first, *values = report.profile
    at = first + np.arange(len(values[0]))
    left, right = report.reach
    axes.axvspan(-right - 0.5, left + 0.5, color=WITHOUT_NORM, alpha=0.12, lw=0)
    for of, (colour, dashes, _) in zip(values, LINES):
        axes.plot(at, np.where(of > 0, of, np.nan), color=colour, lw=1.2, ls=dashes)
    asked = np.flatnonzero(~np.isnan(values[0]))  # at some distances there is no pair
    ends = at[asked[0]] - 1, at[asked[-1]] + 1
    axes.set_xlim(ends)
    axes.set_xticks(ticks.between(*ends, 8))
    top = float(np.nanmax(np.nan_to_num(values))) or 1
    axes.set_yscale("log")
    axes.set_ylim(top * 10**-DECADES, top * 3)
    axes.set_yticks(ticks.decades(top * 10**-DECADES, top))
    axes.minorticks_off()
    axes.set_xlabel("positions from the input to the output", labelpad=2)
    axes.set_ylabel("mean of |J|", labelpad=2)


def short(name):
    return name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS - 22]}…{name[-21:]}"


def draw_layers(axes, layers):
    place = np.arange(len(layers))
    for shift, column, colour in ((-0.2, 2, WITH_NORM), (0.2, 3, WITHOUT_NORM)):
        axes.barh(place + shift, [layer[column] for layer in layers], 0.36, color=colour)
    axes.plot([layer[1] for layer in layers], place, "|", color=INK, ms=7, clip_on=False, zorder=5)
    axes.set_yticks(place, [short(layer[0]) for layer in layers], fontsize=5.5)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    most = max(max(layer[1:]) for layer in layers)
    axes.set_xlim(0, 1.05 * most or 1)
    axes.set_xticks(ticks.between(0, 1.05 * most, 6))
    if most == 0:
        axes.text(0.5, 0.5, "no norm carries anything", transform=axes.transAxes, ha="center",
                  va="center")
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.xaxis.offsetText.set_fontsize(6.5)
    axes.set_xlabel("share of J² from beyond, through this norm alone", labelpad=2)


def draw(report, title=None):
    largest = sorted(report.layers, key=lambda layer: -layer[1])[:MOST_BARS]
    layers = [layer for layer in report.layers if layer in largest]
    heading = textwrap.wrap(title or report.words, 75)
    words = style.wrapped("Reading: " + reading(report), 122)
    page_head = 0.16 * len(heading) + 0.1
    top, parts = page_head, []
    if report.profile:
        parts.append((top + 0.3, 1.5, 0.7, draw_profile, report, "From how far", [
            Line2D([], [], color=colour, lw=1.2, ls=dashes) for colour, dashes, _ in LINES] + [
            Patch(color=WITHOUT_NORM, alpha=0.12)],
            [*(name for *_, name in LINES), "receptive field"]))
        top += 0.3 + 1.5 + 0.42
    if layers:
        longest = max(len(short(layer[0])) for layer in layers)
        parts.append((top + 0.3, 0.3 + 0.15 * len(layers), 0.25 + 0.045 * longest, draw_layers,
                      layers, "Through which norm", [
            Patch(color=WITH_NORM), Patch(color=WITHOUT_NORM),
            Line2D([], [], color=INK, marker="|", ms=7, lw=0)],
            ["its means alone", "its variances alone", "both"]))
        top += 0.3 + 0.3 + 0.15 * len(layers) + 0.42
    page = Page(top + 0.1 + 0.14 * len(words))
    page.text(page.width / 2, 0.07, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=10)
    for letter, (top, height, left, paint, what, name, handles, labels) in zip("ab", parts):
        page.text(0.08, top - 0.23, f"({letter}) {name}", weight="bold", fontsize=8.5)
        page.legend(2.2, top - 0.215, handles, labels, ncol=3, columnspacing=1.2)
        paint(page.axes(left, top, page.width - left - 0.15, height), what)
    page.text(page.width / 2, page.height - 0.06 - 0.14 * len(words), "\n".join(words), ha="center",
              linespacing=1.25, fontsize=7.2)
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
