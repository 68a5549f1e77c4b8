"""Elements at given positions, and elements put there."""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.layers import index as layers
from jitrt.frontend.layers.arithmetic import binary
from jitrt.frontend.layers.scatter import scatter, scatter_nd
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array


@onnx_op("Gather")
def gather(n: Call, x: Value, index: Value) -> Value:
    axis = n.axis(n.attribute("axis", 0), x.type.rank)
    steps = _progression(n, x, index, axis)
    if steps is None:
        return layers.take(n.b, x, index, axis)
    part = n.b.slice(x, axis, steps.start, steps[-1] + 1, steps.step)
    return n.b.reshape(part, (*x.type.shape[:axis], *index.type.shape, *x.type.shape[axis + 1 :]))


def _progression(n: Call, x: Value, index: Value, axis: int) -> range | None:
    """The known positions as a range that goes up, if they are one: a slice then takes them, which is a view."""
    known, size = n.known(index), x.type.shape[axis]
    if known is None or known.size == 0:
        return None
    at = [int(number) + size * (number < 0) for number in known.ravel()]
    if not all(0 <= number < size for number in at):
        n.refuse(f"positions {min(at)} to {max(at)} of a dimension of {size}")
    step = at[1] - at[0] if len(at) > 1 else 1
    if step <= 0:
        return None
    found = range(at[0], at[-1] + 1, step)
    return found if at == list(found) else None


@onnx_op("GatherElements")
def gather_elements(n: Call, x: Value, index: Value) -> Value:
    return layers.gather(n.b, x, index, n.axis(n.attribute("axis", 0), x.type.rank))


@onnx_op("GatherND")
def gather_nd(n: Call, x: Value, index: Value) -> Value:
    """The dimensions that the index counts through become one, those of the batch another."""
    batch, (*where, depth) = n.attribute("batch_dims", 0), index.type.shape
    if not 0 <= batch <= len(where) or not 1 <= depth <= x.type.rank - batch:
        n.refuse(f"{depth} indices after {batch} batch dimensions of {x.type}")
    sizes, rest = x.type.shape[batch : batch + depth], x.type.shape[batch + depth :]
    columns = [n.b.reshape(n.b.slice(index, len(where), d, d + 1), tuple(where)) for d in range(depth)]
    if batch == 0:
        return layers.take_several(n.b, x, columns, 0)
    items, each, width = (math.prod(part) for part in (where[:batch], where[batch:], rest))
    at = n.b.reshape(layers.flat_position(n.b, columns, sizes), (items, each, 1))
    y = n.add(g.Gather(1), n.b.reshape(x, (items, math.prod(sizes), width)), at)
    return n.b.reshape(y, (*where, *rest))


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(n: Call, x: Value, index: Value, updates: Value) -> Value:
    axis = n.axis(n.attribute("axis", 0), x.type.rank)
    return scatter(n.b, x, index, updates, axis, n.attribute("reduction", "none"))


@onnx_op("ScatterND")
def scatter_by_points(n: Call, x: Value, index: Value, updates: Value) -> Value:
    return scatter_nd(n.b, x, index, updates, n.attribute("reduction", "none"))


@onnx_op("TensorScatter")
def tensor_scatter(n: Call, cache: Value, update: Value, start: Value | None = None) -> Value:
    """A cache of keys or values with new ones written from `start` on, which is a number an item of the batch; in mode
    "circular" those that pass the end go to the front."""
    rank = cache.type.rank
    axis = n.axis(n.attribute("axis", -2), rank)
    size, count = cache.type.shape[axis], update.type.shape[axis]
    if count > size:
        n.refuse(f"{count} new ones in a cache of {size}")
    if start is None:
        return n.b.put(cache, update, (0,) * rank, update.type.shape)
    first = n.b.reshape(n.b.operand(start, DType.i64), (start.type.numel, *[1] * (rank - 1)))
    at = n.add(g.Add(), first, n.constant(_along(np.arange(count), axis, rank)))
    if n.attribute("mode", "linear") == "circular":
        at = binary(n.b, g.Remainder(), at, size, DType.i64)
    return n.add(g.Scatter(axis), cache, at, update)


def _along(numbers: Array, axis: int, rank: int) -> Array:
    """A vector of numbers as i64 along one axis of `rank`."""
    return numbers.astype(np.int64).reshape([-1 if d == axis else 1 for d in range(rank)])


@onnx_op("ReverseSequence")
def reverse_sequence(n: Call, x: Value, lengths: Value) -> Value:
    """The first `lengths[item]` steps of every item of the batch reversed."""
    rank = x.type.rank
    time, batch = (n.axis(n.attribute(f"{what}_axis", d), rank) for d, what in enumerate(("time", "batch")))
    n.claim(x.type.shape[time])
    step = n.constant(_along(np.arange(x.type.shape[time]), time, rank))
    shape = tuple(size if d == batch else 1 for d, size in enumerate(x.type.shape))
    length = n.b.reshape(n.b.operand(lengths, DType.i64), shape)
    back = binary(n.b, g.Sub(), n.add(g.Sub(), length, step), 1, DType.i64)
    return n.add(g.Gather(time), x, n.add(g.Where(), n.add(g.Less(), step, length), back, step))


@onnx_op("OneHot")
def one_hot(n: Call, index: Value, depth: Value, values: Value) -> Value:
    """values[1] where the index is, values[0] elsewhere, along a new axis of `depth`."""
    (count,) = n.ints(depth, "the depth")
    n.claim(count)
    rank = index.type.rank + 1
    axis = n.axis(n.attribute("axis", -1), rank)
    at = n.b.operand(index, DType.i64)
    below = binary(n.b, g.Less(), at, 0, DType.i64)
    at = n.add(g.Where(), below, binary(n.b, g.Add(), at, count, DType.i64), at)
    at = n.b.reshape(at, (*index.type.shape[:axis], 1, *index.type.shape[axis:]))
    off, on = (n.b.reshape(n.b.slice(values, 0, d, d + 1), ()) for d in range(2))
    return n.add(g.Where(), n.add(g.Equal(), at, n.constant(_along(np.arange(count), axis, rank))), on, off)


@onnx_op("Compress")
def compress(n: Call, x: Value, condition: Value) -> Value:
    chosen = np.flatnonzero(n.need(condition, "which elements are kept, and so the size of the result,"))
    axis = n.attribute("axis")
    if axis is None:
        x, axis = n.b.reshape(x, (x.type.numel,)), 0
    return layers.take(n.b, x, n.constant(chosen.astype(np.int64)), n.axis(axis, x.type.rank))


@onnx_op("NonZero")
def non_zero(n: Call, x: Value) -> Value:
    known = n.need(x, "how many elements are not zero, and so the size of the result,")
    return n.constant(np.array(np.nonzero(np.atleast_1d(known)), np.int64).reshape(max(1, known.ndim), -1))


@onnx_op("Unique")
def unique(n: Call, x: Value) -> tuple[Value, ...]:
    """The distinct elements, or slices along an axis: where each is first, where x has which, how often each is."""
    known = n.need(x, "how many elements are distinct, and so the size of the result,")
    axis = n.attribute("axis")
    axis = None if axis is None else n.axis(axis, x.type.rank)
    y, first, inverse, count = np.unique(known, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not n.attribute("sorted", 1):
        order = np.argsort(first)
        y, first, count = np.take(y, order, axis or 0), first[order], count[order]
        inverse = np.argsort(order)[inverse]
    return (n.constant(y), *(n.constant(part.astype(np.int64)) for part in (first, inverse, count)))
