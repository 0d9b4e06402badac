#!/usr/bin/env python3
"""The leak while it learns: how much networks hear from beyond their receptive fields before, while and
after they are trained, the temporal U-Net as a planner and the localizer of Figure 1."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402
from pathlib import Path  # noqa: E402

import norms  # noqa: E402
import planners  # noqa: E402
import style  # noqa: E402
import ticks  # noqa: E402
from leak import Report  # noqa: E402
from norms import CANNOT_LEAK, COLOURS, name_of  # noqa: E402
from style import INK, Page, UsageError, percent  # noqa: E402
from values import need, read_json, results_in, whole  # noqa: E402

import numpy as np  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

WHEN = ("initial", "trained")
LOCALIZERS = ("instance", "position", "none")

# --- The localizers' reports ----------------------------------------------------------------------


def report_in(folder, when):
    return Path(folder) / f"leak-{when}.json"


def load_localizers(folders):
    """By norm and seed: what its two reports say."""
    found = {}
    for folder in folders:
        file = results_in(folder, "summary.json", ", so this run is not finished")
        summary = read_json(file)
        norm = need(file, summary, "norm", lambda norm: norm in LOCALIZERS,
                    f"one of {', '.join(LOCALIZERS)}")
        seed = need(file, summary, "seed", *whole(0))
        if seed in found.setdefault(norm, {}):
            raise UsageError(f"{folder}: another run has norm {norm} and seed {seed}, too")
        found[norm][seed] = {when: Report(report_in(folder, when)) for when in WHEN}
    return {norm: found[norm] for norm in LOCALIZERS if norm in found}


def apart(folders):
    """Those of localizers and those of planners."""
    of = [[], []]
    for folder in folders:
        is_planner = (Path(folder) / "leak.json").exists()
        if not is_planner and not all(report_in(folder, when).exists() for when in WHEN):
            raise style.Error(f"{folder}: has neither the leak.json of `diffusion run` nor the reports "
                              f"{' and '.join(report_in('', when).name for when in WHEN)} of a localizer")
        of[is_planner].append(folder)
    return of


def load(folders):
    """Localizers by norm and seed, planners by norm and seed."""
    localizers, sizes = apart(folders)
    sizes = planners.load_all(sizes)
    localizers = load_localizers(localizers)
    if len(sizes) != 1:
        raise UsageError(f"planners of {len(sizes)} reaches were given, expected one")
    if "instance" not in localizers:
        raise UsageError("no localizer with norm instance was given")
    return localizers, {norm: of for norm, of in next(iter(sizes.values())).items()
                        if norm != "group_population"}  # the same networks


# --- What is to be seen ---------------------------------------------------------------------------


def claims_of_localizers(seed, localizers):
    """Of one seed, by norm."""
    before, after = (localizers["instance"][when] for when in WHEN)
    result = {"localizer": style.claim(
        "networks learn to communicate through their normalization layers (Section 3)",
        "localizer with InstanceNorm: share of |J| from beyond its receptive field, after training less "
        "before, > 0", after.live["l1"] - before.live["l1"], lambda v: v > 0)}
    others = [report for norm, reports in localizers.items() if norm != "instance"
              for report in reports.values()]
    shares = [share for report in others for share in report.live.values()]
    result["localizer-others"] = style.claim(
        "and through nothing else (Proposition C.1)", f"the same, "
        f"{norms.in_words([norm for norm in localizers if norm != 'instance'])}, before and after, = 0",
        max(shares) if shares and all(report.heard for report in others) else None, lambda v: v == 0)
    return result


def claims_of_planners(by_norm):
    """Of one seed. Where GroupNorm carries nothing either, zeros prove nothing."""
    is_evidence = bool(by_norm["group"].most())
    cannot = [norm for norm in by_norm if norm in CANNOT_LEAK]
    return {
        "held": style.claim(
            "the U-Net hears its receptive field through its layers, the rest through statistics (ours)",
            "U-Net, statistics held: largest share of |J| and of J² from beyond, of all norms, at every "
            "step, noise level and horizon, = 0",
            max(planner.most("frozen") for planner in by_norm.values()) if is_evidence else None,
            lambda v: v == 0),
        "cannot": style.claim(
            "norms that take no statistics over positions carry nothing over them (Section 1)",
            f"U-Net, {norms.in_words(cannot)}: the same with statistics live = 0",
            max(by_norm[norm].most() for norm in cannot) if is_evidence and cannot else None,
            lambda v: v == 0)}


def claims(localizers, of_norms):
    """Each kind has its own seeds."""
    seeds = sorted(set.intersection(*(set(of) for of in localizers.values())))
    result = style.claims_over_seeds({seed: claims_of_localizers(
        seed, {norm: of[seed] for norm, of in localizers.items()}) for seed in seeds})
    result.update(style.claims_over_seeds({seed: claims_of_planners(
        {norm: of[seed] for norm, of in of_norms.items()}) for seed in sorted(of_norms["group"])}))
    return result


def moves(pairs):
    """"rises", "falls" or "stays", where each seed does; how often it rises, where they differ."""
    ways = {"rises" if after > before else "falls" if after < before else "stays"
            for before, after in pairs}
    up = sum(after > before for before, after in pairs)
    return ways.pop() if len(ways) == 1 else f"rises for {up} of {len(pairs)} seeds"


def from_to(pairs):
    before, after = np.mean(pairs, 0)
    return f"{moves(pairs)}, from {percent(before)} to {percent(after)}"


def reading(localizers, of_norms):
    group = of_norms["group"].values()
    pairs = [(planner.leak(step=0), planner.leak(step=planner.trained)) for planner in group]
    words = [f"while the U-Net with GroupNorm learns to plan, the share of |J| from beyond its receptive "
             f"field {from_to(pairs)}"]
    zero = [norm for norm, of in of_norms.items()
            if norm in CANNOT_LEAK and all(planner.most() == 0 for planner in of.values())]
    if zero:
        words.append(f"{norms.in_words(zero)}: exactly 0 at every step")
    pairs = [tuple(reports[when].live["l1"] for when in WHEN)
             for reports in localizers["instance"].values()]
    words.append(f"the localizer's with InstanceNorm {from_to(pairs)}")
    return "; ".join(words) + "."


# --- The picture ----------------------------------------------------------------------------------


def draw_lines(axes, of_norms, at, measure):
    """For each norm the mean over its seeds of measure(planner, x), their range shaded."""
    place = np.arange(len(at))
    for norm, of in of_norms.items():
        values = np.array([[measure(planner, x) for x in at] for planner in of.values()])
        axes.fill_between(place, values.min(0), values.max(0), color=COLOURS[norm], alpha=0.2, lw=0)
        axes.plot(place, values.mean(0), color=COLOURS[norm], lw=1.3, clip_on=False, zorder=3,
                  **norms.marker(norm))
    axes.set_xlim(-0.3, len(at) - 0.7)
    axes.set_xticks(place, [str(x) for x in at])


def draw_planners(step, noise, horizon, difference, of_norms):
    one = next(iter(of_norms["group"].values()))
    end = one.trained
    draw_lines(step, of_norms, one.values("step"), lambda planner, x: planner.leak(step=x))
    draw_lines(noise, of_norms, one.values("noise_step"),
               lambda planner, x: planner.leak(step=end, noise_step=x))
    draw_lines(horizon, of_norms, one.values("horizon"),
               lambda planner, x: planner.leak(step=end, horizon=x))
    draw_lines(difference, of_norms, one.values("step"),
               lambda planner, x: planner.leak("difference", step=x))
    inside = {line["horizon"]: line["inside"] for line in one.lines}
    horizon.set_xticks(range(len(inside)), [f"{x}\n{percent(inside[x])}" for x in sorted(inside)])
    for axes in (step, difference):
        axes.set_xlabel("training step", labelpad=2)
    noise.set_xlabel("noise step", labelpad=2)
    horizon.set_xlabel("horizon; pairs in the field", labelpad=2)
    top = max(axes.get_ylim()[1] for axes in (step, noise, horizon))
    for axes in (step, noise, horizon):
        ticks.shares(axes, top)
    for axes in (noise, horizon):
        axes.set_yticklabels([])
    ticks.shares(difference, difference.get_ylim()[1])


def draw_localizers(axes, localizers):
    """A pair of bars for each norm; what its means and variances carry alone as marks upon each."""
    for i, (norm, of) in enumerate(localizers.items()):
        for when, shift, alpha in zip(WHEN, (-0.2, 0.2), (0.4, 1)):
            shares = {part: [getattr(reports[when], part)["l1"] for reports in of.values()]
                      for part in ("live", "mean", "variance")}
            mean = {part: np.mean(values) for part, values in shares.items()}
            axes.bar(i + shift, mean["live"], 0.36, color=COLOURS[norm], alpha=alpha, lw=0)
            if len(of) > 1:
                axes.plot([i + shift] * len(of), shares["live"], color=INK, marker="_", ms=5, mew=0.7,
                          lw=0, zorder=4, clip_on=False)
            if not any(map(max, shares.values())):
                axes.annotate("0", (i + shift, 0), (0, 3), textcoords="offset points", ha="center",
                              fontsize=7)
                continue
            for part, side, marker in (("mean", -0.09, "^"), ("variance", 0.09, "v")):
                axes.plot(i + shift + side, mean[part], marker=marker, color="white", mec=INK, ms=4.5,
                          mew=0.7, zorder=5, clip_on=False)
    axes.set_xlim(-0.6, len(localizers) - 0.4)
    axes.set_xticks(range(len(localizers)), [
        name_of(norm).replace(" per position", "\nper position") for norm in localizers])
    axes.tick_params(axis="x", length=0)
    ticks.shares(axes, axes.get_ylim()[1])


def draw(localizers, of_norms, title=None):
    words = style.wrapped("Reading: " + reading(localizers, of_norms), 122)
    heading = textwrap.wrap(title or "", 75)
    head = 0.16 * len(heading) + (0.1 if heading else 0)
    top, height, left = head + 0.32, 1.35, 0.55
    below = top + height + 1.0
    page = Page(below + height + 0.87 + 0.14 * len(words))
    page.text(style.PAGE_WIDTH / 2, 0.08, "\n".join(heading).replace("$", r"\$"), ha="center",
              fontsize=10)
    for x, y, text in ((0.08, top, "(a) U-Net: share of |J| from beyond"),
                       (3.32, top, "(b) by noise, trained"), (5.1, top, "(c) by horizon, trained"),
                       (0.08, below, "(d) U-Net: |J − J held|² / |J|²"),
                       (3.32, below, "(e) Localizer: share of |J| from beyond")):
        page.text(x, y - 0.24, text, weight="bold", fontsize=8)
    step, noise, horizon = (page.axes(x, top, width, height)
                            for x, width in ((left, 2.55), (3.4, 1.5), (5.18, 1.47)))
    difference = page.axes(left, below, 2.55, height)
    draw_planners(step, noise, horizon, difference, of_norms)
    draw_localizers(page.axes(3.75, below, 2.9, height), localizers)
    page.legend(left, top + height + 0.44, [
        Line2D([], [], color=COLOURS[norm], lw=1.3, **norms.marker(norm)) for norm in of_norms],
        [name_of(norm) for norm in of_norms], ncol=len(of_norms), columnspacing=1.2)
    seeds = len(of_norms["group"])
    page.text(left, below + height + 0.46, "horizon {} (but in c), mean over noise (but in b)".format(
        next(iter(of_norms["group"].values())).horizon) + (
        f"\nlines: mean of {seeds} seeds; shaded: their range" if seeds > 1 else ""), fontsize=6.5,
        linespacing=1.3)
    page.legend(3.4, below + height + 0.46, [
        tuple(Patch(color=COLOURS[norm], alpha=alpha, lw=0) for norm in localizers)
        for alpha in (0.4, 1)] + [Line2D([], [], color="white", mec=INK, mew=0.7, marker=marker, ms=4.5,
                                         lw=0) for marker in "^v"],
        ["before training", "after", "means alone", "variances alone"], ncol=4, columnspacing=0.9,
        fontsize=6.5, handletextpad=0.4)
    page.text(style.PAGE_WIDTH / 2, page.height - 0.06 - 0.14 * len(words), "\n".join(words),
              ha="center", linespacing=1.25, fontsize=7.2)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def data(localizers, of_norms):
    """What is drawn, by norm and seed."""
    return {
        "planners": {norm: {seed: [
            {"step": step, **{part: planner.leak(part, step=step) for part in (
                "live", "frozen", "mean", "variance", "difference")}}
            for step in planner.values("step")] for seed, planner in of.items()}
            for norm, of in of_norms.items()},
        "localizers": {norm: {seed: {when: {"live": report.live, "mean": report.mean,
                                            "variance": report.variance, "frozen": report.frozen}
                                     for when, report in reports.items()}
                              for seed, reports in of.items()} for norm, of in localizers.items()}}


def main(arguments):
    options = style.figure_options(
        "figure_learning.py", "Draws how much networks hear from beyond their receptive fields while "
        "they learn.",
        [("folders", "FOLDER", "folders of `localization run` with the reports of `leak measure`, and "
          "of `diffusion run`", "+")], arguments)
    localizers, of_norms = load(options.folders)
    style.finish(options, lambda: draw(localizers, of_norms, options.title),
                 {"claims": claims(localizers, of_norms), **data(localizers, of_norms)},
                 [f"leak: {reading(localizers, of_norms)}"], options.folders)


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure_learning.py", main, sys.argv[1:]))
