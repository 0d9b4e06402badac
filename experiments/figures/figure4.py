#!/usr/bin/env python3
"""Figure 4 of the paper: how far GroupNorm carries positions, by its number of groups."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402

import style  # noqa: E402
from style import INK, WITH_NORM, Page, fixed  # noqa: E402
from values import (  # noqa: E402
    Error, is_count, is_object, need, need_objects, number, results_in, whole)

from matplotlib.patheffects import withStroke  # noqa: E402

MEASURES = ("localization_distance", "interior_slope", "localized_fraction")

# --- The sweep ------------------------------------------------------------------------------------


def load(folder):
    """results.json of a sweep: at least one number of groups, rising."""
    file = results_in(folder, "results.json", "; `groups collect` makes it")
    results = style.read_json(file)

    for key, least in (("planned", 1), ("finished", 0), ("receptive_field", 1)):
        need(file, results, key, *whole(least))
    length = need(file, need(file, results, "settings", is_object, "an object"), "length", *whole())
    fits = {"localization_distance": number(0, length, null=True),
            "interior_slope": number(null=True), "localized_fraction": number(0, 1, null=True)}
    rows, best = (need_objects(file, results, key) for key in ("by_groups", "best"))
    if not rows:
        raise Error(f"{file}: no cell is finished yet; `groups run` goes on")
    for row in rows:
        where = f"{file}: {need(file, row, 'groups', *whole())} groups"
        for key in MEASURES:
            spread = need(where, row, key, is_object, "an object")
            need(f"{where}: {key}", spread, "mean", *fits[key])
            need(f"{where}: {key}", spread, "deviation", *number(0, null=True))
    groups = [row["groups"] for row in rows]
    if sorted(set(groups)) != groups:
        raise Error(f"{file}: numbers of groups do not rise")
    for cell in best:
        where = f"{file}: a best cell"
        need(where, cell, "groups", lambda value: is_count(value) and value in groups, "a row's")
        measures = need(where, cell, "measures", is_object, "an object")
        for key in MEASURES:
            need(where, measures, key, *fits[key])
    spearman = need(file, results, "spearman", is_object, "an object")
    for key in MEASURES:
        need(f"{file}: spearman", spearman, key, *number(-1, 1, null=True))
    return results


# --- What is to be seen ---------------------------------------------------------------------------

RISES = 0.8      # a rank correlation that counts as rising
SOMETHING = 0.05  # the least difference of slopes that counts as one


def means(results, key):
    """By rising number of groups; empty where one has none, or where there is one number alone."""
    values = [row[key]["mean"] for row in results["by_groups"]]
    return values if len(values) > 1 and None not in values else []


def claims(results):
    """Section 3.3 in numbers: localization improves with the number of groups. Ranks alone would take
    a rise within the noise of networks that have not learned for one. Distances within R say nothing
    of messages: where no network gets beyond it, they are not measured."""
    rho = results["spearman"]
    slopes, distances = (means(results, key) for key in ("interior_slope", "localization_distance"))
    return {
        "slope": style.claim(
            "localization improves with the number of groups (Section 3.3)",
            f"rank correlation of G with the interior slope ≥ {RISES}, and a rise by {SOMETHING} or "
            "more", rho["interior_slope"],
            lambda v: v >= RISES and slopes[-1] - slopes[0] >= SOMETHING, measured=bool(slopes)),
        "distance": style.claim(
            "it reaches farther with the number of groups (Section 3.3)",
            f"rank correlation of G with the localization distance ≥ {RISES}, where one is beyond R",
            rho["localization_distance"], lambda v: v >= RISES,
            measured=max(distances, default=0) > results["receptive_field"])}


def change(results, key, form):
    """"from 0.1 to 0.7", first G to last."""
    first, last = (results["by_groups"][i][key]["mean"] for i in (0, -1))
    return None if first is None or last is None else f"{form(first)} to {form(last)}"


def reading(results):
    rows = results["by_groups"]
    parts = []
    if len(rows) > 1:
        slopes = change(results, "interior_slope", fixed)
        distances = change(results, "localization_distance", lambda value: f"{value:.3g}")
        moves = [text for text in (slopes and f"the slope beyond R goes from {slopes}",
                                   distances and f"the distance from {distances}") if text]
        if moves:
            parts.append(f"from G = {rows[0]['groups']} to {rows[-1]['groups']} "
                         + " and ".join(moves))
        rho = [f"{results['spearman'][key]:.2f} ({name})"
               for key, name in (("interior_slope", "slope"), ("localization_distance", "distance"))
               if results["spearman"][key] is not None]
        if rho:
            parts.append(f"rank correlation with G {', '.join(rho)}")
    if results["finished"] < results["planned"]:
        parts.append(f"{results['finished']} of {results['planned']} runs are finished")
    return ("; ".join(parts) or "one number of groups says nothing of a trend") + "."


# --- The picture ----------------------------------------------------------------------------------


def draw_measure(axes, results, key):
    """Mean over the seeds with its standard deviation, and the seeds themselves."""
    rows = results["by_groups"]
    x = {row["groups"]: place for place, row in enumerate(rows)}
    for cell in results["best"]:
        if cell["measures"][key] is not None:
            axes.plot(x[cell["groups"]], cell["measures"][key], color=INK, marker="_", ms=5, mew=0.7,
                      lw=0, zorder=4, clip_on=False)
    drawn = [row for row in rows if row[key]["mean"] is not None]
    place = [x[row["groups"]] for row in drawn]
    axes.errorbar(place, [row[key]["mean"] for row in drawn],
                  yerr=[row[key]["deviation"] or 0 for row in drawn], color=WITH_NORM, lw=1.6,
                  elinewidth=1, capsize=2.5, marker="o", ms=4, mec=INK, mew=0.4, zorder=3,
                  clip_on=False)
    axes.set_xlim(-0.4, len(rows) - 0.6)
    axes.set_xticks(range(len(rows)), [str(row["groups"]) for row in rows])


def mark(axes, y, text, side="above"):
    """A dotted line across, with its meaning at the left, on the side where no data is expected."""
    axes.axhline(y, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)
    up = side == "above"
    axes.annotate(text, (0, y), (2, 1.5 if up else -4), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="left", va="bottom" if up else "top", fontsize=6.5,
                  path_effects=[withStroke(linewidth=1.5, foreground="white")], zorder=5)
    for spine in axes.spines.values():
        spine.set_zorder(6)


def draw(results, title=None):
    length, reach = results["settings"]["length"], results["receptive_field"]
    width, height, gap = 3.35, 1.3, 0.16  # a column of a paper; of each panel
    words = textwrap.wrap("Reading: " + reading(results), 64)
    heading = textwrap.wrap(title or "", 50)
    head = 0.15 * len(heading) + 0.15
    bottom = head + 2 * height + gap
    page = Page(bottom + 0.62 + 0.13 * len(words), width)
    page.text(width / 2, 0.05, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)

    distance = page.axes(0.55, head, width - 0.7, height)
    slope = page.axes(0.55, head + height + gap, width - 0.7, height)
    draw_measure(distance, results, "localization_distance")
    draw_measure(slope, results, "interior_slope")
    distance.set_ylim(0, 0.6 * length)
    distance.set_yticks([0, length / 4, length / 2], ["0", f"{length / 4:g}", f"{length / 2:g}"])
    distance.set_ylabel("localization distance", labelpad=2)
    distance.set_xticklabels([])
    mark(distance, length / 2, rf"$\ell/2 = {length / 2:g}$: all of it")
    mark(distance, reach, rf"$R = {reach}$: within the receptive field", "below")
    lowest, highest = slope.get_ylim()
    slope.set_ylim(min(0, lowest), max(1.1, highest))
    slope.set_yticks([0, 0.5, 1])
    slope.set_ylabel("interior slope", labelpad=2)
    slope.set_xlabel("number of groups $G$", labelpad=2)
    mark(slope, 1, "knows every index")
    slope.axhline(0, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)

    page.text(0.08, bottom + 0.36, "circles: mean ± standard deviation over the seeds; "
              "bars: each seed", fontsize=6.5)
    page.text(0.08, bottom + 0.52, "\n".join(words), linespacing=1.25, fontsize=6.8)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure4.py", "Draws figure 4 of the paper from a collected sweep of `groups`.",
        [("sweep", "SWEEP", "folder of the sweep")], arguments)
    results = load(options.sweep)
    style.finish(options, lambda: draw(results, options.title),
                 {"claims": claims(results), **results}, [f"groups: {reading(results)}"],
                 [options.sweep])


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure4.py", main, sys.argv[1:]))
