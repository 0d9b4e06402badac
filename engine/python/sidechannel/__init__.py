"""sidechannel in Python: tensors, a tape, the paper's networks, and the runs that programs leave.

    import sidechannel as sc

    network = sc.Localizer(depth=8, channels=32, norm="instance", seed=0)
    adam = sc.Adam(network.parameters, 2e-3)
    tape, random = sc.Tape(), sc.Random(seed=0)
    tape.reset()
    loss = sc.mse(network(tape.normal([8, 64, 1], random)), sc.target_positions(64))
    tape.backward(loss)
    adam.step(loss)

Sequences are [N, L, C], channels last. Where a tensor is expected, an array of NumPy's, PyTorch's or
anybody's (DLPack) will do that is contiguous, of the tape's type and on its device: its memory is
shared, not copied. A variable belongs to its tape, and is an Error after Tape.reset().

sidechannel.torch has the engine's convolution and normalization as functions and modules of PyTorch's.
"""

from ._core import (
    NOISE, WEIGHTS, Adam, Conv1d, ConvNormAct, ConvTranspose1d, Device, Error, Linear,
    LocalizationTraining, Localizer, MachineError, Network, NormAct, NormOptions, OutOfMemory, Parameter,
    ParameterList, Random, Tape, TemporalUnet, Tensor, UsageError, Var, activate, add, build_info,
    circular_pad, concat, conv1d, conv_norm_act, conv_transpose1d, from_dlpack, gather, gather_windows,
    interior_slope, leak, linear, load_model, localization_settings, mlp, mse, mse_of_each, norm_act,
    norm_act_population, relu, reshape, target_positions, tensor, weighted_sum, windows)
from .runs import Run

__version__ = build_info()["version"]

__all__ = [
    "NOISE", "WEIGHTS", "Adam", "Conv1d", "ConvNormAct", "ConvTranspose1d", "Device", "Error", "Linear",
    "LocalizationTraining", "Localizer", "MachineError", "Network", "NormAct", "NormOptions",
    "OutOfMemory", "Parameter", "ParameterList", "Random", "Run", "Tape", "TemporalUnet", "Tensor",
    "UsageError", "Var", "activate", "add", "build_info", "circular_pad", "concat", "conv1d",
    "conv_norm_act", "conv_transpose1d", "from_dlpack", "gather", "gather_windows", "interior_slope",
    "leak", "linear", "load_model", "localization_settings", "mlp", "mse", "mse_of_each", "norm_act",
    "norm_act_population", "relu", "reshape", "target_positions", "tensor", "weighted_sum", "windows"]
