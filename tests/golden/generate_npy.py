#!/usr/bin/env python3
"""Writes npy.safetensors: files as np.save writes them, byte by byte, and what NumPy reads in them.

/usr/bin/python3 tests/golden/generate_npy.py   (needs numpy)

For each case NAME.file (u8, the file's bytes) and NAME.values (f64, in C order); of what holds no
numbers, or has more axes than we have, NAME.file alone.
"""

import io
import json
import pathlib
import struct

import numpy as np

cases, refused = {}, {}


def values_of(kind, width):
    if kind == "b":
        return np.array([True, False, True])
    if kind == "f":
        limits = np.finfo(f"f{width}")
        return np.array([0, -0.0, 1.5, -2, limits.max, limits.tiny, limits.smallest_subnormal,
                         np.inf, -np.inf, np.nan], dtype=f"f{width}")
    limits = np.iinfo(f"{kind}{width}")
    return np.array([0, 1, limits.min, limits.max, limits.max // 3], dtype=f"{kind}{width}")


def file_of(array, version=None):
    file = io.BytesIO()
    if version:
        np.lib.format.write_array(file, array, version=version)
    else:
        np.save(file, array)
    return file.getvalue()


for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
    values = values_of(code[0], int(code[1]))
    for order in "<>":
        array = np.resize(values, (3, 4)).astype(order + code)
        cases[f"{code}.{'little' if order == '<' else 'big'}"] = array
        cases[f"{code}.{'little' if order == '<' else 'big'}.transposed"] = array.T
for name, shape in {"scalar": (), "empty": (0,), "vector": (5,), "cube": (2, 3, 4), "flat": (2, 0, 3),
                    "thin": (1, 3, 1), "four": (2, 3, 4, 5)}.items():
    array = np.arange(np.prod(shape, dtype=int), dtype=">i2").reshape(shape)
    cases[name] = array
    cases[name + ".fortran"] = np.asfortranarray(array)
cases["strided"] = np.arange(24.0).reshape(4, 6)[::2, ::-3]
cases["turned"] = np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0)
for version in ((1, 0), (2, 0), (3, 0)):
    cases[f"version{version[0]}"] = np.arange(6, dtype="<f4").reshape(2, 3)

refused["complex"] = np.ones(3, "<c8")
refused["text"] = np.array(["a", "bc"])
refused["bytes"] = np.array([b"a", b"bc"])
refused["objects"] = np.array([None, "a"], dtype=object)
refused["records"] = np.zeros(2, dtype=[("a", "<f4"), ("b", "<i8")])
refused["raw"] = np.zeros(2, dtype="V8")
refused["dates"] = np.array(["2026-01-01"], dtype="M8[D]")
refused["spans"] = np.array([1], dtype="m8[s]")
refused["long_double"] = np.ones(2, np.longdouble)
refused["five_axes"] = np.ones((1, 1, 1, 1, 2))

tensors = {}
for name, array in cases.items():
    version = (int(name[-1]), 0) if name.startswith("version") else None
    file = file_of(array, version)
    tensors[name + ".file"] = ("U8", (len(file),), file)
    read = np.load(io.BytesIO(file)).astype("<f8")
    tensors[name + ".values"] = ("F64", read.shape, read.tobytes(order="C"))
for name, array in refused.items():
    file = file_of(array)
    tensors[name + ".file"] = ("U8", (len(file),), file)

header, data = {}, b""
for name, (dtype, shape, content) in sorted(tensors.items(), key=lambda item: (item[1][0], item[0])):
    header[name] = {"dtype": dtype, "shape": list(shape),
                    "data_offsets": [len(data), len(data) + len(content)]}
    data += content
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-len(text) % 8)
path = pathlib.Path(__file__).parent / "npy.safetensors"
path.write_bytes(struct.pack("<Q", len(text)) + text + data)
