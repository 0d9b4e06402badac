#!/usr/bin/env python3
"""Writes the fixtures beside this file: what PyTorch computes, for tests/engine/pytorch_test.cpp.

    python3 tests/golden/generate.py [OUT]

Any PyTorch from 1.13 on will do, on the CPU. Everything is seeded; another version may move last
bits, within the tests' tolerances. Tensors are in PyTorch's layouts: [N, C, L], [C_out, C_in, k].
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench" / "pytorch"))
from localizer import GroupedBatchNorm1d, Localizer, PackedLocalizer, make_norm  # noqa: E402
from safetensors_io import save  # noqa: E402
from temporal_unet import Sinusoids, TemporalUnet  # noqa: E402

# "NAME.x" and so on; sizes that fill no vector, and more outputs than inputs.
CONVOLUTIONS = {  # batch, length, C_in, C_out, k, padding
    "same": (2, 13, 3, 5, 5, 2),
    "valid": (2, 13, 4, 3, 5, 0),
    "even": (1, 9, 2, 6, 4, 1),
    "short": (3, 2, 3, 2, 5, 4),
    "first": (2, 11, 1, 7, 5, 2),
    "last": (2, 11, 7, 1, 5, 2),
}
RINGS = {  # the same, circular; PyTorch goes around once at most
    "same": (2, 13, 3, 5, 5, 2),
    "even": (1, 9, 2, 6, 4, 1),
    "around": (3, 3, 3, 2, 7, 3),
    "first": (2, 11, 1, 7, 5, 2),
    "last": (2, 11, 7, 1, 5, 2),
}
STRIDED = {  # the same with a stride
    "half": (2, 12, 3, 5, 3, 1, 2),
    "odd": (2, 13, 4, 3, 5, 2, 3),
    "gaps": (1, 9, 2, 3, 2, 0, 4),
}
TRANSPOSED = {  # likewise
    "double": (2, 6, 3, 5, 4, 1, 2),
    "odd": (2, 5, 4, 3, 5, 2, 3),
    "plain": (1, 9, 2, 3, 3, 0, 1),
}
UNETS = {  # transition, dim, multipliers, k, norm, groups
    "group": (3, 4, (1, 2, 4), 5, "group", 2),
    "position": (2, 4, (1, 2), 3, "position", 1),
    "none": (2, 4, (1, 2), 3, "none", 1),
}
NORMS = {  # kind, batch, length, channels, groups, samples per set
    "instance": ("instance", 3, 11, 5, 1, 1),
    "group": ("group", 2, 9, 6, 3, 1),
    "layer": ("layer", 2, 9, 6, 1, 1),
    "batch": ("batch", 4, 7, 5, 1, 4),
    "batch_groups": ("batch", 6, 7, 5, 1, 2),
}
LOCALIZERS = {  # depth, channels, k, norm, groups, samples per set
    "none": (4, 6, 5, "none", 1, 1),
    "instance": (4, 6, 5, "instance", 1, 1),
    "group": (4, 6, 3, "group", 3, 1),
    "layer": (4, 6, 5, "layer", 1, 1),
    "batch": (4, 6, 5, "batch", 1, 2),
    "position": (4, 6, 5, "position", 1, 1),
}
MORE_LOCALIZERS = {  # likewise, in a file of answers of their own
    "rms": (4, 6, 5, "rms", 1, 1),
    "group_population": (4, 6, 3, "group_population", 3, 1),
}
STEPS = 20


def normal(*shape):
    """Of f32 numbers, in double: the f32 and the f64 runs see the same."""
    return torch.randn(shape, dtype=torch.float32).double()


def with_gradients(out, prefix, function, inputs):
    """Stores inputs, output, a random cotangent and the gradients of all inputs."""
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    y = function(**inputs)
    dy = normal(*y.shape)
    y.backward(dy)
    out.update({f"{prefix}.{name}": tensor for name, tensor in inputs.items()})
    out.update({f"{prefix}.d{name}": tensor.grad for name, tensor in inputs.items()})
    out.update({f"{prefix}.y": y, f"{prefix}.dy": dy})


def circular_conv1d(x, w, b, padding):
    """By PyTorch's own layer."""
    layer = nn.Conv1d(1, 1, w.shape[2], padding=padding, padding_mode="circular")
    del layer.weight, layer.bias
    layer.weight, layer.bias = w, b
    return layer(x)


def operations():
    out = {}
    for name, (batch, length, c_in, c_out, k, padding) in CONVOLUTIONS.items():
        out[f"conv1d.{name}.padding"] = torch.tensor(padding)
        with_gradients(out, f"conv1d.{name}",
                       lambda x, w, b: functional.conv1d(x, w, b, padding=padding),
                       {"x": normal(batch, c_in, length), "w": normal(c_out, c_in, k),
                        "b": normal(c_out)})
    for name, (kind, batch, length, channels, groups, samples) in NORMS.items():
        out[f"norm.{name}.sets"] = torch.tensor(
            [{"group": channels // groups, "layer": channels}.get(kind, 1), samples])
        x, gamma, beta = normal(batch, channels, length) * 2 + 1, normal(channels), normal(channels)
        for relu in (False, True):
            def apply(x, gamma, beta):
                layer = make_norm(kind, channels, groups, samples).double()
                del layer.weight, layer.bias
                layer.weight, layer.bias = gamma, beta
                y = layer(x)
                return torch.relu(y) if relu else y
            with_gradients(out, f"norm.{name}.{'relu' if relu else 'plain'}", apply,
                           {"x": x, "gamma": gamma, "beta": beta})
    population(out)
    for relu in (False, True):
        with_gradients(out, f"linear.{'relu' if relu else 'plain'}",
                       lambda x, w, b: torch.relu(functional.linear(x, w, b)) if relu
                       else functional.linear(x, w, b),
                       {"x": normal(9, 5), "w": normal(7, 5), "b": normal(7)})
    target = normal(11)
    out["mse.target"] = target
    with_gradients(out, "mse", lambda x: functional.mse_loss(x, target.expand(3, 11)),
                   {"x": normal(3, 11)})
    with_gradients(out, "mish", lambda x: functional.mish(x), {"x": normal(200) * 8})
    for name, (batch, length, c_in, c_out, k, padding) in RINGS.items():
        out[f"ring.{name}.padding"] = torch.tensor(padding)
        with_gradients(out, f"ring.{name}",
                       lambda x, w, b: circular_conv1d(x, w, b, padding),
                       {"x": normal(batch, c_in, length), "w": normal(c_out, c_in, k),
                        "b": normal(c_out)})
    return out


def population(out):
    """Running statistics after three batches, and batch norm in evaluation mode."""
    for name, layer in (("instance", nn.InstanceNorm1d(5, affine=True, track_running_stats=True)),
                        ("batch", nn.BatchNorm1d(5)),
                        ("batch_groups", GroupedBatchNorm1d(5, 2))):
        layer.double()
        batches = [normal(4, 5, 7) * 2 + 1 for _ in range(3)]
        for i, batch in enumerate(batches):
            layer(batch)
            out[f"running.{name}.{i}.x"] = batch
            out[f"running.{name}.{i}.mean"] = layer.running_mean.clone()
            out[f"running.{name}.{i}.variance"] = layer.running_var.clone()
    mean, variance = normal(5), normal(5).abs() + 0.1
    out.update({"population.mean": mean, "population.variance": variance})
    with_gradients(out, "population",
                   lambda x, gamma, beta: torch.relu(
                       functional.batch_norm(x, mean, variance, gamma, beta, training=False)),
                   {"x": normal(3, 5, 8), "gamma": normal(5), "beta": normal(5)})


def scatter_norms(model):
    """Moves gamma, beta and running statistics away from where they begin."""
    for name, tensor in model.state_dict().items():
        if ".norm." in name and tensor.is_floating_point():
            offset = 1.0 if name.endswith(("weight", "running_var")) else 0.0
            spread = 0.1 if name.endswith("running_var") else 0.3
            tensor.copy_(offset + spread * torch.randn_like(tensor).clamp(-2, 2))


def training(norm, dtype):
    """The first steps of Adam, with everything that is needed to repeat them."""
    torch.manual_seed(5)
    depth, channels, k, length, batch = 4, 6, 5, 16, 4
    model = Localizer(depth, channels, k, norm, samples_per_set=2).to(dtype)
    out = {f"initial.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    out["target"] = torch.linspace(-1, 1, length).to(dtype)
    losses = []
    for step in range(STEPS):
        x = normal(batch, length, 1).to(dtype)
        out[f"x.{step:02d}"] = x
        loss = functional.mse_loss(model(x)[..., 0], out["target"].expand(batch, length))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    out["losses"] = torch.stack(losses)
    out.update({f"final.{name}": tensor for name, tensor in model.state_dict().items()})
    model.eval()
    out["evaluated"] = model(x)
    return {name: tensor for name, tensor in out.items() if "num_batches" not in name}


def strided():
    out = {}
    for kind, shapes, function in (("strided", STRIDED, functional.conv1d),
                                   ("transposed", TRANSPOSED, functional.conv_transpose1d)):
        for name, (batch, length, c_in, c_out, k, padding, stride) in shapes.items():
            out[f"{kind}.{name}.geometry"] = torch.tensor([padding, stride])
            weight = (c_out, c_in, k) if kind == "strided" else (c_in, c_out, k)
            with_gradients(out, f"{kind}.{name}",
                           lambda x, w, b: function(x, w, b, stride=stride, padding=padding),
                           {"x": normal(batch, c_in, length), "w": normal(*weight),
                            "b": normal(c_out)})
    return out


def rms():
    """RMS norm over the channels of each position, by its definition; with Mish."""
    out = {}
    with_gradients(out, "rms",
                   lambda x, gamma, beta: functional.mish(
                       x / torch.sqrt(x.square().mean(dim=1, keepdim=True) + 1e-5)
                       * gamma[:, None] + beta[:, None]),
                   {"x": normal(3, 6, 7) + 1, "gamma": normal(6), "beta": normal(6)})
    return out


def held():
    """Norms on whose way back the mean, the variance, or both are constants."""
    out = {}
    for name, mean_held, variance_held in (("mean", True, False), ("variance", False, True),
                                           ("both", True, True)):
        def apply(x, gamma, beta):  # groups of two channels
            sets = x.reshape(3, 3, -1)
            mean = sets.mean(dim=2, keepdim=True)
            variance = sets.var(dim=2, unbiased=False, keepdim=True)
            mean = mean.detach() if mean_held else mean
            variance = variance.detach() if variance_held else variance
            y = ((sets - mean) / torch.sqrt(variance + 1e-5)).reshape(x.shape)
            return y * gamma[:, None] + beta[:, None]
        with_gradients(out, f"held.{name}", apply,
                       {"x": normal(3, 6, 7) + 1, "gamma": normal(6), "beta": normal(6)})
    return out


def unet(name, dtype):
    """What a temporal U-Net predicts, the gradients of a loss, and its first steps of Adam."""
    transition, dim, multipliers, k, norm, groups = UNETS[name]
    torch.manual_seed(7)
    model = TemporalUnet(transition, dim, multipliers, k, norm, groups)
    with torch.no_grad():
        for parameter_name, tensor in model.state_dict().items():
            if ".block.2." in parameter_name:
                tensor.add_(0.3 * torch.randn_like(tensor).clamp(-2, 2))
    model.to(dtype)
    batch, length = 3, 16
    out = {"config": torch.tensor([transition, dim, k, groups]),
           "multipliers": torch.tensor(multipliers)}
    out.update({f"initial.{key}": tensor.clone() for key, tensor in model.state_dict().items()})
    weights = 0.5 + torch.rand(length, transition, dtype=torch.float64)
    out["weights"] = weights.to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    losses = []
    for step in range(STEPS):
        x, target = normal(batch, length, transition), normal(batch, length, transition)
        steps = torch.randint(0, 50, (batch,))
        out.update({f"x.{step:02d}": x.to(dtype), f"target.{step:02d}": target.to(dtype),
                    f"steps.{step:02d}": steps.to(dtype)})
        y = model(x.to(dtype), steps)
        loss = (weights.to(dtype) * (y - target.to(dtype)).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            out["y"] = y
            out.update({f"grad.{key}": tensor.grad.clone()
                        for key, tensor in model.named_parameters()})
        optimizer.step()
        losses.append(loss.detach())
    out["losses"] = torch.stack(losses)
    out.update({f"final.{key}": tensor for key, tensor in model.state_dict().items()})
    return out


def packed():
    """A packed localizer, pairs that overlap, what it predicts and the gradients of its loss."""
    torch.manual_seed(3)
    depth, channels, k, overlap = 5, 6, 5, 13
    model = PackedLocalizer(depth, channels, k)
    with torch.no_grad():
        scatter_norms(model)
    model.double()
    length = 1 + k // 2 * depth * 2
    noise = normal(3, 2 * length - overlap)
    x = torch.stack([noise[:, :length], noise[:, length - overlap:]], dim=1).reshape(6, length, 1)
    y = model(x)
    functional.mse_loss(y.reshape(3, 2), torch.tensor([[-1.0, 1.0]]).double().expand(3, 2)).backward()
    out = {"config": torch.tensor([depth, channels, k, overlap]), "noise": noise, "x": x, "y": y}
    out.update({f"net.{name}": tensor for name, tensor in model.state_dict().items()})
    out.update({f"grad.{name}": tensor.grad for name, tensor in model.named_parameters()})
    return out


def localizers(folder, configs):
    """Models as a user of PyTorch would hand them over; what they answer."""
    answers = {}
    for name, (depth, channels, k, norm, groups, samples) in configs.items():
        model = Localizer(depth, channels, k, norm, groups, samples)
        scatter_norms(model)
        save(folder / f"localizer_{name}.safetensors", model.state_dict())
        answers[f"{name}.config"] = torch.tensor([depth, channels, k, groups, samples])
        model.double()
        x = normal(4, 15, 1)
        answers[f"{name}.x"] = x.float()
        model.eval()
        if norm in ("batch", "group_population"):
            answers[f"{name}.population"] = model(x)
        model.train()
        answers[f"{name}.y"] = model(x)
        if norm == "group_population":  # where its running statistics have gone
            answers.update({f"{name}.moved.{key}": tensor for key, tensor in model.state_dict().items()
                            if ".running_" in key})
    return answers


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    torch.set_num_threads(1)
    torch.manual_seed(1)
    save(folder / "operations.safetensors", operations())
    for norm in ("instance", "batch"):
        for name, dtype in (("f64", torch.float64), ("f32", torch.float32)):
            save(folder / f"training_{norm}_{name}.safetensors", training(norm, dtype))
    torch.manual_seed(2)
    answers = localizers(folder, LOCALIZERS)
    # The same network with another padding: its own, as a ring.
    model = Localizer(4, 6, 5, "instance", padding_mode="circular")
    scatter_norms(model)
    save(folder / "localizer_circular.safetensors", model.state_dict())
    model.double()
    x = normal(4, 15, 1)
    answers.update({"circular.x": x.float(), "circular.y": model(x)})
    save(folder / "localizer_answers.safetensors", answers)
    save(folder / "packed_localizer.safetensors", packed())
    torch.manual_seed(4)
    more = {**strided(), **rms(), **held()}
    more["sinusoids"] = Sinusoids(8)(torch.arange(50), torch.float64)
    save(folder / "more_operations.safetensors", more)
    for name in UNETS:
        save(folder / f"unet_{name}.safetensors", unet(name, torch.float64))
    torch.manual_seed(6)
    save(folder / "more_localizer_answers.safetensors", localizers(folder, MORE_LOCALIZERS))


if __name__ == "__main__":
    main()
