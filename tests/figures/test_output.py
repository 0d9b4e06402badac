"""Tests of output.py: the rules of engine/io/output_file.h, as its own test has them."""

import contextlib
import io
import os
import socket
import stat
import subprocess
import sys
import threading
import unittest

from figure_test import FIGURES, FigureTest

import output
import style


class WriteOutputTest(FigureTest):
    def path(self, name, content=None):
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
        return path

    def written(self, name, content=b"new"):
        """What the write said on stderr."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            output.write_output(name, content)
        return err.getvalue()

    def test_keeps_what_a_file_is(self):
        path = self.path("y", b"the old and longer content")
        path.chmod(0o640)
        with contextlib.suppress(OSError):
            os.setxattr(path, "user.kept", b"yes")
        attributes = os.listxattr(path)
        with open(path, "rb") as before:
            self.assertEqual(self.written(path), "")
            self.assertEqual(before.read(), b"the old and longer content")
        self.assertEqual(path.read_bytes(), b"new")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)
        self.assertEqual(os.listxattr(path), attributes)

    def test_follows_links(self):
        real = self.path("real", b"old")
        (self.folder / "folder").mkdir()
        (self.folder / "folder" / "inner").symlink_to("../real")
        (self.folder / "outer").symlink_to("folder/inner")
        (self.folder / "dangling").symlink_to("made/later")
        self.written(self.folder / "outer")
        self.written(self.folder / "dangling")
        self.assertEqual(real.read_bytes(), b"new")
        self.assertEqual((self.folder / "made" / "later").read_bytes(), b"new")
        for name in ("outer", "dangling", "folder/inner"):
            self.assertTrue((self.folder / name).is_symlink())

    def test_overwrites_what_no_new_file_can_stand_for(self):
        path, other = self.path("y", b"the old and longer content"), self.path("other")
        other.hardlink_to(path)
        self.assertEqual(self.written(path), f"{path}: overwritten, not replaced in one step (it has "
                         "2 names)\n")
        self.assertEqual(other.read_bytes(), b"new")

    def test_leaves_a_users_files_alone(self):
        names = ("y", "y.tmp", "y.part", ".y.tmp")
        for name in names:
            self.path(name, b"a user's")
        self.written(self.folder / "y")
        self.assertEqual(sorted(os.listdir(self.folder)), sorted(names))
        self.assertEqual(self.path("y.part").read_bytes(), b"a user's")

    def test_writes_into_devices_pipes_and_descriptors(self):
        self.written("/dev/null")
        with self.assertRaises(OSError):
            self.written("/dev/full")
        pipe, got = self.path("pipe"), []
        os.mkfifo(pipe)
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
        reader.start()
        self.written(pipe, b"x" * 300000)
        reader.join()
        self.assertEqual(got, [b"x" * 300000])
        log = os.open(self.path("log", b"before,"), os.O_WRONLY | os.O_APPEND)
        self.written(f"/dev/fd/{log}", b"one,")
        self.written(f"/proc/self/fd/{log}", b"two")
        os.close(log)
        self.assertEqual(self.path("log").read_bytes(), b"before,one,two")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.written(f"/dev/fd/{ours.fileno()}", b"hello")
            self.assertEqual(theirs.recv(6), b"hello")

    def test_writers_at_once(self):
        path = self.path("y")
        writers = [threading.Thread(target=lambda c=c: [output.write_output(path, c * 9999)
                                                        for _ in range(20)])
                   for c in (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        content = path.read_bytes()
        self.assertEqual(content, content[:1] * 9999)
        self.assertEqual(os.listdir(self.folder), ["y"])

    def test_a_figure_on_standard_output_is_a_picture(self):
        for name in ("-", "/dev/stdout"):
            self.assertEqual(style.image_format(name), "png")


class StreamsTest(unittest.TestCase):
    """A script that prints 100,000 lines and says on stderr that it has come to its end."""

    SCRIPT = """import sys; sys.path.insert(0, sys.argv[1]); import style
def main(arguments):
    for i in range(100000): print("line", i)
    style.output.note("the end")
sys.exit(style.exit_code_of("script", main, []))"""

    def run_script(self, redirected):
        command = ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-c", self.SCRIPT,
                   str(FIGURES)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def test_lines_that_stdout_does_not_take_fail_at_the_end(self):
        for redirected, reason in ((">/dev/full", "No space left on device"),
                                   (">&-", "Bad file descriptor"),
                                   ("> >(exec true)", "Broken pipe")):
            done = self.run_script(redirected)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr, "the end\nscript: cannot write standard output: "
                             f"{reason}\n")

    def test_stderr_is_no_reason_to_fail(self):
        for redirected in ("2>/dev/full", "2>&-", "2>&- <&-"):
            done = self.run_script(redirected)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(len(done.stdout.splitlines()), 100000)


if __name__ == "__main__":
    unittest.main()
