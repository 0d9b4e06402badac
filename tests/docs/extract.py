#!/usr/bin/env python3
"""Makes files of the code in docs/adding-an-operation.md, for tests/docs/scale_test.cpp to test.

usage: extract.py DOCUMENT FOLDER
"""

import re
import sys
from pathlib import Path

# What the document leaves out: includes and the namespace.
FRAMES = {
    "kernels/scale.h": (["#pragma once", "", "#include <cstdint>", "", '#include "kernels/queue.h"',
                         '#include "kernels/write.h"'], "sidechannel::kernels"),
    "kernels/cpu/scale.cpp": (['#include "kernels/scale.h"', "",
                               '#include "kernels/cpu/blocked_sum.h"'], "sidechannel::kernels"),
    "kernels/cuda/scale.cu": (['#include "kernels/scale.h"', "",
                               '#include "kernels/cuda/blocked_sum.cuh"',
                               '#include "kernels/cuda/map.cuh"'], "sidechannel::kernels"),
    "engine/ops/scale.cpp": (['#include "kernels/scale.h"', "", '#include "engine/ops.h"'],
                             "sidechannel"),
}


def main(document, folder):
    found = []
    for section in re.split(r"^## \d+\. ", Path(document).read_text(), flags=re.MULTILINE)[1:]:
        name = re.match("`([^`]+)`", section)
        code = re.search("^```cpp\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        if name and code:
            found.append((name[1], code[1]))
    if dict(found).keys() != FRAMES.keys():
        sys.exit(f"{document}: expected code for {', '.join(FRAMES)}, found it for "
                 f"{', '.join(name for name, _ in found)}")
    for name, code in found:
        includes, namespace = FRAMES[name]
        whole = "\n".join([*includes, "", f"namespace {namespace} {{", "", code, "}", ""])
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != whole:
            path.write_text(whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
