"""The command `sidechannel` of the package that is installed, or of the build."""

import os
import shutil
import subprocess
import sys
import unittest

from support import Case


class Command(Case):
    def commands(self):
        """What calls it: its function, and the script where pip has installed one beside Python."""
        yield [sys.executable, "-c", "from sidechannel.command import main; main()"]
        script = shutil.which("sidechannel", path=os.path.dirname(sys.executable))
        if script:
            yield [script]

    def test_runs(self):
        folder = self.folder()
        for command in self.commands():
            done = subprocess.run([*command, "runs", "list", folder], capture_output=True, text=True,
                                  cwd=folder, timeout=60)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "no runs\n", ""))
            done = subprocess.run([*command, "runs", "plot", folder, "--output", "o.png"],
                                  capture_output=True, text=True, cwd=folder, timeout=60)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, r"\A(runs: .*: holds no run|.*cannot load matplotlib.*)\n\Z")


if __name__ == "__main__":
    unittest.main()
