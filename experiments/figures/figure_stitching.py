#!/usr/bin/env python3
"""Stitching with the norm alone changed: whether a planner by diffusion finds ways that it has only seen
in pieces, by its reach and its normalization, and how much it hears from beyond that reach."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import textwrap  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import norms  # noqa: E402
import planners  # noqa: E402
import style  # noqa: E402
import ticks  # noqa: E402
from norms import CANNOT_LEAK, COLOURS, name_of  # noqa: E402
from style import INK, Page, percent  # noqa: E402

import numpy as np  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

PLANS = 0.5  # share of valid plans between pairs that it has seen, from which on it plans
SURE = 0.95  # of the intervals

# --- Two norms, over seeds ------------------------------------------------------------------------


def t_quantile(freedom, sure=SURE):
    """Student's t that |T| stays within so surely: of t = √n tan a the density is cos(a)^(n - 1)."""
    edges = np.linspace(0, np.pi / 2, 200_001)
    mass = np.cumsum(np.cos((edges[1:] + edges[:-1]) / 2) ** (freedom - 1))
    return float(freedom ** 0.5 * np.tan(np.interp(sure * mass[-1], mass, edges[1:])))


@dataclass(frozen=True)
class Difference:
    """How much more of GroupNorm's plans are valid than of another norm's, on the same data from the same
    seed: the mean over the seeds, and half of its t-interval; None of one seed."""

    norm: str
    mean: float
    half: float

    @property
    def verdict(self):
        if self.half is None:
            return "one seed, so no interval: compared with"
        if abs(self.mean) <= self.half:
            return "no difference seen from"
        return f"GroupNorm plans {'better' if self.mean > 0 else 'worse'} than"

    @property
    def words(self):
        half = "" if self.half is None else f" ± {100 * self.half:.1f}"
        mean = f"{round(100 * self.mean, 1) + 0.0:+.1f}".replace("-", "−")
        return f"{name_of(self.norm)} ({mean}{half} points)"


def differences(by_norm):
    """To each norm that cannot leak as it plans."""
    result = []
    for norm in by_norm:
        if norm not in (*CANNOT_LEAK, "group_population"):
            continue
        values = [planner.plans("held_out", "valid") - by_norm[norm][seed].plans("held_out", "valid")
                  for seed, planner in by_norm["group"].items()
                  if planner.summary["held_out"] and by_norm[norm][seed].summary["held_out"]]
        if values:
            n = len(values)
            half = t_quantile(n - 1) * np.std(values, ddof=1) / n ** 0.5 if n > 1 else None
            result.append(Difference(norm, float(np.mean(values)), half and float(half)))
    return result


# --- What is to be seen ---------------------------------------------------------------------------


def claims(by_reach):
    def of_seed(seed):
        of = [{norm: seeds[seed] for norm, seeds in by_norm.items()} for by_norm in by_reach.values()]
        best = [max((planner.plans("trained", "valid") for planner in by_norm.values()
                     if planner.summary["trained"]), default=None) for by_norm in of]
        # Where the fields hold everything there is nothing beyond.
        group = [by_norm["group"].leak(step=by_norm["group"].trained) for by_norm in of
                 if not by_norm["group"].hears_all]
        cannot = [by_norm[norm].most() for by_norm in of for norm in by_norm
                  if norm in CANNOT_LEAK and by_norm[norm].most() is not None]
        return {
            "plans": style.claim(
                "the planner plans at all (ours)", "valid plans between pairs that training has seen, by "
                f"the best norm, at the reach with the fewest ≥ {percent(PLANS)}",
                None if None in best else min(best), lambda v: v >= PLANS),
            "group": style.claim(
                "GroupNorm propagates information beyond the receptive field (Section 1)",
                "GroupNorm, trained: share of |J| from beyond, at the reach with the least of it, > 0",
                min(group, default=None), lambda v: v > 0),
            "cannot": style.claim(
                "norms that take no statistics over positions carry nothing over them (Section 1)",
                f"{norms.in_words([norm for norm in CANNOT_LEAK if norm in of[0]])}: largest share of "
                "|J| and of J² from beyond, at every step, noise level and horizon, = 0",
                max(cannot, default=None), lambda v: v == 0)}

    seeds = set.intersection(*(set(by_norm["group"]) for by_norm in by_reach.values()))
    return style.claims_over_seeds({seed: of_seed(seed) for seed in sorted(seeds)})


def reach_of(by_norm):
    return planners.reach_words(next(iter(by_norm["group"].values())))


def readings(by_reach):
    """What it says either way, of each reach."""
    for by_norm in by_reach.values():
        told = {}
        for difference in differences(by_norm):
            told.setdefault(difference.verdict, []).append(difference.words)
        said = "; ".join(f"{verdict} {norms.listed(words)}" for verdict, words in told.items())
        yield f"{reach_of(by_norm)}: {said or 'nothing to compare'}."


def about(seeds):
    """What the numbers of the readings are."""
    interval = f", with its {percent(SURE)} t-interval over {seeds} seeds, each interval for itself"
    return ("In brackets: GroupNorm's share of valid plans between held-out pairs less that norm's, on "
            f"the same data from the same seed{interval if seeds > 1 else ''}.")


# --- Numbers --------------------------------------------------------------------------------------


def values_of(seeds, pairs, key):
    """Of all seeds that have such pairs."""
    return [planner.plans(pairs, key) for planner in seeds.values() if planner.summary[pairs]]


def leaks_of(seeds):
    """Trained, at the plans' horizon; not of those that plan with other statistics than the meter's."""
    return [planner.leak(step=planner.trained) for planner in seeds.values() if planner.lines]


def cell(values, form):
    """Mean ± deviation."""
    if not values:
        return "–"
    mean = form(float(np.mean(values)))
    if len(values) == 1 or not any(values):
        return mean
    return f"{mean} ± {form(float(np.std(values, ddof=1)))}"


def points(value):
    return f"{100 * value:.0f}"


def tenths(value):
    return "0" if value == 0 else f"{100 * value:.1f}" if value >= 0.0005 else "< 0.1"


COLUMNS = (("inside", points), ("valid", points), ("solved", points),
           ("distance", lambda value: f"{value:.2f}"))


def row(seeds):
    return [*(cell(values_of(seeds, "held_out", key), form) for key, form in COLUMNS),
            cell(leaks_of(seeds), tenths)]


def data(by_reach):
    return [{"reach": reach_of(by_norm), "norms": {norm: {
        **{pairs: {key: values_of(seeds, pairs, key) for key in planners.PLANS}
           for pairs in ("held_out", "trained")},
        "leak": leaks_of(seeds), "seeds": list(seeds)} for norm, seeds in by_norm.items()},
        "differences": [{"norm": d.norm, "mean": d.mean, "half": d.half} for d in differences(by_norm)]}
        for by_norm in by_reach.values()]


# --- The picture ----------------------------------------------------------------------------------

ROW, HEAD = 0.225, 0.33  # inches: of a norm, and of a reach


def draw_dots(axes, rows, values, shift=0, faint=False):
    """In each row a dot for each seed, and their mean."""
    for y, (norm, seeds) in enumerate(rows):
        of = values(seeds)
        if not of:
            continue
        how = {"color": COLOURS[norm], "clip_on": False, "alpha": 0.35 if faint else 1}
        axes.plot(of, [y + shift] * len(of), "o", ms=2.2 if faint else 3.2, lw=0, zorder=3, mew=0, **how)
        axes.plot(np.mean(of), y + shift, "|", ms=5 if faint else 8, mew=1 if faint else 1.6, zorder=4,
                  **{**how, "color": COLOURS[norm] if faint else INK})
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])


def draw_reach(page, top, by_norm, left, most, is_last):
    """Of one reach: the norms, the shares of valid plans, the leaks, the table."""
    rows = list(by_norm.items())
    height = ROW * len(rows)
    valid = page.axes(left, top, 1.3, height)
    leak = page.axes(left + 1.5, top, 0.66, height)
    draw_dots(valid, rows, lambda seeds: values_of(seeds, "trained", "valid"), 0.22, faint=True)
    draw_dots(valid, rows, lambda seeds: values_of(seeds, "held_out", "valid"), -0.12)
    draw_dots(leak, rows, leaks_of)
    valid.set_xlim(0, 1)
    valid.set_xticks([0, 0.5, 1], ["0", "50", "100"] if is_last else [])
    ticks.shares(leak, most, "x", "", 3)
    if is_last:
        valid.set_xlabel("valid plans, %", labelpad=2)
        leak.set_xlabel("from beyond, %", labelpad=2)
    else:
        leak.set_xticks([])
    for axes in (valid, leak):
        for y in range(1, len(rows)):
            axes.axhline(y - 0.5, color=INK, lw=0.3, alpha=0.3, zorder=1)
    for y, (norm, seeds) in enumerate(rows):
        at = top + (y + 0.5) * ROW
        page.text(left - 0.08, at, name_of(norm), ha="right", va="center", fontsize=7)
        for x, text in zip(TABLE, row(seeds)):
            page.text(x, at, text, ha="center", va="center", fontsize=6.5)


TABLE = (3.95, 4.56, 5.17, 5.78, 6.4)  # inches: the middles of its columns


def draw(by_reach, title=None):
    of_seeds = len(next(iter(by_reach.values()))["group"])
    words = [line for text in (*readings(by_reach), about(of_seeds)) for line in style.wrapped(text, 122)]
    heading = textwrap.wrap(title or "", 75)
    head = 0.16 * len(heading) + (0.1 if heading else 0)
    left = 1.37
    shown = [seeds for by_norm in by_reach.values() for seeds in by_norm.values()]
    most = 1.08 * max([0.01, *(value for seeds in shown for value in leaks_of(seeds))])
    top = head + 0.2
    height = sum(HEAD + ROW * len(by_norm) for by_norm in by_reach.values())
    page = Page(top + height + 0.8 + 0.13 * len(words))
    page.text(style.PAGE_WIDTH / 2, 0.08, "\n".join(heading).replace("$", r"\$"), ha="center",
              fontsize=10)
    for x, text in ((0.08, "Reach, norm"), (left, "(a) Valid plans"), (left + 1.5, "(b) Leak")):
        page.text(x, head + 0.07, text, weight="bold", fontsize=8.5)
    for x, text in zip(TABLE, (*(key for key, _ in COLUMNS), "leak")):
        page.text(x, head + 0.1, text, ha="center", fontsize=7)
    for i, by_norm in enumerate(by_reach.values()):
        page.text(0.08, top + 0.12, reach_of(by_norm), fontsize=7.5)
        draw_reach(page, top + HEAD, by_norm, left, most, i == len(by_reach) - 1)
        top += HEAD + ROW * len(by_norm)
    page.legend(0.08, top + 0.17, [
        Line2D([], [], marker="o", ms=size, lw=0, color=INK, alpha=alpha, mew=0)
        for size, alpha in ((3.2, 1), (2.2, 0.35))], ["held-out pairs", "pairs of training"],
        fontsize=6.5, handletextpad=0.1)
    page.text(TABLE[0] - 0.28, top + 0.14, "held-out pairs; distance in corridors,\n"
              + (f"others in %; mean ± deviation of {of_seeds} seeds" if of_seeds > 1
                 else "others in %; one seed") + "\n– : population statistics carry nothing", fontsize=6,
              linespacing=1.25)
    page.text(0.08, page.height - 0.06 - 0.13 * len(words), "\n".join(words), linespacing=1.25,
              fontsize=7.2)
    return page.figure


# --- The program ----------------------------------------------------------------------------------


def main(arguments):
    options = style.figure_options(
        "figure_stitching.py", "Draws what planners of several norms and reaches make of pairs that they "
        "have not seen together.",
        [("folders", "FOLDER", "folders of `diffusion run`", "+")], arguments)
    by_reach = planners.load_all(options.folders)
    style.finish(options, lambda: draw(by_reach, options.title),
                 {"claims": claims(by_reach), "reaches": data(by_reach)},
                 [f"stitching: {line}" for line in readings(by_reach)], options.folders)


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure_stitching.py", main, sys.argv[1:]))
