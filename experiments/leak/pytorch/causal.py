#!/usr/bin/env python3
"""What a causal network's norm is worth, and what it costs: the measured example of docs/leak.md.

Each sequence is a level, drawn anew, and noise on it, both of variance 1; at every position the network
is to say the level. From n positions the best answer's mean squared error is 1/(n + 1). Convolutions
padded on the left alone hear RECEPTIVE_FIELD of them; a norm that takes statistics over positions also
hears the others, the future too where it can. Such a network is scored twice, at position `--at`: on
whole sequences, as it is trained and mostly tested, and on what there is at that position in use, the
past. Norms that do not look ahead have one score.

    python causal.py                    # a table; --json for a program. leak.py lies beside it
"""

import argparse
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from leak import measure

CHANNELS, LAYERS, KERNEL_SIZE = 16, 4, 3
RECEPTIVE_FIELD = 1 + LAYERS * (KERNEL_SIZE - 1)


class CausalConv(nn.Conv1d):
    """Of x [N, C, L]; output t hears inputs up to t."""

    def forward(self, x):
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class LayerNormPerPosition(nn.LayerNorm):
    """Over the channels of each position, as in transformers."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class CumulativeNorm(nn.Module):
    """Over all channels of the positions so far: Conv-TasNet's (Luo & Mesgarani 2019)."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x):
        count = x.shape[1] * torch.arange(1, x.shape[2] + 1, dtype=x.dtype)
        mean = (x.sum(1).cumsum(1) / count)[:, None]
        second = (x.pow(2).sum(1).cumsum(1) / count)[:, None]
        return (x - mean) / ((second - mean ** 2).clamp_min(0) + 1e-5).sqrt() * self.weight + self.bias


NORMS = {"GroupNorm(4)": lambda channels: nn.GroupNorm(4, channels),
         "BatchNorm, population statistics": nn.BatchNorm1d,
         "LayerNorm per position": LayerNormPerPosition,
         "cumulative": CumulativeNorm,
         "none": lambda channels: nn.Identity()}


def network(norm):
    """[N, 1, L] to [N, 1, L]."""
    layers = []
    for layer in range(LAYERS):
        layers += [CausalConv(CHANNELS if layer else 1, CHANNELS, KERNEL_SIZE), NORMS[norm](CHANNELS),
                   nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(CHANNELS, 1, 1))


def sequences(count, length, random):
    level = torch.randn(count, 1, 1, generator=random)
    return level + torch.randn(count, 1, length, generator=random), level.expand(-1, -1, length)


def train(norm, steps, length, seed):
    """The trained network, and milliseconds a step."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed + 1)
    net = network(norm)
    adam = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 5e-3, total_steps=steps)
    began = time.perf_counter()
    for _ in range(steps):
        x, level = sequences(32, length, random)
        loss = F.mse_loss(net(x), level)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return net.eval(), (time.perf_counter() - began) / steps * 1e3


@torch.no_grad()
def scores(net, at, length, seed):
    """Mean squared errors at a position: with the whole sequence there, with the past alone."""
    x, level = sequences(20_000, length, torch.Generator().manual_seed(seed + 2))
    return [F.mse_loss(net(heard)[..., at], level[..., at]).item() for heard in (x, x[..., :at + 1])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500, help="of training (default 1500)")
    parser.add_argument("--length", type=int, default=64, help="of the sequences (default 64)")
    parser.add_argument("--at", type=int, default=16, help="the position scored, from 0 (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default 0)")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    options = parser.parse_args()
    if options.steps < 10 or not RECEPTIVE_FIELD <= options.at < options.length:
        parser.error(f"expected --steps of at least 10, and --at from {RECEPTIVE_FIELD} to --length - 1")
    if not 0 <= options.seed < 1 << 32:
        parser.error("expected --seed from 0 to 2^32 - 1")
    rows = {}
    for norm in NORMS:
        net, milliseconds = train(norm, options.steps, options.length, options.seed)
        whole, past = scores(net, options.at, options.length, options.seed)
        x, _ = sequences(1, options.length, torch.Generator().manual_seed(options.seed + 3))
        report = measure(net, x, causal=True)
        rows[norm] = {"future": report["future"]["live"]["l1"], "beyond": report["live"]["l1"],
                      "error_whole": whole, "error_past": past, "milliseconds": milliseconds}
        print(f"{norm}: trained", file=sys.stderr)
    heard = {"receptive field": RECEPTIVE_FIELD, "past": options.at + 1, "whole": options.length}
    best = {name: 1 / (n + 1) for name, n in heard.items()}
    if options.json:
        print(json.dumps({"norms": rows, "best": best}, indent=1))
        return
    print(f"{'norm':34}{'|J| ahead':>10}{'beyond':>8}{'error, whole':>14}{'past alone':>12}"
          f"{'ms a step':>11}")
    for norm, row in rows.items():
        print(f"{norm:34}{row['future']:10.3f}{row['beyond']:8.3f}{row['error_whole']:14.4f}"
              f"{row['error_past']:12.4f}{row['milliseconds']:11.2f}")
    print("best possible from the " + ", ".join(f"{name} {error:.4f}" for name, error in best.items()))


if __name__ == "__main__":
    main()
