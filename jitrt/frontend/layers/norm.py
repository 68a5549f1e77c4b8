"""Normalisations, at inference. A weight left out is 1, a bias left out 0."""

from __future__ import annotations

import math

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary
from jitrt.graph import Value
from jitrt.graph import ops as g

# torch.nn.RMSNorm without eps takes the machine epsilon of the dtype it computes in: float32 for 16-bit floats.
_TINY = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-23, "bf16": 2.0**-23}


def _or_full(b: Builder, parameter: Value | None, number: float, x: Value, shape: tuple[int, ...]) -> Value:
    return b.full(shape, number, x.type.dtype) if parameter is None else parameter


def batch_norm(
    b: Builder, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, eps: float
) -> Value:
    """By the given statistics of each channel (dimension 1)."""
    k = (x.type.shape[1],)
    return b.add(g.BatchNorm(eps), x, _or_full(b, weight, 1, x, k), _or_full(b, bias, 0, x, k), mean, var)


def batch_statistics_norm(b: Builder, x: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
    """By the statistics that each channel (dimension 1) has in this batch: a group norm of one image, whose groups are
    the channels."""
    n, c, *spatial = x.type.shape
    order = (1, 0, *range(2, x.type.rank))
    one = b.reshape(b.permute(x, order), (1, c, n, *spatial))
    y = group_norm(b, one, c, weight, bias, eps)
    return b.permute(b.reshape(y, (c, n, *spatial)), order)


def layer_norm(b: Builder, x: Value, dims: int, weight: Value | None, bias: Value | None, eps: float) -> Value:
    """Over the last `dims` dimensions, whose shape the parameters have."""
    shape = x.type.shape[x.type.rank - dims :]
    return b.add(g.LayerNorm(dims, eps), x, _or_full(b, weight, 1, x, shape), _or_full(b, bias, 0, x, shape))


def group_norm(b: Builder, x: Value, groups: int, weight: Value | None, bias: Value | None, eps: float) -> Value:
    """Over groups of channels; the parameters are one number a channel."""
    k = (x.type.shape[1],)
    return b.add(g.GroupNorm(groups, eps), x, _or_full(b, weight, 1, x, k), _or_full(b, bias, 0, x, k))


def instance_norm(b: Builder, x: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
    """Each channel of each image by its own statistics: as many groups as channels."""
    return group_norm(b, x, x.type.shape[1], weight, bias, eps)


def rms_norm(b: Builder, x: Value, dims: int, weight: Value | None, eps: float | None) -> Value:
    """x / sqrt(mean(x * x) + eps) over the last `dims` dimensions, times weight."""
    epsilon = float(_TINY[x.type.dtype.value]) if eps is None else eps
    shape = x.type.shape[x.type.rank - dims :]
    return b.add(g.RmsNorm(dims, epsilon), x, _or_full(b, weight, 1, x, shape))


def local_response_norm(
    b: Builder, x: Value, size: int, alpha: float, beta: float, k: float, *, before: int | None = None
) -> Value:
    """x / (k + alpha * mean of x * x over `size` neighbouring channels) ** beta, 0 standing beyond the first and last.
    Of those `before` come before the own one, size // 2 unless given.

    The mean is an average pool over an image of its own, whose rows are the channels. x is (n, c, spatial...).
    """
    n, c, *spatial = x.type.shape
    first = size // 2 if before is None else before
    inner = tuple(spatial) if len(spatial) == 1 else (spatial[0], math.prod(spatial[1:]))
    stay = (0, 0), (0, 0)
    rows = b.reshape(b.add(g.Mul(), x, x), (n, 1, c, *inner))
    padded = b.add(g.Pad((*stay, (first, size - 1 - first), *stay[: len(inner)])), rows)
    window, ones, none = (size, *[1] * len(inner)), (1,) * (1 + len(inner)), (0,) * (1 + len(inner))
    mean = b.reshape(b.add(g.AvgPool(window, ones, none), padded), x.type.shape)
    dtype = x.type.dtype
    base = binary(b, g.Add(), binary(b, g.Mul(), mean, alpha, dtype), k, dtype)
    return b.add(g.Div(), x, binary(b, g.Pow(), base, beta, dtype))
