"""The temporal U-Net of Janner et al. (2022) in PyTorch: what models/temporal_unet.cpp is compared
with. Trajectories are [N, L, transition], as ours; inside, PyTorch's layers work on [N, C, L]. The
names in the state_dict are those of our model.safetensors, and of jannerm/diffuser.
"""

import math

import torch
from torch import nn

from localizer import make_norm


class Sinusoids(nn.Module):
    """steps [N] -> [N, dim]: sines, then cosines, of frequencies from 1 down to 1 / 10000; computed
    in f64, rounded to the type of the network."""

    def __init__(self, dim):
        super().__init__()
        half = dim // 2
        self.frequencies = [math.exp(-i * math.log(10000) / (half - 1)) for i in range(half)]

    def forward(self, steps, dtype):
        angles = steps[:, None].double() * torch.tensor(self.frequencies, dtype=torch.float64)
        return torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)


class ConvBlock(nn.Module):
    """Convolution, norm, Mish. In `block` the norm has number 2, whatever stands between."""

    def __init__(self, channels_in, channels_out, kernel_size, norm, groups):
        super().__init__()
        layer = make_norm(norm, channels_out, groups)
        self.block = nn.Sequential(
            nn.Conv1d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
            nn.Identity(), layer if layer is not None else nn.Identity(), nn.Mish())

    def forward(self, x):
        return self.block(x)


class ResidualBlock(nn.Module):
    def __init__(self, channels_in, channels_out, dim, kernel_size, norm, groups):
        super().__init__()
        self.blocks = nn.ModuleList([
            ConvBlock(channels_in, channels_out, kernel_size, norm, groups),
            ConvBlock(channels_out, channels_out, kernel_size, norm, groups)])
        self.time_mlp = nn.Sequential(nn.Mish(), nn.Linear(dim, channels_out))
        self.residual_conv = (nn.Identity() if channels_in == channels_out
                              else nn.Conv1d(channels_in, channels_out, 1))

    def forward(self, x, time):
        y = self.blocks[1](self.blocks[0](x) + self.time_mlp(time)[:, :, None])
        return y + self.residual_conv(x)


class Sample(nn.Module):
    """To half as many positions, or to twice as many."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x)


class TemporalUnet(nn.Module):
    def __init__(self, transition, dim=32, multipliers=(1, 4, 8), kernel_size=5, norm="group",
                 groups=8):
        super().__init__()
        channels = [dim * multiplier for multiplier in multipliers]

        def block(channels_in, channels_out):
            return ResidualBlock(channels_in, channels_out, dim, kernel_size, norm, groups)

        self.time_mlp = nn.Sequential(Sinusoids(dim), nn.Linear(dim, 4 * dim), nn.Mish(),
                                      nn.Linear(4 * dim, dim))
        self.downs = nn.ModuleList()
        before = transition
        for level, width in enumerate(channels):
            last = level + 1 == len(channels)
            down = nn.Identity() if last else Sample(nn.Conv1d(width, width, 3, 2, 1))
            self.downs.append(nn.ModuleList([block(before, width), block(width, width),
                                             nn.Identity(), down]))
            before = width
        self.mid_block1 = block(before, before)
        self.mid_block2 = block(before, before)
        self.ups = nn.ModuleList()
        for level in reversed(range(len(channels) - 1)):
            width = channels[level]
            self.ups.append(nn.ModuleList([block(2 * channels[level + 1], width),
                                           block(width, width), nn.Identity(),
                                           Sample(nn.ConvTranspose1d(width, width, 4, 2, 1))]))
        self.final_conv = nn.Sequential(ConvBlock(dim, dim, kernel_size, norm, groups),
                                        nn.Conv1d(dim, transition, 1))

    def forward(self, x, steps):
        x = x.transpose(1, 2)
        sinusoids, *layers = self.time_mlp
        time = sinusoids(steps, x.dtype)
        for layer in layers:
            time = layer(time)
        skips = []
        for first, second, _, down in self.downs:
            x = second(first(x, time), time)
            skips.append(x)
            x = down(x)
        x = self.mid_block2(self.mid_block1(x, time), time)
        for first, second, _, up in self.ups:
            x = up(second(first(torch.cat([x, skips.pop()], dim=1), time), time))
        return self.final_conv(x).transpose(1, 2)
