"""Writes norm_errors.npy, for tests/ops/norm_accuracy_test.cpp: how far PyTorch's normalizations in f32
are off.

    python3 tests/golden/generate_norm_errors.py

[kind, offset, length, result] for the kinds, offsets and lengths below, and the results y, dx and
dgamma: the largest absolute error against f64 (of dgamma summed over a set), of the better of instance
norm and group norm, each with the layout that makes it compute the same sets. x has a deviation of 1
around the offset, gamma is 1, beta 0, and there is no ReLU.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F

KINDS = ["instance", "group", "layer", "batch"]
OFFSETS = [10.0**i for i in range(7)]
LENGTHS = [1, 2, 3, 10, 100, 600, 1000, 4096, 10000, 100000]
CHANNELS = 4
EPSILON = 1e-5


def draws(count, stream):
    """Nearly normal numbers of deviation 1, the same here as in the test: the four quarters of
    SplitMix64's words."""
    z = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32)
    with np.errstate(over="ignore"):
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    total = sum((z >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)).astype(np.int64)
    return (total - 2 * 65535).astype(np.float64) * (3.0**0.5 / 65536)


def sets_of(kind, x):
    """x [N, L, C] as one row for each set of statistics, and the way back."""
    n, length, c = x.shape
    x = x.transpose(0, 2, 1)  # [N, C, L]
    if kind == "batch":
        return x.transpose(1, 0, 2).reshape(c, -1)
    return x.reshape({"instance": n * c, "group": n * 2, "layer": n}[kind], -1)


def reference(rows, dy):
    rows, dy = rows.astype(np.float64), dy.astype(np.float64)
    centred = rows - rows.mean(1, keepdims=True)
    centred -= centred.mean(1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + EPSILON)
    y = centred * rstd
    dx = rstd * (dy - dy.mean(1, keepdims=True) - y * (dy * y).mean(1, keepdims=True))
    return y, dx, (dy * y).sum(1)


def pytorch(layer, rows, dy):
    """Each row one channel of one sample."""
    x = torch.tensor(rows[None], requires_grad=True)
    gamma = torch.ones(len(rows), requires_grad=True)
    beta = torch.zeros(len(rows))
    if layer == "instance":
        y = F.instance_norm(x, weight=gamma, bias=beta, eps=EPSILON)
    else:
        y = F.group_norm(x, len(rows), gamma, beta, EPSILON)
    y.backward(torch.tensor(dy[None]))
    return y.detach().numpy()[0], x.grad.numpy()[0], gamma.grad.numpy()


def main():
    torch.set_num_threads(1)
    errors = np.zeros((len(KINDS), len(OFFSETS), len(LENGTHS), 3))
    for i, length in enumerate(LENGTHS):
        for k, kind in enumerate(KINDS):
            shape = (2 if kind == "batch" else 1, length, CHANNELS)
            z = draws(np.prod(shape), 1).reshape(shape)
            dy_all = draws(np.prod(shape), 2).astype(np.float32).reshape(shape)
            for o, offset in enumerate(OFFSETS):
                x = (offset + z).astype(np.float32)
                rows = np.ascontiguousarray(sets_of(kind, x))
                dy = np.ascontiguousarray(sets_of(kind, dy_all))
                expected = reference(rows, dy)
                for r in range(3):
                    errors[k, o, i, r] = np.inf
                # PyTorch refuses sets of one value.
                for layer in ["instance", "group"] if rows.shape[1] > 1 else []:
                    for r, (a, b) in enumerate(zip(pytorch(layer, rows, dy), expected)):
                        errors[k, o, i, r] = min(errors[k, o, i, r], np.abs(a - b).max())
    np.save(pathlib.Path(__file__).parent / "norm_errors.npy", errors)
    print("PyTorch", torch.__version__)
    for r, name in enumerate(["y", "dx", "dgamma"]):
        print(name)
        for k, kind in enumerate(KINDS):
            for o, offset in enumerate(OFFSETS):
                print(kind, f"{offset:8g}", " ".join(f"{e:8.1e}" for e in errors[k, o, :, r]))


if __name__ == "__main__":
    main()
