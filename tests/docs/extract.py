#!/usr/bin/env python3
"""Makes files of the code in docs/adding-an-operation.md and docs/write-an-experiment.md, which tests
compile and run: of each section that is headed by a file's name all its code.

usage: extract.py DOCUMENT FOLDER
"""

import re
import sys
from pathlib import Path

# The files of each document, with what it leaves out: includes and the namespace.
FILES = {
    "adding-an-operation.md": {
        "kernels/scale.h": (["#pragma once", "", "#include <cstdint>", "", '#include "kernels/queue.h"',
                             '#include "kernels/write.h"'], "sidechannel::kernels"),
        "kernels/cpu/scale.cpp": (['#include "kernels/scale.h"', "",
                                   '#include "kernels/cpu/blocked_sum.h"'], "sidechannel::kernels"),
        "kernels/cuda/scale.cu": (['#include "kernels/scale.h"', "",
                                   '#include "kernels/cuda/blocked_sum.cuh"',
                                   '#include "kernels/cuda/map.cuh"'], "sidechannel::kernels"),
        "engine/ops/scale.cpp": (['#include "kernels/scale.h"', "", '#include "engine/ops.h"'],
                                 "sidechannel")},
    "write-an-experiment.md": {
        "experiments/sides/settings.h": None,
        "experiments/presets/sides/demo.json": None,
        "experiments/sides/main.cpp": None}}


def main(document, folder):
    document = Path(document)
    expected = FILES[document.name]
    found = {}
    for section in re.split(r"^## \d+\. ", document.read_text(), flags=re.MULTILINE)[1:]:
        name = re.match("`([^`]+)`", section)
        code = re.findall("^```(?:cpp|json)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        if name and code:
            found[name[1]] = "\n".join(code)
    if found.keys() != expected.keys():
        sys.exit(f"{document}: expected code for {', '.join(expected)}, found it for {', '.join(found)}")
    for name, whole in found.items():
        if expected[name]:
            includes, namespace = expected[name]
            whole = "\n".join([*includes, "", f"namespace {namespace} {{", "", whole, "}", ""])
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != whole:
            path.write_text(whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
