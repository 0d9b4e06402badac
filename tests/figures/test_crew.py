"""Tests of experiments/figures/crew.py: programs side by side."""

import contextlib
import io
import os
import time
import unittest

from figure_test import FigureTest

import crew
import interrupt
from style import UsageError


class CrewTest(FigureTest):
    module = crew

    def setUp(self):
        super().setUp()
        self.keep = open(self.folder / "lock", "w")
        self.addCleanup(self.keep.close)
        self.spent, self.events = {}, []

    def job(self, name, script, *more, **how):
        return crew.Job(name, [["sh", "-c", text] for text in (script, *more)], **how)

    def run_jobs(self, places, *jobs):
        """Stdout and stderr, and what became of each."""
        team = crew.Crew(places, self.keep, self.spent, lambda: None)
        ends = {}

        def on_end(job, error):
            ends[job.name] = str(error) if error else "done"

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            team.run(jobs, lambda job: self.events.append(job.name), on_end)
        self.assertEqual(interrupt.children, {})
        return out.getvalue(), err.getvalue(), ends

    def meets(self, mine, other):
        """A script that ends well only where another runs beside it."""
        return f"""cd {self.folder}; touch {mine}
                   for i in $(seq 500); do [ -e {other} ] && exit; sleep 0.01; done; exit 1"""

    def test_as_many_at_once_as_there_are_places(self):
        _, _, ends = self.run_jobs(2, self.job("a", self.meets("a", "b")),
                                   self.job("b", self.meets("b", "a")))
        self.assertEqual(ends, {"a": "done", "b": "done"})
        # And no more: each looks for the mark of another.
        alone = f"cd {self.folder}; mkdir mark || exit 1; sleep 0.2; rmdir mark"
        for places, how in ((1, {}), (2, {"alone": True})):
            _, _, ends = self.run_jobs(places, self.job("a", alone, **how), self.job("b", alone, **how))
            self.assertEqual(ends, {"a": "done", "b": "done"})

    def test_those_alone_are_last_and_the_others_keep_their_order(self):
        self.run_jobs(1, self.job("a", "", alone=True), self.job("b", ""), self.job("c", ""))
        self.assertEqual(self.events, ["b", "c", "a"])

    def test_lines_are_told_apart(self):
        progress = "train 1/2  loss 3"
        out, err, _ = self.run_jobs(2, self.job("a", f"echo one; echo '{progress}' >&2; echo two >&2"),
                                    self.job("b", "printf 'no end'; sleep 0.1; echo; printf '\\377'"))
        self.assertEqual(sorted(out.splitlines()), ["a: one", "b: \\xff", "b: no end"])
        self.assertEqual(err, "a: two\n")

    def test_what_needs_another_waits_for_it(self):
        _, _, ends = self.run_jobs(3, self.job("b", f"cat {self.folder}/a", needs="a"),
                                   self.job("a", f"sleep 0.2; touch {self.folder}/a"))
        self.assertEqual(ends, {"a": "done", "b": "done"})
        _, _, ends = self.run_jobs(3, self.job("b", "exit 0", needs="a"), self.job("a", "exit 3"),
                                   self.job("c", "exit 0"))
        self.assertRegex(ends["a"], "exit code 3$")
        self.assertEqual((ends["b"], ends["c"]), ("b needs a, which failed", "done"))

    def test_several_lines_follow_each_other_until_one_fails(self):
        file = self.folder / "file"
        _, _, ends = self.run_jobs(2, self.job("a", f"touch {file}", f"cat {file}", "exit 4",
                                               f"rm {file}"))
        self.assertRegex(ends["a"], "exit code 4$")
        self.assertTrue(file.exists())

    def test_a_program_that_is_not_there_stops_no_other(self):
        _, _, ends = self.run_jobs(1, crew.Job("a", [["/nowhere/program"]]), self.job("b", ""),
                                   crew.Job("c", [["sh", "-c", ""], ["/nowhere/program"]]))
        self.assertEqual(ends, {"a": "/nowhere/program: No such file or directory", "b": "done",
                                "c": "/nowhere/program: No such file or directory"})

    def test_what_is_done_already_takes_no_time(self):
        done = crew.Job("a", [], needs="b")
        _, _, ends = self.run_jobs(1, done, self.job("b", f"touch {self.folder}/b"),
                                   self.job("c", f"cat {self.folder}/b", needs="a"))
        self.assertEqual(ends, {"a": "done", "b": "done", "c": "done"})
        self.assertEqual(self.events, ["b", "a", "c"])
        _, _, ends = self.run_jobs(2, crew.Job("a", [], needs="b"), self.job("b", "exit 1"))
        self.assertEqual(ends["a"], "a needs b, which failed")

    def test_misuse_stops_all(self):
        begin = time.monotonic()
        with self.assertRaisesRegex(UsageError, "exit code 2$"):
            self.run_jobs(2, self.job("a", "sleep 60"), self.job("b", "exit 2"))
        self.assertLess(time.monotonic() - begin, 30)
        self.assertEqual(interrupt.children, {})

    def test_time_is_counted_for_each(self):
        self.spent["a"] = 5.0
        self.run_jobs(2, self.job("a", "sleep 0.7"), self.job("b", "sleep 0.7"), self.job("c", ""))
        self.assertEqual(sorted(self.spent), ["a", "b"])
        self.assertTrue(5.6 < self.spent["a"] < 20, self.spent)
        self.assertTrue(0.6 < self.spent["b"] < 15, self.spent)

    def test_cores(self):
        self.assertTrue(1 <= crew.usable_cores() <= len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    unittest.main()
