"""The engine's convolution and normalization in networks of PyTorch's: functions and modules.

    import sidechannel.torch as sct

    conv = sct.Conv1d(64, 64, 5, padding=2)          # as torch.nn.Conv1d, with its state dict
    norm = sct.GroupNormAct(8, 64, activation="mish")  # as GroupNorm and Mish behind it

Memory is shared by DLPack, and the way back is the engine's own: gradients of x and of the parameters,
in f32 and, on the CPU, f64. The engine has channels last: with channels_last=True x is [N, L, C] and
nothing is copied; otherwise x is [N, C, L], as PyTorch has it, and is arranged anew, as weights are.
"""

from __future__ import annotations

from typing import Any

import torch

from . import _core

_devices = {}


def _device_of(x, device):
    """The engine's device where x lies."""
    if device is not None:
        return device
    if x.device.type == "cpu":
        return None
    if x.device.type != "cuda":
        raise _core.Error(f"a tensor on {x.device}, which is neither a CPU nor a GPU of CUDA's")
    index = x.device.index
    if index not in _devices:
        _devices[index] = _core.Device(f"cuda:{index}")
    return _devices[index]


def _shared(x):
    return x.detach().contiguous()


def _given(tensor, like):
    """A tensor of the engine's in PyTorch: its memory, or a copy where nobody may share it."""
    try:
        return torch.from_dlpack(tensor)
    except _core.Error:  # of an emulated GPU
        return torch.from_numpy(tensor.numpy()).to(like.device)


class _Operation(torch.autograd.Function):
    """call(inputs, needs) carries an operation out; the rest is the same for all."""

    @staticmethod
    def forward(ctx, call, *inputs):
        ctx.call = call([_shared(x) for x in inputs], list(ctx.needs_input_grad[1:]))
        ctx.save_for_backward(*inputs)
        return _given(ctx.call.output, inputs[0])

    @staticmethod
    def backward(ctx, cotangent):
        # A second way back would leave out what the first depends on, and nobody would be told.
        if torch.is_grad_enabled():
            raise _core.Error("sidechannel.torch has no gradients of gradients (create_graph=True)")
        inputs = ctx.saved_tensors  # or PyTorch's words for one that was changed, or a second way back
        gradients = ctx.call.backward(_shared(cotangent))
        return None, *(None if gradient is None else _given(gradient, x)
                       for gradient, x in zip(gradients, inputs))


def _last(x, channels_last):
    return x if channels_last else x.transpose(1, 2)


def _check_sequences(name, x, channels_last):
    if x.dim() != 3:
        shape = "[N, L, C]" if channels_last else "[N, C, L]"
        raise _core.Error(f"{name}: expected x of shape {shape}, got {list(x.shape)}")


def conv1d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, padding: int = 0,
           stride: int = 1, padding_mode: str = "zeros", channels_last: bool = False,
           device: _core.Device | None = None) -> torch.Tensor:
    """torch.nn.functional.conv1d by the engine: x [N, C_in, L], weight [C_out, C_in, k], bias [C_out]
    -> [N, C_out, L']; with channels_last x and the answer are [N, L, C]. padding is 0 to k - 1, zeros
    or "circular". `device`: a sidechannel.Device to compute on, where it is not the one x implies."""
    _check_sequences("conv1d", x, channels_last)
    if weight.dim() != 3:
        shape = list(weight.shape)
        raise _core.Error(f"conv1d: expected a weight of shape [C_out, C_in, k], got {shape}")
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    where = _device_of(x, device)

    def call(inputs, needs):
        return _core.conv1d_call(*inputs, needs, padding=padding, stride=stride,
                                 padding_mode=padding_mode, device=where)

    y = _Operation.apply(call, _last(x, channels_last), weight.permute(2, 1, 0), bias)
    return _last(y, channels_last)


def norm_act(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor,
             options: _core.NormOptions | None = None, *, channels_last: bool = False,
             device: _core.Device | None = None, **settings: Any) -> torch.Tensor:
    """The engine's normalization with an activation: x [N, C, L], gamma and beta [C] -> the same;
    with channels_last [N, L, C]. `options`: NormOptions, or their names as keywords, such as
    channels_per_set=4, activation="mish"."""
    _check_sequences("norm_act", x, channels_last)
    if options is not None and settings:
        raise _core.UsageError(f"norm_act: {', '.join(settings)}: say it in the options")
    options = options or _core.NormOptions(**settings)
    where = _device_of(x, device)

    def call(inputs, needs):
        return _core.norm_act_call(*inputs, needs, options=options, device=where)

    return _last(_Operation.apply(call, _last(x, channels_last), gamma, beta), channels_last)


class Conv1d(torch.nn.Conv1d):
    """torch.nn.Conv1d, computed by the engine: the same parameters, state dict and initial values.
    dilation and groups are 1, padding is a number from 0 to k - 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 padding: int = 0, dilation: int = 1, groups: int = 1, bias: bool = True,
                 padding_mode: str = "zeros", device: Any = None, dtype: Any = None, *,
                 channels_last: bool = False) -> None:
        if dilation not in (1, (1,), [1]) or groups != 1:
            raise _core.UsageError(f"Conv1d: dilation {dilation}, groups {groups}: expected 1 and 1")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias,
                         padding_mode=padding_mode, device=device, dtype=dtype)
        if not isinstance(padding, int) or padding_mode not in ("zeros", "circular"):
            raise _core.UsageError(f"Conv1d: padding {padding}, {padding_mode}: expected a number of "
                                   "positions, zeros or circular")
        self.channels_last = channels_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv1d(x, self.weight, self.bias, padding=self.padding[0], stride=self.stride[0],
                      padding_mode=self.padding_mode, channels_last=self.channels_last)


class GroupNormAct(torch.nn.Module):
    """GroupNorm with an activation ("none", "relu" or "mish") behind it, in one pass. num_groups =
    num_channels is InstanceNorm, 1 is LayerNorm over channels and positions."""

    def __init__(self, num_groups: int, num_channels: int, activation: str = "relu", eps: float = 1e-5,
                 channels_last: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups != 0:
            raise _core.UsageError(f"GroupNormAct: {num_groups} groups do not divide {num_channels} "
                                   "channels")
        self.weight = torch.nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))
        self.settings = {"channels_per_set": num_channels // num_groups, "activation": activation,
                         "epsilon": eps}
        _core.NormOptions(**self.settings)  # or its Error
        self.channels_last = channels_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return norm_act(x, self.weight, self.bias, channels_last=self.channels_last, **self.settings)

    def extra_repr(self):
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
