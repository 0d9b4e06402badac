#!/usr/bin/env python3
"""Figure 4 of the paper: how far GroupNorm carries positions, by its number of groups."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402

import figure1  # noqa: E402
import style  # noqa: E402
from style import INK, PER_POSITION, WITH_NORM, Page, UsageError, fixed  # noqa: E402
from sweeps import Sweep, change, draw_measure, mark, rank_correlation, spreads  # noqa: E402

# --- The control ----------------------------------------------------------------------------------


def load_controls(folders, sweep):
    """Runs of the sweep's size with the norm that takes no statistics over positions."""
    controls = [style.load_run(folder) for folder in folders]
    for run in controls:
        if run.norm != "position":
            raise UsageError(f"{run.path}: has norm {run.norm}, expected position")
        if (run.length, run.reach) != (sweep.length, sweep.reach):
            raise UsageError(f"{run.path}: has length {run.length} and R = {run.reach}, the sweep "
                             f"length {sweep.length} and R = {sweep.reach}")
    return controls


def distance_of(run):
    """How far from the edges its output localizes."""
    return figure1.farthest(run)[-1]


# --- What is to be seen ---------------------------------------------------------------------------

RISES = 0.8       # a rank correlation that counts as rising
SOMETHING = 0.05  # the least difference of slopes that counts as one
# Of l/2, a standard deviation that is too small to be plotted: the size of a marker in the picture.
SMALL = 0.04


def by_distance(sweep, seed, key, paper, words):
    """Distances within R say nothing of messages, nor do those of networks that localize everything:
    where there are no others, they are not measured."""
    curve = sweep.curve(seed, key)
    distances = [distance for _, distance in curve]
    half = (sweep.length + 1) // 2
    return style.claim(
        paper, f"rank correlation of G with {words} ≥ {RISES}, where one is beyond R and one short of "
        "ℓ/2", rank_correlation(curve), lambda v: v >= RISES,
        measured=len(curve) > 1 and max(distances) > sweep.reach and min(distances) < half)


def claims(sweep, controls=()):
    """Section 3.3 in numbers: localization improves with the number of groups. Ranks alone would take
    a rise within the noise of networks that have not learned for one."""
    def of_seed(seed):
        slopes = sweep.curve(seed, "interior_slope")
        return {
            "slope": style.claim(
                "localization improves with the number of groups (Section 3.3)",
                f"rank correlation of G with the interior slope ≥ {RISES}, and a rise by {SOMETHING} "
                "or more", rank_correlation(slopes),
                lambda v: v >= RISES and slopes[-1][1] - slopes[0][1] >= SOMETHING,
                measured=len(slopes) > 1),
            "distance": by_distance(
                sweep, seed, "localization_distance",
                "it reaches farther with the number of groups (Section 3.3, Figure 4)",
                "the localization distance (the largest at which an index is localized)"),
            "unbroken": by_distance(
                sweep, seed, "unbroken_distance",
                "the same, of the distance up to which every index is localized (ours)",
                "the unbroken distance")}

    deviations = [row["localization_distance"]["deviation"] for row in sweep.rows]
    measured = [value / (sweep.length / 2) for value in deviations if value is not None]
    result = {**sweep.claims(of_seed), "deviation": style.claim(
        "the deviation over seeds is too small to be plotted (Figure 4)",
        f"largest standard deviation of the localization distance ≤ {SMALL} of ℓ/2",
        max(measured, default=None), lambda v: v <= SMALL)}
    if controls:
        result["position"] = style.over_seeds({run.summary["seed"]: style.claim(
            "LayerNorm as in transformers takes no statistics over positions and carries none "
            "(Section 1)", "with LayerNorm per position, localized share of the interior = 0",
            figure1.control(run, figure1.interior(run)), lambda v: v == 0) for run in controls})
    return result


def reading(sweep, controls=()):
    parts = []

    def short(value):
        return f"{value:.3g}"

    names = (("interior_slope", "slope", fixed), ("localization_distance", "distance", short),
             ("unbroken_distance", "unbroken", short))
    if len(sweep.rows) > 1:
        slope, distance, unbroken = (change(sweep.rows, key, form) for key, _, form in names)
        moves = [text for text in (
            slope and f"the slope beyond R goes {slope}", distance and f"the distance {distance}",
            unbroken and f"the unbroken one {unbroken}") if text]
        if moves:
            parts.append(f"from G = {sweep.values[0]} to {sweep.values[-1]} {', '.join(moves)}")
        rho = [f"{rank:.2f} ({name})" for key, name, _ in names
               if (rank := sweep.spearman[key]) is not None]
        if rho:
            parts.append(f"rank correlation with G {', '.join(rho)}")
    deviations = [f"{name} {text}" for key, name, form in names
                  if (text := spreads(sweep.rows, key, form))]
    if deviations:
        parts.append(f"standard deviation over {len(sweep.seeds)} seeds: {', '.join(deviations)}")
    if controls:
        parts.append("LayerNorm per position reaches "
                     + " and ".join(dict.fromkeys(str(distance_of(run)) for run in controls)))
    return ("; ".join(parts + sweep.unfinished())
            or "one number of groups says nothing of a trend") + "."


# --- The picture ----------------------------------------------------------------------------------


def names_of(sweep):
    """What the field calls some numbers of groups, by their places."""
    names = {1: "LayerNorm", 8: "GroupNorm(8)", sweep.channels: "InstanceNorm"}
    return {i: names[value] for i, value in enumerate(sweep.values) if value in names
            and not (value == 8 == sweep.channels)}


def draw_controls(axes, values):
    for value in values:
        axes.plot(-1, value, color=PER_POSITION, marker="s", ms=4, mec=INK, mew=0.4, lw=0, zorder=3,
                  clip_on=False)
    axes.set_xlim(-1.4, axes.get_xlim()[1])


def draw(sweep, controls=(), title=None):
    length, reach = sweep.length, sweep.reach
    width, height, gap = 3.35, 1.3, 0.16  # a column of a paper; of each panel
    words = textwrap.wrap("Reading: " + reading(sweep, controls), 64)
    heading = textwrap.wrap(title or "", 50)
    head = 0.15 * len(heading) + 0.15
    bottom = head + 2 * height + gap
    below = bottom + 0.52
    caption = textwrap.wrap(
        "circles: mean ± standard deviation over the seeds; bars: each seed; dashed: up to the first "
        "index that is not localized" + ("; squares: LayerNorm of each position alone, as in "
                                         "transformers" if controls else ""), 68)
    under = below + 0.115 * len(caption) + 0.05
    page = Page(under + 0.13 * len(words) + 0.08, width)
    page.text(width / 2, 0.05, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)

    distance = page.axes(0.55, head, width - 0.7, height)
    slope = page.axes(0.55, head + height + gap, width - 0.7, height)
    draw_measure(distance, sweep, "unbroken_distance", WITH_NORM, lw=0.9, ls=(0, (3, 2)), ms=2.5,
                 shift=0.08)
    draw_measure(distance, sweep, "localization_distance", WITH_NORM)
    draw_measure(slope, sweep, "interior_slope", WITH_NORM)
    draw_controls(distance, [distance_of(run) for run in controls])
    draw_controls(slope, [run.summary["interior_slope"] for run in controls
                          if run.summary["interior_slope"] is not None])
    distance.set_ylim(0, 0.6 * length)
    distance.set_yticks([0, length / 4, length / 2], ["0", f"{length / 4:g}", f"{length / 2:g}"])
    distance.set_ylabel("localization distance", labelpad=2)
    mark(distance, length / 2, rf"$\ell/2 = {length / 2:g}$: all of it")
    mark(distance, reach, rf"$R = {reach}$: within the receptive field", "below")
    lowest, highest = slope.get_ylim()
    slope.set_ylim(min(0, lowest), max(1.1, highest))
    slope.set_yticks([0, 0.5, 1])
    slope.set_ylabel("interior slope", labelpad=2)
    slope.set_xlabel("number of groups $G$", labelpad=12)
    mark(slope, 1, "knows every index")
    slope.axhline(0, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)
    distance.set_xticklabels([])
    names = {**names_of(sweep), **({-1: "position"} if controls else {})}
    for place, name in names.items():
        slope.annotate(name, (place, 0), (0, -15), xycoords=("data", "axes fraction"),
                       textcoords="offset points", ha="center", va="top", fontsize=5.2)

    page.text(0.08, below, "\n".join(caption), linespacing=1.2, fontsize=6.5)
    page.text(0.08, under, "\n".join(words), linespacing=1.25, fontsize=6.8)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure4.py", "Draws figure 4 of the paper from a collected sweep, of a preset groups.",
        [("sweep", "SWEEP", "folder of the sweep"),
         ("controls", "CONTROL", "folders of runs of its size with norm position, one for each seed",
          "*")], arguments)
    sweep = Sweep(options.sweep, "groups")
    controls = load_controls(options.controls, sweep)
    style.finish(options, lambda: draw(sweep, controls, options.title),
                 {"claims": claims(sweep, controls), **sweep.results,
                  "controls": [run.summary for run in controls]},
                 [f"groups: {reading(sweep, controls)}"],
                 [options.sweep, *options.controls])


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure4.py", main, sys.argv[1:]))
