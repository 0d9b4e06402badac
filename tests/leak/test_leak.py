"""The leak meter for PyTorch: against brute force, autograd's own Jacobian, and detach by hand."""

import contextlib
import copy
import io
import json
import math
import re
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import torch
except ImportError:
    raise unittest.SkipTest("SKIPPED: this Python has no torch")

from torch import nn
from torch.autograd.functional import jacobian
import torch.nn.functional as F

torch.set_num_threads(1)  # small tensors
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments" / "leak" / "pytorch"))

import leak  # noqa: E402
from causal import CausalConv, CumulativeNorm  # noqa: E402
from leak import assert_causal, assert_no_leak, measure  # noqa: E402

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NOTHING = {"l1": 0.0, "squared": 0.0}


def stack(norm, depth=2, channels=4, dims=1, k=3, c_in=2, c_out=2, act=nn.Tanh):
    """`depth` times convolution, norm, activation; and a last convolution of one tap."""
    layers = []
    for i in range(depth):
        layers += [CONV[dims](channels if i else c_in, channels, k, padding=k // 2), norm(channels),
                   act()]
    return nn.Sequential(*layers, CONV[dims](channels, c_out, 1))


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def shares(full, outside):
    """Of a whole Jacobian and what is outside, both [rows, columns]."""
    size = full.abs()
    return {"l1": float((size * outside).sum() / size.sum()),
            "squared": float((size ** 2 * outside).sum() / (size ** 2).sum())}


def whole_jacobian(net, x, asked):
    """[asked, C, samples, C_in, positions], by autograd's own function."""
    full = jacobian(net, x)[0]
    full = full.reshape(full.shape[0], -1, *x.shape[:2], x[0, 0].numel())
    return full[:, asked].transpose(0, 1)


def beyond(asked, length, left, right):
    """[asked, 1, 1, 1, L]: outside a reach, in one dimension."""
    offset = torch.arange(length) - torch.tensor(asked)[:, None]
    return ((offset < -left) | (offset > right)).reshape(len(asked), 1, 1, 1, length)


class Tokens(nn.Module):
    """A norm over the last axis of [N, C, L], with channels there."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class GlobalLayerNorm(nn.Module):
    """By hand, as speech separation writes it; with what is held given, for the reference."""

    def __init__(self, channels, held=()):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))
        self.held = held

    def forward(self, x):
        mean = x.mean((1, 2), keepdim=True)
        if "mean" in self.held:
            mean = mean.detach()
        variance = ((x - mean) ** 2).mean((1, 2), keepdim=True)
        if "variance" in self.held:
            variance = variance.detach()
        return self.gain * (x - mean) / (variance + 1e-8).sqrt()


class ChainedNorm(nn.Module):
    """Per position, in two steps; the second sees nothing but the first's result."""

    def forward(self, x):
        pairs = x.reshape(len(x), 2, -1, x.shape[2])
        return x / (pairs.pow(2).mean(2).mean(1, keepdim=True) + 1e-5).sqrt()


class PositionNorm(nn.Module):
    def forward(self, x):
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()


class Functional(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 2, 3, padding=1)
        self.norm = norm

    def forward(self, x):
        return self.second(torch.tanh(self.norm(self.first(x))))


# --- Janner et al.'s temporal U-Net -----------------------------------------------------------------


class ConvBlock(nn.Module):
    def __init__(self, c_in, c_out, norm):
        super().__init__()
        self.block = nn.Sequential(nn.Conv1d(c_in, c_out, 5, padding=2), nn.Identity(), norm(c_out),
                                   nn.Identity(), nn.Mish())

    def forward(self, x):
        return self.block(x)


class ResidualBlock(nn.Module):
    def __init__(self, c_in, c_out, c_time, norm):
        super().__init__()
        self.blocks = nn.ModuleList([ConvBlock(c_in, c_out, norm), ConvBlock(c_out, c_out, norm)])
        self.time_mlp = nn.Sequential(nn.Mish(), nn.Linear(c_time, c_out))
        self.residual_conv = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, t):
        y = self.blocks[1](self.blocks[0](x) + self.time_mlp(t)[:, :, None])
        return y + self.residual_conv(x)


class Sinusoidal(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.half = dim // 2

    def forward(self, t):
        step = -math.log(10000) / (self.half - 1)
        frequencies = torch.exp(torch.arange(self.half, dtype=t.dtype) * step)
        return torch.cat([(t[:, None] * frequencies).sin(), (t[:, None] * frequencies).cos()], -1)


class Resample(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x)


class TemporalUnet(nn.Module):
    """x [N, C, L], t [N]; names as in the original, whose x is [N, L, C]."""

    def __init__(self, channels=6, dim=32, mults=(1, 4, 8), norm=lambda c: nn.GroupNorm(8, c)):
        super().__init__()
        sizes = [channels, *(dim * m for m in mults)]
        pairs = list(zip(sizes[:-1], sizes[1:]))
        self.time_mlp = nn.Sequential(Sinusoidal(dim), nn.Linear(dim, 4 * dim), nn.Mish(),
                                      nn.Linear(4 * dim, dim))
        self.downs = nn.ModuleList(nn.ModuleList([
            ResidualBlock(a, b, dim, norm), ResidualBlock(b, b, dim, norm), nn.Identity(),
            Resample(nn.Conv1d(b, b, 3, 2, 1)) if i < len(pairs) - 1 else nn.Identity()])
            for i, (a, b) in enumerate(pairs))
        self.mid_block1 = ResidualBlock(sizes[-1], sizes[-1], dim, norm)
        self.mid_block2 = ResidualBlock(sizes[-1], sizes[-1], dim, norm)
        self.ups = nn.ModuleList(nn.ModuleList([
            ResidualBlock(2 * b, a, dim, norm), ResidualBlock(a, a, dim, norm), nn.Identity(),
            Resample(nn.ConvTranspose1d(a, a, 4, 2, 1))]) for a, b in reversed(pairs[1:]))
        self.final_conv = nn.Sequential(ConvBlock(dim, dim, norm), nn.Conv1d(dim, channels, 1))

    def forward(self, x, t):
        t, skips = self.time_mlp(t), []
        for first, second, _, down in self.downs:
            x = second(first(x, t), t)
            skips.append(x)
            x = down(x)
        x = self.mid_block2(self.mid_block1(x, t), t)
        for first, second, _, up in self.ups:
            x = up(second(first(torch.cat([x, skips.pop()], 1), t), t))
        return self.final_conv(x)


class LeakTest(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def close(self, a, b, rtol=1e-9):
        if isinstance(a, dict):
            self.assertEqual(a.keys(), b.keys())
            for key in a:
                self.close(a[key], b[key], rtol)
        else:
            self.assertLessEqual(abs(a - b), rtol * abs(b) + 1e-15, f"{a} against {b}")


class Whole(LeakTest):
    """Against the whole Jacobian, by torch.autograd.functional."""

    def test_shares_and_field_of_instance_norm(self):
        net, x = stack(nn.InstanceNorm1d).double(), noise(1, 2, 24)
        report = measure(net, x, outputs=6)
        self.assertEqual(report["asked"], [2, 6, 10, 14, 18, 22])
        self.assertEqual(report["receptive_field"],
                         {"left": [2], "right": [2], "inside": 29 / (6 * 24)})
        full = whole_jacobian(net, x, report["asked"])
        self.close(report["live"], shares(full, beyond(report["asked"], 24, 2, 2)))
        self.assertGreater(report["live"]["l1"], 0.01)
        self.assertEqual(report["frozen"], NOTHING)
        self.assertTrue(report.leaks)
        self.assertEqual([layer["name"] for layer in report["layers"]], ["1", "4"])
        self.assertEqual([layer["kind"] for layer in report["layers"]], ["instance", "instance"])
        self.assertEqual((report["schema"], report["network"], report["input"], report["output"],
                          report["dtype"]), (1, "Sequential", [1, 2, 24], [1, 2, 24], "f64"))

    def test_nothing_leaks_without_pooled_positions(self):
        for norm in (lambda c: nn.Identity(), lambda c: Tokens(nn.LayerNorm(c)), lambda c: PositionNorm(),
                     lambda c: ChainedNorm(), lambda c: nn.BatchNorm1d(c).eval(),
                     lambda c: nn.InstanceNorm1d(c, track_running_stats=True).eval()):
            report = measure(stack(norm), noise(1, 2, 24))
            for key in ("live", "frozen", "mean", "variance"):
                self.assertEqual(report[key], NOTHING)
            self.assertEqual(report["difference"], 0)
            self.assertFalse(report.leaks)
            for layer in report["layers"]:
                self.assertEqual((layer["alone"], layer["difference"]), (NOTHING, 0))
        self.assertEqual(len(measure(stack(lambda c: PositionNorm()), noise(1, 2, 24))["layers"]), 2)

    def test_means_variances_and_layers_against_detach(self):
        """Every combination that the report names, with norms by hand that detach."""
        both = ("mean", "variance")
        x, asked = noise(1, 2, 20), [3, 11]

        def reference(first, second):
            net = stack(GlobalLayerNorm).double()
            net.load_state_dict(weights)
            net[1].held, net[4].held = first, second
            return whole_jacobian(net, x, asked)

        net = stack(GlobalLayerNorm).double()
        weights = net.state_dict()
        groups = stack(lambda c: nn.GroupNorm(1, c, eps=1e-8)).double()
        groups.load_state_dict(weights, strict=False)
        outside = beyond(asked, 20, 2, 2)
        live, frozen = reference((), ()), reference(both, both)
        for tested, kind in ((net, "GlobalLayerNorm"), (groups, "group")):
            report = measure(tested, x, outputs=asked)
            self.assertEqual([(layer["name"], layer["kind"]) for layer in report["layers"]],
                             [("1", kind), ("4", kind)])
            self.close(report["live"], shares(live, outside))
            self.close(report["mean"], shares(reference(("variance",), ("variance",)), outside))
            self.close(report["variance"], shares(reference(("mean",), ("mean",)), outside))
            self.close(report["difference"], float((live - frozen).pow(2).sum() / live.pow(2).sum()))
            for layer, order in zip(report["layers"], (1, -1)):
                def one(own, others):
                    return reference(*(own, others)[::order])
                self.close(layer["alone"], shares(one((), both), outside))
                self.close(layer["without"], shares(one(both, ()), outside))
                self.close(layer["mean"], shares(one(("variance",), both), outside))
                self.close(layer["variance"], shares(one(("mean",), both), outside))
                self.close(layer["difference"],
                           float((one((), both) - frozen).pow(2).sum() / live.pow(2).sum()))
            self.assertEqual(report["frozen"], NOTHING)
        self.assertEqual(shares(frozen, outside), NOTHING)

    def test_a_wrong_reference_is_noticed(self):
        """What `close` lets through is far below what a held statistic changes."""
        net, x = stack(GlobalLayerNorm).double(), noise(1, 2, 20)
        report = measure(net, x, outputs=[3, 11])
        with self.assertRaises(AssertionError):
            self.close(report["live"], report["mean"])
        with self.assertRaises(AssertionError):
            self.close(report["layers"][0]["alone"], report["layers"][0]["mean"])

    def test_two_and_three_dimensions(self):
        for dims, shape in ((2, (1, 2, 8, 10)), (3, (1, 2, 5, 6, 7))):
            net, x = stack(lambda c: nn.GroupNorm(2, c), dims=dims).double(), noise(*shape)
            report = measure(net, x, outputs=4)
            self.assertEqual(report["receptive_field"]["left"], [2] * dims)
            self.assertEqual(report["receptive_field"]["right"], [2] * dims)
            self.assertEqual(report["frozen"], NOTHING)
            self.assertEqual(len(report["asked"]), 4 if dims == 2 else 1)
            if dims == 2:
                self.assertEqual(report["asked"], [22, 27, 62, 67])
            places = torch.stack(torch.meshgrid(*map(torch.arange, shape[2:]), indexing="ij")).flatten(1)
            far = (places[:, None] - places[:, report["asked"], None]).abs().amax(0) > 2
            self.close(report["live"], shares(whole_jacobian(net, x, report["asked"]),
                                              far[:, None, None, None]))
            self.close(report["receptive_field"]["inside"], 1 - float(far.double().mean()))

    def test_axes_apart(self):
        net = nn.Sequential(nn.Conv2d(1, 3, (1, 5), padding=(0, 2)), nn.InstanceNorm2d(3),
                            nn.Conv2d(3, 1, (3, 1), padding=(2, 0), dilation=(2, 1)))
        report = measure(net, noise(1, 1, 9, 11), outputs=[4 * 11 + 5])
        self.assertEqual(report["receptive_field"], {"left": [2, 2], "right": [2, 2], "inside": 15 / 99})
        self.assertEqual(report["frozen"], NOTHING)

    def test_batch_norm_by_mode(self):
        net = stack(nn.BatchNorm1d).double()
        x = noise(3, 2, 20)
        report = measure(net, x, outputs=[7])  # in training
        outside = torch.ones(1, 1, 3, 1, 20, dtype=torch.bool)
        outside[:, :, 0] = beyond([7], 20, 2, 2)[:, :, 0]
        self.close(report["live"], shares(whole_jacobian(copy.deepcopy(net), x, [7]), outside))
        self.assertEqual(report["frozen"], NOTHING)
        self.assertEqual(report["layers"][0]["kind"], "batch")
        self.assertGreater(report["live"]["l1"], 0.01)
        report = measure(net.eval(), x)
        self.assertEqual((report["live"], report["layers"]), (NOTHING, []))

    def test_functions_and_names(self):
        """Norms that are called, not built; one module that runs twice."""
        for norm, kind in ((lambda h: F.group_norm(h, 2), "group"),
                           (lambda h: F.instance_norm(h), "instance"),
                           (lambda h: F.layer_norm(h, h.shape[1:]), "layer"),
                           (lambda h: F.batch_norm(h, None, None, training=True), "batch"),
                           (lambda h: F.normalize(h, dim=-1), "normalize")):
            net, x = Functional(norm).double(), noise(1, 2, 16)
            report = measure(net, x)
            self.assertEqual([(layer["name"], layer["kind"]) for layer in report["layers"]],
                             [("Functional", kind)])
            self.close(report["live"], shares(whole_jacobian(net, x, report["asked"]),
                                              beyond(report["asked"], 16, 2, 2)))
            self.assertGreater(report["live"]["l1"], 0)
            self.assertEqual(report["frozen"], NOTHING)
        norm = nn.GroupNorm(2, 4)
        report = measure(Functional(nn.Sequential(norm, nn.Tanh(), norm)), noise(1, 2, 16))
        self.assertEqual([layer["name"] for layer in report["layers"]], ["norm.0", "norm.0 (2)"])

    @unittest.skipUnless(hasattr(F, "rms_norm"), "this torch has no rms_norm")
    def test_rms_norm(self):
        net, x = stack(lambda c: nn.RMSNorm((c, 16))).double(), noise(1, 2, 16)
        report = measure(net, x)
        self.close(report["live"], shares(whole_jacobian(net, x, report["asked"]),
                                          beyond(report["asked"], 16, 2, 2)))
        self.assertEqual((report["mean"], report["frozen"]), (NOTHING, NOTHING))
        self.close(report["variance"], report["live"])
        report = measure(stack(lambda c: Tokens(nn.RMSNorm(c))).double(), x)
        self.assertEqual((report["live"], report["difference"]), (NOTHING, 0))

    def test_norms_of_other_names(self):
        class Whiten(GlobalLayerNorm):
            pass
        net, x = stack(Whiten).double(), noise(1, 2, 16)
        report = measure(net, x)
        self.assertEqual((report["receptive_field"]["inside"], report["layers"]), (1, []))
        self.assertIn("or a norm that was not seen", str(report))
        report = measure(net, x, norms=[Whiten])
        self.assertEqual((report["receptive_field"]["left"], report["frozen"]), ([2], NOTHING))
        self.assertEqual((report["layers"][0]["kind"], report.leaks), ("Whiten", True))

    def test_a_norm_that_is_named_and_computes_elsewhere_is_refused(self):
        class Extension(GlobalLayerNorm):
            def forward(self, x):
                return torch.from_numpy(x.detach().numpy() - x.detach().numpy().mean())
        net, x = nn.Sequential(nn.Conv1d(2, 2, 3), Extension(2)), noise(1, 2, 16)
        with self.assertRaisesRegex(ValueError, "Extension takes its statistics where they are not seen"):
            measure(net.double(), x, norms=[Extension])

    def test_statistics_that_are_changed_in_place(self):
        class InPlaceNorm(nn.Module):
            def forward(self, x):
                variance, mean = torch.var_mean(x, **sets, unbiased=False)
                variance += 1e-3
                return x.sub(mean).div_(variance.sqrt_())
        for sets in ({"dim": 2, "keepdim": True}, {"dim": (0, 1, 2)}):
            net, x = stack(lambda c: InPlaceNorm()).double(), noise(1, 2, 16)
            report = measure(net, x, tile=8, halo=2)
            self.close(report["live"], shares(whole_jacobian(net, x, report["asked"]),
                                              beyond(report["asked"], 16, 2, 2)))
            self.assertEqual(report["frozen"], NOTHING)
            self.assertLess(report["tiles"]["padding"], 1e-13)
            self.assertGreater(report["mean"]["l1"] * report["variance"]["l1"], 0)

    def test_norms_of_weights_are_no_norms(self):
        net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv1d(2, 4, 3, padding=1)),
                            nn.InstanceNorm1d(4)).eval()
        report = measure(net, noise(1, 2, 16))
        self.assertEqual([layer["kind"] for layer in report["layers"]], ["instance"])

        class Cosine(nn.Conv1d):
            def forward(self, x):
                return F.conv1d(x, F.normalize(self.weight, dim=2))
        self.assertEqual(measure(Cosine(2, 4, 3), noise(1, 2, 16))["layers"], [])

    def test_single_precision(self):
        net, x = stack(lambda c: nn.GroupNorm(2, c), depth=3, channels=16, k=5), noise(1, 2, 64)
        report, exact = measure(net, x, dtype=torch.float32), measure(net, x)
        self.assertEqual((report["dtype"], report["frozen"]), ("f32", NOTHING))
        self.close(report["live"], exact["live"], 1e-3)
        for layer, other in zip(report["layers"], exact["layers"]):
            self.close(layer["alone"], other["alone"], 1e-3)


class Branches(nn.Module):
    """Channels that hear from differently far."""

    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Conv1d(2, 1, 1), nn.Conv1d(2, 1, 5, padding=2)

    def forward(self, x):
        return torch.cat([self.near(x), self.far(x)], 1)


class Field(LeakTest):
    def brute_force(self, net, x, asked):
        """Outputs that a large change of one position moves, over several inputs: [asked, positions]."""
        found = torch.zeros(len(asked), x.shape[2], dtype=torch.bool)
        with torch.no_grad():
            for _ in range(3):
                x = torch.randn_like(x)
                y = net(x)
                for position in range(x.shape[2]):
                    moved = x.clone()
                    moved[:, :, position] += 10
                    found[:, position] |= (net(moved) != y).any(1)[0, asked]
        return found

    def field(self, net, x, asked):
        run = leak._Run(copy.deepcopy(net), x, (), ())
        y = run("live", x)
        run("hold", x.clone().requires_grad_())
        return leak._field(run, y, torch.tensor(asked), 1e-8, 5, lambda *_: None)[0].t()

    def test_strided_and_transposed_by_phase(self):
        nets = (nn.Sequential(nn.Conv1d(2, 3, 3, 2, 1), nn.Tanh(), nn.Conv1d(3, 3, 3, padding=1),
                              nn.ConvTranspose1d(3, 2, 4, 2, 1)),
                nn.Sequential(nn.Conv1d(2, 3, 5, 3, 2), nn.ConvTranspose1d(3, 2, 3, 3)),
                nn.Sequential(nn.MaxPool1d(2), nn.Conv1d(2, 2, 3, padding=1),
                              nn.Upsample(scale_factor=2)),
                nn.Conv1d(2, 2, 3, padding=4, dilation=4), Branches(),
                nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"))
        for net in nets:
            net, x, asked = net.double(), noise(1, 2, 24), list(range(24))
            found = self.field(net, x, asked)
            self.assertTrue(torch.equal(found, self.brute_force(net, x, asked)), str(net))
            self.assertFalse(found.all())

    def test_by_phase_in_the_report(self):
        net = nn.Sequential(nn.Conv1d(1, 1, 2, 2), nn.ConvTranspose1d(1, 1, 2, 2)).double()
        for position, reach in ((4, ([0], [1])), (5, ([1], [0]))):
            field = measure(net, noise(1, 1, 12), outputs=[position])["receptive_field"]
            self.assertEqual((field["left"], field["right"], field["inside"]), (*reach, 2 / 12))
        for net, reach in ((nn.Conv1d(1, 1, 2, 2), ([0], [1])),
                           (nn.ConvTranspose1d(1, 1, 2, 2), ([0], [0]))):
            field = measure(net, noise(1, 1, 12), outputs=[5])["receptive_field"]
            self.assertEqual((field["left"], field["right"]), reach)

    def test_zero_weights_count_and_comparisons_do(self):
        conv = nn.Conv1d(1, 1, 5, padding=2)
        with torch.no_grad():
            conv.weight[..., 1:] = 0
        self.assertEqual(measure(conv, noise(1, 1, 16))["receptive_field"]["right"], [2])

        class Sign(nn.Module):
            def forward(self, x):
                return torch.where(x > 100, 1.0, 0.0).to(x.dtype)  # lets no NaN through
        report = measure(nn.Sequential(Sign(), nn.Conv1d(1, 1, 3, padding=1)), noise(1, 1, 16))
        self.assertEqual(report["receptive_field"], {"left": [1], "right": [1], "inside": 46 / 256})
        self.assertEqual(report["live"], NOTHING)

    def test_attention_covers_everything(self):
        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.last = nn.LayerNorm(4), nn.LayerNorm(4)
                self.attend = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

            def forward(self, x):
                h = self.norm(x.transpose(1, 2))
                return self.last(h + self.attend(h, h, h)[0]).transpose(1, 2)
        report = measure(Attention().eval(), noise(1, 4, 10))
        self.assertEqual(report["receptive_field"]["inside"], 1)
        self.assertEqual((report["live"], report["difference"]), (NOTHING, 0))
        self.assertEqual(len(report["layers"]), 2)
        report = measure(nn.Sequential(Attention().eval(), nn.GroupNorm(1, 4)), noise(1, 4, 10))
        self.assertGreater(report["difference"], 0)
        self.close(report["layers"][-1]["difference"], report["difference"])

    def test_a_norm_per_position_of_channels_that_hear_differently_far(self):
        """It hands the near ones what the far ones hear, and so is no norm that carries nothing."""
        class Near(nn.Module):
            def forward(self, x):
                return x[:, :1]
        net, x = nn.Sequential(Branches(), PositionNorm(), Near()), noise(1, 2, 16)
        report = measure(net, x)
        self.assertEqual((report["receptive_field"]["left"], report["frozen"]), ([0], NOTHING))
        self.assertGreater(report["live"]["l1"], 0)


class Causality(LeakTest):
    def net(self, norm):
        return nn.Sequential(CausalConv(2, 4, 3), norm, nn.Tanh(), CausalConv(4, 2, 3)).double()

    def test_group_norm_looks_ahead_and_a_cumulative_norm_does_not(self):
        x = noise(1, 2, 20)
        net = self.net(nn.GroupNorm(2, 4))
        report = measure(net, x, causal=True)
        ahead = beyond(report["asked"], 20, 20, 0)
        self.close(report["future"]["live"], shares(whole_jacobian(net, x, report["asked"]), ahead))
        self.assertEqual(report["future"]["frozen"], NOTHING)
        self.close(report["layers"][0]["future"], report["future"]["live"])
        self.assertTrue(report.leaks)
        with self.assertRaisesRegex(AssertionError,
                                    r"^Sequential hears in its future: .* through 1 \(group\)"):
            assert_causal(net, x)

        net = self.net(CumulativeNorm(4))
        report = measure(net, x, causal=True)
        self.assertEqual(report["future"], {"live": NOTHING, "frozen": NOTHING})
        self.assertFalse(report.leaks)
        assert_causal(net, x)
        # It is no norm over what the convolutions hear, though.
        self.assertGreater(report["live"]["l1"], 0)
        self.assertEqual((report["frozen"], report["receptive_field"]["right"]), (NOTHING, [0]))
        with self.assertRaisesRegex(AssertionError, r"through 1 \(CumulativeNorm\)"):
            assert_no_leak(net, x)

    def test_what_is_no_norm(self):
        with self.assertRaisesRegex(AssertionError, "with all norms held; no norm was seen"):
            assert_causal(nn.Conv1d(2, 2, 3, padding=1), noise(1, 2, 20))

    def test_other_axes(self):
        class Video(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv3d(2, 2, 3, padding=(0, 1, 1))

            def forward(self, x):
                return self.conv(F.pad(x, (0, 0, 0, 0, 2, 0)))
        x = noise(1, 2, 5, 4, 4)
        assert_causal(Video(), x, axis=2)
        with self.assertRaises(AssertionError):
            assert_causal(Video(), x)
        with self.assertRaises(AssertionError):
            assert_causal(nn.Sequential(Video(), nn.GroupNorm(1, 2)), x, axis=2)
        with self.assertRaisesRegex(ValueError, "causal needs an axis"):
            measure(nn.Conv1d(2, 2, 2, 2), noise(1, 2, 8), causal=True)


class TilesAndPads(LeakTest):
    def apart(self, a, b):
        return float((a - b).norm() / (a - a.mean()).norm())

    def check(self, tested, expected):
        for key, (a, b) in expected.items():
            self.close(tested[key], self.apart(a, b))

    def held(self, net, x):
        """A function that computes it with InstanceNorm's statistics at x."""
        numbers = []
        net = copy.deepcopy(net)
        for module in net.modules():
            if isinstance(module, nn.InstanceNorm1d):
                module.register_forward_pre_hook(lambda _, h: numbers.append(
                    (h[0].mean(2, keepdim=True), h[0].var(2, unbiased=False, keepdim=True))))
        net(x)
        whole = iter(list(numbers))

        def run(other):
            h, known = other, iter(list(numbers[:depth]))
            for module in net:
                if isinstance(module, nn.InstanceNorm1d):
                    mean, variance = next(known)
                    h = (h - mean) / (variance + module.eps).sqrt()
                else:
                    h = module(h)
            return h
        depth = len(list(whole))
        return run

    @torch.no_grad()
    def test_against_direct_computation(self):
        net, x = stack(nn.InstanceNorm1d).double(), noise(1, 2, 24)
        held, whole = self.held(net, x), net(x)
        for halo in (0, 1, 2):
            def tiled(run):
                parts = []
                for start in range(0, 24, 10):
                    low, high = max(0, start - halo), min(24, start + 10 + halo)
                    parts.append(run(x[..., low:high])[..., start - low:min(start + 10, 24) - low])
                return torch.cat(parts, 2)
            report = measure(net, x, tile=10, halo=halo, pad=7)
            self.check(report["tiles"], {"total": (whole, tiled(net)), "norm": (tiled(held), tiled(net))})
            self.assertEqual((report["tiles"]["tile"], report["tiles"]["halo"]), (10, halo))
            if halo < 2:
                self.check(report["tiles"], {"padding": (whole, tiled(held))})
                self.assertGreater(report["tiles"]["padding"], 1e-3)
            else:  # as far as the network hears
                self.assertLess(report["tiles"]["padding"], 1e-13)
            longer = F.pad(x, (0, 7))
            own, given = net(longer)[..., :24], held(longer)[..., :24]
            self.check(report["pads"], {"total": (whole, own), "norm": (given, own),
                                        "padding": (whole, given)})
            self.assertGreater(report["pads"]["norm"], 1e-3)

    def test_two_dimensions_scales_and_tokens(self):
        net = stack(lambda c: Tokens(nn.LayerNorm(c)), dims=2)
        report = measure(net, noise(1, 2, 8, 8), tile=4, halo=2, pad=2)
        self.assertLess(report["tiles"]["total"], 1e-13)  # nothing pools
        self.assertLess(report["tiles"]["norm"], 1e-13)
        net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(1, 4),
                            nn.ConvTranspose2d(4, 1, 2, 2))
        report = measure(net, noise(1, 2, 8, 12), tile=(4, 6), halo=1)
        self.assertLess(report["tiles"]["padding"], 1e-13)
        self.close(report["tiles"]["total"], report["tiles"]["norm"], 1e-6)
        self.assertGreater(report["tiles"]["norm"], 1e-3)
        with self.assertRaisesRegex(ValueError, "whole positions"):
            measure(nn.Conv1d(2, 2, 2, 2), noise(1, 2, 8), tile=3)

    def test_statistics_by_position_cannot_be_held_elsewhere(self):
        net = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), CumulativeNorm(4))
        with self.assertRaisesRegex(ValueError, r"1 \(CumulativeNorm\) has a statistic of shape"):
            measure(net, noise(1, 2, 16), pad=4)


class Use(LeakTest):
    def test_the_page(self):
        """docs/leak.md, whose lines run as they stand there on a network that does not leak."""
        page = (Path(__file__).resolve().parents[2] / "docs/leak.md").read_text()
        code, = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
        names = {"net": stack(lambda channels: nn.Identity()), "x": noise(1, 2, 24)}
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(code, "docs/leak.md", "exec"), names)
        self.assertEqual(names["report"]["live"], NOTHING)
        self.assertIn("receptive field", said.getvalue())

    def test_the_module_is_untouched(self):
        net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Conv1d(4, 2, 3))
        net[0].eval()
        net[3].weight.grad = torch.ones_like(net[3].weight)
        before, x = copy.deepcopy(net.state_dict()), torch.randn(2, 2, 20, requires_grad=True)
        value = x.detach().clone()
        measure(net, x, tile=20, pad=1)
        self.assertEqual([m.training for m in net], [False, True, True, True])
        self.assertTrue(all(p.requires_grad for p in net.parameters()))
        self.assertTrue(all(torch.equal(v, before[k]) and v.dtype == before[k].dtype
                            for k, v in net.state_dict().items()))
        self.assertEqual([p.grad is None for p in net.parameters()], [True] * 4 + [False, True])
        self.assertTrue(torch.equal(net[3].weight.grad, torch.ones_like(net[3].weight)))
        self.assertTrue(torch.equal(x, value) and x.grad is None)
        self.assertTrue(all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules()))

    def test_what_is_random_or_no_module_is_refused(self):
        class Noisy(nn.Module):
            def forward(self, x):
                return x + torch.randn_like(x)
        with self.assertRaisesRegex(ValueError, "the network is random"):
            measure(Noisy(), noise(1, 1, 8))
        with self.assertRaisesRegex(TypeError, "must be a torch.nn.Module"):
            measure(torch.tanh, noise(1, 1, 8))
        with self.assertRaisesRegex(ValueError, "outputs must be"):
            measure(nn.Identity(), noise(1, 1, 8), outputs=0)

    def test_asserting(self):
        net, x = stack(nn.InstanceNorm1d, depth=3), noise(1, 2, 30)
        with self.assertRaises(AssertionError) as caught:
            assert_no_leak(net, x)
        report = measure(net, x)
        most = max(report["layers"], key=lambda layer: layer["alone"]["l1"])
        line = str(caught.exception)
        self.assertNotIn("\n", line)
        self.assertIn(f"most through {most['name']} (instance)", line)
        self.assertIn(leak._percent(report["live"]["l1"]), line)
        self.assertIn(line, str(report))
        assert_no_leak(stack(lambda c: nn.Identity()), x)

    def test_report_as_text_and_json(self):
        report = measure(stack(nn.InstanceNorm1d), noise(1, 2, 24), causal=True, tile=12, pad=2)
        self.assertEqual(json.loads(report.json()), report)
        with tempfile.TemporaryDirectory() as folder:
            report.save(Path(folder) / "leak.json")
            self.assertEqual(json.loads((Path(folder) / "leak.json").read_text()), report)
        self.assertEqual(set(report), {
            "schema", "network", "input", "output", "dtype", "asked", "receptive_field", "live", "frozen",
            "mean", "variance", "difference", "future", "layers", "tiles", "pads", "leaks"})
        self.assertLess(len(str(report).splitlines()), 16)
        quick = measure(stack(nn.InstanceNorm1d), noise(1, 2, 24), layers=False)
        self.assertEqual((quick["layers"], quick["mean"], quick["frozen"]), ([], None, NOTHING))
        self.assertTrue(quick.leaks)
        str(quick)

    def test_what_else_the_network_takes(self):
        """Conditions of as many samples as x, and all else, stay as they are."""
        class Conditioned(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = stack(nn.InstanceNorm1d, c_in=3)

            def forward(self, x, condition, scale):
                return scale * self.body(torch.cat([x, condition], 1))
        net, x, condition = Conditioned(), noise(1, 2, 16), torch.randn(1, 1, 16)
        report = measure(net, x, condition, 2)
        net.double()
        full = whole_jacobian(lambda x: net(x, condition.double(), 2), x, report["asked"])
        self.close(report["live"], shares(full, beyond(report["asked"], 16, 2, 2)))

    def test_outputs_that_are_not_positions(self):
        class Classifier(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = stack(nn.InstanceNorm1d)

            def forward(self, x):
                return {"logits": self.body(x).mean(2)}
        report = measure(Classifier(), noise(1, 2, 12))
        self.assertEqual((report["output"], report["asked"], report["live"]), ([1, 2], [0], NOTHING))
        self.assertGreater(report["difference"], 0)

    def test_without_batched_derivatives(self):
        class Cube(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x ** 3

            @staticmethod
            def backward(ctx, dy):
                x, = ctx.saved_tensors
                return torch.from_numpy(dy.numpy() * (3 * x ** 2).numpy())

        class Cubed(nn.Module):
            def forward(self, x):
                return Cube.apply(x)

        class Plain(nn.Module):
            def forward(self, x):
                return x ** 3
        x = noise(1, 2, 16)
        ours, plain = (stack(nn.InstanceNorm1d, act=act) for act in (Cubed, Plain))
        ours.load_state_dict(plain.state_dict())
        report, expected = measure(ours, x), measure(plain, x)
        self.close(report["live"], expected["live"])
        self.close(report["layers"][0]["alone"], expected["layers"][0]["alone"])

    def test_demo(self):
        out, arguments = io.StringIO(), sys.argv
        sys.argv = ["leak.py", "--demo"]
        try:
            with contextlib.redirect_stdout(out):
                leak.main()
        finally:
            sys.argv = arguments
        self.assertIn("hears from beyond its receptive field", out.getvalue())
        self.assertIn("hears nothing from beyond its receptive field", out.getvalue())


class Janner(LeakTest):
    """The temporal U-Net, small: what is published has dim 32 and 256 positions."""

    def test_temporal_unet(self):
        t = torch.tensor([3.0])
        net = TemporalUnet(channels=3, dim=8, mults=(1, 2), norm=lambda c: nn.GroupNorm(4, c))
        report = measure(net, noise(1, 3, 96), t, outputs=4)
        self.assertEqual(len(report["layers"]), 17)
        self.assertEqual(report["layers"][8]["name"], "mid_block1.blocks.0.block.2")
        self.assertEqual(report["frozen"], NOTHING)
        self.assertGreater(report["live"]["l1"], 0.005)
        net = TemporalUnet(channels=3, dim=8, mults=(1, 2), norm=lambda c: PositionNorm())
        assert_no_leak(net, noise(1, 3, 96), t, outputs=4)

    def test_its_reach(self):
        """147 back and 144 ahead with three levels (docs: 81 % of the pairs at 256 positions)."""
        net = TemporalUnet(channels=1, dim=8, mults=(1, 1, 1))
        reach = [measure(net, noise(1, 1, 384), torch.tensor([0.0]), outputs=list(range(188, 192)),
                         layers=False)["receptive_field"][side] for side in ("left", "right")]
        self.assertEqual(reach, [[147], [144]])


class AnAssertionThatCouldNotFail(LeakTest):
    """Is refused: silence is no evidence."""

    def test_where_no_derivative_arrives(self):
        class Held(nn.Module):
            def __init__(self, how):
                super().__init__()
                self.net, self.how = stack(lambda c: nn.GroupNorm(2, c), c_out=2), how

            def forward(self, x):
                with self.how():
                    return self.net(x)

        for how in (torch.no_grad, torch.inference_mode):
            net = Held(how).double()
            for claim in (assert_no_leak, assert_causal):
                with self.assertRaisesRegex(ValueError, "Held: no derivative of the output reaches x"):
                    claim(net, noise(1, 2, 24))
            self.assertIn("no derivative", str(measure(net, noise(1, 2, 24))))

    def test_under_inference_mode_a_leak_is_one(self):
        net = stack(lambda c: nn.GroupNorm(2, c)).double()
        with torch.inference_mode():
            for x in (noise(1, 2, 24), torch.randn(1, 2, 24)):
                with self.assertRaisesRegex(AssertionError, r"through 1 \(group\)|through 4 \(group\)"):
                    assert_no_leak(net, x)

    def test_where_the_field_is_all_of_the_input(self):
        class Unseen(nn.Module):
            def forward(self, x):
                return x / x.std((1, 2), keepdim=True)

        net = stack(lambda c: Unseen())
        with self.assertRaisesRegex(ValueError, "all of x lies within the receptive field of Sequential"):
            assert_no_leak(net.double(), noise(1, 2, 24))
        with self.assertRaisesRegex(AssertionError, "hears from beyond"):
            assert_no_leak(net, noise(1, 2, 24), norms=[Unseen])
        with self.assertRaisesRegex(ValueError, "a longer x"):
            assert_no_leak(stack(nn.InstanceNorm1d).double(), noise(1, 2, 3))

    def test_sizes_that_make_no_sense(self):
        for options in ({"tile": -4}, {"tile": 0}, {"tile": 8, "halo": -1}, {"pad": [0]}, {"pad": 1.5}):
            with self.assertRaisesRegex(ValueError, "expected whole numbers of at least"):
                measure(stack(nn.InstanceNorm1d).double(), noise(1, 2, 24), **options)


class ComputedWeights(LeakTest):
    def test_weight_norm_as_it_comes(self):
        plain = nn.Conv1d(2, 2, 3, padding=1).double()
        normed = nn.utils.weight_norm(copy.deepcopy(plain))
        x = noise(1, 2, 24)
        self.assertEqual(measure(normed, x)["receptive_field"], measure(plain, x)["receptive_field"])
        self.assertFalse(normed.weight.is_leaf)  # as it was


if __name__ == "__main__":
    unittest.main()
