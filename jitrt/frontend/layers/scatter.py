"""Elements put, or reduced, at positions that a tensor holds, over the op scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.index import flat_position
from jitrt.graph import Value
from jitrt.graph import ops as g


def scatter(b: Builder, x: Value, index: Value, updates: Value, axis: int, reduction: str = "none") -> Value:
    """x with x[.., index[i, j, ..], ..] = updates[i, j, ..], or reduced. Beside `axis` the index is no longer than x,
    and what is beyond it there stays."""
    if index.type.numel == 0:
        return x
    ends = tuple(x.type.shape[d] if d == axis else size for d, size in enumerate(index.type.shape))
    part = x
    for d, end in enumerate(ends):
        part = b.slice(part, d, 0, end)
    return b.put(x, b.add(g.Scatter(axis, reduction), part, index, updates), (0,) * x.type.rank, ends)


def scatter_nd(b: Builder, x: Value, index: Value, updates: Value, reduction: str = "none") -> Value:
    """x with x[i, j, ...] = updates[at] for every position `at` of an index whose last dimension holds i, j, ..."""
    *where, depth = index.type.shape
    sizes, rest = x.type.shape[:depth], x.type.shape[depth:]
    if index.type.numel == 0:
        return x
    start = _box(index) if reduction == "none" else None
    if start is not None:
        stop = tuple(first + length for first, length in zip(start, where, strict=True))
        if all(first >= 0 and last <= most for first, last, most in zip(start, stop, sizes, strict=True)):
            return b.put(x, updates, (*start, *[0] * len(rest)), (*stop, *rest))
    columns = [b.reshape(b.slice(index, len(where), d, d + 1), tuple(where)) for d in range(depth)]
    return scatter_several(b, x, columns, updates, reduction)


def scatter_several(b: Builder, x: Value, indices: Sequence[Value], updates: Value, reduction: str = "none") -> Value:
    """x with x[i, j, ...] = updates by indices for the first dimensions, which broadcast among each other."""
    sizes, rest = x.type.shape[: len(indices)], x.type.shape[len(indices) :]
    position = flat_position(b, indices, sizes)
    count, width = position.type.numel, math.prod(rest)
    if count == 0 or x.type.numel == 0:
        return x
    flat, new = b.reshape(x, (math.prod(sizes), width)), b.reshape(updates, (count, width))
    return b.reshape(b.add(g.Scatter(0, reduction), flat, b.reshape(position, (count, 1)), new), x.type.shape)


def _box(index: Value) -> tuple[int, ...] | None:
    """Where the box starts that a known index names all of, in order: an assignment to a slice is exported so."""
    *where, depth = index.type.shape
    if index.data is None or depth != len(where):
        return None
    start = index.data[(0,) * depth]
    return tuple(start.tolist()) if (index.data == start + np.moveaxis(np.indices(where), 0, -1)).all() else None
