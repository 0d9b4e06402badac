#!/usr/bin/env python3
"""How far sums of products by split TF32 are from fp64, beside FFMA's: a simulation (docs/numerics.md).

    python3 tests/golden/split_errors.py    needs NumPy

The tensor core is taken to sum four exact products and a start at a time, each cut to a multiple of
2^-(23 + extra) times the largest's power of two, and to cut their sum to 24 bits. What hardware does is
not documented; the order of results below does not depend on `extra`.
"""

import numpy as np

SUMS, TERMS = 20000, 320  # of 64 channels and 5 taps
ROUNDOFF = 2.0**-24


def to_tf32(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def cut(x, largest, bits):
    unit = 2.0 ** (np.floor(np.log2(np.maximum(largest, 1e-300))) - bits)
    return np.trunc(x / unit) * unit


def mma(start, a, b, extra):
    """start + the sum of a * b, eight products a row."""
    for four in (slice(0, 4), slice(4, 8)):
        terms = np.column_stack([start, a[:, four].astype(float) * b[:, four]])
        largest = np.abs(terms).max(1, keepdims=True)
        start = cut(terms, largest, 23 + extra).sum(1)
        start = cut(start, np.abs(start), 23)
    return start


def rounded(x):
    return x.astype(np.float32).astype(float)


def main():
    draw = np.random.default_rng(1)
    x = np.maximum(draw.standard_normal((SUMS, TERMS)), 0).astype(np.float32)  # after a ReLU
    w = (draw.standard_normal((SUMS, TERMS)) / np.sqrt(TERMS)).astype(np.float32)
    products = x.astype(float) * w
    exact, magnitude = products.sum(1), np.abs(products).sum(1)
    big_x, big_w = to_tf32(x), to_tf32(w)
    small_x, small_w = to_tf32(x - big_x), to_tf32(w - big_w)

    def say(name, sums):
        error = sums - exact
        rms = np.sqrt((error**2).mean() / (exact**2).mean())
        print(f"{name:34} rms {rms:.1e}, at most {np.abs(error / magnitude).max() / ROUNDOFF:.1f} u")

    ffma = np.zeros(SUMS)
    for i in range(TERMS):
        ffma = rounded(ffma + products[:, i])
    say("FFMA", ffma)
    for extra in (0, 1, 2):
        parts, whole, half, tf32, none = (np.zeros(SUMS) for _ in range(5))
        for first in range(0, TERMS, 8):
            k = slice(first, first + 8)
            smalls = ((small_x[:, k], big_w[:, k]), (big_x[:, k], small_w[:, k]))
            bigs = (big_x[:, k], big_w[:, k])
            part = none
            for factors in (*smalls, bigs):
                part, whole = mma(part, *factors, extra), mma(whole, *factors, extra)
            parts = rounded(parts + part)
            half = rounded(half + mma(mma(none, *smalls[1], extra), *bigs, extra))
            tf32 = mma(tf32, *bigs, extra)
        print(f"{extra} more bits in the alignment")
        for name, sums in (("  split, parts of eight", parts), ("  split, one sum", whole),
                           ("  split, but for the small x", half), ("  TF32", tf32)):
            say(name, sums)


if __name__ == "__main__":
    main()
