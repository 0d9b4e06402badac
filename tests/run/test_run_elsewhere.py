"""`run` and Slurm's scripts, wherever they lie and however they are called."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class FolderTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()

    def call(self, *command, **how):
        how.setdefault("cwd", self.folder)
        how["env"] = {**os.environ, **how.get("env", {})}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **how)

    def program(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path


class WorkingFolderTest(FolderTest):
    """`./run gpu` starts bench/tools/gpu.py in the checkout; here that says where it is."""

    NAMES = ("plain", "with space", "gl[ob]*", "-dash", "do$lar", "q'uote", "new\nline")

    def checkout(self, name):
        path = self.folder / name
        (path / "bench" / "tools").mkdir(parents=True)
        (path / "build" / "bundle").mkdir(parents=True)  # nothing is to be installed
        shutil.copy(ROOT / "run", path / "run")
        (path / "bench" / "tools" / "gpu.py").write_text("import os; print(os.getcwd())\n")
        return path

    def test_is_where_the_script_stands(self):
        for name in self.NAMES:
            path = self.checkout(name)
            (self.folder / "elsewhere" / name).mkdir(parents=True)
            elsewhere = {"CDPATH": str(self.folder / "elsewhere")}
            for command, cwd in ((f"./{name}/run", self.folder), ("./run", path),
                                 (str(path / "run"), "/"), (f"../{path.name}/run", path)):
                with self.subTest(name=name, command=command):
                    result = self.call("bash", "--", command, "gpu", cwd=cwd, env=elsewhere)
                    self.assertEqual((result.stdout, result.stderr), (f"{path}\n", ""))

    def test_is_found_by_name_relative_to_a_folder_that_cdpath_knows_too(self):
        path = self.checkout("plain")
        (self.folder / "elsewhere" / "plain").mkdir(parents=True)
        result = self.call("bash", "plain/run", "gpu", env={"CDPATH": str(self.folder / "elsewhere")})
        self.assertEqual((result.stdout, result.stderr), (f"{path}\n", ""))

    def test_is_found_through_links(self):
        path = self.checkout("plain")
        (self.folder / "links").mkdir()
        (self.folder / "links" / "inner").symlink_to("../plain/run")
        (self.folder / "outer").symlink_to("links/inner")
        for command in ("./outer", "links/inner"):
            result = self.call(command, "gpu", env={"PWD": "/nonsense", "OLDPWD": "/"})
            self.assertEqual((result.stdout, result.stderr), (f"{path}\n", ""))


class DemoTest(FolderTest):
    """With stubs for all that it calls."""

    def demo(self, *arguments):
        """The commands that it says are next, and whether the folders that they name are there."""
        shutil.copy(ROOT / "run", self.folder / "run")
        for name in ("apt-get", "c++", "ninja", "python"):
            self.program(f"bin/{name}", "#!/bin/sh\n")
        self.program("bin/cmake", "#!/bin/sh\necho cmake version 3.25.1\n")
        self.program("bin/dpkg-query", '#!/bin/sh\nshift 3\nfor i; do echo "$i installed"; done\n')
        self.program("build/cpu/bin/localization", """#!/bin/sh
            while [ "$1" != --out ]; do shift; done
            mkdir -p "$2" """)
        result = self.call("./run", "demo", *arguments, env={
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "CXX": "c++",
            "PYTHON": str(self.folder / "bin/python")})
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = result.stdout[result.stdout.index("\nnext:\n"):].splitlines()[2:]
        return [line.split() for line in lines if not line.startswith("  #")]

    def test_names_the_next_commands(self):
        for arguments, out, figures in (((), "runs/demo", ""),
                                        (("--seed", "7"), "runs/demo/seed-7", "1 --seeds 8"),
                                        (("--seed", "9223372036854775807"),
                                         "runs/demo/seed-9223372036854775807", "")):
            compare, train, draw = self.demo(*arguments)
            for name in ("instance", "none"):
                self.assertTrue((self.folder / out / name).is_dir())
            self.assertEqual(compare, ["./run", "runs", "compare", f"{out}/instance", f"{out}/none",
                                       "--output", f"{out}/compare.png"])
            self.assertEqual(train, [
                "build/cpu/bin/localization", "run", "--preset", "demo", "--norm", "position", "--seed",
                arguments[-1] if arguments else "0", "--out", f"{out}/position"])
            self.assertEqual(" ".join(draw), f"./run figures {figures}".strip())


class SlurmTest(FolderTest):
    SUBMIT = ROOT / "experiments" / "slurm" / "submit"
    CELL = ROOT / "experiments" / "slurm" / "cell.sbatch"

    def test_submit_names_what_it_submits(self):
        self.program("bin/sbatch", '#!/bin/sh\nprintf "%s\\n" "$@"\n')
        program = self.program("sweep program", "#!/bin/sh\necho 0-2,5\n")
        path = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "CDPATH": "/usr:/tmp",
                "SWEEP_PROGRAM": str(program)}
        (self.folder / "link").symlink_to(self.SUBMIT)
        for sweep in ("a sweep", "100% [a]*"):
            for script in (self.SUBMIT, os.path.relpath(self.SUBMIT, self.folder), "./link"):
                result = self.call(script, sweep, "--time=1", env=path)
                whole = str(self.folder / sweep)
                self.assertEqual(result.stdout.splitlines(), [
                    "--array=0-2,5", f"--output={whole.replace('%', '%%')}/slurm/%a.log", "--time=1",
                    str(self.CELL), str(program), whole])
                self.assertTrue((self.folder / sweep / "slurm").is_dir())

    def cell(self, program, signal, delay="0"):
        """Exit code and output of the cell that gets a signal `delay` seconds after its program is
        ready."""
        script = f"""
          '{self.CELL}' '{program}' sweep & job=$!
          until [[ -e ready ]]; do sleep 0.01; done
          sleep {delay}; kill -{signal} $job; wait $job; code=$?; rm -f ready; exit $code"""
        return self.call("bash", "-c", script, env={
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "3"})

    def test_a_cell_that_ends_at_once_on_its_signal_goes_back_to_the_queue(self):
        self.program("bin/scontrol", '#!/bin/sh\necho "scontrol $*"\n')
        program = self.program("stub", "\n".join((
            "#!/usr/bin/env -S python3 -S -E", "import os, signal",
            "for number in (signal.SIGUSR1, signal.SIGTERM):",
            "    signal.signal(number, lambda *_: os._exit(75))",
            "open('ready', 'w').close()", "while True: signal.pause()", "")))
        for _ in range(10):
            for signal in ("USR1", "TERM"):
                result = self.cell(program, signal)
                self.assertEqual((result.returncode, result.stdout), (
                    75, "cell 3: interrupted, back to the queue\nscontrol requeue 7_3\n"))

    def test_a_cell_that_is_ended_before_it_catches_signals_goes_back_too(self):
        self.program("bin/scontrol", "#!/bin/sh\n")
        program = self.program("stub", "#!/bin/sh\n: >ready\nexec sleep 20\n")
        self.assertEqual(self.cell(program, "USR1", "0.05").returncode, 75)

    def test_other_exit_codes_are_the_cells(self):
        for code in (0, 1, 2):
            program = self.program("stub", f"#!/bin/sh\n: >ready\nsleep 0.3\nexit {code}\n")
            result = self.call(self.CELL, program, "sweep", env={"SLURM_ARRAY_JOB_ID": "7",
                                                                 "SLURM_ARRAY_TASK_ID": "3"})
            self.assertEqual((result.returncode, result.stdout), (code, ""))


class CommitTest(FolderTest):
    """Whose commit the programs and the benchmarks say they are of."""

    def setUp(self):
        super().setUp()
        if not shutil.which("git") or not shutil.which("cmake"):
            self.skipTest("no git or no cmake")
        self.own = {"HOME": str(self.folder), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a",
                    "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}

    def git(self, folder, *arguments):
        result = self.call("git", "-C", str(folder), *arguments, env=self.own)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def sources(self, folder):
        for name in (".gitattributes", ".git_archival.txt", "experiments/git_commit.cmake",
                     "bench/tools/source.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        return folder

    def repository(self, folder):
        self.git(folder, "init", "--quiet")
        self.git(folder, "add", "--all")
        self.git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
        return self.git(folder, "rev-parse", "HEAD")

    def said(self, folder, **env):
        """The commit, and whether the sources differ from it, as the programs have it; and the
        benchmarks' word."""
        header = self.folder / "header.h"
        header.unlink(missing_ok=True)
        done = self.call("cmake", f"-DSOURCE={folder}", f"-DHEADER={header}", "-P",
                         str(folder / "experiments" / "git_commit.cmake"), env={**self.own, **env})
        self.assertEqual(done.returncode, 0, done.stderr)
        words = [line.split()[2].strip('"') for line in header.read_text().splitlines()[1:]]
        bench = self.call("python3", "-B", "-c", "import source; print(source.commit())",
                          cwd=folder / "bench" / "tools", env={**self.own, **env})
        return words, bench.stdout.strip()

    def test_of_the_own_checkout_with_what_has_changed(self):
        source = self.sources(self.folder / "sources")
        commit = self.repository(source)
        other = self.folder / "other"
        other.mkdir()
        self.repository(other)
        for env in ({}, {"GIT_DIR": str(other / ".git")}, {"GIT_DIR": ".git", "GIT_WORK_TREE": "/"},
                    {"GIT_INDEX_FILE": str(other / ".git" / "index")}):
            self.assertEqual(self.said(source, **env), ([commit, "false"], commit[:7]))
        with open(source / "bench" / "tools" / "source.py", "a") as file:
            file.write("# changed\n")
        self.assertEqual(self.said(source), ([commit, "true"], f"{commit[:7]}-dirty"))
        tree = self.folder / "tree"
        self.git(source, "worktree", "add", "--quiet", str(tree))
        self.assertEqual(self.said(tree), ([commit, "false"], commit[:7]))

    def test_a_repository_around_the_sources_is_a_strangers(self):
        stranger = self.folder / "stranger"
        source = self.sources(stranger / "vendor" / "sources")
        self.repository(stranger)
        for env in ({}, {"GIT_DIR": str(stranger / ".git")}):
            self.assertEqual(self.said(source, **env), (["unknown", "false"], ""))

    def test_an_archive_says_which_commit_it_is_of(self):
        commit = self.repository(self.sources(self.folder / "sources"))
        stranger = self.folder / "stranger"
        (stranger / "unpacked").mkdir(parents=True)
        self.git(self.folder / "sources", "archive", "--output", str(self.folder / "a.tar"), "HEAD")
        self.call("tar", "xf", str(self.folder / "a.tar"), "-C", str(stranger / "unpacked"))
        self.repository(stranger)
        self.assertEqual(self.said(stranger / "unpacked"), ([commit, "false"], commit[:7]))


if __name__ == "__main__":
    unittest.main()
