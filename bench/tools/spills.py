#!/usr/bin/env python3
"""Compiles every kernel for every architecture, and fails where one spills registers.

usage: bench/tools/spills.py [--arch 75,80,...] [--jobs N] [FILE.cu ... | --log FILE]

Prints for each kernel the registers and the bytes of static shared memory that it takes, by
architecture. A stack frame or a spill means that a kernel keeps values in (slow) local memory that
were meant for registers. Needs nvcc, but no GPU; says "not compiled" where there is no nvcc. With
--log, reads what a build of them all with CUDAFLAGS=-Xptxas=-v printed, and compiles nothing.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from source import ROOT

ARCHITECTURES = "75,80,86,89,90a"  # as CMAKE_CUDA_ARCHITECTURES in CMakeLists.txt

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
FUNCTION = re.compile(r"Function properties for (\w+)")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def find_nvcc():
    default = pathlib.Path("/usr/local/cuda/bin/nvcc")
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or (
        str(default) if default.exists() else None)


def compile_command(nvcc, source):
    """As the build compiles a kernel, without architecture and output."""
    command = [nvcc, "-std=c++17", "-O3", "-DSIDECHANNEL_HAS_SM90A", f"-I{ROOT}", str(source)]
    for prefix in os.environ.get("CMAKE_PREFIX_PATH", "").split(":"):
        if prefix:
            command.append(f"-I{prefix}/include")
    if source.name == "random.cu":
        command.append("-fmad=false")  # as in CMakeLists.txt
    return command


def compile_file(nvcc, source, architectures):
    """What ptxas says about the kernels of a file, or the compiler's errors."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*compile_command(nvcc, source), "-Xptxas=-v", "-c",
                   "-o", os.path.join(folder, "out.o")]
        for architecture in architectures:
            command.append(f"-gencode=arch=compute_{architecture},code=sm_{architecture}")
        result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode, result.stderr


def read_log(path):
    """(file, what ptxas says about its kernels) of a build by CMake."""
    parts = re.split(r"Building CUDA object \S+?/(kernels/cuda/\S+\.cu)\.o\b", path.read_text())
    return [(ROOT / name, text) for name, text in zip(parts[1::2], parts[2::2])]


def parse(text):
    """{(function, architecture): {registers, shared, stack, spills}}"""
    usage = {}
    architecture = function = None
    for line in text.splitlines():
        if match := ENTRY.search(line):
            function, architecture = match.groups()
        elif match := FUNCTION.search(line):
            function = match.group(1)  # of the entry, or a function that was not inlined
        elif match := MEMORY.search(line):
            stack, stores, loads = map(int, match.groups())
            entry = usage.setdefault((function, architecture), {})
            entry.update(stack=stack, spills=stores + loads)
        elif match := USED.search(line):
            entry = usage.setdefault((function, architecture), {})
            shared = SHARED.search(line)
            entry.update(registers=int(match.group(1)), shared=int(shared.group(1)) if shared else 0)
    return usage


def readable(names):
    """Demangled, without namespaces and parameters; the mangled names where there is no c++filt."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return dict(zip(names, names))
    text = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True).stdout
    result = {}
    for mangled, name in zip(names, text.splitlines()):
        name = name.replace("(anonymous namespace)::", "").replace("sidechannel::kernels::", "")
        name = re.sub(r"^void ", "", name)
        # Arguments of templates as (int)5 and (bool)1.
        name = re.sub(r"\((?:int|bool|unsigned int|long)\)", "", name)
        depth = 0
        for i, c in enumerate(name):
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                name = name[:i]
                break
        result[mangled] = name
    return result


def report(results, architectures):
    """Prints what each of (file, compiler's status, its words) takes; 1 where something fails."""
    failures = []
    kernels = 0
    for source, status, text in results:
        print(os.path.relpath(source, ROOT))
        if status != 0:
            print(text)
            failures.append(f"{source.name} does not compile")
            continue
        usage = parse(text)
        functions = list(dict.fromkeys(function for function, _ in usage))
        names = readable(functions)
        for function in functions:
            by_architecture = {a: usage[function, a] for a in architectures
                               if (function, a) in usage}
            kernels += any("registers" in entry for entry in by_architecture.values())
            registers = " ".join(f"{a}:{entry['registers']}"
                                 for a, entry in by_architecture.items() if "registers" in entry)
            shared = max((entry.get("shared", 0) for entry in by_architecture.values()), default=0)
            print(f"  {names[function]}: registers {registers or '(inlined nowhere)'}, "
                  f"{shared} bytes of static shared memory")
            for a, entry in by_architecture.items():
                if entry.get("stack") or entry.get("spills"):
                    failures.append(f"{source.name}, {names[function]}, sm_{a}: "
                                    f"{entry['stack']} bytes of stack, "
                                    f"{entry['spills']} bytes of spills")
    if kernels == 0:
        failures.append("no kernels found")
    print(f"{kernels} kernels for {len(architectures)} architectures, "
          f"{len(failures)} {'failure' if len(failures) == 1 else 'failures'}")
    for failure in failures:
        print("FAILED:", failure)
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default=ARCHITECTURES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    options = parser.parse_args()

    architectures = options.arch.split(",")
    if options.log:
        return report([(source, 0, text) for source, text in read_log(options.log)], architectures)
    nvcc = find_nvcc()
    if nvcc is None:
        print("kernels: not compiled (there is no nvcc)")
        return 0
    sources = options.files or sorted((ROOT / "kernels" / "cuda").rglob("*.cu"))
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda source: compile_file(nvcc, source, architectures), sources)
        return report(((source, *result) for source, result in zip(sources, results)),
                      architectures)


if __name__ == "__main__":
    sys.exit(main())
