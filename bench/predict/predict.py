#!/usr/bin/env python3
"""Predicts the times of launches on an H200, measured ones and ones to come.

    python3 bench/predict/predict.py             every measured kernel and step beside its prediction
    python3 bench/predict/predict.py --check     fails where a kernel is off by more than 30 %, or a
                                                 step by more than 20 %
    python3 bench/predict/predict.py --fit       the constants, fitted anew
    python3 bench/predict/predict.py --held-out  the errors of kernels that were not fitted
    python3 bench/predict/predict.py --write     bench/results/predicted-h200.json

What is measured are the 178 times of bench/results/gpu-nvidia-h200-b2e8185.json: 89 kernels and
shapes, each cold and warm, the medians in microseconds; and the 8 steps of that file, which the
constants are not fitted to. How a time comes about is told in model.py, what the kernels launch in
measured.py, what is to come in to_come.py.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
from pathlib import Path

import measured
import model
import to_come


RESULTS = Path(__file__).resolve().parents[1] / "results"
RESULT = RESULTS / "gpu-nvidia-h200-b2e8185.json"
PREDICTED = RESULTS / "predicted-h200.json"
KERNELS_WITHIN, STEPS_WITHIN = 0.30, 0.20


def kernel_times():
    """{name with /cold or /warm: microseconds}"""
    results = json.loads(RESULT.read_text())["kernels"]["results"]
    return {name: result["us"] for name, result in results.items()}


def step_times():
    """{(workload, precision): milliseconds} of recorded steps"""
    return {(row["preset"], row["precision"]): 1e3 * statistics.median(row["ours_seconds"])
            for row in json.loads(RESULT.read_text())["steps"]["results"]}


def kernel(name, machine, cases):
    case, _, how = name.rpartition("/")
    return model.operation(cases[case], machine, how == "cold")


def step(launches, machine):
    return 1e-3 * sum(model.time(launch, machine, cold) for launch, cold in launches)


def errors(machine):
    """(name, measured, predicted, relative error, bound of it) of all that was measured."""
    cases = measured.cases()
    rows = [(name, time, kernel(name, machine, cases), KERNELS_WITHIN)
            for name, time in kernel_times().items()]
    for (name, precision), time in step_times().items():
        launches = measured.step(name, precision == "tf32", machine)
        rows.append((f"training_step/{name}/{precision}", time, step(launches, machine), STEPS_WITHIN))
    return [(name, time, guess, guess / time - 1, bound) for name, time, guess, bound in rows]


# --- The fit ------------------------------------------------------------------------------------

def fit(machine, cases, times):
    """Each constant in turn up or down, by less and less, while the fourth powers of the logarithms of
    predicted over measured times shrink: large errors count most."""
    def loss(candidate):
        return sum(math.log(kernel(name, candidate, cases) / time) ** 4 for name, time in times.items())

    best, change = loss(machine), 0.3
    while change > 0.004:
        before = best
        for name in model.FITTED:
            for factor in (1 + change, 1 / (1 + change)):
                candidate = dataclasses.replace(machine, **{name: getattr(machine, name) * factor})
                value = loss(candidate)
                if value < best:
                    machine, best = candidate, value
        if best == before:
            change /= 2
    return machine


def held_out(machine, cases, times):
    """Fits to all kernels but a workload's, and predicts these; and to every other kernel."""
    def workload(name):
        return next(word for word in ("paper-batch-norm", "overlap", "demo", "19200", "paper")
                    if word in name)

    place = {name: i for i, name in enumerate(cases)}
    parts = {word: {name for name in times if workload(name) == word}
             for word in ("demo", "paper", "paper-batch-norm", "overlap", "19200")}
    for odd in (0, 1):
        parts[f"every other kernel, {'odd' if odd else 'even'}"] = {
            name for name in times if place[name.rpartition("/")[0]] % 2 == odd}
    for what, names in parts.items():
        fitted = fit(machine, cases, {name: times[name] for name in times if name not in names})
        off = sorted((abs(kernel(name, fitted, cases) / times[name] - 1), name) for name in names)
        print(f"{what}: {len(off)} times, median {statistics.median(error for error, _ in off):.0%}, "
              f"over 30 %: {sum(error > KERNELS_WITHIN for error, _ in off)}, "
              f"largest {off[-1][0]:.0%} ({off[-1][1]})")


# --- What is kept -------------------------------------------------------------------------------

def words(launch, machine):
    """A launch, and what the compiler says of its kernel where there is one."""
    report = measured.compiled().get(launch.name)
    code = f", {report[3]} instructions, {report[1]} bytes spilled" if report else ""
    return (f"{launch.name}: {launch.blocks} x {launch.threads}, {launch.registers} registers, "
            f"{launch.shared / 1024:.3g} KB, {model.resident(launch, machine)} a multiprocessor{code}")


def predictions(machine):
    """The file of floors that bench_cuda --predict printed, with times; names as in bench/results."""
    kept = json.loads(PREDICTED.read_text())
    kept["model"] = {"of": RESULT.name, **{name: getattr(machine, name) for name in model.FITTED}}
    for name, launches in measured.cases().items():
        kept["kernels"][name].update(cold_us=round(model.operation(launches, machine, True), 2),
                                     warm_us=round(model.operation(launches, machine), 2),
                                     launches=[words(launch, machine) for launch in launches])
    kept["steps"] = {
        f"{name}/{precision}": round(step(measured.step(name, precision == "tf32", machine), machine), 3)
        for name, precision in step_times()}
    kept["variants"] = {case: {name: round(model.operation(launches, machine), 1)
                               for name, launches in variants.items()}
                        for case, variants in to_come.variants().items()}
    kept["to_come"] = {name: {"warm_us": round(model.operation(launches, machine), 1),
                              "launches": [words(launch, machine) for launch in launches]}
                       for name, launches in to_come.kernels().items()}
    kept["steps_to_come"] = {name: round(step(launches, machine) / networks, 3)
                             for name, (launches, networks) in to_come.steps(machine).items()}

    def line(key, value):
        return f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"

    return "{\n" + ",\n".join(
        f" {json.dumps(key)}: {{\n" + ",\n".join(" " + line(*item) for item in value.items()) + "\n }"
        if isinstance(value, dict) else line(key, value) for key, value in kept.items()) + "\n}\n"


def check(machine):
    """What is off by more than it may be."""
    return [row for row in errors(machine) if abs(row[3]) > row[4]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag in ("--check", "--fit", "--held-out", "--write"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    machine = model.Machine()
    if options.fit:
        fitted = fit(machine, measured.cases(), kernel_times())
        print("\n".join(f"{name} = {getattr(fitted, name):.3g}" for name in model.FITTED))
    elif options.held_out:
        held_out(machine, measured.cases(), kernel_times())
    elif options.write:
        PREDICTED.write_text(predictions(machine))
    else:
        rows = check(machine) if options.check else errors(machine)
        for name, time, guess, error, _ in rows:
            print(f"{name:52} measured {time:8.3f}  predicted {guess:8.3f}  {error:+.0%}")
        off = [abs(error) for *_, error, bound in errors(machine) if bound == KERNELS_WITHIN]
        print(f"{len(off)} kernel times: median error {statistics.median(off):.0%}, "
              f"largest {max(off):.0%}, {len(model.FITTED)} fitted constants")
        if options.check and rows:
            sys.exit(f"predict.py: {len(rows)} off by more than they may be")


if __name__ == "__main__":
    main()
