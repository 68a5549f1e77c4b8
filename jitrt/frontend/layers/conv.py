"""Convolutions; the bias is an Add of its own.

What has no kernel is made of what has: float64 (a matrix product of columns), and groups whose filters are computed
while the model runs (a convolution each, for kernels pack grouped filters when a plan is built).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from jitrt.frontend.builder import Builder, fixed, spread
from jitrt.frontend.layers.index import take
from jitrt.graph import DType, Value
from jitrt.graph.op import Array
from jitrt.graph.ops import Add, Concat, Conv, ConvTranspose, Matmul, Pad


def convolve(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: int | Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: int | Sequence[int],
    groups: int,
) -> Value:
    """x (n, c, spatial...) or without its n; w (k, c / groups, filter...); a pair of paddings a spatial dimension."""
    dims = w.type.rank - 2
    op = Conv(spread(stride, dims), tuple(padding), spread(dilation, dims), groups)

    def run(x: Value) -> Value:
        if x.type.dtype == w.type.dtype == DType.f64:
            return as_product(b, x, w, op)
        depthwise = w.type.shape[1] == 1  # whose kernel takes any filters
        return b.add(op, x, w) if depthwise else _by_group(b, op, x, w)

    return _biased(b, run, x, w, bias)


def as_product(b: Builder, x: Value, w: Value, op: Conv) -> Value:
    """The convolution as filters (g, k / g, c * taps) times columns (n, g, c * taps, pixels)."""
    (batch, channels), filters = x.type.shape[:2], w.type.shape[0]
    out = op.infer(x.type, w.type)[0].shape[2:]
    padding = ((0, 0), (0, 0), *op.padding)
    padded = b.add(Pad(padding), x) if any(map(any, padding)) else x
    size, dims = padded.type.shape[2:], len(out)
    place: Array = np.zeros((), np.int64)
    for d, (pixels, taps) in enumerate(zip(out, w.type.shape[2:], strict=True)):
        line = np.arange(taps)[:, None] * op.dilation[d] + np.arange(pixels) * op.stride[d]
        place = place[..., None, None] * size[d] + line  # (taps, out, taps, out, ...)
    place = place.transpose(*range(0, 2 * dims, 2), *range(1, 2 * dims, 2)).reshape(-1)
    columns = take(b, b.reshape(padded, (batch, channels, math.prod(size))), b.graph.add_constant(place), 2)
    rows = math.prod(w.type.shape[1:])
    columns = b.reshape(columns, (batch, op.groups, rows, math.prod(out)))
    y = b.add(Matmul(), b.reshape(w, (op.groups, filters // op.groups, rows)), columns)
    return b.reshape(y, (batch, filters, *out))


def _by_group(b: Builder, op: Conv | ConvTranspose, x: Value, w: Value) -> Value:
    """One convolution, unless its groups' filters are computed while the model runs: then one a group."""
    if op.groups == 1 or fixed(w):
        return b.add(op, x, w)
    each, filters, alone = x.type.shape[1] // op.groups, w.type.shape[0] // op.groups, replace(op, groups=1)
    parts = []
    for i in range(op.groups):
        part = b.slice(x, 1, i * each, (i + 1) * each), b.slice(w, 0, i * filters, (i + 1) * filters)
        parts.append(b.add(alone, *part))
    return b.add(Concat(1), *parts)


def convolve_transposed(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int | tuple[int, int]],
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Value:
    """x (n, c, spatial...) or without its n; w (c, k / groups, filter...); a padding or a pair a spatial dimension."""
    dims = w.type.rank - 2
    sides = [padding] * dims if isinstance(padding, int) else list(padding) * (dims if len(padding) == 1 else 1)
    pairs = tuple((side, side) if isinstance(side, int) else side for side in sides)
    op = ConvTranspose(spread(stride, dims), pairs, spread(output_padding, dims), spread(dilation, dims), groups)
    return _biased(b, lambda x: _by_group(b, op, x, w), x, w, bias)


def _biased(b: Builder, run: Callable[[Value], Value], x: Value, w: Value, bias: Value | None) -> Value:
    batched = x if x.type.rank == w.type.rank else b.reshape(x, (1, *x.type.shape))
    y = run(batched)
    if bias is not None:
        y = b.add(Add(), y, b.per_channel(bias, y.type.rank))
    return y if batched is x else b.reshape(y, y.type.shape[1:])


def named_padding(name: str, w: Value, dilation: int | Sequence[int]) -> list[tuple[int, int]]:
    """The pairs that "valid" (none) and "same" (as much as the filter reaches, the odd one after) stand for."""
    dims = w.type.rank - 2
    if name == "valid":
        return [(0, 0)] * dims
    reach = [d * (size - 1) for d, size in zip(spread(dilation, dims), w.type.shape[2:], strict=True)]
    return [(r // 2, r - r // 2) for r in reach]
