"""What CONTRIBUTING.md says of the rooms, counted: who includes whom, and what stands in one place."""

import collections
import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "engine", "models", "experiments")  # each knows those before it
PYTHON = "engine/python/"  # which knows them all
# Within experiments; figures and slurm are no C++.
PROGRAMS = {"run": ("run",), "localization": ("run", "localization"), "overlap": ("run", "overlap"),
            "leak": ("run", "leak"), "diffusion": ("run", "leak", "diffusion"),
            "sweep": ("run", "localization", "overlap", "diffusion", "sweep")}
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def sources(*rooms):
    for room in rooms:
        for file in sorted((ROOT / room).rglob("*")):
            if file.suffix in (".h", ".cpp", ".cu", ".cuh"):
                yield file.relative_to(ROOT).as_posix(), file.read_text()


def files_with(words, *rooms):
    return {name for name, text in sources(*rooms) if re.search(words, text)}


# What lies at the top, beside what git keeps for itself. pip looks for pyproject.toml there.
TOP = {"bench", "docs", "engine", "experiments", "kernels", "models", "tests", "run", "CMakeLists.txt",
       "CMakePresets.json", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"}


class House(unittest.TestCase):
    def test_the_top_level_is_what_it_was(self):
        try:
            files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                                   check=True).stdout.split("\n")
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("not a checkout of git")
        self.assertEqual({file.split("/")[0] for file in files if file and not file.startswith(".")}, TOP)

    def test_no_include_goes_up(self):
        for name, text in sources(*ROOMS):
            place = len(ROOMS) if name.startswith(PYTHON) else ROOMS.index(name.split("/")[0])
            for included in INCLUDE.findall(text):
                self.assertFalse(included.startswith(PYTHON) and not name.startswith(PYTHON),
                                 f"{name} includes {included}")
                room = included.split("/")[0]
                if (ROOT / included).exists():
                    self.assertIn(room, ROOMS[:place + 1], f"{name} includes {included}")
                else:
                    self.assertRegex(included, "^experiments/(embedded_presets|git_commit)[.]h$", name)

    def test_programs_know_what_is_theirs(self):
        for name, text in sources("experiments"):
            for included in INCLUDE.findall(text):
                if included.startswith("experiments/") and included.count("/") > 1:
                    self.assertIn(included.split("/")[1], PROGRAMS[name.split("/")[1]],
                                  f"{name} includes {included}")

    def test_experiments_see_only_the_kernels_rules(self):
        """The cores and the control groups; no operation."""
        seen = {included for _, text in sources("experiments") for included in INCLUDE.findall(text)
                if included.startswith("kernels/")}
        self.assertLessEqual(seen, {"kernels/cpu/cores.h", "kernels/cpu/control_groups.h"})

    def test_a_kernels_signature_stands_twice(self):
        """Where it is declared, and where it is defined; an instantiation is a line of types."""
        signatures = collections.Counter()
        for _, text in sources("kernels"):
            text = re.sub(r"\s+", " ", text)
            for queue, call in re.findall(
                    r"(?<!template )void run\((Cpu|Cuda)Queue& ?\w*, const (\w+(?:<\w+>)?)& call", text):
                signatures[queue, call] += 1
        self.assertGreater(len(signatures), 40)
        for signature, count in signatures.items():
            self.assertLessEqual(count, 2, signature)

    def test_an_operation_costs_five_files_and_a_line(self):
        """As the page says, whose code tests/docs compiles; its last heading is for benchmarks."""
        page = (ROOT / "docs/adding-an-operation.md").read_text()
        self.assertIn("Five new files and one edited line;", page)
        *files, benchmark = re.findall(r"^## \d+\. .*?`([^`]+)`", page, re.MULTILINE)
        self.assertEqual(benchmark, "bench/cases.h")
        self.assertEqual(len([file for file in files if not (ROOT / file).exists()]), 5)
        self.assertEqual([file for file in files if (ROOT / file).exists()], ["engine/ops.h"])

    def test_every_kernel_has_a_benchmark(self):
        """One case for both devices; what moves counters is no work."""
        cases = "".join(text for name, text in sources("bench")
                        if name in ("bench/cases.h", "bench/library.h"))
        calls = {call for _, text in sources("kernels")
                 for call in re.findall(r"void run\(CpuQueue& queue, const (\w+)(?:<T>)?& call\);", text)}
        self.assertGreater(len(calls), 20)
        self.assertEqual({call for call in calls if not re.search(rf"\b{call}\b", cases)},
                         {"RandomAdvance"})

    def test_every_kernel_waits_for_the_launches_before(self):
        """First of all, or launches that overlap would read what is not there yet."""
        kernel = r"__global__ [^;{]*?\{\s*(?:kernels::)?(?:device::)?(\w+)"
        first = [name for folder in ("kernels", "bench") for _, text in sources(folder)
                 for name in re.findall(kernel, re.sub(r"//.*", "", text))]
        self.assertGreater(len(first), 35)
        self.assertEqual(set(first), {"after_earlier_launches"})

    def test_one_place_each(self):
        self.assertEqual(files_with(r"CUDA_EMULATION|CUDA_EMULATED", *ROOMS), set())
        self.assertEqual(files_with(r"SIDECHANNEL_HAS_CUDA", *ROOMS),
                         {"engine/device.h", "engine/device.cpp"})
        self.assertEqual(files_with(r"\basm\b|__CUDA_ARCH__", *ROOMS),
                         {"kernels/cuda/device/ptx.cuh"})
        self.assertEqual(files_with(r"<<<[^<>]*>>>|cudaLaunchKernel", *ROOMS),
                         {"kernels/cuda/launch.h"})
        self.assertEqual(files_with(r"\b__shared__ ", *ROOMS), {"kernels/cuda/device/shared.cuh"})


if __name__ == "__main__":
    unittest.main()
