#!/usr/bin/env python3
"""What the compiler says of every kernel, kept for machines without one.

    python3 bench/predict/report.py [CHECKOUT]

For each kernel, by its file and name, [registers, bytes of spills, bytes of static shared memory,
instructions, instructions of its hottest loop, FFMA or HMMA among these], as bench/tools/spills.py
and sass.py read them. Of this checkout, or of another one: compiled-COMMIT.json.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "tools"))

import sass  # noqa: E402
import source  # noqa: E402
import spills  # noqa: E402


def kernels_of(nvcc, cuobjdump, file):
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(pathlib.Path(folder) / "kernel.cubin")
        done = subprocess.run([*spills.compile_command(nvcc, file), "-arch=sm_90a", "-Xptxas=-v",
                               "-cubin", "-o", cubin], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"report.py: {file}: {done.stderr.strip()}")
        usage = spills.parse(done.stderr)
        code = dict(sass.kernels(subprocess.run([cuobjdump, "-sass", cubin], capture_output=True,
                                                text=True, check=True).stdout))
    names = spills.readable(list(code))
    for mangled, instructions in code.items():
        used, loop = usage[mangled, "90a"], sass.hottest_loop(instructions)
        yield names[mangled], [used["registers"], used["spills"], used["shared"], len(instructions),
                               loop.total(), sum(loop[op] for op in sass.WORK)]


def main():
    nvcc = spills.find_nvcc()
    if not nvcc:
        sys.exit("report.py: there is no nvcc")
    cuobjdump = shutil.which("cuobjdump") or shutil.which(str(pathlib.Path(nvcc).parent / "cuobjdump"))
    if not cuobjdump:
        sys.exit("report.py: cuobjdump not found in PATH or beside nvcc")
    if len(sys.argv) > 1:
        spills.ROOT = pathlib.Path(sys.argv[1]).resolve()  # whose headers are included
    commit = source.commit(spills.ROOT)
    found = {}
    for file in sorted((spills.ROOT / "kernels" / "cuda").rglob("*.cu")):
        for name, usage in kernels_of(nvcc, cuobjdump, file):
            found[f"{file.stem}: {name}"] = usage
    lines = ",\n".join(f"  {json.dumps(name)}: {found[name]}" for name in sorted(found))
    kept = pathlib.Path(__file__).with_name(f"compiled-{commit}.json")
    kept.write_text(f'{{\n "commit": "{commit}",\n "kernels": {{\n{lines}\n }}\n}}\n')


if __name__ == "__main__":
    main()
