#!/usr/bin/env python3
"""Figure 3 of the paper: how well two sequences are told apart that share so many positions."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import itertools  # noqa: E402
import textwrap  # noqa: E402

import style  # noqa: E402
from style import INK, WITH_NORM, WITHOUT_NORM, Page  # noqa: E402
from values import Error, UsageError, need, need_objects, results_in, whole  # noqa: E402

import numpy as np  # noqa: E402

# --- The run --------------------------------------------------------------------------------------


def load(folder):
    """summary.json of a folder of the program `overlap`: at least one point, by rising overlap."""
    file = results_in(folder, "summary.json", "; `overlap run` with the same settings continues it, "
                      "and `overlap collect` takes what is finished")
    run = style.read_json(file)
    length = need(file, run, "length", *whole())
    points = need_objects(file, run, "points")
    if not points:
        raise Error(f"{file}: has no points")
    for point in points:
        need(file, point, "overlap", *whole(0, length))
        need(f"{file}: at overlap {point['overlap']}", point, "mse", *style.number(0))
    overlaps = [point["overlap"] for point in points]
    if sorted(set(overlaps)) != overlaps:
        raise Error(f"{file}: overlaps do not rise")
    return run


# --- What is to be seen ---------------------------------------------------------------------------


class Claims:
    """Section 3.2 in numbers: the errors up to l/4, from 3 l/4 to l - 1 and at l, and where the error
    crosses 1/2. Of several the one that says most against the claim. None where there is no such
    point."""

    NEAR_ONE, SOLVED, NEAR_HALF = 0.05, 0.1, 0.2

    def __init__(self, run):
        self.length = length = run["length"]
        half = length / 2
        curve = [(p["overlap"], p["mse"]) for p in run["points"] if p["overlap"] < length]
        self.few = max((mse for o, mse in curve if 4 * o <= length), default=None,
                       key=lambda mse: abs(mse - 1))
        self.many = max((mse for o, mse in curve if 4 * o >= 3 * length), default=None)
        self.same = next((p["mse"] for p in run["points"] if p["overlap"] == length), None)
        crossings = [a + (b - a) * (mse_a - 0.5) / (mse_a - mse_b)
                     for (a, mse_a), (b, mse_b) in zip(curve, curve[1:])
                     if (mse_a > 0.5) != (mse_b > 0.5)]
        self.crossing = max(crossings, default=None, key=lambda o: abs(o - half))

    def summary(self):
        half = self.length / 2

        def is_one(value):
            return abs(value - 1) <= self.NEAR_ONE

        return {
            "few_shared": style.claim(
                "with little overlap the error is 1, that of answering 0 (Section 3.2)",
                f"every error up to ℓ/4 shared within {self.NEAR_ONE} of 1", self.few, is_one),
            "crossing": style.claim(
                "the transition lies at about half the length (Section 3.2)",
                f"the error crosses ½ within 20 % of ℓ/2 = {half:g}, and nowhere else",
                self.crossing, lambda v: abs(v - half) <= self.NEAR_HALF * half,
                measured=None not in (self.few, self.many) or self.crossing is not None),
            "many_shared": style.claim(
                "with much overlap the error is near zero (Section 3.2)",
                f"largest error from 3ℓ/4 to ℓ − 1 shared ≤ {self.SOLVED}", self.many,
                lambda v: v <= self.SOLVED),
            "identical": style.claim(
                "two sequences that are the same cannot be told apart (follows from Section 3.2)",
                f"error at ℓ within {self.NEAR_ONE} of 1", self.same, is_one),
        }


def number(value):
    """Two digits, as many as a reader takes in."""
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def reading(run):
    """One line: where the two are told apart and where they are not."""
    claims = Claims(run)
    parts = []
    if claims.few is not None:
        parts.append(f"up to ℓ/4 shared, error {number(claims.few)}")
    if claims.crossing is not None:
        parts.append(f"½ is crossed at o = {claims.crossing:.1f} (ℓ/2 = {claims.length / 2:g})")
    if claims.many is not None:
        parts.append(f"from 3ℓ/4 on ≤ {number(claims.many)}")
    if claims.same is not None:
        parts.append(f"identical: {number(claims.same)}")
    return ("; ".join(parts) or "too few points to say anything") + "."


# --- The picture ----------------------------------------------------------------------------------


def draw(run, title=None):
    length, points = run["length"], run["points"]
    overlap = np.array([p["overlap"] for p in points])
    mse = np.array([p["mse"] for p in points])
    curve = overlap < length

    width = 3.35  # a column of a paper
    words = textwrap.wrap("Reading: " + reading(run).replace(" = ", "\u00a0=\u00a0"), 62)
    heading = textwrap.wrap(title or "", 50)
    head = 0.15 * len(heading) + 0.22
    height = 1.75
    page = Page(head + height + 0.55 + 0.13 * len(words), width)
    page.text(width / 2, 0.06, "\n".join(heading).replace("$", r"\$"), ha="center", fontsize=9)
    axes = page.axes(0.5, head, width - 0.62, height)

    top = max(1.12, 1.05 * mse.max())
    axes.axhline(1, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)
    axes.axvline(length / 2, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)
    axes.annotate(rf"$\ell/2 = {length / 2:g}$", (length / 2, 1), (0, 2),
                  xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
                  va="bottom", fontsize=7)
    axes.plot(overlap[curve], mse[curve], color=WITH_NORM, lw=1.6, marker="o", ms=3.2,
              mec=INK, mew=0.4, zorder=3, clip_on=False)
    if not curve.all():  # alone: no line leads there, since nothing lies between
        axes.plot(overlap[~curve], mse[~curve], color=WITHOUT_NORM, lw=0, marker="X", ms=6, mec=INK,
                  mew=0.4, zorder=4, clip_on=False)
        axes.annotate("identical sequences:\nno way to tell\nwhich is which", (length, mse[-1]),
                      (-7, -9), textcoords="offset points", ha="right", va="top", fontsize=6.5,
                      linespacing=1.15)
    axes.annotate("answering 0 to both", (0, 1), (2, -2.5), textcoords="offset points", ha="left",
                  va="top", fontsize=6.5)
    axes.set_xlim(-0.02 * length, 1.03 * length)
    axes.set_ylim(0, top)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks(ticks(length))
    axes.set_xlabel(rf"shared positions $o$ of $\ell = {length}$", labelpad=2)
    axes.set_ylabel("mean squared error", labelpad=2)
    page.text(0.08, head + height + 0.43, "\n".join(words), linespacing=1.25, fontsize=6.8)
    return page.figure


def ticks(length):
    """Round overlaps, and the whole length."""
    step = next(step for power in itertools.count() for base in (1, 2, 4, 5)
                if length / (step := base * 10**power) <= 5.5)
    return [*(o for o in range(0, length, step) if length - o > 0.5 * step), length]


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure3.py", "Draws figure 3 of the paper from a folder of `overlap`.",
        [("run", "RUN", "folder of the run")], arguments)
    run = load(options.run)
    if all(p["overlap"] == run["length"] for p in run["points"]):
        raise UsageError(f"{options.run}: has no overlap below the whole length")
    style.finish(options, lambda: draw(run, options.title),
                 {"claims": Claims(run).summary(), **run}, [f"overlap: {reading(run)}"],
                 [options.run])


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure3.py", main, sys.argv[1:]))
