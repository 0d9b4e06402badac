#!/usr/bin/env python3
"""Section 3.2's uninformative input: one norm, with noise and with a constant to look at."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import interrupt  # noqa: E402

interrupt.catch(__name__)

import figure1  # noqa: E402
import style  # noqa: E402
from style import UsageError  # noqa: E402


def claims(a, b):
    if (a.input, b.input) != ("noise", "constant") or a.norm != b.norm:
        raise UsageError(f"{a.path} has norm {a.norm} and {a.input} input, {b.path} norm {b.norm} and "
                         f"{b.input} input; expected one norm with noise and then with constant input")
    return {"constant": style.claim(
        "messages are what receptive fields share of an informative input; a constant shares nothing "
        "(Section 3.2)", "with constant input, localized share of the interior = 0",
        figure1.control(b, figure1.interior(b)), lambda v: v == 0)}


def main(arguments):
    figure1.compare(
        "figure_constant.py", "Draws what a network with normalization does with a constant input.",
        [("RUN_NOISE", "folder of a run with norm"),
         ("RUN_CONSTANT", "folder of the run with the same norm and constant input")],
        arguments, claims)


if __name__ == "__main__":
    sys.exit(style.exit_code_of("figure_constant.py", main, sys.argv[1:]))
