#!/usr/bin/env python3
"""How far from the edges each layer localizes, against what one hop of messages could reach.

Section 3.2: where the receptive field of index R(i) touches the edge, it also touches that of index
3 R(i). One message through a normalization layer thus carries positions to 3 R(d) at most; beyond
it there must have been several, one after the other.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402

import figure1  # noqa: E402
import style  # noqa: E402
from style import INK, WITH_NORM, WITHOUT_NORM, Page, UsageError, percent  # noqa: E402

import numpy as np  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

# --- What is to be seen ---------------------------------------------------------------------------


def one_hop(run):
    return 3 * run.reach


def beyond(run):
    """Localized share of the indices beyond 3 R(d), at the output; None where there are none."""
    limit = one_hop(run)
    indices = run.localized[-1, limit:run.length - limit]
    return float(indices.mean()) if indices.size else None


def claims(a, b):
    return {
        "several_hops": style.claim(
            "position travels by several messages, one after the other (Section 3.2)",
            f"localized share of the indices beyond one hop, 3R(d), > {percent(figure1.LEAVES)}",
            beyond(a), lambda v: v > figure1.LEAVES),
        "no_hop": style.claim(
            "without normalization there is no message (Section 3.1)",
            "localized share of the interior = 0", figure1.control(b, figure1.interior(b)),
            lambda v: v == 0)}


def reading(a, b):
    limit, share = one_hop(a), beyond(a)
    far = figure1.farthest(a)[-1]
    if share is None:
        what = (f"no index lies beyond 3R = {limit} from both edges, so one hop would do; {a.phrase}"
                f" the output localizes up to {far} of {(a.length + 1) // 2}")
    elif share <= figure1.LEAVES:
        what = (f"{a.phrase} the output localizes up to {far} from an edge: not beyond the one-hop "
                f"limit 3R = {limit}")
    else:
        first = next(i for i, d in enumerate(figure1.farthest(a), 1) if d > limit)
        what = (f"{a.phrase} the output localizes {percent(share)} of the indices beyond the one-hop "
                f"limit 3R = {limit}, layer {first} is the first to pass it: several hops")
    return f"{what}; {b.phrase} it ends at {figure1.farthest(b)[-1]} (R = {b.reach})."


# --- The picture ----------------------------------------------------------------------------------


def draw_distances(axes, run, colour):
    """Layers to the right, distance from the nearest edge upwards; shaded where localized."""
    depth, half = run.depth, (run.length + 1) // 2
    axes.pcolormesh(np.arange(depth + 1) + 0.5, np.arange(half + 1), figure1.folded(run).T,
                    cmap=LinearSegmentedColormap.from_list("", ["white", colour]), vmin=0, vmax=1,
                    rasterized=True, edgecolors="face", linewidth=0)
    layers = np.arange(1, depth + 1)
    for factor, dashes in ((1, "-"), (3, (0, (4, 2)))):
        axes.step(np.r_[layers, depth + 1] - 0.5,
                  np.r_[[factor * run.reach_of(layer) for layer in layers],
                        factor * run.reach_of(depth)],
                  where="post", color=INK, lw=1, ls=dashes)
    axes.set_xlim(0.5, depth + 0.5)
    axes.set_ylim(0, half)
    axes.set_xticks(style.layer_ticks(depth))
    axes.set_xlabel("layer", labelpad=2)
    axes.annotate(run.name, (0, 1), (0, 2.5), xycoords="axes fraction", ha="left", va="bottom",
                  textcoords="offset points", fontsize=7)


def draw(a, b, title=None):
    width, height, left, gap = 3.35, 1.7, 0.5, 0.15  # a column of a paper
    words = textwrap.wrap("Reading: " + reading(a, b), 64)
    heading = textwrap.wrap(title or "", 50)
    head = 0.15 * len(heading) + 0.3
    page = Page(head + height + 0.96 + 0.13 * len(words), width)
    page.text(width / 2, 0.06, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)
    each = (width - left - gap - 0.12) / 2
    panels = [page.axes(left + i * (each + gap), head, each, height) for i in (0, 1)]
    for axes, run, colour in zip(panels, (a, b), (WITH_NORM, WITHOUT_NORM)):
        draw_distances(axes, run, colour)
    half = (a.length + 1) // 2
    inside = [a.reach] + ([one_hop(a)] if one_hop(a) < 0.94 * half else [])
    panels[0].set_yticks([0, *inside, half])
    panels[0].set_ylabel("distance from the nearest edge", labelpad=2)
    panels[1].set_yticks([0, *inside, half], [])
    bottom = head + height
    page.legend(left, bottom + 0.38, [
        (Patch(color=WITH_NORM), Patch(color=WITHOUT_NORM)),
        Line2D([], [], color=INK, lw=1), Line2D([], [], color=INK, lw=1, ls=(0, (4, 2)))],
        ["localized (pale: on one side only)", "receptive field, $R(i)$", "one hop, $3R(i)$"],
        fontsize=6.8)
    page.text(0.08, bottom + 0.88, "\n".join(words), linespacing=1.25, fontsize=6.8)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure_multihop.py", "Draws how far from the edges each layer localizes, from two run "
        "folders.", [("with_norm", "RUN_WITH_NORM", "folder of the run with normalization"),
                     ("without_norm", "RUN_WITHOUT_NORM", "folder of the run without")], arguments)
    a, b = style.load_run(options.with_norm), style.load_run(options.without_norm)
    figure1.check_comparable(a, b)
    if b.norm != "none" or a.norm == "none":
        raise UsageError(f"{a.path} has norm {a.norm}, {b.path} norm {b.norm}; expected one run with "
                         "norm and then one without")
    style.finish(options, lambda: draw(a, b, options.title), {
        "claims": claims(a, b), "one_hop": one_hop(a),
        **{run.norm: {"farthest": figure1.farthest(run), **run.summary} for run in (a, b)}},
        [f"distance: {reading(a, b)}"], (a.path, b.path))


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure_multihop.py", main, sys.argv[1:]))
