"""The arithmetic of layouts: what strides a view's output has, and what strides its input would need.

No strides can say "merge two dimensions that are not evenly spaced", so a reshape may have no answer; every other view
always has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jitrt.graph.dtype import DType
from jitrt.graph.op import Op
from jitrt.graph.ops import Expand, Identity, Permute, Reshape, Slice
from jitrt.graph.types import Layout, TensorType, row_major

Strides = tuple[int, ...]


def view_layout(op: Op, source: TensorType, shape: Sequence[int]) -> Layout | None:
    """The layout, in the same storage, of a VIEW op's output of `shape`; None if no strides express it."""
    strides, offset = source.strides, source.offset
    match op:
        case Identity():
            return Layout(strides, offset)
        case Permute(order=order):
            return Layout(tuple(strides[d] for d in order), offset)
        case Expand():
            lead = len(shape) - source.rank
            kept = (
                stride if size == wanted else 0
                for size, wanted, stride in zip(source.shape, shape[lead:], strides, strict=True)
            )
            return Layout((*(0,) * lead, *kept), offset)
        case Slice(start=start, step=step):
            moved = offset + sum(a * stride for a, stride in zip(start, strides, strict=True))
            return Layout(tuple(by * stride for by, stride in zip(step, strides, strict=True)), moved)
        case Reshape():
            reshaped = reshape_strides(source.shape, strides, shape)
            return None if reshaped is None else Layout(reshaped, offset)
    return None


def source_strides(op: Op, shape: Sequence[int], out: TensorType, strides: Strides) -> Strides | None:
    """The strides an input of `shape` needs so that the view's output has `strides`; None if there are none, or if the
    output shows only part of the input."""
    match op:
        case Identity():
            return strides
        case Permute(order=order):
            return tuple(strides[order.index(d)] for d in range(len(order)))
        case Reshape():
            return reshape_strides(out.shape, strides, shape)
    return None


def reshape_strides(shape: Sequence[int], strides: Strides, new_shape: Sequence[int]) -> Strides | None:
    """Strides of the same elements, in row-major order, seen as `new_shape`; None if no strides do that."""
    if math.prod(shape) == 0:
        return row_major(new_shape)
    runs: list[tuple[int, int]] = []  # (size, stride) of dimensions that step evenly into each other, merged
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    out = [0] * len(new_shape)
    left, step = 1, 1
    for d in reversed(range(len(new_shape))):
        size = new_shape[d]
        if size != 1 and left == 1:
            left, step = runs.pop()
        if left % size:
            return None
        out[d] = step
        left, step = left // size, step * size
    return _tidy(new_shape, tuple(out))


def _tidy(shape: Sequence[int], strides: Strides) -> Strides:
    """Dimensions of size 1 may have any stride; give them the one a dense tensor in this memory order would have, so
    that equal layers have equal types whatever views led to them."""
    out, step = list(strides), 1
    for d in reversed(TensorType(DType.f32, tuple(shape), Layout(strides)).memory_order):
        if shape[d] == 1:
            out[d] = step
        step = max(step, strides[d] * shape[d]) if shape[d] != 1 else step
    return tuple(out)


def reshape_groups(shape: Sequence[int], new_shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest pairing of neighbouring dimensions of two shapes of equally many elements (not 0) with equal sizes:
    (2, 6, 5) against (2, 3, 10) is [([0], [0]), ([1, 2], [1, 2])]."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(new_shape):
        left, right = [i] if i < len(shape) else [], [j] if j < len(new_shape) else []
        i, j = i + len(left), j + len(right)
        a, b = math.prod(shape[d] for d in left), math.prod(new_shape[d] for d in right)
        while a != b:
            if a < b:
                a *= shape[i]
                left.append(i)
                i += 1
            else:
                b *= new_shape[j]
                right.append(j)
                j += 1
        groups.append((left, right))
    return groups


def strides_for_reshape(source: TensorType, new_shape: Sequence[int]) -> Strides:
    """Dense strides for `source` under which the reshape to `new_shape` is a view.

    Dimensions that the reshape mixes are laid row-major; the groups of them keep the order they have in memory, so that
    what was channels-last stays so.
    """
    if source.numel == 0:
        return row_major(source.shape)
    groups = [left for left, _ in reshape_groups(source.shape, new_shape) if left]

    def inner_first(group: list[int]) -> tuple[int, int]:
        sized = [d for d in group if source.shape[d] > 1] or group
        return min(source.strides[d] for d in sized), -group[0]

    strides, step = [1] * source.rank, 1
    for group in sorted(groups, key=inner_first):
        for d in reversed(group):
            strides[d] = step
            step *= source.shape[d]
    return tuple(strides)
