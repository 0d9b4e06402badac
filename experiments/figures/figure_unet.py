#!/usr/bin/env python3
"""The temporal U-Net of Janner et al. on Problem 2.1: whether it knows where it is, by normalization,
in Figure 1's form, and by phase, as it is equivariant to shifts by its stride alone."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402

import figure1  # noqa: E402
import style  # noqa: E402
from style import INK, PER_POSITION, WITH_NORM, WITHOUT_NORM, Page, UsageError, fixed, percent  # noqa: E402

import numpy as np  # noqa: E402

FROZEN = "#009E73"  # Okabe and Ito's green
# In the order in which the folders are given.
KINDS = (("group", "minibatch", WITH_NORM, "GroupNorm"),
         ("group-population", "population", FROZEN, "GroupNorm, population statistics"),
         ("position", "minibatch", PER_POSITION, "LayerNorm per position"),
         ("none", "minibatch", WITHOUT_NORM, "without norm"))

# --- What is to be seen ---------------------------------------------------------------------------


def check(runs):
    for run, (norm, statistics, *_) in zip(runs, KINDS):
        if run.settings.get("network") != "unet":
            raise UsageError(f"{run.path}: not a run of --network unet")
        if (run.norm, run.statistics) != (norm, statistics):
            raise UsageError(f"{run.path}: has norm {run.norm} and {run.statistics} statistics, "
                             f"expected {norm} and {statistics}")
    figure1.check_comparable(*runs)


def phases(run):
    """Localized share of the interior at each phase of the network's stride; None where there is none."""
    levels = len(run.settings["multipliers"].split(","))
    stride = 2 ** (levels - 1)
    inner = np.arange(run.reach, max(run.length - run.reach, run.reach))
    of = [inner[inner % stride == phase] for phase in range(stride)]
    return [float(run.localized[-1, index].mean()) if index.size else None for index in of]


def claims(runs):
    live, *others = runs
    result = {"live": style.claim(
        "the temporal U-Net communicates through its normalization layers (Section 1)",
        f"with GroupNorm, localized share of the interior, in the phase with the least of it, ≥ "
        f"{percent(figure1.MOST)}", min(phases(live), key=lambda share: -1 if share is None else share),
        lambda v: v >= figure1.MOST)}
    for run, (norm, *_, name) in zip(others, KINDS[1:]):
        result[norm] = style.claim(
            f"and through nothing else: {name} (Sections 1 and 3.3, Proposition C.1)",
            "localized share of the interior = 0",
            figure1.control(run, figure1.interior(run)), lambda v: v == 0)
    return result


def reading(runs):
    parts = []
    for run, (*_, name) in zip(runs, KINDS):
        share = figure1.interior(run)
        told = "no index lies beyond its reach" if share is None else f"{percent(share)} of the interior"
        parts.append(f"{name}: {told}, slope {fixed(run.summary['interior_slope'] or 0)}")
    return "; ".join(parts) + "."


# --- The picture ----------------------------------------------------------------------------------


def draw_predictions(axes, runs):
    length, reach = runs[0].length, runs[0].reach
    place = np.arange(1, length + 1)
    for end in ((0.5, reach + 0.5), (length - reach + 0.5, length + 0.5)):
        axes.axvspan(*end, color=WITHOUT_NORM, alpha=0.12, lw=0)
    axes.plot(place, style.target(length), color=INK, lw=0.8, ls=(0, (2, 2)), label="target")
    for run, (*_, colour, name) in reversed(list(zip(runs, KINDS))):
        axes.plot(place, run.mean, color=colour, lw=1.3, label=name)
    axes.set_xlim(0.5, length + 0.5)
    axes.set_ylim(-0.62, 0.62)
    axes.set_xlabel("index", labelpad=2)
    axes.set_ylabel("mean prediction", labelpad=2)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", fontsize=6.3)


def draw_phases(axes, runs):
    width = 0.8 / len(runs)
    for i, (run, (*_, colour, _)) in enumerate(zip(runs, KINDS)):
        shares = phases(run)
        at = np.arange(len(shares)) + (i - (len(runs) - 1) / 2) * width
        axes.bar(at, [share or 0 for share in shares], 0.9 * width, color=colour)
        axes.plot(at, [0 if share == 0 else np.nan for share in shares], "_", color=colour, ms=7, mew=2)
    axes.set_xticks(range(len(shares)), [str(phase) for phase in range(len(shares))])
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.set_xlabel("index modulo the stride", labelpad=2)
    axes.set_ylabel("localized, of the interior", labelpad=2)


def draw(runs, title=None):
    words = textwrap.wrap("Reading: " + reading(runs), 118)
    heading = textwrap.wrap(title or "", 90)
    head, height = 0.15 * len(heading) + 0.12, 2.2
    page = Page(head + height + 0.55 + 0.13 * len(words))
    page.text(page.width / 2, 0.05, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)
    draw_predictions(page.axes(0.55, head, 3.75, height), runs)
    draw_phases(page.axes(5.0, head, 1.65, height), runs)
    page.text(0.08, head + height + 0.42, "\n".join(words), linespacing=1.25, fontsize=6.8)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure_unet.py", "Draws what a temporal U-Net knows of its place, by normalization, from four "
        "run folders.", [(f"run_{norm.replace('-', '_')}", f"RUN_{norm.upper()}",
                          f"folder of the run with {name}") for norm, *_, name in KINDS], arguments)
    folders = [getattr(options, f"run_{norm.replace('-', '_')}") for norm, *_ in KINDS]
    runs = [style.load_run(folder) for folder in folders]
    check(runs)
    style.finish(options, lambda: draw(runs, options.title),
                 {"claims": claims(runs), "phases": [phases(run) for run in runs],
                  "notice": next((run.notice for run in runs[:1] if run.notice), None)},
                 [f"U-Net: {reading(runs)}"], folders)


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure_unet.py", main, sys.argv[1:]))
