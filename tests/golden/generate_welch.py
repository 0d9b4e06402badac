#!/usr/bin/env python3
"""Writes welch.npy: 20,000 random pairs of samples and SciPy's p-values of Welch's t-test.

/usr/bin/python3 tests/golden/generate_welch.py   (needs numpy and scipy)
"""

import pathlib

import numpy as np
from scipy import stats

rng = np.random.default_rng(20260101)
count = 20_000
mean_a = rng.normal(size=count)
variance_a, variance_b = 10 ** rng.uniform(-6, 3, size=(2, count))
n_a, n_b = np.round(10 ** rng.uniform(0.5, 6, size=(2, count)))
# Differences of up to eight standard errors, so that p-values of all sizes occur.
error = np.sqrt(variance_a / n_a + variance_b / n_b)
mean_b = mean_a + error * rng.uniform(-8, 8, size=count)
p = stats.ttest_ind_from_stats(
    mean_a, np.sqrt(variance_a), n_a, mean_b, np.sqrt(variance_b), n_b, equal_var=False
).pvalue
table = np.stack([mean_a, variance_a, n_a, mean_b, variance_b, n_b, p], axis=1)
np.save(pathlib.Path(__file__).parent / "welch.npy", table)
