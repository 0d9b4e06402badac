"""The two leak meters agree: `leak measure` and experiments/leak/pytorch/leak.py, of the same weights and
input. SIDECHANNEL_BIN names the folder of the programs; skipped without PyTorch."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("SIDECHANNEL_BIN", ROOT / "build" / "cpu" / "bin"))
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "experiments" / "leak" / "pytorch"), str(ROOT / "bench" / "pytorch"),
                str(ROOT / "tests" / "golden")]

try:
    import numpy as np
    import torch
except ImportError:
    raise unittest.SkipTest("SKIPPED: this Python has no torch, or no numpy")

from leak import measure  # noqa: E402
from localizer import Localizer  # noqa: E402
from safetensors_io import save  # noqa: E402
from temporal_unet import TemporalUnet  # noqa: E402

SAME = 1e-9  # in f64, of sums over a few thousand derivatives


class ChannelsFirst(torch.nn.Module):
    """Our networks take [N, L, C]; the meter's axes are those of [N, C, L]."""

    def __init__(self, network, *more):
        super().__init__()
        self.network, self.more = network, more

    def forward(self, x):
        return self.network(x.transpose(1, 2), *self.more).transpose(1, 2)


class Agreement(unittest.TestCase):
    def reports(self, model, twin, x, outputs, *flags):
        """Of both meters, for x [1, L, C]."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save(folder / "model.safetensors", model.state_dict())
            np.save(folder / "x.npy", x.numpy())
            subprocess.run([BIN / "leak", "measure", "--model", folder / "model.safetensors", "--input",
                            folder / "x.npy", "--outputs", str(outputs), "--out", folder / "report.json",
                            "--device", "cpu", *flags], check=True, stdout=subprocess.DEVNULL)
            ours = json.loads((folder / "report.json").read_text())
        theirs = measure(twin.double(), x.double().transpose(1, 2), outputs=outputs)
        return ours, theirs

    def expect_same(self, ours, theirs):
        self.assertEqual(ours["asked"], theirs["asked"])
        self.assertAlmostEqual(ours["receptive_field"]["inside"], theirs["receptive_field"]["inside"])
        for key in ("live", "frozen", "mean", "variance"):
            for part in ("l1", "squared"):
                self.assertAlmostEqual(ours[key][part], theirs[key][part], delta=SAME,
                                       msg=f"{key} {part}")
        self.assertAlmostEqual(ours["difference"], theirs["difference"], delta=SAME)
        self.assertEqual(len(ours["layers"]), len(theirs["layers"]))
        for mine, other in zip(ours["layers"], theirs["layers"]):
            self.assertTrue(other["name"].endswith(mine["name"]), (mine["name"], other["name"]))
            for key in ("without", "alone", "mean", "variance"):
                self.assertAlmostEqual(mine[key]["l1"], other[key]["l1"], delta=SAME,
                                       msg=f"{mine['name']} {key}")
        self.assertEqual(ours["leaks"], theirs["leaks"])
        self.assertTrue(ours["leaks"])

    def test_localizers(self):
        for norm, groups in (("instance", 1), ("group", 2), ("layer", 1)):
            with self.subTest(norm):
                torch.manual_seed(1)
                model = Localizer(6, 8, 3, norm, groups)
                ours, theirs = self.reports(model, ChannelsFirst(model), torch.randn(1, 40, 1), 8,
                                            "--norm", norm, *(["--groups", "2"] if groups > 1 else []))
                self.expect_same(ours, theirs)

    def test_unet(self):
        torch.manual_seed(2)
        model = TemporalUnet(2, 8, (1, 2), 3, "group", 2)
        ours, theirs = self.reports(model, ChannelsFirst(model, torch.tensor([3])),
                                    torch.randn(1, 96, 2), 6, "--groups", "2", "--step", "3")
        self.expect_same(ours, theirs)


if __name__ == "__main__":
    unittest.main()
