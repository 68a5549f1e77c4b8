"""Layers that move elements and compute nothing."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jitrt.errors import ShapeError
from jitrt.frontend.network.frame import Frame, Sizes, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import Value
from jitrt.graph.ops import Concat, Dropout, Identity


@layer
def add_constant(net: Frame, data: Any, *, name: str | None = None) -> Value:
    """A tensor that is known now: numpy, torch, DLPack, or lists of numbers (float32, int64 or bool)."""
    return net.constant(data)


@layer
def add_reshape(net: Frame, x: Tensor, shape: Sizes, *, name: str | None = None) -> Value:
    """The same elements in row-major order under another shape, of which one size may be -1: what is left."""
    value, sizes = net.value(x), list(net.integers("shape", shape))
    unknown = [d for d, size in enumerate(sizes) if size == -1]
    known = math.prod(size for size in sizes if size != -1)
    if len(unknown) > 1 or any(size < -1 for size in sizes):
        net.refuse(f"shape is {shape!r}; sizes are not negative, but for one -1")
    if unknown and known:
        sizes[unknown[0]] = value.type.numel // known
    if math.prod(sizes) != value.type.numel:
        raise ShapeError(
            f"x has shape {value.type.shape}, that is {value.type.numel} elements, which {shape!r} has not"
        )
    return net.builder.reshape(value, tuple(sizes))


@layer
def add_flatten(net: Frame, x: Tensor, start: int = 1, *, name: str | None = None) -> Value:
    """All dimensions from `start` on as one: (n, c, h, w) becomes (n, c * h * w)."""
    value = net.value(x)
    at = net.axis(start, max(value.type.rank, 1), "start")
    return net.builder.reshape(value, (*value.type.shape[:at], math.prod(value.type.shape[at:])))


@layer
def add_permute(net: Frame, x: Tensor, order: Sequence[int], *, name: str | None = None) -> Value:
    """Dimension d of the result is dimension order[d] of x."""
    value = net.value(x)
    numbers = tuple(net.axis(a, value.type.rank, "an entry of order") for a in net.integers("order", order))
    if sorted(numbers) != list(range(value.type.rank)):
        net.refuse(f"order is {order!r}; name each of the {value.type.rank} dimensions once")
    return net.builder.permute(value, numbers)


@layer
def add_transpose(net: Frame, x: Tensor, a: int = -2, b: int = -1, *, name: str | None = None) -> Value:
    """Two dimensions exchanged: unless given, the last two."""
    value = net.value(x)
    order = list(range(value.type.rank))
    first, second = net.axis(a, value.type.rank), net.axis(b, value.type.rank)
    order[first], order[second] = second, first
    return net.builder.permute(value, tuple(order))


@layer
def add_expand(net: Frame, x: Tensor, shape: Sequence[int], *, name: str | None = None) -> Value:
    """Broadcast to `shape`, without a copy."""
    sizes = net.integers("shape", shape)
    if any(size < 1 for size in sizes):
        net.refuse(f"shape is {shape!r}; sizes are positive")
    return net.builder.expand(net.value(x), sizes)


@layer
def add_slice(
    net: Frame,
    x: Tensor,
    start: Sizes,
    stop: Sizes,
    step: Sizes = 1,
    *,
    axes: Sizes | None = None,
    name: str | None = None,
) -> Value:
    """x[start:stop:step] along `axes` (unless given, the first ones); negative bounds count from the end, and bounds
    beyond it are cut, as in Python. Steps are positive."""
    value = net.value(x)
    starts, stops = net.integers("start", start), net.integers("stop", stop)
    steps = net.sizes("step", step, len(starts))
    numbers = net.integers("axes", range(len(starts)) if axes is None else axes)
    if not len(starts) == len(stops) == len(numbers):
        net.refuse(f"start is {start!r}, stop {stop!r}, for {len(numbers)} axes; give as many of each")
    wanted = [net.axis(a, value.type.rank) for a in numbers]
    for axis, first, last, by in zip(wanted, starts, stops, steps, strict=True):
        value = _sliced(net, value, axis, slice(first, last, by))
    return value


@layer
def add_split(net: Frame, x: Tensor, sizes: Sequence[int], axis: int, *, name: str | None = None) -> tuple[Value, ...]:
    """Parts of x one after another along an axis, of these sizes, which make up the whole."""
    value = net.value(x)
    at, parts = net.axis(axis, value.type.rank), net.integers("sizes", sizes)
    if any(size < 1 for size in parts) or sum(parts) != value.type.shape[at]:
        net.refuse(
            f"sizes is {sizes!r}; they must be positive and make up {value.type.shape[at]}, the size of axis {at}"
        )
    starts = [sum(parts[:i]) for i in range(len(parts))]
    return tuple(net.builder.slice(value, at, i, i + size) for i, size in zip(starts, parts, strict=True))


@layer
def add_index(net: Frame, x: Tensor, index: Any, *, name: str | None = None) -> Value:
    """x[index] with numpy's meaning, for numbers, slices with positive steps, `...` and None."""
    value = net.value(x)
    items = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        net.refuse("an index has one ... at most")
    if not dots:
        items.append(Ellipsis)
    at, rank = dots[0] if dots else len(items) - 1, value.type.rank
    left = rank - sum(item is not None and item is not Ellipsis for item in items)
    if left < 0:
        net.refuse(f"{rank - left} indices, but x has {rank} dimensions")
    items[at : at + 1] = [slice(None)] * left
    axis, shape = 0, list[int]()
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = value.type.shape[axis]
        if isinstance(item, slice):
            value = _sliced(net, value, axis, item)
            shape.append(value.type.shape[axis])
        else:
            number = net.axis(_whole(net, item), size, f"the index of dimension {axis}", "elements")
            value = net.builder.slice(value, axis, number, number + 1)
        axis += 1
    return net.builder.reshape(value, tuple(shape))


def _whole(net: Frame, item: Any) -> int:
    if isinstance(item, bool) or not hasattr(item, "__index__") or np.ndim(item):
        net.refuse(f"an index is {item!r}; give numbers, slices, ... or None, or use add_gather")
    return operator.index(item)


def _sliced(net: Frame, x: Value, axis: int, bounds: slice) -> Value:
    if (bounds.step or 1) < 1:
        net.refuse(f"step is {bounds.step}; it cannot be below 1")
    first, last, step = bounds.indices(x.type.shape[axis])
    if last <= first:
        net.refuse(f"{first}:{last} of axis {axis} is empty; a network has no tensors without elements")
    return net.builder.slice(x, axis, first, last, step)


def _several(net: Frame, tensors: Any) -> list[Value]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Iterable):
        net.refuse(f"got a {type(tensors).__name__} for the tensors; give a list of them")
    return [net.value(tensor) for tensor in tensors]


@layer
def add_concat(net: Frame, tensors: Sequence[Tensor], axis: int, *, name: str | None = None) -> Value:
    """Tensors of one dtype one after another along an axis; their other dimensions agree."""
    values = _several(net, tensors)
    if not values:
        net.refuse("no tensors; give at least one")
    for value, tensor in zip(values, tensors, strict=True):
        if value.type.dtype != values[0].type.dtype:
            raise ShapeError(
                f"{tensors[0].name!r} is {values[0].type.dtype.numpy}, {tensor.name!r} {value.type.dtype.numpy}; cast "
                "one of them first with net.add_cast"
            )
    at = net.axis(axis, values[0].type.rank)
    return values[0] if len(values) == 1 else net.builder.add(Concat(at), *values)


@layer
def add_stack(net: Frame, tensors: Sequence[Tensor], axis: int = 0, *, name: str | None = None) -> Value:
    """Tensors of one type side by side along a new axis."""
    values = _several(net, tensors)
    if not values or any(value.type.logical() != values[0].type.logical() for value in values):
        net.refuse("the tensors differ in shape or dtype, or there are none; they must be alike to be stacked")
    shape = values[0].type.shape
    at = net.axis(axis, len(shape) + 1)
    rows = [net.builder.reshape(value, (*shape[:at], 1, *shape[at:])) for value in values]
    return rows[0] if len(rows) == 1 else net.builder.add(Concat(at), *rows)


@layer
def add_dropout(net: Frame, x: Tensor, *, name: str | None = None) -> Value:
    """Nothing at inference; the passes drop it."""
    return net.builder.add(Dropout(), net.value(x))


@layer
def add_identity(net: Frame, x: Tensor, *, name: str | None = None) -> Value:
    """The same tensor, under another name."""
    return net.builder.add(Identity(), net.value(x))
