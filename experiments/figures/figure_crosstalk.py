#!/usr/bin/env python3
"""Section 3.3's crosstalk: what BatchNorm carries, by the number of samples that share its statistics,
with the statistics of minibatches and with those of the population."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402

import style  # noqa: E402
from style import INK, WITH_NORM, WITHOUT_NORM, Page, fixed, percent  # noqa: E402
from sweeps import GAP, Sweep, change, draw_measure  # noqa: E402

import numpy as np  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

AXIS = "samples_per_set"
SHARE, SLOPE, LOSS = "interior_localized_fraction", "interior_slope", "final_loss"

# --- What is to be seen ---------------------------------------------------------------------------

SOMETHING = 0.05  # the least difference of slopes that counts as one
NOISE = 0.1       # of a fall, a rise between neighbours that does not count: ranks would count it
CLOSED = 0.2      # of the gap with the fewest samples, what is left of one that has vanished


def fall(curve):
    """From the first value to the last; None where there is one alone."""
    return curve[0][1] - curve[-1][1] if len(curve) > 1 else None


def rise(curve):
    """The largest from one value to the next, of the whole fall; None where nothing falls."""
    values = [value for _, value in curve]
    whole = fall(curve)
    return max(0, *(b - a for a, b in zip(values, values[1:]))) / whole if whole and whole > 0 else None


def falls(curve):
    """Whether each step does, but for noise."""
    return rise(curve) is not None and rise(curve) <= NOISE


def claims(sweep):
    def of_seed(seed):
        slopes, shares, gaps = (sweep.curve(seed, key) for key in (SLOPE, SHARE, GAP))
        # A network that localizes nothing at all is no evidence of what its statistics end.
        whole = [share for _, share in sweep.curve(seed, "localized_fraction", "population")]
        left = [share for _, share in sweep.curve(seed, SHARE, "population")]
        step = f"and no step that rises by more than {percent(NOISE)} of it"
        return {
            "slope": style.claim(
                "crosstalk along the batch subdues BatchNorm as a communication channel (Section 3.3)",
                f"fall of the interior slope, from the fewest to the most samples, ≥ {SOMETHING}, {step}",
                fall(slopes), lambda v: v >= SOMETHING and falls(slopes)),
            "share": style.claim(
                "the more samples share statistics, the fewer indices are localized (Section 3.3)",
                f"fall of the localized share of the interior ≥ {percent(SOMETHING)}, {step}",
                fall(shares), lambda v: v >= SOMETHING and falls(shares)),
            "gap": style.claim(
                "the gap between population and minibatch statistics goes away at larger batches "
                "(Section 3.3)", f"gap of the loss with the most samples, of that with the fewest, ≤ "
                f"{CLOSED}", gaps[-1][1] / gaps[0][1] if len(gaps) > 1 and gaps[0][1] > 0 else None,
                lambda v: v <= CLOSED),
            "gap_falls": style.claim(
                "and it does so with each doubling (ours: the paper speaks of large batches alone)",
                f"largest rise of that gap from one number of samples to the next, of its fall, ≤ "
                f"{percent(NOISE)}", rise(gaps), lambda v: v <= NOISE),
            "population": style.claim(
                "population statistics eliminate the channel (Section 3.3)",
                "largest localized share of the interior with population statistics = 0",
                max(left, default=None) if all(share > 0 for share in whole) else None,
                lambda v: v == 0)}

    return sweep.claims(of_seed)


def reading(sweep):
    parts = []
    if len(sweep.rows) > 1:
        moves = [f"{name} {text}" for key, name, form in (
            (SLOPE, "the slope beyond R goes", fixed),
            (SHARE, "the localized share of the interior", percent),
            (GAP, "the gap of the loss", lambda value: f"{round(value, 4) + 0.0:.4f}"))
            if (text := change(sweep.rows, key, form))]
        if moves:
            parts.append(f"from {sweep.values[0]} to {sweep.values[-1]} samples per set "
                         + ", ".join(moves))
    left = [row[SHARE]["mean"] for row in sweep.rows_of("population") if row[SHARE]["mean"] is not None]
    if left:
        parts.append("with population statistics "
                     + ("nothing" if max(left) == 0 else f"at most {percent(max(left))}")
                     + " of the interior is localized")
    return ("; ".join(parts + sweep.unfinished()) or "one number of samples says nothing of a trend") \
        + "."


# --- The picture ----------------------------------------------------------------------------------


def draw(sweep, title=None):
    width, height, gap = 3.35, 1.05, 0.14  # a column of a paper; of each panel
    words = textwrap.wrap("Reading: " + reading(sweep), 64)
    heading = textwrap.wrap(title or "", 50)
    head = 0.15 * len(heading) + 0.12
    bottom = head + 3 * height + 2 * gap
    page = Page(bottom + 1.02 + 0.13 * len(words), width)
    page.text(width / 2, 0.05, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)

    share, slope, loss = (page.axes(0.68, head + i * (height + gap), width - 0.83, height)
                          for i in range(3))
    for axes, key in ((share, SHARE), (slope, SLOPE), (loss, LOSS)):
        draw_measure(axes, sweep, key, WITHOUT_NORM, "population", marker="s", ms=3.5)
        draw_measure(axes, sweep, key, WITH_NORM)
        axes.axhline(0, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)
    share.set_ylim(-0.06, 1.06)
    share.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    share.set_ylabel("localized, of\nthe interior", labelpad=1)
    slope.set_ylim(min(-0.06, slope.get_ylim()[0]), max(1.06, slope.get_ylim()[1]))
    slope.set_yticks([0, 0.5, 1])
    slope.set_ylabel("interior slope", labelpad=2)
    draw_gap(loss, sweep)
    loss.set_ylim(0, 1.12 * loss.get_ylim()[1])
    loss.set_ylabel("loss", labelpad=2)
    loss.set_xlabel("samples that share statistics (1: InstanceNorm)", labelpad=2)
    for axes in (share, slope):
        axes.set_xticklabels([])
    page.legend(0.12, bottom + 0.4, [
        Line2D([], [], color=WITH_NORM, lw=1.6, marker="o", ms=4, mec=INK, mew=0.4),
        Line2D([], [], color=WITHOUT_NORM, lw=1.6, marker="s", ms=3.5, mec=INK, mew=0.4),
        Patch(color=WITH_NORM, alpha=0.2)],
        ["minibatch statistics", "population statistics", "gap"], ncol=3, columnspacing=1,
        fontsize=6.5)
    page.text(0.08, bottom + 0.6, "mean ± standard deviation over the seeds, and each of them; of one\n"
              "network with both statistics", fontsize=6.5, linespacing=1.2)
    page.text(0.08, bottom + 0.92, "\n".join(words), linespacing=1.25, fontsize=6.8)
    return page.figure


def draw_gap(axes, sweep):
    """Between the losses with either kind of statistics, where both are there."""
    both = [(i, row[LOSS]["mean"], of[LOSS]["mean"])
            for i, (row, of) in enumerate(zip(sweep.rows, sweep.rows_of("population")))
            if None not in (row[LOSS]["mean"], of[LOSS]["mean"])]
    if both:
        place, low, high = np.array(both).T
        axes.fill_between(place, low, high, color=WITH_NORM, alpha=0.2, lw=0, zorder=2)


def without_expected_notices(best):
    """That a network has learned its edges alone is what the figure is about, and no failure."""
    return [{**cell, "notice": None} if cell["measures"]["localized_fraction"] else cell
            for cell in best]


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure_crosstalk.py", "Draws what BatchNorm carries, by the samples that share its "
        "statistics, from a collected sweep, of a preset crosstalk.",
        [("sweep", "SWEEP", "folder of the sweep")], arguments)
    sweep = Sweep(options.sweep, AXIS, population=True)
    style.finish(options, lambda: draw(sweep, options.title),
                 {"claims": claims(sweep), **sweep.results,
                  "best": without_expected_notices(sweep.best)}, [f"crosstalk: {reading(sweep)}"],
                 [options.sweep])


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure_crosstalk.py", main, sys.argv[1:]))
