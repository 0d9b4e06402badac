"""The measured example of docs/leak.md: a causal network's norms, trained shortly."""

import contextlib
import io
import json
import sys
import unittest
from pathlib import Path
from unittest import mock

try:
    import torch
except ImportError:
    raise unittest.SkipTest("SKIPPED: this Python has no torch")

torch.set_num_threads(1)  # small tensors
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments" / "leak" / "pytorch"))

import causal  # noqa: E402


def printed(*flags):
    text = io.StringIO()
    with mock.patch.object(sys, "argv", ["causal.py", *flags]), contextlib.redirect_stdout(text), \
            contextlib.redirect_stderr(io.StringIO()):
        causal.main()
    return text.getvalue()


class Causal(unittest.TestCase):
    def test_group_norm_alone_answers_from_the_future(self):
        report = json.loads(printed("--steps", "300", "--length", "48", "--json"))
        rows, best = report["norms"], report["best"]
        self.assertEqual(best, {"receptive field": 1 / 10, "past": 1 / 18, "whole": 1 / 49})
        for norm, row in rows.items():
            looks_ahead = norm == "GroupNorm(4)"
            self.assertEqual(row["future"] > 0, looks_ahead, norm)
            self.assertEqual(row["beyond"] > 0, looks_ahead or norm == "cumulative", norm)
            if looks_ahead:  # better than anything can be that does not; worse where there is none
                self.assertLess(row["error_whole"], best["past"] * .8)
                self.assertGreater(row["error_past"], row["error_whole"] * 1.5)
            else:
                self.assertAlmostEqual(row["error_whole"], row["error_past"], delta=1e-5)
                # No better than what it hears allows; of 20,000 errors the deviation is 1 %.
                heard = "past" if norm == "cumulative" else "receptive field"
                self.assertGreater(row["error_whole"], best[heard] * .96)
                self.assertLess(row["error_whole"], best[heard] * 1.5)

    def test_the_cumulative_norm_is_the_norm_of_what_is_there(self):
        x = torch.randn(2, 16, 9)
        norm = causal.CumulativeNorm(16)
        for t in range(9):
            past = x[:, :, :t + 1]
            expected = torch.nn.functional.layer_norm(past, past.shape[1:])[:, :, t]
            torch.testing.assert_close(norm(x)[:, :, t], expected, rtol=1e-4, atol=1e-4)

    def test_positions_that_tell_nothing_are_refused(self):
        for flags in (["--at", "8"], ["--at", "64"], ["--steps", "9"], ["--seed", "-1"],
                      ["--seed", str(1 << 32)]):
            with self.assertRaises(SystemExit):
                printed(*flags)


if __name__ == "__main__":
    unittest.main()
