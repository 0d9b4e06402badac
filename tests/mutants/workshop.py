"""Builds the tests with mutants in the kernels, and runs them."""

import concurrent.futures
import dataclasses
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile

from mutants import ROOT, kernel_files, with_schemata

WORK = ROOT / "build" / "mutants"
TESTS = "Cuda*"
# As under emulated-asan: arrays that are indexed beyond their ends.
BOUNDS = ["-fsanitize=bounds", "-fsanitize-undefined-trap-on-error"]


def run(command, cwd=ROOT, env=None):
    """Exit code and output."""
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def checked(command, what, **more):
    code, output = run(command, **more)
    if code != 0:
        sys.exit(f"mutate.py: {what}\n{output[-8000:]}")
    return output


def read(name):
    return (ROOT / name).read_text()


def files_with(name):
    """The .cu files that a kernel file is compiled in."""
    if name.endswith(".cu"):
        return [name]
    includers = [f.relative_to(ROOT).as_posix() for f in kernel_files()
                 if f'#include "{name}"' in f.read_text()]
    return sorted({source for includer in includers for source in files_with(includer)})


@dataclasses.dataclass
class Test:
    name: str
    seconds: float  # of the processor, unmutated: other work on the machine does not count
    reached: frozenset  # numbers of mutants


class Program:
    """The test program of a preset, with some of its kernels compiled from other texts.

    Kernels are compiled as the preset compiles them, but with a folder of changed files before the
    project's own, and linked before the library that holds the originals."""

    def __init__(self, preset, jobs):
        self.preset, self.jobs = preset, jobs
        self.build = ROOT / "build" / preset
        if not (self.build / "bin" / "sidechannel_tests").exists():
            self.configure(WORK / preset)
        checked(["cmake", "--build", self.build, "-j", str(jobs), "--target", "sidechannel_tests"],
                f"{preset} cannot be built")
        commands = checked(["ninja", "-t", "commands", "sidechannel_tests"], "no commands of ninja",
                           cwd=self.build).splitlines()
        self.compile_commands = {}
        for source in (f.relative_to(ROOT).as_posix() for f in kernel_files() if f.suffix == ".cu"):
            end = f" -c {ROOT / source}"
            found = [c for c in commands if c.endswith(end)]
            self.compile_commands[source] = shlex.split(found[0].removesuffix(end))
        link = next(part for part in commands[-1].split(" && ")
                    if " -o bin/sidechannel_tests " in part)
        self.link_command = shlex.split(link)

    def configure(self, build):
        """A build of what is needed here, where there is none of the whole preset."""
        self.build = build
        environment = dict(os.environ)
        if shutil.which("ccache"):
            environment.setdefault("CMAKE_CXX_COMPILER_LAUNCHER", "ccache")
        checked(["cmake", "--preset", self.preset, "-B", build, "-G", "Ninja",
                 "-D", "SIDECHANNEL_TESTS=ON", "-D", "SIDECHANNEL_EXPERIMENTS=OFF",
                 "-D", "SIDECHANNEL_WERROR=OFF"],
                f"{self.preset} cannot be configured", env=environment)

    def compile(self, source, folder):
        """Object file of a kernel, with changed files from `folder`."""
        command = list(self.compile_commands[source])
        object_file = folder / (source.replace("/", "_") + f".{self.build.name}.o")
        command[command.index("-o") + 1] = str(object_file)
        for option, follows in (("-MD", 0), ("-MT", 1), ("-MF", 1)):
            at = command.index(option)
            del command[at : at + 1 + follows]
        at = next(i for i, option in enumerate(command) if option.startswith("-I"))
        command.insert(at, f"-I{folder}")
        changed = folder / source
        text = changed if changed.exists() else ROOT / source
        code, output = run([*command, *BOUNDS, "-w", "-c", str(text)], cwd=self.build)
        return object_file if code == 0 else None, output

    def link(self, objects, program):
        command = list(self.link_command)
        at = command.index("-o") + 1
        command[at : at + 1] = [str(program), *map(str, objects)]
        checked(command, "the tests cannot be linked", cwd=self.build)
        return program

    def with_mutants(self, mutants, folder):
        """The program with all of the mutants in it."""
        texts = {}
        for name in {m.file for m in mutants}:
            texts[name] = with_schemata(read(name), [m for m in mutants if m.file == name])
        folder.mkdir(parents=True, exist_ok=True)
        write_texts(texts, folder)
        sources = sorted({source for name in texts for source in files_with(name)})
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            built = list(pool.map(lambda source: self.compile(source, folder), sources))
        for source, (object_file, output) in zip(sources, built):
            if object_file is None:
                sys.exit(f"mutate.py: {source} cannot be compiled with mutants\n{output[:8000]}")
        return self.link([o for o, _ in built], folder / f"{self.build.name}-tests")

    def with_one(self, mutant, folder):
        """The program with one mutant, in place of its original; None if it does not compile."""
        text = read(mutant.file)
        write_texts({mutant.file: text[: mutant.begin] + mutant.new + text[mutant.end :]}, folder)
        objects = []
        for source in files_with(mutant.file):
            object_file, _ = self.compile(source, folder)
            if object_file is None:
                return None
            objects.append(object_file)
        return self.link(objects, folder / "tests")


def write_texts(texts, folder):
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_sources():
    """Name of each test -> its text, and that of its file but for the other tests."""
    sources = {}
    for path in sorted((ROOT / "tests").glob("*/*_test.cpp")):
        parts = re.split(r"^((?:TEST_F\(Cuda|BACKEND_TEST\().*?^}\n)", path.read_text(),
                         flags=re.MULTILINE | re.DOTALL)
        around = "".join(parts[::2])
        for part in parts[1::2]:
            kind, suite, name = re.match(r"(\w+)\((\w+), (\w+)\)", part).groups()
            suite = suite if kind == "TEST_F" else f"Cuda{suite}"
            sources[f"{suite}.{name}"] = part + around
    return sources


def run_test(program, name, seconds=None, mutant=None, reached=None):
    """Exit code, output and seconds of processor time of one test. It ends at its first failure,
    and when it takes ten times as long as it should: a mutant may loop for ever."""
    environment = {**os.environ, "GTEST_BREAK_ON_FAILURE": "1"}
    if mutant is not None:
        environment["SIDECHANNEL_MUTANT"] = str(mutant)
    if reached is not None:
        environment["SIDECHANNEL_MUTANTS_REACHED"] = str(reached)

    def limits():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if seconds is not None:
            limit = int(10 * seconds + 3)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))

    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([program, f"--gtest_filter={name}", "--gtest_brief=1"],
                                   stdout=output, stderr=output, env=environment, preexec_fn=limits)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    return process.returncode, text, usage.ru_utime + usage.ru_stime


def all_tests(program):
    listed = checked([program, "--gtest_list_tests", f"--gtest_filter={TESTS}"], "no tests")
    names, suite = [], ""
    for line in listed.splitlines():
        if line.endswith("."):
            suite = line
        elif line.startswith("  "):
            names.append(suite + line.strip())
    return names


def measured(program, jobs, names=None, watch=False):
    """Tests as they run without any mutant, the fastest first; with `watch`, each with the mutants
    that it comes by."""

    def measure(name):
        with tempfile.NamedTemporaryFile("r") as file:
            code, output, seconds = run_test(program, name, reached=file.name if watch else None)
            numbers = frozenset(map(int, file.read().split()))
        if code != 0:
            sys.exit(f"mutate.py: {name} fails without any mutant\n{output[-4000:]}")
        return Test(name, seconds, numbers)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return sorted(pool.map(measure, names or all_tests(program)), key=lambda test: test.seconds)
