#!/usr/bin/env python3
"""Figure 5 of the paper: figure 1 for BatchNorm with the statistics of minibatches."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import figure1  # noqa: E402
import style  # noqa: E402
from style import UsageError  # noqa: E402

LOCALIZES = 0.7  # share of the interior


def localizes(run):
    return style.claim(
        "BatchNorm with minibatch statistics localizes (Appendix D)",
        f"localized share of the interior ≥ {style.percent(LOCALIZES)}", figure1.interior(run),
        lambda v: v >= LOCALIZES)


def nothing(run, paper):
    return style.claim(paper, "localized share of the interior = 0",
                       figure1.control(run, figure1.interior(run)), lambda v: v == 0)


def require(run, norm, statistics, what):
    if (run.norm, run.statistics) != (norm, statistics):
        raise UsageError(f"{run.path}: has norm {run.norm} and {run.statistics} statistics; "
                         f"expected {what}")


def claims(a, b):
    require(a, "batch", "minibatch", "a run with norm batch and minibatch statistics")
    require(b, "none", "minibatch", "a run with norm none")
    return {"minibatch": localizes(a), "none": nothing(
        b, "without normalization the central indices are not localized (Appendix D)")}


def main(arguments):
    figure1.compare(
        "figure5.py", "Draws figure 5 of the paper from two run folders.",
        [("RUN_BATCH", "folder of the run with norm batch"),
         ("RUN_WITHOUT_NORM", "folder of the run without normalization")], arguments, claims)


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure5.py", main, sys.argv[1:]))
