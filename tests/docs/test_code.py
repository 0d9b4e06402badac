"""Every block of code in README.md, CONTRIBUTING.md and docs/*.md is run, compiled or checked by a test.

Here: shell commands, of which every program, command, flag and file must be there, and those that are
cheap are run, on what a tiny `localization run` leaves, or asked whether they would (--check); build
files; excerpts. The table says who has the rest.
"""

import itertools
import json
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from blocks import ROOT, blocks, folder_of

# Where the code of a page is compiled or run, by language; that file names the page.
ELSEWHERE = {
    ("README.md", "python"): "tests/python/test_training.py",
    ("docs/adding-an-operation.md", "cpp"): "tests/docs/extract.py",
    ("docs/first-steps.md", "python"): "tests/python/test_docs.py",
    ("docs/from-pytorch.md", "python"): "tests/python/test_docs.py",
    ("docs/leak.md", "python"): "tests/leak/test_leak.py",
    ("docs/library.md", "cpp"): "tests/CMakeLists.txt",
    ("docs/python.md", "python"): "tests/python/test_docs.py",
    ("docs/write-an-experiment.md", "cpp"): "tests/docs/extract.py",
    ("docs/write-an-experiment.md", "json"): "tests/docs/extract.py",
}
# What is no code, by its beginning, and why.
NO_CODE = {
    ("README.md", "(a) predictions: beyond R"): "what ./run demo prints",
    ("docs/a-step.md", "on(x.device(), x.dtype(), [&]"): "the shape of every operation, with its dots",
    ("docs/runs.md", "2 runs of localization"): "what runs list prints",
    ("docs/runs.md", "runs/demo/none: localization"): "what runs show prints",
    ("docs/runs.md", "run,norm,iterations"): "what runs export writes",
    ("docs/runs.md", "import pandas as pd"): "for a notebook, with a package that nothing here needs",
}


def texts(*names):
    return "\n".join((ROOT / name).read_text() for name in names)


CMAKE = texts(*(f"{folder}/CMakeLists.txt" for folder in (
    ".", "bench", "engine/python", "experiments", "tests", "tests/docs", "tests/fuzz", "tests/package")))
PROGRAMS = re.search(r"set\(programs ([\w ]+)\)", CMAKE)[1].split() + ["sides"]
# Of the shell, of the system, and of what the pages say is needed.
TOOLS = {"echo", "mkdir", "parallel", "seq", "source", "tail", "tensorboard"}


def commands(code):
    """The commands of a shell block as lists of words, without assignments and redirections."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words, skip = [], False
        for word in [*lexer, ";"]:
            if set(word) <= set("<>"):
                skip = True
            elif set(word) <= set(";&|()<>"):
                if words:
                    yield words
                words = []
            elif skip or (not words and re.match(r"\w+=", word)):
                skip = False
            else:
                words.append(word)


def flags(words):
    return [word.partition("=")[0] for word in words if word.startswith("--")]


class Blocks(unittest.TestCase):
    def test_every_block_is_somebodys(self):
        unseen = set(NO_CODE)
        for block in blocks():
            with self.subTest(str(block)):
                known = [key for key in NO_CODE if key[0] == block.page
                         and block.code.lstrip().startswith(key[1])]
                unseen -= set(known)
                if block.language in ("", "text"):
                    self.assertTrue(known, "a block without a language that NO_CODE does not list")
                elif block.language == "json":
                    json.loads(block.code)
                elif (block.page, block.language) not in ELSEWHERE:
                    self.assertTrue(block.language in ("sh", "cmake") or block.page == "README.md",
                                    f"{block.language} that no test runs: see ELSEWHERE")
        self.assertEqual(unseen, set())

    def test_who_has_it_names_the_page(self):
        found = {(block.page, block.language) for block in blocks()}
        for (page, language), file in ELSEWHERE.items():
            self.assertIn((page, language), found)
            self.assertIn(page.rpartition("/")[2], (ROOT / file).read_text(), file)

    def test_readmes_excerpts_stand_in_the_pages_that_are_compiled(self):
        library = [line.partition("//")[0].strip() for line in texts("docs/library.md").splitlines()]
        for block in blocks():
            if (block.page, block.language) == ("README.md", "cpp"):
                for line in block.code.splitlines():
                    if (line := line.partition("//")[0].strip()) != "...":
                        self.assertIn(line, library)

    def test_build_files_are_those_of_the_consumer(self):
        """Which tests/package builds, under another name."""
        consumer = [re.sub(r"\bconsumer\b", "mine", line) for line
                    in texts("tests/package/CMakeLists.txt").splitlines()]
        consumer += ["find_package(sidechannel REQUIRED)"]
        for block in blocks():
            if block.language == "cmake":
                for line in block.code.splitlines():
                    self.assertIn(line.strip(), consumer, str(block))


class Shell(unittest.TestCase):
    """Each command of each block: what it names is there."""

    def test_syntax(self):
        for block in blocks():
            if block.language == "sh":
                result = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True)
                self.assertEqual((result.returncode, result.stderr), (0, ""), str(block))

    def test_what_commands_name_is_there(self):
        seen = set()
        for block in blocks():
            if block.language == "sh":
                for words in commands(block.code):
                    with self.subTest(f"{block}: {' '.join(words)}"):
                        seen.add(self.check(words))
        self.assertLessEqual({"run", "program", "cmake", "pip", "script", "tool"}, seen)

    def check(self, words):
        program, *rest = words
        name = program.rpartition("/")[2]
        if program == "./run":
            return self.check_run(*rest)
        if re.fullmatch(r"build/[\w-]+/bin/\w+", program) or program in PROGRAMS:
            self.assertRegex(CMAKE, rf"\b{name}\b")
            return "program"
        if program == "cmake":
            return self.check_cmake(rest)
        if name == "pip":
            return self.check_pip(rest)
        if name.startswith("python3") and rest[:2] != ["-m", "venv"]:
            return self.check_script(rest[0], rest[1:])
        if program.startswith("experiments/"):
            self.assertTrue((ROOT / program).stat().st_mode & 0o100, program)
            return "script"
        if name != "python3":
            self.assertIn(name, TOOLS)
            for i, word in enumerate(rest):  # which others run for it
                if word.startswith("build/"):
                    return self.check(rest[i:])
        return "tool"

    def check_run(self, command, *rest):
        usage = subprocess.run([ROOT / "run", "help"], capture_output=True, text=True).stdout
        about = re.search(rf"^  {command}\b.*\n(?:   +.*\n)*", usage, re.MULTILINE)
        self.assertTrue(about, f"./run {command}")
        script = ROOT / f"experiments/figures/{command}.py"  # whose flags usage may leave to its help
        for flag in flags(rest):
            self.assertIn(flag, about[0] + (script.read_text() if script.exists() else ""))
        if command == "figures":
            figures = (ROOT / "experiments/figures/figures.py").read_text()
            for word in itertools.takewhile(lambda word: not word.startswith("-"), rest):
                self.assertRegex(figures, rf'"{word}"')
        elif command == "setup":
            self.assertRegex((ROOT / "run").read_text(), rf"\b{rest[0]}\b.*\$ \]\]")
        return "run"

    def check_cmake(self, words):
        presets = {preset["name"] for preset
                   in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]}
        for flag, value in zip(words, [*words[1:], ""]):
            if flag == "--preset":
                self.assertIn(value, presets)
            elif flag == "-D":
                self.assertTrue(re.match(r"CMAKE_[A-Z_]+=", value)
                                or re.search(rf"\b{value.partition('=')[0]}\b", CMAKE), value)
        if "--target" in words:
            targets = words[words.index("--target") + 1:]
            for target in itertools.takewhile(lambda word: not word.startswith("-"), targets):
                self.assertRegex(CMAKE, rf"\b{target}\b")
        return "cmake"

    def check_pip(self, words):
        self.assertIn(words[0], ("install", "wheel"))
        self.assertTrue(words[1] != "." or (ROOT / "pyproject.toml").is_file())
        for flag, value in zip(words, words[1:]):
            if flag == "-C":
                self.assertRegex(CMAKE, rf"\b{re.fullmatch('cmake.define.([A-Z_]+)=.*', value)[1]}\b")
        return "pip"

    def check_script(self, script, rest):
        self.assertTrue((ROOT / script).is_file(), script)
        if flags(rest):
            result = subprocess.run([sys.executable, "-B", ROOT / script, "--help"], capture_output=True,
                                    text=True, timeout=60)
            if "No module named" not in result.stderr:
                for flag in flags(rest):
                    self.assertIn(flag, result.stdout, script)
        return "script"


class Programs(unittest.TestCase):
    """The programs take the flags that pages give them, and what is cheap is really run."""

    @classmethod
    def setUpClass(cls):
        cls.bin = folder_of("SIDECHANNEL_BIN")
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        brief = ("--iterations", "20", "--probe-iterations", "2", "--map-samples", "64")
        result = cls.run_program(cls.bin / "localization", "run", "--preset", "demo", *brief, "--out",
                                 "runs/demo/instance")
        if result.returncode:
            raise AssertionError(result.stderr)
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 64), }".ljust(117) + "\n"
        (cls.folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
                                           + header.encode() + struct.pack("<128d", *range(128)))

    @classmethod
    def run_program(cls, *words):
        return subprocess.run(words, cwd=cls.folder, capture_output=True, text=True, timeout=120)

    def test_on_the_pages(self):
        outcomes = []
        for block in blocks():
            # Those of cli.md are the programs' own examples, which tests/experiments/help_test.cpp runs.
            if block.language != "sh" or block.page == "docs/cli.md":
                continue
            for words in commands(block.code):
                start = next((i for i, word in enumerate(words) if (i == 0 or word.startswith("build/"))
                              and word.rpartition("/")[2] in PROGRAMS), None)
                if start is not None:
                    with self.subTest(f"{block}: {' '.join(words)}"):
                        outcomes.append(self.take(words[start].rpartition("/")[2], words[start + 1:]))
        # Or this test has become one that looks at nothing.
        self.assertLessEqual({"run", "checked", "read"}, set(outcomes))

    def take(self, name, words):
        program = self.bin / name
        if not program.exists():
            program = folder_of("SIDECHANNEL_DOCUMENTED") / name
        said = self.run_program(program, *words[:1], "--help")
        self.assertEqual(said.returncode, 0, said.stderr)
        if "--help" in words:
            return "run"
        for flag in flags(words):
            self.assertRegex(said.stdout, rf"(?<![\w-]){flag}(?![\w-])")
        read = [value for flag, value in zip(words, words[1:]) if flag in ("--model", "--input")]
        if any(not (self.folder / file).exists() for file in read) or "{}" in words:
            return "read"  # what it needs is somebody's own
        if words[0] in ("predict", "measure"):
            self.succeeds(program, *words)
            return "run"
        if re.search(r"(?<![\w-])--check(?![\w-])", said.stdout) and name != "sides":
            self.succeeds(program, *(word for word in words if word != "--check"), "--check")
            return "checked"
        return "read"

    def succeeds(self, *words):
        result = self.run_program(*words)
        self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    unittest.main()
