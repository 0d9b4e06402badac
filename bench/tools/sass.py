#!/usr/bin/env python3
"""What the machine code of the kernels consists of: a prediction of their speed without a GPU.

usage: bench/tools/sass.py [--arch 90a] FILE.cu ...

Compiles each file and prints, for each kernel, its registers and its hottest loop: the innermost one with
the most fused multiply-adds (FFMA) or tensor core products (HMMA). A scheduler issues one instruction a
cycle, and one FFMA keeps its unit busy for one cycle: their share of the loop bounds the share of the
peak. One HMMA of m16n8k8 in TF32 keeps a tensor core busy for about eight: one in eight is enough. Code
that is not taken (edges of the sequence) and loops within the loop are counted once, as they stand.
Needs nvcc and cuobjdump, but no GPU.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter

from spills import compile_command, find_nvcc, readable

WORK = ("HGMMA", "HMMA", "FFMA")
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)([^;]*);")
TARGET = re.compile(r"0x([0-9a-f]+)\s*$")


def kernels(sass):
    """Name and instructions, (address, opcode, operands), of each kernel."""
    for part in re.split(r"^\s*Function : ", sass, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        yield name.strip(), [(int(a, 16), op, rest) for a, op, rest in INSTRUCTION.findall(body)]


def hottest_loop(instructions):
    """The opcodes of the innermost loop with the most work; of the whole kernel where there is none.
    Beside products of tensor cores others are no work."""
    unit = next((op for op in WORK if any(op == o for _, o, _ in instructions)), None)

    def work(opcodes):
        return opcodes[unit]

    best = None
    for address, op, rest in instructions:
        target = TARGET.search(rest) if op == "BRA" else None
        if target and int(target[1], 16) < address:
            loop = Counter(o for a, o, _ in instructions if int(target[1], 16) <= a <= address)
            if work(loop) and (best is None or (work(loop), -loop.total()) >
                               (work(best), -best.total())):
                best = loop
    return best or Counter(op for _, op, _ in instructions)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="90a")
    parser.add_argument("files", nargs="+", metavar="FILE.cu", type=pathlib.Path)
    options = parser.parse_args()
    nvcc = find_nvcc()
    if not nvcc:
        print("not compiled: there is no nvcc")
        return 0
    cuobjdump = shutil.which("cuobjdump") or shutil.which(str(pathlib.Path(nvcc).parent / "cuobjdump"))
    if not cuobjdump:
        sys.exit("sass.py: cuobjdump not found in PATH or beside nvcc")
    print("| kernel | registers | instructions of its hottest loop | of them HMMA or FFMA |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "kernel.cubin"
        for file in options.files:
            done = subprocess.run(
                [*compile_command(nvcc, file), f"-arch=sm_{options.arch}", "-cubin", "-o", cubin],
                capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"sass.py: {file}: {done.stderr.strip().splitlines()[0]}")

            def dump(option):
                return subprocess.run([cuobjdump, option, cubin], capture_output=True, text=True,
                                      check=True).stdout

            usage = dict(re.findall(r"Function (\S+):\s*\n\s*REG:(\d+)", dump("-res-usage")))
            found = list(kernels(dump("-sass")))
            names = readable([name for name, _ in found])
            for name, instructions in sorted(found, key=lambda kernel: names[kernel[0]]):
                loop = hottest_loop(instructions)
                work = sum(loop[op] for op in WORK)
                if work:
                    print(f"| `{names[name]}` | {usage.get(name, '?')} | {loop.total()} | "
                          f"{work}: {100 * work / loop.total():.0f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
