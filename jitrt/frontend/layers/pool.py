"""Pooling."""

from __future__ import annotations

import math

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary, sign
from jitrt.graph import Value
from jitrt.graph.op import Op
from jitrt.graph.ops import Abs, AvgPool, Mul, Pow, Relu


def pooled(b: Builder, x: Value, dims: int, op: Op) -> Value:
    """`op` over (n, c, spatial...), or over x without its n."""
    if x.type.rank == dims + 2:
        return b.add(op, x)
    y = b.add(op, b.reshape(x, (1, *x.type.shape)))
    return b.reshape(y, y.type.shape[1:])


def lp_pool(
    b: Builder, x: Value, power: float, kernel: tuple[int, ...], stride: tuple[int, ...], ceil_mode: bool
) -> Value:
    """The power-th root of the sum of x ** power under each window, 0 where that sum is negative: as PyTorch's."""
    dtype = x.type.dtype
    mean = pooled(
        b, binary(b, Pow(), x, power, dtype), len(kernel), AvgPool(kernel, stride, (0,) * len(kernel), ceil_mode)
    )
    positive = b.add(Mul(), sign(b, mean), b.add(Relu(), b.add(Abs(), mean)))
    return binary(b, Pow(), binary(b, Mul(), positive, math.prod(kernel), dtype), 1 / power, dtype)
