"""The network of the paper's Equation (1) in PyTorch: what models/localizer.cpp is compared with.

Inputs and outputs are [N, L, 1], as ours; inside, PyTorch's layers work on [N, C, L]. The names in
the state_dict are those of our model.safetensors, so that weights go both ways.
"""

import torch
from torch import nn


class GroupedBatchNorm1d(nn.BatchNorm1d):
    """Batch norm whose statistics are shared by `samples_per_set` neighbouring samples, as if each
    such group were a batch of its own (the paper's accumulated micro-batches)."""

    def __init__(self, channels, samples_per_set):
        super().__init__(channels)
        self.samples_per_set = samples_per_set

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        return torch.cat([super(GroupedBatchNorm1d, self).forward(group)
                          for group in x.split(self.samples_per_set)])


class PositionNorm(nn.LayerNorm):
    """Over the channels of each position, as transformers normalize: x [N, C, L]."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class RmsNorm(nn.Module):
    """The same without a mean: by the root of the mean square; with a bias. x [N, C, L]."""

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x):
        y = x / torch.sqrt(x.square().mean(dim=1, keepdim=True) + self.eps)
        return y * self.weight[:, None] + self.bias[:, None]


class PopulationGroupNorm(nn.GroupNorm):
    """Group norm that tracks running statistics, as InstanceNorm does with track_running_stats: those
    of a group, averaged over the batch, are those of each of its channels. Evaluated with them."""

    def __init__(self, groups, channels, momentum=0.1):
        super().__init__(groups, channels)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        if not self.training:
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight,
                                            self.bias, training=False, eps=self.eps)
        with torch.no_grad():
            groups = x.reshape(len(x), self.num_groups, -1)
            for running, now in ((self.running_mean, groups.mean(dim=2)),
                                 (self.running_var, groups.var(dim=2, unbiased=True))):
                now = now.mean(dim=0).repeat_interleave(self.num_channels // self.num_groups)
                running.lerp_(now, self.momentum)
        return super().forward(x)


def make_norm(kind, channels, groups=1, samples_per_set=1):
    """The layer for one of our norm kinds; None for "none"."""
    kinds = {"none": lambda: None,
             "instance": lambda: nn.InstanceNorm1d(channels, affine=True),
             "group": lambda: nn.GroupNorm(groups, channels),
             "group_population": lambda: PopulationGroupNorm(groups, channels),
             "layer": lambda: nn.GroupNorm(1, channels),  # over channels and positions
             "position": lambda: PositionNorm(channels),
             "rms": lambda: RmsNorm(channels),
             "batch": lambda: GroupedBatchNorm1d(channels, samples_per_set)}
    if kind not in kinds:
        raise ValueError(f"norm {kind}: expected {', '.join(kinds)}")
    return kinds[kind]()


class Block(nn.Module):
    """z -> relu(Norm(C(z)))"""

    def __init__(self, channels, kernel_size, padding, norm, padding_mode="zeros"):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel_size, padding=padding,
                              padding_mode=padding_mode)
        self.norm = norm

    def forward(self, z):
        z = self.conv(z)
        return torch.relu(z if self.norm is None else self.norm(z))


class Localizer(nn.Module):
    """z(1) = C_in(x), z(i) = relu(Norm(C_i(z(i-1)))) for i = 2 .. d-1, f(x) = C_out(z(d-1)).

    In training mode statistics are those of the batch; in evaluation mode batch norm takes its
    running ones.
    """

    def __init__(self, depth, channels, kernel_size=5, norm="instance", groups=1, samples_per_set=1,
                 padding=None, padding_mode="zeros"):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv_in = nn.Conv1d(1, channels, kernel_size, padding=padding,
                                 padding_mode=padding_mode)
        self.blocks = nn.ModuleList(
            Block(channels, kernel_size, padding, make_norm(norm, channels, groups, samples_per_set),
                  padding_mode)
            for _ in range(depth - 2))
        self.conv_out = nn.Conv1d(channels, 1, kernel_size, padding=padding,
                                  padding_mode=padding_mode)

    def forward(self, x):
        z = self.conv_in(x.transpose(1, 2))
        for block in self.blocks:
            z = block(z)
        return self.conv_out(z).transpose(1, 2)


class PackedLocalizer(Localizer):
    """The network of Section 3.2: pairs of sequences, [2 N, l, 1] with the two of a pair side by
    side, through valid convolutions; they hear each other through PackNorm alone, InstanceNorm over
    both of them end to end. [2 N, 1, 1] for l = 1 + 2 R(d)."""

    def __init__(self, depth, channels, kernel_size=5):
        super().__init__(depth, channels, kernel_size, padding=0)

    def forward(self, x):
        z = self.conv_in(x.transpose(1, 2))
        for block in self.blocks:
            u = block.conv(z)
            packed = torch.cat([u[0::2], u[1::2]], dim=2)
            v, v_other = block.norm(packed).chunk(2, dim=2)
            z = torch.relu(torch.stack([v, v_other], dim=1).flatten(0, 1))
        return self.conv_out(z).transpose(1, 2)
