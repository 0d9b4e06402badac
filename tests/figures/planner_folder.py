"""Folders as `diffusion run` and `leak measure` leave them, for the tests of the figures that are drawn
from them."""

import json

from test_figure1 import make_run

STEPS, NOISE, HORIZON = (0, 10, 30, 100), (0, 2, 5), 64


def shares(l1):
    return {"l1": l1, "squared": l1 ** 2}


def line(step, noise_step, horizon, l1, reach=18):
    inside = min(1, 1.8 * reach / horizon)
    l1 = l1 if inside < 1 else 0
    return {"step": step, "noise_step": noise_step, "horizon": horizon, "live": shares(l1),
            "frozen": shares(0.0), "mean": shares(0.5 * l1), "variance": shares(0.8 * l1),
            "difference": 2 * l1, "inside": inside}


def leak_of(norm, step, noise_step, horizon):
    """A share that depends on all of it, where the norm can leak."""
    if norm != "group":
        return 0.0
    return 0.02 + 0.0004 * step + 0.002 * noise_step + 0.0001 * horizon


def judged(valid, **how):
    return {"pairs": 8, "plans": 32, "inside": 0.5 + valid / 2, "valid": valid, "solved": valid ** 0.5,
            "distance": 1 - valid, **how}


def make_planner(path, norm, seed=0, valid=0.5, trained=0.8, kernel_size=3, leak=leak_of,
                 population=None, **summary):
    """`population`: the share of valid plans with these statistics, of a norm that has them."""
    reach = 6 * (kernel_size // 2) + kernel_size // 2
    path.mkdir(parents=True)
    named = norm
    if population is not None:
        named = "group_population"
        summary["population"] = {"held_out": judged(population), "trained": judged(trained),
                                 **{key: summary[key] for key in ("held_out",) if key in summary}}
    (path / "config.json").write_text(json.dumps({"commit": "0", "settings": {
        "preset": "demo", "norm": named, "seed": seed, "iterations": 100,
        "kernel_size": kernel_size, "multipliers": "1", "threads": 1}}))
    (path / "summary.json").write_text(json.dumps({
        "norm": named, "seed": seed, "horizon": HORIZON, "multipliers": "1", "kernel_size": kernel_size,
        "reach": {"left": reach, "right": reach}, "held_out_pairs": 20, "trained_pairs": 60,
        "held_out": judged(valid), "trained": judged(trained), "seconds": 3.5, **summary}))
    (path / "leak.json").write_text(json.dumps({"lines": [
        line(step, noise, horizon, leak(norm, step, noise, horizon), 2 * reach)
        for step in STEPS for horizon in (HORIZON // 2, HORIZON, 2 * HORIZON) for noise in NOISE]}))
    return path


def make_report(path, l1, layers=(), profile=True, **how):
    """A report of `leak measure`: of so many norms the share of each alone."""
    length = 12
    near = [None, *([l1 / 10] * (length - 5)), 0.01, 0.1, 1, 2, 1, 0.1, 0.01,
            *([l1 / 10] * (length - 5)), None]
    held = [0.0 if value == l1 / 10 else value for value in near]
    report = {"schema": 1, "network": "localizer of 8 layers, instance norm", "live": shares(l1),
              "frozen": shares(0.0), "mean": shares(0.6 * l1), "variance": shares(0.9 * l1),
              "difference": l1, "receptive_field": {"left": [3], "right": [3], "inside": 0.5},
              "layers": [{"name": name, "alone": shares(alone), "mean": shares(0.5 * alone),
                          "variance": shares(0.8 * alone)} for name, alone in layers]}
    if profile:
        report["profile"] = {"first": -(len(near) // 2), "live": near, "frozen": held}
    path.write_text(json.dumps({**report, **how}))
    return path


def make_localizer(path, norm, initial, trained, seed=0):
    """A run of it, with its two reports."""
    make_run(path, norm)
    file = path / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seed": seed}))
    make_report(path / "leak-initial.json", initial)
    make_report(path / "leak-trained.json", trained)
    return path
