"""Shapes, and the same elements under other shapes and in other orders.

What only depends on shapes is a constant. Where an attribute became an input (axes, split, starts), both forms are
read; as an input it must be known at the build.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jitrt.errors import ShapeError
from jitrt.frontend.layers import index as layers
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value
from jitrt.graph import ops as g
from jitrt.graph.types import broadcast_shapes


@onnx_op("Shape")
def shape(n: Call, x: Value) -> Value:
    return n.constant(np.array(x.type.shape[n.attribute("start", 0) : n.attribute("end")], np.int64))


@onnx_op("Size")
def size(n: Call, x: Value) -> Value:
    return n.constant(np.array(x.type.numel, np.int64))


@onnx_op("Reshape", since=5)
def reshape(n: Call, x: Value, shape: Value) -> Value:
    sizes = list(n.ints(shape, "the shape"))
    if not n.attribute("allowzero", 0):
        if any(size == 0 for size in sizes[x.type.rank :]):
            n.refuse(f"shape {sizes} takes over a dimension that {x.type} does not have")
        sizes = [x.type.shape[d] if size == 0 else size for d, size in enumerate(sizes)]
    if -1 in sizes:
        open_, rest = sizes.index(-1), math.prod(size for size in sizes if size != -1)
        if sizes.count(-1) > 1 or rest <= 0 or x.type.numel % rest:
            n.refuse(f"shape {sizes} does not fit {x.type}")
        sizes[open_] = x.type.numel // rest
    return n.b.reshape(x, tuple(sizes))


@onnx_op("Flatten")
def flatten(n: Call, x: Value) -> Value:
    axis, rank = n.attribute("axis", 1), x.type.rank
    axis = rank if axis == rank else n.axis(axis, rank)
    return n.b.reshape(x, (math.prod(x.type.shape[:axis]), math.prod(x.type.shape[axis:])))


@onnx_op("Squeeze")
def squeeze(n: Call, x: Value, axes: Value | None = None) -> Value:
    given = n.numbers("axes", axes)
    gone = [d for d, size in enumerate(x.type.shape) if size == 1]
    if given is not None:
        gone = [n.axis(axis, x.type.rank) for axis in given]
    if any(x.type.shape[d] != 1 for d in gone):
        n.refuse(f"squeezed axes {gone} of {x.type} are not all 1")
    return n.b.reshape(x, tuple(size for d, size in enumerate(x.type.shape) if d not in gone))


@onnx_op("Unsqueeze")
def unsqueeze(n: Call, x: Value, axes: Value | None = None) -> Value:
    given = n.numbers("axes", axes) or ()
    rank = x.type.rank + len(given)
    new = {n.axis(axis, rank) for axis in given}
    if len(new) < len(given):
        n.refuse(f"axes {list(given)} name one twice")
    return _with_axes(n, x, new)


def _with_axes(n: Call, x: Value, new: set[int]) -> Value:
    """x with dimensions of 1 where the result has the axes `new`."""
    sizes = iter(x.type.shape)
    return n.b.reshape(x, tuple(1 if d in new else next(sizes) for d in range(x.type.rank + len(new))))


@onnx_op("Transpose")
def transpose(n: Call, x: Value) -> Value:
    return n.b.permute(x, tuple(n.attribute("perm", range(x.type.rank)[::-1])))


@onnx_op("Concat", since=4)
def concat(n: Call, *parts: Value) -> Value:
    return n.b.concat(parts, n.axis(n.required("axis"), parts[0].type.rank))


def stacked(n: Call, parts: Sequence[Value], axis: int) -> Value:
    """Tensors of one shape along a new axis."""
    return n.b.concat([_with_axes(n, part, {axis}) for part in parts], axis)


@onnx_op("Split")
def split(n: Call, x: Value, sizes: Value | None = None) -> tuple[Value, ...]:
    axis = n.axis(n.attribute("axis", 0), x.type.rank)
    lengths = n.numbers("split", sizes)
    if lengths is None:
        count = n.attribute("num_outputs", len(n.outputs))
        if count < 1:
            n.refuse(f"a split into {count} parts")
        n.claim(count)
        each = -(-x.type.shape[axis] // count)
        lengths = tuple(max(0, min(each, x.type.shape[axis] - each * part)) for part in range(count))
    if sum(lengths) != x.type.shape[axis] or min(lengths) < 0:
        n.refuse(f"split {list(lengths)} of {x.type} along axis {axis}")
    return tuple(cut(n, x, axis, lengths))


def cut(n: Call, x: Value, axis: int, lengths: Sequence[int]) -> list[Value]:
    """x in pieces of these lengths along `axis`."""
    ends = np.cumsum(lengths).tolist()
    return [n.b.slice(x, axis, end - length, end) for end, length in zip(ends, lengths, strict=True)]


@onnx_op("Slice")
def slice_by_attributes(n: Call, x: Value) -> Value:
    starts, ends = n.required("starts"), n.required("ends")
    return _slice(n, x, starts, ends, n.attribute("axes", range(len(starts))), [1] * len(starts))


@onnx_op("Slice", since=10)
def slice_by_inputs(
    n: Call, x: Value, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> Value:
    first, last = n.ints(starts, "where a slice starts"), n.ints(ends, "where a slice ends")
    along = range(len(first)) if axes is None else n.ints(axes, "the axes of a slice")
    return _slice(n, x, first, last, along, [1] * len(first) if steps is None else n.ints(steps, "a slice's step"))


def _slice(
    n: Call, x: Value, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> Value:
    """One slice for all axes, then what has a negative step is reversed."""
    if not len(starts) == len(ends) == len(axes) == len(steps):
        n.refuse(f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    picked = [range(size) for size in x.type.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            n.refuse("a slice of step 0")
        axis = n.axis(axis, x.type.rank)
        size = x.type.shape[axis]
        if step < 0 and start < -size:
            start = 0  # the standard clamps it to the first element, where Python has none
        picked[axis] = range(*slice(start, end, step).indices(size))
    backwards = [axis for axis, r in enumerate(picked) if r.step < 0]
    upwards = [r if r.step > 0 else r[::-1] for r in picked]
    if upwards != [range(size) for size in x.type.shape]:
        bounds = [(r.start, r[-1] + 1, r.step) if r else (0, 0, 1) for r in upwards]
        x = n.add(g.Slice(*(tuple(bound[i] for bound in bounds) for i in range(3))), x)
    return layers.flip(n.b, x, backwards)


@onnx_op("Expand", since=8)
def expand(n: Call, x: Value, shape: Value) -> Value:
    sizes = n.ints(shape, "the shape")
    wanted = broadcast_shapes(x.type.shape, sizes)
    if wanted is None:
        raise ShapeError(f"{x.type} does not broadcast with {list(sizes)}")
    return n.b.expand(x, wanted)


@onnx_op("Tile", since=6)
def tile(n: Call, x: Value, repeats: Value) -> Value:
    counts = n.ints(repeats, "how often it is repeated")
    if len(counts) != x.type.rank or min(counts, default=0) < 0:
        n.refuse(f"repeats {list(counts)} of {x.type}")
    sizes = x.type.shape
    apart = tuple(number for size in sizes for number in (1, size))
    spread = tuple(number for pair in zip(counts, sizes, strict=True) for number in pair)
    wanted = tuple(count * size for count, size in zip(counts, sizes, strict=True))
    return x if wanted == sizes else n.b.reshape(n.b.expand(n.b.reshape(x, apart), spread), wanted)


@onnx_op("DepthToSpace")
def depth_to_space(n: Call, x: Value) -> Value:
    by = _block(n, x)
    batch, c, h, w = x.type.shape
    depth = c // by**2
    if n.attribute("mode", "DCR") == "DCR":
        apart, order = (batch, by, by, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        apart, order = (batch, depth, by, by, h, w), (0, 1, 4, 2, 5, 3)
    return n.b.reshape(n.b.permute(n.b.reshape(x, apart), order), (batch, depth, h * by, w * by))


@onnx_op("SpaceToDepth")
def space_to_depth(n: Call, x: Value) -> Value:
    by = _block(n, x)
    batch, c, h, w = x.type.shape
    apart = n.b.reshape(x, (batch, c, h // by, by, w // by, by))
    order = (0, 3, 5, 1, 2, 4) if n.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return n.b.reshape(n.b.permute(apart, order), (batch, c * by * by, h // by, w // by))


def _block(n: Call, x: Value) -> int:
    by = int(n.required("blocksize"))
    if x.type.rank != 4 or by < 1:
        n.refuse(f"blocks of {by} of {x.type}")
    return by
