"""Sweeps as `sweep collect` leaves them, for the tests of the figures that are drawn from them."""

import json


def spread(values):
    values = [value for value in values if value is not None]
    mean = sum(values) / len(values) if values else None
    n = len(values)
    return {"mean": mean, "deviation": None if n < 2 else
            (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5,
            "least": min(values, default=None), "most": max(values, default=None)}


def spreads(measures):
    """Of each measure, in the order of the seeds."""
    return {key: spread([each[key] for each in measures]) for key in measures[0]}


def measures_of(slope, reach, length, loss=None):
    """Of a network whose distances rise with its slope, from R to all of it."""
    distance = round(reach + (slope or 0) * (length / 2 - reach))
    return {"localization_distance": distance, "unbroken_distance": max(distance - 1, reach),
            "interior_slope": slope, "localized_fraction": min(1, 0.5 + abs(slope or 0) / 2),
            "interior_localized_fraction": None if slope is None else min(1, max(0, slope)),
            "receptive_field": reach,
            "final_loss": 0.05 - 0.03 * (slope or 0) if loss is None else loss}


def make_sweep(folder, axis, slopes, length=64, planned=8, rho=1.0, population=None):
    """A folder as `sweep collect` leaves it: for each value on the axis, the slopes of its seeds.
    `population` makes the measures with population statistics out of those with minibatches'."""
    reach = 16

    def measures(slope):
        result = measures_of(slope, reach, length)
        if population:
            others = population(result)
            result["population_gap"] = others["final_loss"] - result["final_loss"]
            result.update((f"population.{key}", value) for key, value in others.items())
        return result

    best = [{"id": f"{axis}={value},learning_rate=0.001,seed={seed}", axis: value,
             "learning_rate": 0.001, "seed": seed, "measures": measures(slope)}
            for value, of_seeds in slopes.items() for seed, slope in enumerate(of_seeds)]
    rows = [{axis: value, "seeds": len(of_seeds), **spreads([measures(slope) for slope in of_seeds])}
            for value, of_seeds in slopes.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({
        "program": "localization", "preset": "groups/demo",
        "settings": {"length": length, "depth": 8, "channels": 32},
        "over": [axis, "learning_rate", "seed"], "planned": planned, "finished": len(best),
        "cells": best, "best": best, "by": [axis], "rows": rows,
        "spearman": dict.fromkeys(measures(0), rho)}))
    return folder
