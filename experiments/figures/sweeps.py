"""What the figures of sweeps over one setting share: their results, and how they are drawn."""

import style
from style import INK, fixed
from values import (
    Error, UsageError, is_count, is_object, need, need_objects, number, results_in, whole)

from matplotlib.patheffects import withStroke

POPULATION = "population"
GAP = "population_gap"  # of the loss: how much larger it is with population statistics
MEASURES = ("localization_distance", "unbroken_distance", "interior_slope", "localized_fraction",
            "interior_localized_fraction", "final_loss")

# --- The results ----------------------------------------------------------------------------------


class Sweep:
    """results.json of a sweep: at least one value on its axis, rising. The cells that stand for those of
    other learning rates are chosen."""

    def __init__(self, folder, axis, population=False):
        self.path = folder
        self.file = file = results_in(folder, "results.json", "; `sweep collect` makes it")
        self.results = results = style.read_json(file)
        self.axis, self.population = axis, population
        by = need(file, results, "by", lambda value: isinstance(value, list)
                  and all(isinstance(name, str) for name in value), "a list of texts")
        if by != [axis]:
            raise UsageError(f"{folder}: is a sweep over {', '.join(by) or 'seeds alone'}, expected one "
                             f"over {axis}")
        for key, least in (("planned", 1), ("finished", 0)):
            need(file, results, key, *whole(least))
        self.settings = need(file, results, "settings", is_object, "an object")
        self.length = need(file, self.settings, "length", *whole())
        self.channels = need(file, {"channels": 1, **self.settings}, "channels", *whole())
        self.rows, self.best = (need_objects(file, results, key) for key in ("rows", "best"))
        if not self.rows or not self.best:
            raise Error(f"{file}: no cell is finished yet; `sweep run` goes on")
        for row in self.rows:
            where = f"{file}: {need(file, row, axis, *whole())} {axis}"
            self._check(where, row, self._check_spread)
        self.values = [row[axis] for row in self.rows]
        if sorted(set(self.values)) != self.values:
            raise Error(f"{file}: numbers of {axis} do not rise")
        for cell in self.best:
            where = f"{file}: a best cell"
            need(where, cell, axis, lambda value: is_count(value) and value in self.values, "a row's")
            need(where, cell, "seed", *whole(0))
            self._check(where, need(where, cell, "measures", is_object, "an object"), need)
            self.reach = need(where, cell["measures"], "receptive_field", *whole())
        self.seeds = sorted({cell["seed"] for cell in self.best})
        self.spearman = need(file, results, "spearman", is_object, "an object")
        for key in MEASURES:
            need(f"{file}: spearman", self.spearman, key, *number(-1, 1, null=True))

    def _check(self, where, measures, check):
        """`check` every measure, and those with population statistics where there are such."""
        length = self.length
        fits = {**dict.fromkeys(MEASURES[:2], number(0, length, null=True)),
                "interior_slope": number(null=True), "final_loss": number(0, null=True),
                **dict.fromkeys(("localized_fraction", "interior_localized_fraction"),
                                number(0, 1, null=True))}
        for key in MEASURES:
            check(where, measures, key, *fits[key])
        if self.population:
            check(where, measures, GAP, *number(null=True))
            for key in MEASURES:
                check(where, measures, f"{POPULATION}.{key}", *fits[key])

    @staticmethod
    def _check_spread(where, row, key, *fits):
        spread = need(where, row, key, is_object, "an object")
        need(f"{where}: {key}", spread, "mean", *fits)
        need(f"{where}: {key}", spread, "deviation", *number(0, null=True))

    def rows_of(self, statistics="minibatch"):
        """What each row, or the best cells' measures, say with these statistics."""
        return [with_statistics(row, statistics) for row in self.rows]

    def cells(self, statistics="minibatch"):
        """Of the best cells: value on the axis, seed, measures."""
        return [(cell[self.axis], cell["seed"], with_statistics(cell["measures"], statistics))
                for cell in self.best]

    def curve(self, seed, key, statistics="minibatch"):
        """A measure of one seed's best cells, by rising value on the axis: pairs."""
        return sorted((value, measures[key]) for value, of, measures in self.cells(statistics)
                      if of == seed and measures[key] is not None)

    def means(self, key):
        """By rising value; empty where one has none, or where there is one value alone."""
        values = [row[key]["mean"] for row in self.rows]
        return values if len(values) > 1 and None not in values else []

    def unfinished(self):
        """In words, where cells are missing."""
        finished, planned = self.results["finished"], self.results["planned"]
        return [f"{finished} of {planned} runs are finished"] if finished < planned else []

    def claims(self, make):
        """Those that make(seed) returns, over all seeds."""
        return style.claims_over_seeds({seed: make(seed) for seed in self.seeds})


def with_statistics(measures, statistics):
    """Those with minibatch statistics, or those with the population's under the same names."""
    if statistics == "minibatch":
        return measures
    prefix = f"{statistics}."
    return {key.removeprefix(prefix): value for key, value in measures.items()
            if key.startswith(prefix)}


def ranks(values):
    """From 1; equal values share the mean of theirs."""
    return [sum(v < value for v in values) + (values.count(value) + 1) / 2 for value in values]


def rank_correlation(pairs):
    """Spearman's, of pairs; None for fewer than two or without any variation."""
    x, y = (ranks(list(side)) for side in zip(*pairs)) if pairs else ([], [])
    middle = (len(x) + 1) / 2
    xy, xx, yy = (sum((a - middle) * (b - middle) for a, b in zip(*both))
                  for both in ((x, y), (x, x), (y, y)))
    return xy / (xx * yy) ** 0.5 if xx and yy else None


def spreads(rows, key, form):
    """"0.01 to 0.2", of the standard deviations over the seeds; None where there is one seed."""
    values = [row[key]["deviation"] for row in rows if row[key]["deviation"] is not None]
    if not values:
        return None
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def change(rows, key, form=fixed):
    """"from 0.1 to 0.7", the first row to the last; None where one has no value."""
    first, last = (rows[i][key]["mean"] for i in (0, -1))
    return None if first is None or last is None else f"from {form(first)} to {form(last)}"


# --- The picture ----------------------------------------------------------------------------------


def draw_measure(axes, sweep, key, colour, statistics="minibatch", shift=0, **how):
    """Mean over the seeds with its standard deviation, and the seeds themselves."""
    place = {value: i + shift for i, value in enumerate(sweep.values)}
    for value, _, measures in sweep.cells(statistics):
        if measures[key] is not None:
            axes.plot(place[value], measures[key], color=INK, marker="_", ms=5, mew=0.7, lw=0, zorder=4,
                      clip_on=False)
    drawn = [(place[row[sweep.axis]], of[key]) for row, of in zip(sweep.rows, sweep.rows_of(statistics))
             if of[key]["mean"] is not None]
    axes.errorbar([x for x, _ in drawn], [spread["mean"] for _, spread in drawn],
                  yerr=[spread["deviation"] or 0 for _, spread in drawn],
                  **{"color": colour, "lw": 1.6, "elinewidth": 1, "capsize": 2.5, "marker": "o", "ms": 4,
                     "mec": INK, "mew": 0.4, "zorder": 3, "clip_on": False, **how})
    axes.set_xlim(-0.4, len(sweep.rows) - 0.6)
    axes.set_xticks(range(len(sweep.rows)), [str(value) for value in sweep.values])


def mark(axes, y, text, side="above"):
    """A dotted line across, with its meaning at the left, on the side where no data is expected."""
    axes.axhline(y, color=INK, lw=0.6, ls=(0, (1.5, 2)), zorder=1)
    up = side == "above"
    axes.annotate(text, (0, y), (2, 1.5 if up else -4), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="left", va="bottom" if up else "top", fontsize=6.5,
                  path_effects=[withStroke(linewidth=1.5, foreground="white")], zorder=5)
    for spine in axes.spines.values():
        spine.set_zorder(6)
