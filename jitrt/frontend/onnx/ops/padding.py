"""Pad, and what crops or folds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jitrt.frontend.layers import index as layers
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array
from jitrt.graph.ops.resample import EXTENSIONS

_MODES = {numpys: mode for mode, numpys in EXTENSIONS.items()}  # ONNX calls them as numpy does
Pairs = tuple[tuple[int, int], ...]


@onnx_op("Pad", since=2)
def pad(n: Call, x: Value, pads: Value | None = None, value: Value | None = None, axes: Value | None = None) -> Value:
    """Negative padding cuts off, before anything is added."""
    sizes = n.numbers("pads", pads) or ()
    along = range(x.type.rank) if axes is None else n.ints(axes, "the padded axes")
    if len(sizes) != 2 * len(along):
        n.refuse(f"{len(sizes)} paddings for {len(along)} axes")
    padding = [(0, 0)] * x.type.rank
    for axis, before, after in zip(along, sizes[: len(along)], sizes[len(along) :], strict=True):
        padding[n.axis(axis, x.type.rank)] = (before, after)
    for axis, (before, after) in enumerate(padding):
        start, stop = max(0, -before), x.type.shape[axis] - max(0, -after)
        if start > stop:
            n.refuse(f"padding {before} and {after} of a dimension of {x.type.shape[axis]}")
        x = n.b.slice(x, axis, start, stop)
    added = tuple((max(0, before), max(0, after)) for before, after in padding)
    mode = n.attribute("mode", "constant")
    if mode == "constant":
        number = n.attribute("value", 0.0) if value is None else n.need(value, "what it is padded with").item()
        return _constant(n, x, added, number)
    if mode not in _MODES:
        n.refuse(f"mode {mode!r}")
    return _extended(n, x, added, mode)


def _constant(n: Call, x: Value, padding: Pairs, number: float) -> Value:
    number = float(number) if x.type.dtype.is_float else int(number)
    return n.add(g.Pad(padding, number), x) if any(map(any, padding)) else x


def _extended(n: Call, x: Value, padding: Pairs, mode: str) -> Value:
    """By elements of x itself; further than it reaches, they are taken one axis at a time."""
    reach = {"reflect": -1, "wrap": 0}
    far = [d for d, pair in enumerate(padding) if mode in reach and max(pair) > x.type.shape[d] + reach[mode]]
    for d, pair in enumerate(padding):
        if any(pair) and x.type.shape[d] == 0:
            n.refuse(f"{mode} padding of {x.type}, which is empty")
        if d in far:
            n.claim(x.type.shape[d] + sum(pair))
            at = np.pad(np.arange(x.type.shape[d], dtype=np.int64), pair, mode=mode)  # type: ignore[call-overload]
            x = layers.take(n.b, x, n.constant(at), d)
    near = tuple((0, 0) if d in far else pair for d, pair in enumerate(padding))
    return n.add(g.Extend(near, _MODES[mode]), x) if any(map(any, near)) else x


@onnx_op("CenterCropPad")
def center_crop_pad(n: Call, x: Value, shape: Value) -> Value:
    sizes = n.ints(shape, "the shape")
    axes = n.attribute("axes", range(x.type.rank))
    if len(sizes) != len(axes):
        n.refuse(f"{len(sizes)} sizes for {len(axes)} axes")
    padding = [(0, 0)] * x.type.rank
    for given, wanted in zip(axes, sizes, strict=True):
        axis = n.axis(given, x.type.rank)
        size = x.type.shape[axis]
        start = max(0, size - wanted) // 2
        x = n.b.slice(x, axis, start, start + min(size, wanted))
        before = max(0, wanted - size) // 2
        padding[axis] = (before, max(0, wanted - size) - before)
    return _constant(n, x, tuple(padding), 0)


@onnx_op("Col2Im")
def col_to_im(n: Call, x: Value, image: Value, block: Value) -> Value:
    """x (n, c * taps, windows) summed where windows overlap: every element of the image gathers what is its own."""
    sizes, kernel = n.ints(image, "the shape of the image"), n.ints(block, "the shape of a block")
    dims = len(sizes)
    dilations, strides = n.attribute("dilations", [1] * dims), n.attribute("strides", [1] * dims)
    pads = n.attribute("pads", [0] * 2 * dims)
    if x.type.dtype == DType.b8:
        n.refuse("sums of booleans")
    if not dims == len(kernel) == len(dilations) == len(strides) == len(pads) // 2 or x.type.rank != 3:
        n.refuse(f"an image of {dims} dimensions, blocks of {len(kernel)}, for {x.type}")
    batch, rows, columns = x.type.shape
    taps = math.prod(kernel)
    n.claim(taps, columns)
    n.claim(*sizes)
    targets = _targets(sizes, kernel, dilations, strides, pads)
    if taps < 1 or rows % taps or targets.size != taps * columns:
        n.refuse(f"{x.type} is not an image of {list(sizes)} in blocks of {list(kernel)}")
    table = _sources(targets, math.prod(sizes))
    filled = n.b.reshape(x, (batch, rows // taps, taps * columns))
    if (table == targets.size).any():
        filled = n.add(g.Pad(((0, 0), (0, 0), (0, 1)), 0), filled)
    parts = layers.take(n.b, filled, n.constant(table), 2)
    return n.b.reshape(n.add(g.ReduceSum((2,)), parts), (batch, rows // taps, *sizes))


def _targets(
    sizes: Sequence[int], kernel: Sequence[int], dilations: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> Array:
    """For every tap of a block and every window, flat, the position in the image, or -1 where that is padding."""
    dims = len(sizes)
    flat, inside = np.zeros([1] * 2 * dims, np.int64), np.ones([1] * 2 * dims, bool)
    for d in range(dims):
        count = (sizes[d] + pads[d] + pads[dims + d] - dilations[d] * (kernel[d] - 1) - 1) // strides[d] + 1
        tap = np.arange(kernel[d]).reshape([-1 if i == d else 1 for i in range(2 * dims)])
        window = np.arange(count).reshape([-1 if i == dims + d else 1 for i in range(2 * dims)])
        at = tap * dilations[d] + window * strides[d] - pads[d]
        flat, inside = flat * sizes[d] + at, inside & (at >= 0) & (at < sizes[d])
    return np.where(inside, flat, -1).ravel()


def _sources(targets: Array, size: int) -> Array:
    """(at most so many, size): which elements go to each of `size` positions, filled up with one past the last."""
    order = np.argsort(targets, kind="stable")
    order = order[np.searchsorted(targets[order], 0) :]
    found = targets[order]
    counts = np.bincount(found, minlength=size)
    rank = np.arange(len(found)) - (np.cumsum(counts) - counts)[found]
    table = np.full((int(counts.max(initial=1)), size), targets.size, np.int64)
    table[rank, found] = order
    return table
