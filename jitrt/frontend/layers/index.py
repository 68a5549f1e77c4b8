"""Embedding, indexing, top k and sorting, over the ops gather and topk.

A position out of range is taken as the nearest one: see `graph.ops.Gather`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_LONGEST = 4096  # elements of a row that the kernel of topk sorts at once
_FEWEST = 4  # a longer row is cut only if its pieces are left with at most one in so many elements


def take(b: Builder, x: Value, index: Value, axis: int) -> Value:
    """x[..., index, ...]: the dimension `axis` of x becomes the dimensions of the index (which may have none)."""
    count = math.prod(index.type.shape)
    flat = b.reshape(index, tuple(count if d == axis else 1 for d in range(x.type.rank)))
    y = b.add(g.Gather(axis), x, flat)
    return b.reshape(y, (*x.type.shape[:axis], *index.type.shape, *x.type.shape[axis + 1 :]))


def put_slice(b: Builder, base: Value, new: Value, at: g.Slice, axis: int = 0) -> Value:
    """`base` with `new` where the slice `at` of it lies, in the dimensions from `axis` on. Rows that are apart are
    taken one by one from base and new together."""
    if all(step == 1 for step in at.step[axis:]):
        return b.put(base, new, at.start, at.stop, axis)
    size = base.type.shape[axis]
    places = np.arange(at.start[axis], at.stop[axis], at.step[axis])
    rows = b.slice(base, axis, at.start[axis], at.stop[axis], at.step[axis])
    written = put_slice(b, rows, new, at, axis + 1) if axis + 1 < base.type.rank else new
    order = np.arange(size)
    order[places] = size + np.arange(len(places))
    return take(b, b.concat([base, written], axis), b.graph.add_constant(order), axis)


def embedding(b: Builder, table: Value, index: Value) -> Value:
    """table (count, width) at index (...): (..., width)."""
    return take(b, table, index, 0)


def take_several(b: Builder, x: Value, indices: Sequence[Value], first: int) -> Value:
    """x[..., i, j, ...] by indices for the dimensions `first`, `first + 1`, ..., which broadcast among each other."""
    sizes = x.type.shape[first : first + len(indices)]
    if len(indices) == 1:
        return take(b, x, indices[0], first)
    rest = x.type.shape[first + len(indices) :]
    flat = b.reshape(x, (*x.type.shape[:first], math.prod(sizes), *rest))
    return take(b, flat, flat_position(b, indices, sizes), first)


def flat_position(b: Builder, indices: Sequence[Value], sizes: Sequence[int]) -> Value:
    """The position, in a tensor of dimensions `sizes` made one, that an index for each of them names."""
    position = _counted(b, indices[0], sizes[0])
    for index, size in zip(indices[1:], sizes[1:], strict=True):
        row = binary(b, g.Mul(), position, size, DType.i64)
        position = b.add(g.Add(), row, _counted(b, index, size))
    return position


def _counted(b: Builder, index: Value, size: int) -> Value:
    """The index with what counts from the end counted from the start, and within the dimension, so that it cannot
    reach into another row."""
    index = b.operand(index, DType.i64)
    below = binary(b, g.Less(), index, 0, DType.i64)
    wrapped = b.add(g.Where(), below, binary(b, g.Add(), index, size, DType.i64), index)
    return binary(b, g.Minimum(), binary(b, g.Maximum(), wrapped, 0, DType.i64), size - 1, DType.i64)


def gather(b: Builder, x: Value, index: Value, axis: int) -> Value:
    """torch.gather: the index is no longer than x beside `axis`, and what is beyond it there is not looked at."""
    for d, size in enumerate(index.type.shape):
        if d != axis:
            x = b.slice(x, d, 0, size)
    return b.add(g.Gather(axis), x, index)


def flip(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    """Backwards along some dimensions."""
    for axis in axes:
        size = x.type.shape[axis]
        if size > 1:
            b.claim(size)
            x = take(b, x, b.constant(np.arange(size - 1, -1, -1, dtype=np.int64)), axis)
    return x


def roll(b: Builder, x: Value, shifts: Sequence[int]) -> Value:
    """Every dimension turned by its shift: what leaves it at the end comes in at the start."""
    within = tuple(shift % size if size else 0 for shift, size in zip(shifts, x.type.shape, strict=True))
    return b.add(g.Roll(within), x) if any(within) else x


def position(b: Builder, x: Value, axis: int, largest: bool = True, keepdims: bool = False) -> Value:
    """Where the largest (or smallest) element along `axis` is, the first of equals. Elements of 64 bits have no kernel
    that finds both at once: their extreme first, then the first place that holds it."""
    x = _signed(b, x)
    if x.type.dtype.itemsize <= 4:
        return b.add(g.ArgMax(axis, keepdims) if largest else g.ArgMin(axis, keepdims), x)
    extreme = b.add((g.ReduceMax if largest else g.ReduceMin)((axis,), keepdims=True), x)
    there = b.add(g.LogicalOr(), b.add(g.Equal(), x, extreme), b.add(g.NotEqual(), x, x))
    size = x.type.shape[axis]
    b.claim(size)
    places = np.arange(size, dtype=np.int64).reshape(size, *[1] * (x.type.rank - 1 - axis))
    first = b.add(g.Where(), there, b.constant(places), b.graph.scalar(size, DType.i64))
    return b.add(g.ReduceMin((axis,), keepdims), first)


def topk(b: Builder, x: Value, k: int, axis: int, largest: bool = True) -> tuple[Value, Value]:
    """(values, positions as i64) of the k best elements along `axis`, best first."""
    position = best(b, x, k, axis, largest)
    return b.add(g.Gather(axis), x, position), position


def can_sort(size: int, k: int) -> bool:
    """Whether the k best of `size` elements can be found."""
    return size <= _LONGEST or k * _FEWEST <= _LONGEST


def best(b: Builder, x: Value, k: int, axis: int, largest: bool = True) -> Value:
    """Where the k best elements are, best first, equals in their order.

    Rows too long for the kernel are cut into pieces: the best of each piece, then the best of those."""
    x, size = _signed(b, x), x.type.shape[axis]
    if x.type.dtype in (DType.i64, DType.u64) and 0 < size <= _LONGEST:
        return _best_of_halves(b, x, k, axis, largest)
    if size <= _LONGEST or not can_sort(size, k):  # the rest is for the kernel to refuse
        return b.add(g.TopK(axis, k, largest), x)
    pieces = -(-size // _LONGEST)
    length = -(-size // pieces)
    # Filled up with what is never chosen before an element: it is the worst there is, and stands behind.
    worst = _worst(x.type.dtype, largest)
    padding = tuple((0, pieces * length - size if d == axis else 0) for d in range(x.type.rank))
    filled = x if padding[axis] == (0, 0) else b.add(g.Pad(padding, worst), x)
    before, after = x.type.shape[:axis], x.type.shape[axis + 1 :]
    cut = b.reshape(filled, (*before, pieces, length, *after))
    inner = b.add(g.TopK(axis + 1, k, largest), cut)
    b.claim(pieces)
    start = np.arange(pieces, dtype=np.int64).reshape(pieces, *[1] * (len(after) + 1)) * length
    chosen = b.reshape(b.add(g.Gather(axis + 1), cut, inner), (*before, pieces * k, *after))
    position = b.reshape(b.add(g.Add(), inner, b.constant(start)), chosen.type.shape)
    return b.add(g.Gather(axis), position, best(b, chosen, k, axis, largest))


def _signed(b: Builder, x: Value) -> Value:
    """Unsigned integers of 32 bits as signed ones in the same order, which is what kernels compare."""
    if x.type.dtype != DType.u32:
        return x
    return b.operand(binary(b, g.Sub(), b.operand(x, DType.i64), 2**31, DType.i64), DType.i32)


def _best_of_halves(b: Builder, x: Value, k: int, axis: int, largest: bool) -> Value:
    """Of 64-bit integers, which no kernel sorts: by their low halves first, and then, since equals keep their order, by
    their high ones."""
    dtype = x.type.dtype
    high = binary(b, g.FloorDiv(), x, 2**32, dtype)
    low = b.operand(b.add(g.Sub(), x, binary(b, g.Mul(), high, 2**32, dtype)), DType.u32)
    high = b.operand(high, DType.i32 if dtype == DType.i64 else DType.u32)
    order = b.add(g.TopK(axis, x.type.shape[axis], largest), _signed(b, low))
    after = b.add(g.TopK(axis, k, largest), _signed(b, b.add(g.Gather(axis), high, order)))
    return b.add(g.Gather(axis), order, after)


def _worst(dtype: DType, largest: bool) -> float:
    if dtype.is_float:
        return -math.inf if largest else math.nan
    if dtype == DType.b8:
        return float(not largest)
    limits = np.iinfo(dtype.numpy)
    return float(limits.min if largest else limits.max)


def windows(b: Builder, x: Value, axis: int, size: int, step: int) -> Value:
    """torch.Tensor.unfold: windows of `size` elements, `step` apart, along `axis`, as a last dimension."""
    count = (x.type.shape[axis] - size) // step + 1
    b.claim(count, size)
    index = (np.arange(count)[:, None] * step + np.arange(size)).astype(np.int64)
    y = take(b, x, b.constant(index), axis)
    order = [d for d in range(y.type.rank) if d != axis + 1]
    return b.permute(y, (*order, axis + 1))


def image_columns(
    b: Builder,
    x: Value,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    stride: tuple[int, int],
) -> Value:
    """torch.nn.Unfold, im2col: x (n, c, h, w) as (n, c * taps, windows)."""
    if any(padding):
        x = b.add(g.Pad(((0, 0), (0, 0), *((p, p) for p in padding))), x)
    n, c, h, w = x.type.shape
    starts = [
        np.arange((size - d * (k - 1) - 1) // s + 1) * s for size, k, d, s in zip((h, w), kernel, dilation, stride)
    ]
    taps = [np.arange(k) * d for k, d in zip(kernel, dilation)]
    rows = taps[0][:, None, None, None] + starts[0][:, None]
    columns = taps[1][:, None, None] + starts[1]
    index = (rows * w + columns).astype(np.int64)  # (kernel height, kernel width, windows down, windows across)
    y = take(b, b.reshape(x, (n, c, h * w)), b.constant(index.reshape(-1)), 2)
    return b.reshape(y, (n, c * math.prod(kernel), starts[0].size * starts[1].size))


def fold_columns(
    b: Builder,
    x: Value,
    size: tuple[int, int],
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    stride: tuple[int, int],
) -> Value:
    """torch.nn.Fold, col2im: x (n, c * taps, windows) summed where windows overlap, (n, c, *size). It is a transposed
    convolution, each filter of which puts its input in one place."""
    taps, n, rows = math.prod(kernel), x.type.shape[0], x.type.shape[1]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    room = [s + 2 * p - r for s, p, r in zip(size, padding, reach, strict=True)]
    counts = [r // step + 1 for r, step in zip(room, stride, strict=True)]
    left = (room[0] % stride[0], room[1] % stride[1])
    filters = np.tile(np.eye(taps), (rows // taps, 1)).reshape(rows, 1, *kernel)
    pairs = ((padding[0],) * 2, (padding[1],) * 2)
    op = g.ConvTranspose(stride, pairs, left, dilation, rows // taps)
    return b.add(op, b.reshape(x, (n, rows, *counts)), b.constant(filters, x.type.dtype))
