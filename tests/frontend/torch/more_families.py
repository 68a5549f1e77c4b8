"""Further families of functions for `test_ops`: x and y are (2, 4, 6, 5), i are integers (4, 6), m is x > 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

aten = torch.ops.aten
Functions = dict[str, Callable[..., Any]]

_NAMES = "trunc frac tan sinh cosh asinh sinc exp2 erfc deg2rad rad2deg sgn positive round log1p expm1 atan signbit"
UNARY = [*_NAMES.split(), "isinf", "isfinite", "isposinf", "isneginf"]
EDGES = torch.tensor([0.0, -0.0, 0.5, 1.5, -2.5, 1e-5, 100.0, float("inf"), float("-inf"), float("nan")])

MATH: Functions = {
    "unary": lambda x, y, i, m: [getattr(aten, name)(x) for name in UNARY],
    "edges": lambda x, y, i, m: [
        getattr(aten, name)(EDGES + 0 * x.sum()) for name in UNARY if name not in ("tan", "sgn")
    ],
    "of integers": lambda x, y, i, m: [getattr(aten, name)(i) for name in ("sinc", "trunc", "isinf", "atan")],
    "is of integers": lambda x, y, i, m: (aten.isfinite(i), aten.isposinf(i), aten.isneginf(i), aten.signbit(i)),
    "decimals": lambda x, y, i, m: (x.round(decimals=2), (100 * x).round(decimals=-1)),
    "inverse": lambda x, y, i, m: [getattr(aten, name)(x.tanh()) for name in ("asin", "acos", "atanh")],
    "acosh": lambda x, y, i, m: (torch.acosh(1 + x.abs()), torch.acosh(1e6 * (1 + x.abs())), torch.asinh(1e6 * x)),
    "logs": lambda x, y, i, m: (torch.log2(x.abs() + 0.1), torch.log10(x.abs() + 0.1), torch.log2(i.abs() + 1)),
    "logit": lambda x, y, i, m: (torch.logit(x.sigmoid()), torch.logit(x, eps=0.1)),
    "atan2": lambda x, y, i, m: (torch.atan2(x, y), torch.atan2(x.round(), y.round()), torch.atan2(i, i[:1])),
    "of two": lambda x, y, i, m: [
        getattr(aten, name)(x, y) for name in ("hypot", "logaddexp", "logaddexp2", "heaviside", "fmax", "fmin")
    ],
    "of two edges": lambda x, y, i, m: [
        getattr(aten, name)(EDGES[:, None] + 0 * x.sum(), EDGES) for name in ("logaddexp", "fmax", "fmin", "copysign")
    ],
    "fmax of integers": lambda x, y, i, m: (torch.fmax(i, i[:1]), torch.fmin(i, i[:1])),
    "copysign": lambda x, y, i, m: (torch.copysign(x, y), torch.copysign(x, -1.0), aten.copysign(i, -2)),
    "xlogy": lambda x, y, i, m: (torch.xlogy(x.relu(), y.abs()), torch.xlogy(2, y.abs()), torch.xlogy(x, 3)),
    "nan_to_num": lambda x, y, i, m: (
        torch.nan_to_num(EDGES + x.sum()),
        torch.nan_to_num(EDGES + x.sum(), 1.0, 2.0, -3.0),
        torch.nan_to_num(i),
    ),
    "remainder": lambda x, y, i, m: (
        torch.remainder(x, y.abs() + 0.3),
        torch.remainder(x, -0.7),
        torch.remainder(i, 5),
        torch.remainder(7, i * 2 + 1),
        i % -4,
    ),
    "fmod": lambda x, y, i, m: (torch.fmod(x, y.abs() + 0.3), torch.fmod(x, 0.7), torch.fmod(i, 5), torch.fmod(i, -5)),
    "divisions of integers": lambda x, y, i, m: (
        i // 5,
        i // -5,
        torch.div(i, 5, rounding_mode="trunc"),
        torch.div(i, -5, rounding_mode="floor"),
        torch.div(x, 0.3, rounding_mode="trunc"),
    ),
    "xor": lambda x, y, i, m: (torch.logical_xor(x, m), m ^ (y > 0), i ^ 5, i ^ i[:1], m ^ True),
    "bits": lambda x, y, i, m: (i & 6, i | 9, ~i, i & i[:1], i | i[:1], torch.logical_and(i, i[:1])),
    "bits by name": lambda x, y, i, m: (
        aten.bitwise_xor.Tensor(i, i),
        aten.bitwise_xor.Scalar(i, 3),
        aten.__xor__.Scalar(i, 3),
        aten.__xor__.Tensor(i, i),
        aten.bitwise_and.Scalar(i, 3),
    ),
    "clamp of integers": lambda x, y, i, m: (i.clamp(-(2**40), 2**40 + 1), i.clamp(0, 3), i.clamp(0.5, 2.5)),
}

ACTIVATIONS: Functions = {
    "modules": lambda x, y, i, m: [
        module(x)
        for module in (
            torch.nn.ReLU6(),
            torch.nn.SELU(),
            torch.nn.CELU(0.7),
            torch.nn.Softsign(),
            torch.nn.Tanhshrink(),
            torch.nn.Hardshrink(0.3),
            torch.nn.Softshrink(0.3),
            torch.nn.Threshold(0.1, 20.0),
            torch.nn.LogSigmoid(),
            torch.nn.RReLU().eval(),
            torch.nn.Hardtanh(-0.2, 0.6),
            torch.nn.GLU(1),
            torch.nn.Softmin(1),
            torch.nn.Softmax2d(),
            torch.nn.GELU("tanh"),
            torch.nn.Hardswish(),
            torch.nn.Softplus(3.0, 25.0),
        )
    ],
    "edges": lambda x, y, i, m: [
        f(EDGES + 0 * y.sum()) for f in (F.hardshrink, F.softshrink, F.celu, lambda z: F.threshold(z, 0.0, 1.0))
    ],
    "integers": lambda x, y, i, m: (F.relu6(i), F.hardtanh(i, -2, 3)),
    "elu with scales": lambda x, y, i, m: aten.elu(x, 0.5, 2.0, 3.0),
    "softshrink by nothing": lambda x, y, i, m: F.softshrink(x, 0.0),
}
FAMILIES: dict[str, Functions] = {"math": MATH, "activations": ACTIVATIONS}
