#!/usr/bin/env python3
"""Loads a model of ours into the same network in PyTorch and compares their predictions.

    python3 tests/golden/check_model.py model.safetensors x.npy y.npy --norm instance

x and y are [N, L, 1]: inputs, and what our program predicts for them. Exit code 0 when PyTorch
agrees, 1 when it does not, 2 for a bad command line, 77 without PyTorch.
"""

import argparse
import sys
from pathlib import Path

try:
    import numpy
    import torch
except ImportError as error:
    print(f"check_model: not run ({error})", file=sys.stderr)
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "pytorch"))
from localizer import Localizer  # noqa: E402
from safetensors_io import load  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model.safetensors")
    parser.add_argument("x", help="inputs, .npy")
    parser.add_argument("y", help="predictions, .npy")
    parser.add_argument("--norm", required=True,
                        choices=["none", "instance", "group", "group_population", "layer", "position",
                                 "rms", "batch"])
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--samples-per-set", type=int, default=1)
    parser.add_argument("--padding", choices=["zeros", "circular"], default="zeros")
    parser.add_argument("--statistics", choices=["minibatch", "population"], default="minibatch")
    parser.add_argument("--tolerance", type=float, default=1e-5,
                        help="on the root mean square difference over that of y")
    args = parser.parse_args()

    state = load(args.model)
    channels, _, kernel_size = state["conv_in.weight"].shape
    depth = 2 + len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    model = Localizer(depth, channels, kernel_size, args.norm, args.groups, args.samples_per_set,
                      padding_mode=args.padding)
    # The count of PyTorch's batch norm is the one thing that our files do not have.
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        print(f"check_model: missing {missing}, unexpected {unexpected}")
        return 1

    model.double()  # PyTorch's own rounding stays out of the comparison
    model.train(args.statistics == "minibatch")
    with torch.no_grad():
        expected = model(torch.from_numpy(numpy.load(args.x)).double()).numpy()
    y = numpy.load(args.y)
    if y.shape != expected.shape:
        print(f"check_model: y has the shape {y.shape}, PyTorch's is {expected.shape}")
        return 1
    difference = numpy.sqrt(numpy.mean((y - expected)**2) / numpy.mean(expected**2))
    agrees = difference <= args.tolerance  # not so for NaN
    print(f"check_model: relative difference {difference:.3g}, {'agrees' if agrees else 'DIFFERS'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
