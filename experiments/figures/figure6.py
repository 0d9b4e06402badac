#!/usr/bin/env python3
"""Figure 6 of the paper: one network with BatchNorm, with minibatch and population statistics."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import figure1  # noqa: E402
import style  # noqa: E402
from figure5 import localizes, nothing, require  # noqa: E402


def claims(a, b):
    require(a, "batch", "minibatch", "a run with norm batch and minibatch statistics")
    require(b, "batch", "population", "a run with norm batch and population statistics")
    figure1.check_same_network(a, b)
    return {"minibatch": localizes(a), "population": nothing(
        b, "population statistics end the communication (Appendix D)")}


def main(arguments):
    figure1.compare(
        "figure6.py", "Draws figure 6 of the paper from two run folders.",
        [("RUN_MINIBATCH", "folder of the run with norm batch"),
         ("RUN_POPULATION", "folder of the same network's run with population statistics")],
        arguments, claims)


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure6.py", main, sys.argv[1:]))
