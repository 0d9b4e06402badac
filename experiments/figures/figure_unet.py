#!/usr/bin/env python3
"""The temporal U-Net of Janner et al. on Problem 2.1: whether it knows where it is, by normalization,
in Figure 1's form, and by phase, as it is equivariant to shifts by its stride alone."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402
from dataclasses import replace  # noqa: E402

import figure1  # noqa: E402
import norms  # noqa: E402
import style  # noqa: E402
from style import INK, Page, UsageError, fixed, percent  # noqa: E402
from values import need  # noqa: E402

import numpy as np  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

# In the order in which the folders are given; the second is the first's network. One of norm group learns
# as one of norm group_population does.
KINDS = (("group", "minibatch"), ("group_population", "population"), ("position", "minibatch"),
         ("none", "minibatch"))
# Width, dashes and height: the last three may lie on each other, and show.
LINES = {"group": (2.2, "-", 3), "group_population": (4, "-", 2), "position": (2.2, "-", 3),
         "none": (1.1, (0, (3, 2)), 4)}

# --- The runs -------------------------------------------------------------------------------------


def stride(run):
    """Shifts by it are those that the network is equivariant to."""
    multipliers = need(run.path / "config.json", run.settings, "multipliers",
                       lambda value: isinstance(value, str), "a text")
    return 2 ** multipliers.count(",")


def load(folders):
    """Each with the norm that it is shown as."""
    runs = [style.load_run(folder) for folder in folders]
    check(runs)
    return [replace(run, summary={**run.summary, "norm": norm}) for run, (norm, _) in zip(runs, KINDS)]


def check(runs):
    for run, (norm, statistics) in zip(runs, KINDS):
        if run.settings.get("network") != "unet":
            raise UsageError(f"{run.path}: not a run of --network unet")
        learns_as = "group_population" if norm == "group" else norm
        if run.norm not in (norm, learns_as) or run.statistics != statistics:
            raise UsageError(f"{run.path}: has norm {run.norm} and {run.statistics} statistics, "
                             f"expected {norm} and {statistics}")
        if run.length % stride(run) != 0 or stride(run) != stride(runs[0]):
            raise UsageError(f"{run.path}: has multipliers {run.settings['multipliers']}, which do not "
                             f"go with length {run.length}, or with {runs[0].path}")
    figure1.check_comparable(*runs)
    figure1.check_same_network(*runs[:2])


def phases(run):
    """Localized share of the interior at each phase of the network's stride; None where there is none."""
    inner = np.arange(run.reach, max(run.length - run.reach, run.reach))
    of = [inner[inner % stride(run) == phase] for phase in range(stride(run))]
    return [float(run.localized[-1, index].mean()) if index.size else None for index in of]


# --- What is to be seen ---------------------------------------------------------------------------

CONTROLS = {
    "group_population": "population statistics end the communication (Section 3.3)",
    "position": "LayerNorm as in transformers takes no statistics over positions (Section 1)",
    "none": "without normalization nothing beyond the receptive field is localized (Proposition C.1)"}


def claims(runs):
    live, *others = runs
    shares = phases(live)
    result = {"live": style.claim(
        "the GroupNorm of Janner et al.'s U-Net propagates information beyond its receptive field "
        "(Section 1)", f"U-Net with {norms.name_of(live.norm)}: localized share of the interior, in the "
        f"phase with the least of it, ≥ {percent(figure1.MOST)}", None if None in shares else min(shares),
        lambda v: v >= figure1.MOST)}
    for run in others:
        result[run.norm] = style.claim(
            CONTROLS[run.norm], f"U-Net, {norms.name_of(run.norm)}: localized share of the interior = 0",
            figure1.control(run, figure1.interior(run)), lambda v: v == 0)
    return result


def reading(runs):
    if figure1.interior(runs[0]) is None:
        return f"no index lies beyond the reach of {runs[0].reach} from both ends."
    told = [f"{norms.name_of(run.norm)} {percent(figure1.interior(run))} (slope "
            f"{fixed(run.summary['interior_slope'] or 0)})" for run in runs]
    return f"of the indices that no end reaches, the U-Net localizes: {'; '.join(told)}."


# --- The picture ----------------------------------------------------------------------------------


def draw_predictions(axes, runs):
    length = runs[0].length
    place = np.arange(length) + 0.5
    for run in runs:
        width, ls, zorder = LINES[run.norm]
        axes.plot(place, run.mean, color=norms.COLOURS[run.norm], lw=width, ls=ls, zorder=zorder)
    axes.plot(place, style.target(length), color=INK, lw=0.7, ls=(0, (4, 3)), zorder=5)
    top = max(0.52, *(np.abs(run.mean).max() for run in runs))
    axes.set_ylim(-1.1 * top, 1.1 * top)
    axes.set_yticks([-0.5, 0, 0.5])
    axes.set_ylabel("mean prediction", labelpad=2)
    figure1.draw_reach(axes, length, runs[0].reach)


def draw_map(axes, run):
    """A row for each phase, shaded where the output localizes; the reach of both ends."""
    rows = run.localized[-1].reshape(-1, stride(run)).T
    edges = np.arange(rows.shape[1] + 1) * stride(run)
    axes.pcolormesh(edges, np.arange(len(rows) + 1) - 0.5, rows, rasterized=True, vmin=0, vmax=1,
                    cmap=ListedColormap(["white", norms.COLOURS[run.norm]]))
    for side in (run.reach, run.length - run.reach):
        if run.reach < run.length:
            axes.axvline(side, color=INK, lw=1.0)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_yticks(range(len(rows)))
    axes.tick_params(axis="y", length=0)
    shares = [percent(share) for share in phases(run) if share is not None]
    interior = ", ".join(shares if len(set(shares)) > 1 else shares[:1])
    for x, side, text in ((0, "left", norms.name_of(run.norm)),
                          (1, "right", f"interior: {interior}" if shares else "")):
        axes.annotate(text, (x, 1), (0, 2.5), xycoords="axes fraction", ha=side, va="bottom",
                      textcoords="offset points", fontsize=7)


def draw(runs, title=None):
    words = style.wrapped("Reading: " + reading(runs), 122)
    heading = textwrap.wrap(title or "", 75)
    head = 0.16 * len(heading) + (0.1 if heading else 0)
    left, width, gap = 0.55, 2.7, 0.24
    row = max(0.34, 0.11 * stride(runs[0]))  # the height of a map
    height = len(runs) * row + (len(runs) - 1) * gap
    map_left = left + width + 0.75
    map_width = style.PAGE_WIDTH - map_left - 0.15
    top = head + 0.42
    page = Page(top + height + 1.02 + 0.14 * len(words))

    page.text(style.PAGE_WIDTH / 2, 0.08, "\n".join(heading).replace("$", r"\$"), ha="center",
              fontsize=10)
    page.text(0.08, head + 0.07, "(a) Predictions", weight="bold", fontsize=8.5)
    page.text(map_left - 0.47, head + 0.07, "(b) Localized indices, by phase", weight="bold",
              fontsize=8.5)
    predictions = page.axes(left, top, width, height)
    draw_predictions(predictions, runs)
    maps = [page.axes(map_left, top + i * (row + gap), map_width, row) for i in range(len(runs))]
    for axes, run in zip(maps, runs):
        draw_map(axes, run)
    for axes in (predictions, *maps):
        axes.set_xlim(0, runs[0].length)
        axes.set_xticks(style.index_ticks(runs[0].length))
    for axes in maps[:-1]:
        axes.set_xticklabels([])
    for axes in (predictions, maps[-1]):
        axes.set_xlabel("sequence index", labelpad=2)
    page.text(map_left - 0.3, top + height / 2, f"index modulo {stride(runs[0])}", rotation=90,
              va="center", ha="center")
    page.legend(left, top + height + 0.42, [
        *(Line2D([], [], color=norms.COLOURS[run.norm], lw=LINES[run.norm][0], ls=LINES[run.norm][1])
          for run in runs),
        Line2D([], [], color=INK, lw=0.7, ls=(0, (4, 3)))],
        [*(norms.name_of(run.norm) for run in runs), "target"], ncol=2, columnspacing=1.2)
    page.text(map_left, top + height + 0.42, "shaded: localized (Definition 2.3)\n"
              "lines: how far the layers hear the ends", linespacing=1.35)
    page.text(style.PAGE_WIDTH / 2, page.height - 0.06 - 0.14 * len(words), "\n".join(words),
              ha="center", linespacing=1.25, fontsize=7.2)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure_unet.py", "Draws what a temporal U-Net knows of its place, by normalization, from four "
        "run folders.", [(norm, f"RUN_{norm.upper()}", f"folder of the run with norm {norm} and "
                          f"{statistics} statistics") for norm, statistics in KINDS], arguments)
    runs = load([getattr(options, norm) for norm, _ in KINDS])
    style.finish(options, lambda: draw(runs, options.title),
                 {"claims": claims(runs),
                  **{run.norm: {**run.summary, "phases": phases(run)} for run in runs}},
                 [f"U-Net: {reading(runs)}"], [run.path for run in runs])


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure_unet.py", main, sys.argv[1:]))
