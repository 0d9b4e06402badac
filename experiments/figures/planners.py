"""Planners by diffusion, as `diffusion run` leaves them: what becomes of their plans, and how much they
hear from beyond their receptive fields while they learn."""

import style
from dataclasses import dataclass, replace
from pathlib import Path
from values import (
    UsageError, is_object, need, need_objects, need_shares, number, one_of, results_in, whole)

import norms

PLANS = ("inside", "valid", "solved", "distance")
# The settings that may tell the planners of one figure apart, or that no result depends on.
MAY_DIFFER = {"preset", "norm", "kernel_size", "multipliers", "seed", "threads",
              "device", "precision", "log_every", "checkpoint_every", "stop_after"}


@dataclass(frozen=True)
class Planner:
    path: Path
    settings: dict  # config.json
    summary: dict
    lines: list     # of leak.json
    norm: str       # that of the summary; of one with running statistics: group, as it has them live

    seed = property(lambda planner: planner.summary["seed"])
    horizon = property(lambda planner: planner.summary["horizon"])
    reach = property(lambda planner: (planner.summary["reach"]["left"],
                                      planner.summary["reach"]["right"]))

    @property
    def size(self):
        """What tells its reach from another planner's, in words."""
        return f"k = {self.summary['kernel_size']}, multipliers {self.summary['multipliers']}"

    def values(self, key):
        """Of the lines, rising: training steps, noise steps or horizons."""
        return sorted({line[key] for line in self.lines})

    @property
    def trained(self):
        return max(self.values("step"))

    def leak(self, part="live", measure="l1", **where):
        """The mean over the lines of which `where` holds; at its own horizon where that names none.
        None where there is no line."""
        where = {"horizon": self.horizon, **where}
        values = [line[part] if part == "difference" else line[part][measure] for line in self.lines
                  if all(line[key] == value for key, value in where.items())]
        return sum(values) / len(values) if values else None

    @property
    def hears_all(self):
        """Through its layers, at its own horizon."""
        return all(line["inside"] == 1 for line in self.lines if line["horizon"] == self.horizon)

    def most(self, part="live"):
        """The largest share of all lines; None where the fields hold everything, which proves nothing."""
        return max((line[part][measure] for line in self.lines for measure in ("l1", "squared")
                    if line["inside"] < 1), default=None)

    def plans(self, pairs, key):
        """What became of those between `held_out` or `trained` pairs; None where there are none."""
        return self.summary[pairs] and self.summary[pairs][key]


def load(folder):
    """An Error names the file that is missing or makes no sense."""
    file = results_in(folder, "summary.json", ", so this run is not finished; `diffusion run` with the "
                      "same settings continues it")
    path = file.parent
    config = path / "config.json"
    settings = need(config, style.read_json(config), "settings", is_object, "an object")
    summary = style.read_json(file)
    for key, *fits in (("norm", *one_of(norms.COLOURS)), ("seed", *whole(0)), ("horizon", *whole()),
                       ("kernel_size", *whole()), ("reach", is_object, "an object"),
                       ("multipliers", lambda value: isinstance(value, str), "a text"),
                       *((pairs, lambda value: value is None or is_object(value), "an object or null")
                         for pairs in ("held_out", "trained"))):
        need(file, summary, key, *fits)
    for side in ("left", "right"):
        need(f"{file}: reach", summary["reach"], side, *whole(0))
    need(file, {"population": {}, **summary}, "population", is_object, "an object")
    for name, judged in (("", summary), ("population: ", summary.get("population", {}))):
        for pairs in ("held_out", "trained"):
            for key in PLANS if judged.get(pairs) is not None else ():
                need(f"{file}: {name}{pairs}", judged[pairs], key,
                     *(number(0) if key == "distance" else number(0, 1)))
    norm = "group" if summary["norm"] == "group_population" else summary["norm"]
    return Planner(path, settings, summary, leak_lines(path / "leak.json", summary["horizon"]), norm)


def with_population(planner):
    """The planner and, where its norm has running statistics, the same network with these."""
    yield planner
    population = planner.summary.get("population")
    if population is not None:
        yield replace(planner, norm="group_population", summary={**planner.summary, **population},
                      lines=[])


def leak_lines(file, horizon):
    lines = need_objects(file, style.read_json(file), "lines")
    for line in lines:
        for key, least in (("step", 0), ("noise_step", 0), ("horizon", 1)):
            need(file, line, key, *whole(least))
        for part in ("live", "frozen", "mean", "variance"):
            need_shares(file, line, part)
        need(file, line, "difference", *number(0))
        need(file, line, "inside", *number(0, 1))
    if not any(line["horizon"] == horizon for line in lines):
        raise style.Error(f"{file}: has no line of horizon {horizon}")
    return lines


def load_all(folders):
    """Of several norms, and perhaps reaches, the same seeds of each. By reach, norm and seed."""
    first, found = None, {}
    for planner in (planner for folder in folders for planner in with_population(load(folder))):
        first = first or planner
        for key in sorted((first.settings.keys() | planner.settings.keys()) - MAY_DIFFER):
            if first.settings.get(key) != planner.settings.get(key):
                raise UsageError(f"{first.path} and {planner.path} differ in {key}: "
                                 f"{first.settings.get(key)} and {planner.settings.get(key)}")
        asked = [sorted({(line["step"], line["noise_step"], line["horizon"]) for line in of.lines})
                 for of in (first, planner)]
        if planner.lines and asked[0] != asked[1]:
            raise UsageError(f"{first.path} and {planner.path} were measured at different steps")
        seeds = found.setdefault((planner.reach, planner.size), {}).setdefault(planner.norm, {})
        if planner.seed in seeds:
            raise UsageError(f"{seeds[planner.seed].path} and {planner.path} have the same norm, reach "
                             "and seed")
        seeds[planner.seed] = planner
    for by_norm in found.values():
        for norm, seeds in by_norm.items():
            if "group" not in by_norm:
                raise UsageError(f"{next(iter(seeds.values())).path}: no planner with norm group was "
                                 "given to compare it with")
            if seeds.keys() != by_norm["group"].keys():
                raise UsageError(f"norm {norm} has the seeds {sorted(seeds)}, norm group "
                                 f"{sorted(by_norm['group'])}")
    return {size: {norm: by_norm[norm] for norm in norms.COLOURS if norm in by_norm}
            for (_, size), by_norm in sorted(found.items())}


def reach_words(planner):
    left, right = planner.reach
    return f"Reach {left}/{right} ({planner.size})"
