"""Pools. What the graph's pools cannot say (more padding on one side, or more than half a window) is a `pad` before."""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.layers.arithmetic import binary, scaled
from jitrt.frontend.layers.index import position, take
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.frontend.onnx.windows import Pairs, Windows, numbers, paddings, windows_of
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array


@onnx_op("MaxPool")
def max_pool(n: Call, x: Value) -> tuple[Value, ...]:
    windows = _windows(n, x)
    # Integers of 8 bits as float32, which holds them; the casts run inside the kernel.
    number = x if x.type.dtype.is_float else n.add(g.Cast(DType.f32), x)
    if (own := _own_padding(windows, x)) is not None:
        y = n.add(g.MaxPool(windows.kernel, windows.stride, *own, windows.dilation), number)
    else:
        op = g.MaxPool(windows.kernel, windows.stride, (0,) * len(windows.kernel), dilation=windows.dilation)
        y = n.add(op, _padded(n, number, windows.whole_padding(x.type.shape[2:]), -math.inf))
    y = n.b.operand(y, x.type.dtype)
    return (y, _positions(n, number, windows)) if n.wants(1) else (y,)


@onnx_op("MaxUnpool", since=9)
def max_unpool(n: Call, x: Value, positions: Value, output_shape: Value | None = None) -> Value:
    """x at the positions that a MaxPool gave, 0 elsewhere. They count through the smallest image that is pooled to x,
    which lies in the upper left corner of a larger `output_shape`: so in ONNX's own test of it."""
    dims = x.type.rank - 2
    kernel, stride, padding = numbers(n, "kernel_shape", dims), numbers(n, "strides", dims), paddings(n, dims)
    size = [
        (s - 1) * step - sum(cut) + k for s, step, cut, k in zip(x.type.shape[2:], stride, padding, kernel, strict=True)
    ]
    (batch, channels), pixels = x.type.shape[:2], math.prod(size)
    planes = (batch * channels, math.prod(x.type.shape[2:]))
    n.claim(planes[0], pixels)
    start = n.constant(np.arange(planes[0], dtype=np.int64)[:, None] * pixels)
    index = n.add(g.Sub(), n.b.reshape(positions, planes), start)
    empty = n.b.full((planes[0], pixels), 0, x.type.dtype)
    y = n.b.reshape(n.add(g.Scatter(1), empty, index, n.b.reshape(x, planes)), (batch, channels, *size))
    if output_shape is None:
        return y
    shape = n.ints(output_shape, "the output's shape")
    if len(shape) != x.type.rank or any(wanted < own for wanted, own in zip(shape, y.type.shape)):
        n.refuse(f"output_shape {list(shape)} for {list(y.type.shape)} elements")
    return n.add(g.Pad(tuple((0, wanted - own) for wanted, own in zip(shape, y.type.shape))), y)


@onnx_op("AveragePool")
def average_pool(n: Call, x: Value) -> Value:
    windows, include = _windows(n, x), bool(n.attribute("count_include_pad", 0))
    if (own := _own_padding(windows, x, include)) is not None:
        counted = include or not any(own[0])  # of none either is the same, and PyTorch's default
        return n.add(g.AvgPool(windows.kernel, windows.stride, *own, counted, _dilation(windows)), x)
    mean = _whole_mean(n, x, windows)
    n.claim(*windows.out)
    for out, kernel in zip(windows.out, windows.kernel, strict=True):
        n.claim(out, kernel)
    factor = math.prod(windows.kernel) / _counts(windows, x, include)
    if np.ptp(factor) == 0:
        return scaled(n.b, mean, float(factor.flat[0]))
    return n.add(g.Mul(), mean, n.constant(factor, x.type.dtype))


@onnx_op("LpPool", since=2)
def lp_pool(n: Call, x: Value) -> Value:
    """(sum of |x|^p under each window)^(1/p): the mean over all taps, padding included, times their number."""
    windows, power = _windows(n, x), n.attribute("p", 2)
    mean = _whole_mean(n, _power(n, x, power), windows)
    return _root(n, scaled(n.b, mean, math.prod(windows.kernel)), power)


@onnx_op("GlobalAveragePool")
def global_average_pool(n: Call, x: Value) -> Value:
    return n.add(g.ReduceMean(_space(x), keepdims=True), x)


@onnx_op("GlobalMaxPool")
def global_max_pool(n: Call, x: Value) -> Value:
    return n.add(g.ReduceMax(_space(x), keepdims=True), x)


@onnx_op("GlobalLpPool", since=2)
def global_lp_pool(n: Call, x: Value) -> Value:
    power = n.attribute("p", 2)
    return _root(n, n.add(g.ReduceSum(_space(x), keepdims=True), _power(n, x, power)), power)


def _space(x: Value) -> tuple[int, ...]:
    return tuple(range(2, x.type.rank))


def _power(n: Call, x: Value, power: float) -> Value:
    """|x| ** power."""
    if power == 2:
        return n.add(g.Mul(), x, x)
    size = n.add(g.Abs(), x)
    return size if power == 1 else binary(n.b, g.Pow(), size, power, x.type.dtype)


def _root(n: Call, x: Value, power: float) -> Value:
    if power == 2:
        return n.add(g.Sqrt(), x)
    return x if power == 1 else binary(n.b, g.Pow(), x, 1 / power, x.type.dtype)


def _windows(n: Call, x: Value) -> Windows:
    return windows_of(n, x, n.required("kernel_shape"))


def _own_padding(windows: Windows, x: Value, counted: bool = False) -> tuple[tuple[int, ...], bool] | None:
    """(padding, ceil_mode) with which a pool of the graph has just these windows; None if there is none. Padding that
    is not counted may be more, or less, behind the image than was asked for."""
    first = tuple(before for before, _ in windows.padding)
    room = zip(x.type.shape[2:], first, windows.reach, windows.kernel, strict=True)
    if any(2 * p > k or size + 2 * p < reach for size, p, reach, k in room):
        return None
    if counted and any(before != after for before, after in windows.padding):
        return None
    for ceil_mode in (False, True):
        op = g.AvgPool(windows.kernel, windows.stride, first, ceil_mode, dilation=windows.dilation)
        if tuple(op.out_sizes(x.type.shape)) == windows.out:
            return first, ceil_mode
    return None


def _dilation(windows: Windows) -> tuple[int, ...]:
    return windows.dilation if set(windows.dilation) != {1} else ()


def _padded(n: Call, x: Value, pairs: Pairs, fill: float) -> Value:
    positive = tuple((before, max(after, 0)) for before, after in pairs)  # what is left over at the end stays unread
    return n.add(g.Pad(((0, 0), (0, 0), *positive), fill), x) if any(map(any, positive)) else x


def _whole_mean(n: Call, x: Value, windows: Windows) -> Value:
    """The mean of all taps, those outside x being 0."""
    padded = _padded(n, x, windows.whole_padding(x.type.shape[2:]), 0.0)
    return n.add(
        g.AvgPool(windows.kernel, windows.stride, (0,) * len(windows.kernel), dilation=windows.dilation), padded
    )


def _taps(windows: Windows, d: int) -> Array:
    """(out, kernel): the positions under every window along spatial dimension d."""
    first = np.arange(windows.out[d]) * windows.stride[d] - windows.padding[d][0]
    return first[:, None] + np.arange(windows.kernel[d]) * windows.dilation[d]


def _counts(windows: Windows, x: Value, include_padding: bool) -> Array:
    """(out...): taps of every window within x, or within x and its padding."""
    total = np.ones(())
    for d, size in enumerate(x.type.shape[2:]):
        before, after = windows.padding[d] if include_padding else (0, 0)
        taps = _taps(windows, d)
        total = total[..., None] * ((taps >= -before) & (taps < size + after)).sum(1)
    return total


def _positions(n: Call, x: Value, windows: Windows) -> Value:
    """Where in all of x the first of the largest elements under every window is, counted in row-major order or, with
    `storage_order`, with the first spatial dimension as the fastest."""
    size, dims = x.type.shape[2:], len(windows.kernel)
    n.claim(*windows.out, *windows.kernel)
    n.claim(*x.type.shape[:2])
    inside = np.ones((1,) * 2 * dims, bool)
    flat, named = np.zeros((1,) * 2 * dims, np.int64), np.zeros((1,) * 2 * dims, np.int64)
    for d in range(dims):
        taps = _taps(windows, d)
        shape = [1] * (2 * dims)
        shape[d], shape[dims + d] = taps.shape
        place = taps.reshape(shape)
        inside = inside & (place >= 0) & (place < size[d])
        flat = flat * size[d] + place
        named = named + place * (math.prod(size[:d]) if n.attribute("storage_order", 0) else math.prod(size[d + 1 :]))
    pixels, taps_count = math.prod(windows.out), math.prod(windows.kernel)
    inside, flat, named = (a.reshape(pixels, taps_count) for a in (inside, flat, named))
    if not inside.any(1).all():
        n.refuse("the positions of maxima under windows that lie outside the image")
    # Taps outside repeat the first one inside, behind those inside: the first of equals is then an element of x.
    order = np.argsort(~inside, axis=1, kind="stable")
    inside, flat, named = (np.take_along_axis(a, order, 1) for a in (inside, flat, named))
    flat, named = (np.where(inside, a, a[:, :1]) for a in (flat, named))
    rows = n.b.reshape(x, (*x.type.shape[:2], math.prod(size)))
    under = take(n.b, rows, n.constant(flat), 2)  # (n, c, pixels, taps)
    best = position(n.b, under, 3, keepdims=True)
    found = n.add(g.Gather(3), n.constant(named[None, None]), best)
    planes = np.arange(math.prod(x.type.shape[:2]), dtype=np.int64) * math.prod(size)
    start = n.constant(planes.reshape(*x.type.shape[:2], 1, 1))
    return n.b.reshape(n.add(g.Add(), found, start), (*x.type.shape[:2], *windows.out))
