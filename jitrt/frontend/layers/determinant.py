"""Determinants, by elimination."""

from __future__ import annotations

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary, choose
from jitrt.frontend.layers.index import position
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

LARGEST = 16  # rows: each is a dozen nodes


def determinant(b: Builder, x: Value) -> Value:
    """Of the last two dimensions (n, n): Gauss's elimination, by the row with the largest first element each time.

    Raises ValueError for more than LARGEST rows.
    """
    *batch, n, columns = x.type.shape
    if n != columns or n > LARGEST:
        raise ValueError(
            f"the determinant of {n} by {columns} elements: square matrices of up to {LARGEST} rows have one"
        )
    a, dtype = b.reshape(x, (int(np.prod(batch)), n, n)), x.type.dtype
    result = b.full((a.type.shape[0],), 1, dtype)
    for left in range(n, 0, -1):
        column = b.slice(a, 2, 0, 1)
        place = position(b, b.add(g.Abs(), column), 1, keepdims=True)  # (batch, 1, 1)
        row = b.add(g.Gather(1), a, place)
        pivot = b.slice(row, 2, 0, 1)
        moved = binary(b, g.NotEqual(), place, 0, DType.i64)
        signed = b.add(g.Where(), moved, b.add(g.Neg(), pivot), pivot)
        result = b.add(g.Mul(), result, b.reshape(signed, result.type.shape))
        if left == 1:
            break
        here = b.add(g.Equal(), place, b.constant(np.arange(left, dtype=np.int64).reshape(left, 1)))
        swapped = b.slice(b.add(g.Where(), here, b.slice(a, 1, 0, 1), a), 1, 1, left)
        safe = choose(b, binary(b, g.Equal(), pivot, 0, dtype), 1, pivot, dtype)  # of a column of zeros
        factor = b.add(g.Div(), b.slice(swapped, 2, 0, 1), safe)
        rest = b.add(g.Sub(), swapped, b.add(g.Mul(), factor, row))
        a = b.slice(rest, 2, 1, left)
    return b.reshape(result, tuple(batch))
