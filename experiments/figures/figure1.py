#!/usr/bin/env python3
"""Figure 1 of the paper: what two networks answer, and which indices their layers localize.

Figures 5 and 6 have the same form.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402

import style  # noqa: E402
from style import (  # noqa: E402
    INK, PER_POSITION, WITH_NORM, WITHOUT_NORM, Page, UsageError, fixed, percent)

import numpy as np  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

# --- The two runs ---------------------------------------------------------------------------------


def keys(a, b):
    """What tells the two runs apart, for the keys of the summary."""
    if a.norm == "none":
        raise UsageError(f"{a.path} is a run without norm; give the run with norm first")
    for key in ("norm", "statistics", "input"):
        if getattr(a, key) != getattr(b, key):
            return getattr(a, key), getattr(b, key)
    raise UsageError(f"{a.path} and {b.path} have the same norm ({a.norm}), the same statistics "
                     f"({a.statistics}) and the same input ({a.input}): nothing to compare")


def check_comparable(a, *others):
    for b in others:
        for key in ("length", "depth", "receptive_field"):
            if a.summary[key] != b.summary[key]:
                raise UsageError(f"{a.path} and {b.path} differ in {key.replace('_', ' ')}: "
                                 f"{a.summary[key]} and {b.summary[key]}")


def check_same_network(a, b):
    """Of runs that differ in their statistics."""
    files = [run.path / "model.safetensors" for run in (a, b)]
    of_a, of_b = [style.read_bytes(file) if file.exists() else None for file in files]
    if of_a != of_b:
        raise UsageError(f"{a.path} and {b.path} hold different networks; expected the same one, with "
                         "other statistics")


def check_position(run):
    if run.norm != "position":
        raise UsageError(f"{run.path}: has norm {run.norm}, expected position")


# --- The paper's claims ---------------------------------------------------------------------------

MOST = 0.8      # share of the interior that counts as all of it; the rest are false negatives near R
FOLLOWS = 0.5   # a slope that counts as following the position
LEAVES = 0.05   # share of localized indices outside the cone, below which a layer has not left it
RISES = 0.9     # share of neighbours in order that counts as clearly monotone


def interior(run):
    """Localized share of the indices beyond R(d), at the output; None where there are none."""
    return run.outside_cone(run.depth)


def outside_cones(run):
    """By layer, the share that it localizes beyond its own R(i), where there are such indices."""
    return {layer: share for layer in range(1, run.depth + 1)
            if (share := run.outside_cone(layer)) is not None}


def largest(shares):
    return max(shares.values(), default=None)


def folded(run):
    """[d, ceil(l/2)]: for each layer and distance from the nearest edge, the share of the (at most
    two) indices there that are localized. Column j: distance j + 1."""
    half = (run.length + 1) // 2
    share = run.localized.astype(float)
    return (share[:, :half] + share[:, ::-1][:, :half]) / 2


def farthest(run):
    """For each layer, the largest distance from the nearest edge of a localized index."""
    return [int(np.nonzero(row)[0].max()) + 1 if row.any() else 0 for row in folded(run)]


def in_order(run):
    """Share of the neighbours in the interior whose mean predictions rise; None where there are none."""
    steps = np.diff(run.mean[run.reach:max(run.length - run.reach, 0)])
    return float((steps > 0).mean()) if steps.size else None


def control(run, share):
    """A share of localized indices that is to be 0. Only of a network that localizes something: one
    that has not learned its own edges either is no evidence, and has nothing to measure."""
    return share if run.localized[-1].any() else None


def claims(a, b):
    return {
        "follows": style.claim(
            "with normalization the network knows where it is (Section 3.1)",
            f"slope of the mean prediction on the position beyond R ≥ {FOLLOWS}",
            a.summary["interior_slope"], lambda v: v >= FOLLOWS),
        "monotone": style.claim(
            "the mean of the predictions is clearly monotonically increasing (Section 3.1)",
            f"share of neighbours beyond R whose mean predictions rise ≥ {percent(RISES)}",
            in_order(a), lambda v: v >= RISES),
        "interior": style.claim(
            "with normalization the whole sequence is localized by the last layers (Section 3.1)",
            f"localized share of the interior ≥ {percent(MOST)}", interior(a), lambda v: v >= MOST),
        "faster": style.claim(
            "with normalization position travels faster than the receptive field grows (Section 3.1)",
            f"some layer localizes more than {percent(LEAVES)} of the indices beyond its R(i)",
            largest(outside_cones(a)), lambda v: v > LEAVES),
        "cone": style.claim(
            "without normalization nothing beyond the receptive field is localized, at any depth "
            "(Proposition C.1)", "largest share beyond R(i), of all layers, = 0",
            control(b, largest(outside_cones(b))), lambda v: v == 0)}


def claim_of_position(run):
    """Of the norm that takes no statistics over positions."""
    return style.claim(
        "LayerNorm as in transformers takes no statistics over positions and carries none (Section 1)",
        "with LayerNorm per position, largest share beyond R(i), of all layers, = 0",
        control(run, largest(outside_cones(run))), lambda v: v == 0)


# --- What is to be seen, in words -----------------------------------------------------------------

FLAT = 0.05  # a slope, or an answer, that counts as none


def answer(run):
    """What the network does with indices beyond R(d), where there are any."""
    slope = run.summary["interior_slope"]
    if abs(slope) < FLAT:
        interior = run.mean[run.reach:run.length - run.reach]
        does = "answers 0" if np.abs(interior).max() < FLAT else "stays flat"
    elif slope < 0:
        does = "runs against the position"
    else:
        does = "follows the position" + ("" if slope >= FOLLOWS else " in part")
    failed = ": a failed run, try another seed" if run.notice else ""
    return f"{does} (slope {fixed(slope)}{failed})"


def has_interior(run):
    return run.length > 2 * run.reach and run.summary["interior_slope"] is not None


def about_predictions(a, b):
    if not has_interior(a) or not has_interior(b):
        few = "too few indices for a slope lie" if a.length > 2 * a.reach else "no index lies"
        return (f"{few} beyond R = {a.reach} from both edges; localized at the output: "
                f"{percent(b.localized[-1].mean())} {b.phrase}, "
                f"{percent(a.localized[-1].mean())} {a.phrase}.")
    return f"beyond R = {a.reach}, {b.phrase} the CNN {answer(b)}; {a.phrase} it {answer(a)}."


def about_cone(run, subject):
    """Where the network leaves the cone of receptive fields, and what it ends with."""
    outside = outside_cones(run)
    leaves = next((layer for layer, share in outside.items() if share > LEAVES), None)
    if not outside:
        path = f"{subject} has no index outside the cone"
    elif leaves is None:
        path = (f"{subject} stays within the cone of its receptive field "
                f"({percent(largest(outside))} outside it)")
    else:
        path = (f"{subject} leaves the cone at layer {leaves} "
                f"({percent(outside[leaves])} of the indices outside it)")
    share, of = at_output(run)
    return f"{path} and ends with {percent(share)} of {of} localized"


def at_output(run):
    """The share of indices that the output localizes, and of which."""
    share = interior(run)
    return (run.localized[-1].mean(), "all indices") if share is None else (share, "the interior")


def lines(a, b, *more):
    """What to look for in (a) and in (b)."""
    others = "".join(f"; {run.phrase} {about_cone(run, 'it')}" for run in more)
    return [
        f"(a) predictions: {about_predictions(a, b)}",
        f"(b) localized indices: {b.phrase} {about_cone(b, 'the CNN')}; "
        f"{a.phrase} {about_cone(a, 'it')}{others}.",
    ]


# --- The picture ----------------------------------------------------------------------------------


def draw_predictions(axes, a, b, *more):
    length, reach = a.length, a.reach
    x = np.arange(length) + 0.5
    alpha = 0.3 * min(1, 100 / length) ** 0.5  # long sequences are denser
    for run, colour in ((b, WITHOUT_NORM), (a, WITH_NORM)):
        axes.plot(x, run.sample.T, color=colour, lw=0.4, alpha=alpha, zorder=2)
    # The orange mean is the wider one, to show on both sides of the gray where they agree. White
    # rims set both off from the single predictions.
    for run, colour, width in ((a, WITH_NORM, 2.2), (b, WITHOUT_NORM, 1.4)):
        axes.plot(x, run.mean, color="white", lw=width + 0.8, zorder=3)
        axes.plot(x, run.mean, color=colour, lw=width, zorder=4)
    for run in more:  # dashed: it lies on the gray one
        axes.plot(x, run.mean, color=PER_POSITION, lw=1.2, ls=(0, (3, 2)), zorder=4.5)
    axes.plot(x, style.target(length), color=INK, lw=0.7, ls=(0, (4, 3)), zorder=5)

    samples = np.abs(np.concatenate([a.sample.ravel(), b.sample.ravel()]), dtype=float)
    top = max(*(np.abs(run.mean).max() for run in (a, b, *more)), 0.52,
              np.percentile(samples, 99.8) if samples.size else 0)
    axes.set_ylim(-1.1 * top, 1.1 * top)
    axes.set_yticks([-0.5, 0, 0.5])
    axes.set_ylabel("predicted position", labelpad=2)
    draw_reach(axes, length, reach)


def draw_reach(axes, length, reach):
    """Vertical lines at R(d) and l - R(d), with their labels above the axes."""
    if reach >= length:
        return
    marks = sorted([(reach, f"$R={reach}$"), (length - reach, rf"$\ell-R={length - reach}$")])
    apart = marks[1][0] - marks[0][0] > 0.3 * length
    for (x, label), side in zip(marks, ("right", "left")):
        axes.axvline(x, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)
        axes.annotate(label, (x, 1), (0, 2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="bottom", fontsize=7,
                      ha="center" if apart else side)


def draw_map(axes, run, colour):
    """Depth upwards from the input, index to the right; shaded where localized."""
    length, depth = run.length, run.depth
    small = length <= 100 and depth <= 16  # cells large enough to be told apart
    axes.pcolormesh(np.arange(length + 1), np.arange(depth + 1) + 0.5, run.localized,
                    cmap=ListedColormap(["white", colour]), vmin=0, vmax=1, rasterized=True,
                    edgecolors="#e6e6e6" if small else "face", linewidth=0.25 if small else 0,
                    antialiased=small)
    # Index R(i) is the last that sees the edge at layer i: the cone runs along cell boundaries.
    layers = [layer for layer in range(1, depth + 1) if 2 * run.reach_of(layer) < length]
    x = np.repeat([run.reach_of(layer) for layer in layers], 2)
    y = np.ravel([[layer - 0.5, layer + 0.5] for layer in layers])
    for side in (x, length - x):
        axes.plot(side, y, color=INK, lw=1.0 if small else 0.6, solid_joinstyle="miter")
    axes.set_ylim(0.5, depth + 0.5)
    axes.set_yticks(style.layer_ticks(depth))
    axes.tick_params(axis="y", length=0)
    share, of = at_output(run)
    for x, side, text in ((0, "left", run.name),
                          (1, "right", f"output: {percent(share)} of {of}")):
        axes.annotate(text, (x, 1), (0, 2.5), xycoords="axes fraction", ha=side, va="bottom",
                      textcoords="offset points", fontsize=7)


def in_lines(sentence, width):
    """One line where it fits, else broken between the two networks if that is enough."""
    if len(sentence) <= width:
        return [sentence]
    first, _, second = sentence.partition("; ")
    return textwrap.wrap(first + ";", width) + textwrap.wrap(second, width)


def draw(a, b, *more, title=None):
    """The figure, of a run with norm and one to compare it with, and perhaps of one per position."""
    runs, colours = (a, b, *more), (WITH_NORM, WITHOUT_NORM, PER_POSITION)
    reading = in_lines("Reading: " + about_predictions(a, b), 126)
    heading = textwrap.wrap(title or "", 75)
    head = 0.16 * len(heading) + (0.1 if heading else 0)
    gap = 0.24                                    # between the maps of panel (b)
    left, width, height = 0.55, 2.7, 2.5 + 0.5 * len(more)  # of panel (a)
    map_left = left + width + 0.7
    map_width = style.PAGE_WIDTH - map_left - 0.15
    map_height = (height - gap * (len(runs) - 1)) / len(runs)
    top = head + 0.42
    bottom = top + height
    page = Page(bottom + 0.88 + 0.14 * len(reading) + 0.16 * len(more))

    page.text(style.PAGE_WIDTH / 2, 0.08, "\n".join(heading).replace("$", r"\$"), ha="center",
              fontsize=10)
    page.text(0.08, head + 0.07, "(a) Predictions", weight="bold", fontsize=8.5)
    page.text(map_left - 0.42, head + 0.07, "(b) Localized indices, layer by layer", weight="bold",
              fontsize=8.5)

    predictions = page.axes(left, top, width, height)
    draw_predictions(predictions, *runs)
    maps = [page.axes(map_left, top + row * (map_height + gap), map_width, map_height)
            for row in range(len(runs))]
    for axes, run, colour in zip(maps, runs, colours):
        draw_map(axes, run, colour)
    for axes in (predictions, *maps):
        axes.set_xlim(0, a.length)
        axes.set_xticks(style.index_ticks(a.length))
    for axes in maps[:-1]:
        axes.set_xticklabels([])
    for axes in (predictions, maps[-1]):
        axes.set_xlabel("sequence index", labelpad=2)
    page.text(map_left - 0.34, top + height / 2, "depth (input → output)", rotation=90,
              va="center", ha="center")

    legend = bottom + 0.42
    page.legend(left, legend, [
        Line2D([], [], color=WITH_NORM, lw=2.2), Line2D([], [], color=WITHOUT_NORM, lw=1.4),
        *(Line2D([], [], color=PER_POSITION, lw=1.2, ls=(0, (3, 2))) for _ in more),
        Line2D([], [], color=INK, lw=0.7, ls=(0, (4, 3))),
        tuple(Line2D([], [], color=colour, lw=0.6) for colour in (WITH_NORM, WITHOUT_NORM)),
    ], [*(run.name for run in runs), "target", "thin: single inputs"], ncol=2, columnspacing=1.2)
    page.legend(map_left, legend, [
        tuple(Patch(color=colour) for colour in colours[:len(runs)]),
        Line2D([], [], color=INK, lw=1.0),
    ], ["shaded: localized (Definition 2.3)", r"cone of the receptive field, $R(i)$"], ncol=1)
    page.text(style.PAGE_WIDTH / 2, page.height - 0.06 - 0.14 * len(reading), "\n".join(reading),
              ha="center", linespacing=1.25, fontsize=7.2)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def compare(program, description, runs, arguments, claims, per_position=False):
    """The program behind the figures of this form. `runs` holds a name and a help text for each of
    the two; `claims` turns the runs into the paper's claims and what becomes of them, or refuses runs
    that the figure is not about. There may be a third with LayerNorm `per_position`."""
    folders = [(name, *run) for name, run in zip(("first", "second"), runs)]
    if per_position:
        folders.append(("position", "RUN_PER_POSITION", "folder of a run with norm position", "?"))
    options = style.figure_options(program, description, folders, arguments)
    a, b = style.load_run(options.first), style.load_run(options.second)
    more = [style.load_run(options.position)] if per_position and options.position else []
    check_comparable(a, b, *more)
    key_a, key_b = keys(a, b)
    summary = {"claims": claims(a, b), key_a: a.summary, key_b: b.summary}
    for run in more:
        check_position(run)
        summary["claims"]["position"] = claim_of_position(run)
        summary["position"] = run.summary
    style.finish(options, lambda: draw(a, b, *more, title=options.title), summary, lines(a, b, *more),
                 [run.path for run in (a, b, *more)])


def main(arguments):
    compare("figure1.py", "Draws figure 1 of the paper from two run folders, or from three.",
            [("RUN_WITH_NORM", "folder of the run with normalization"),
             ("RUN_WITHOUT_NORM", "folder of the run to compare it with, without normalization")],
            arguments, claims, per_position=True)


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure1.py", main, sys.argv[1:]))
