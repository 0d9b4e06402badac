#!/usr/bin/env python3
"""scratch"""
import dataclasses
import json
import math
import sys

import model
import measured
from report import ROOT

FITTED = ("ramp", "start", "l2", "l2_latency", "memory_latency", "l2_holds", "cold", "cycles", "loop_cycles", "ffma_share",
          "barrier", "serial", "alone", "event")


def times_of():
    r = json.loads((ROOT / "bench/results/gpu-nvidia-h200-b2e8185.json").read_text())
    return {k: v["us"] for k, v in r["kernels"]["results"].items()}


def predict(name, machine, cases):
    case, _, how = name.rpartition("/")
    if how == "warm":
        size = sum(x.fresh + x.write for x in cases[case])
        miss = min(1.0, max(0.0, size / machine.l2_holds - 1))
        return sum(model.time(x, machine, miss, miss) for x in cases[case])
    return machine.event + sum(model.time(x, machine, 1.0, alone=True) for x in cases[case])


def loss(machine, cases, times, power=4):
    return sum(abs(math.log(predict(n, machine, cases) / t)) ** power for n, t in times.items())


def fit(machine, cases, times, power=4, fitted=FITTED):
    best, step = loss(machine, cases, times, power), 0.3
    while step > 0.004:
        better = False
        for f in fitted:
            for factor in (1 + step, 1 / (1 + step)):
                other = dataclasses.replace(machine, **{f: getattr(machine, f) * factor})
                l = loss(other, cases, times, power)
                if l < best:
                    machine, best, better = other, l, True
        if not better:
            step /= 2
    return machine


if __name__ == "__main__":
    cases, times = measured.cases(), times_of()
    m = model.Machine()
    m = fit(m, cases, times)
    print({f: round(getattr(m, f), 4) for f in FITTED})
    rows = sorted(((predict(n, m, cases) / t, n, t) for n, t in times.items()))
    for r, n, t in rows:
        print(f"{n:55s} {t:7.2f} {r * t:7.2f} {r - 1:+.0%}")
    off = [r for r in rows if not 1 / 1.3 <= r[0] <= 1.3]
    print(len(off), "off by more than 30 %", file=sys.stderr)
