"""This machine: its GPU, clocks, tools of NVIDIA's, Pythons and libraries."""

import functools
import glob
import os
import pathlib
import platform
import re
import shutil
import sys
import threading

from processes import output_of


def gpu_fields(*fields):
    """The first GPU's, as nvidia-smi prints them; empty where it does not know one of them."""
    line = output_of("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    values = [value.strip() for value in line.splitlines()[0].split(",")] if line else []
    return dict(zip(fields, values)) if len(values) == len(fields) else {}


def nvcc():
    found = shutil.which("nvcc") or next(iter(sorted(glob.glob("/usr/local/cuda*/bin/nvcc"))), None)
    return found or ""


def tool_of_nvidia(name):
    """The path of one of the toolkit's tools, or None."""
    folders = [folder for pattern in ("/usr/local/cuda*/bin", "/usr/local/cuda*/compute-sanitizer",
                                      "/opt/nvidia/nsight-compute/*") for folder in glob.glob(pattern)]
    return shutil.which(name, path=":".join([os.environ.get("PATH", "")] + folders))


def describe_machine():
    def found(pattern, text):
        match = re.search(pattern, text)
        return match.group(1) if match else ""

    def text_of(path):
        return pathlib.Path(path).read_text() if os.path.exists(path) else ""

    processor = text_of("/proc/cpuinfo")
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"))
                    if re.search(rf"^flags.*\b{flag}\b", processor, re.MULTILINE)), "")
    release = found('PRETTY_NAME="(.*)"', text_of("/etc/os-release"))
    return {
        "gpu": gpu_fields("name", "driver_version", "memory.total", "compute_cap"),
        "clocks": gpu_fields("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
                             "power.limit", "temperature.gpu"),
        "cuda_of_driver": found(r"CUDA Version: *([\d.]+)", output_of("nvidia-smi")),
        "nvcc": found(r"release ([\d.]+)", output_of(nvcc(), "--version") if nvcc() else ""),
        "cpu": ", ".join(filter(None, (found(r"model name\s*: (.*)", processor)
                                       or platform.machine(), vectors))),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{release}, Linux {platform.release()}".lstrip(", "),
    }


class Clocks:
    """Reads the GPU's clocks while something runs."""

    FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")

    def __enter__(self):
        self.rows, self.done = [], threading.Event()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        return self

    def read(self):
        while not self.done.wait(1.0):
            if row := gpu_fields(*self.FIELDS):
                self.rows.append(row)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(5)

    def summary(self):
        result = {}
        for field in self.FIELDS:
            numbers = [float(number.group()) for row in self.rows
                       if (number := re.match(r"[\d.]+", row[field]))]
            if numbers:
                result[field] = {"min": min(numbers), "max": max(numbers)}
        return result


def pythons():
    return dict.fromkeys([sys.executable, "/usr/bin/python3", "python3", ".venv/bin/python3"])


def library_folders():
    """Where CUDA's libraries may lie: in a toolkit, or as PyTorch brings them."""
    folders = glob.glob("/usr/local/cuda*/lib64") + \
        glob.glob("/usr/local/cuda*/targets/x86_64-linux/lib")
    for python in pythons():
        paths = output_of(python, "-c", "import sys; print('\\n'.join(sys.path))")
        for path in paths.splitlines():
            folders += glob.glob(f"{path}/nvidia/*/lib")
    return list(dict.fromkeys(folders))


@functools.cache
def python_with_torch():
    """One whose PyTorch finds the GPU, or an empty string."""
    check = "import torch; print(torch.cuda.is_available())"
    return next((python for python in pythons() if output_of(python, "-c", check) == "True"), "")
