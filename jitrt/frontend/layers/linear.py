"""Matrix products."""

from __future__ import annotations

from jitrt.frontend.builder import Builder
from jitrt.graph import DType, Value
from jitrt.graph.ops import Add, Linear, Matmul


def linear(b: Builder, x: Value, w: Value, bias: Value | None = None) -> Value:
    """x (..., c), w (k, c); the bias (k) is an Add of its own."""
    # Linear's kernels have no float64, Matmul's do.
    exact = x.type.dtype == w.type.dtype == DType.f64 and x.type.rank > 1
    y = matmul(b, x, transposed(b, w)) if exact else b.add(Linear(), x, w)
    return y if bias is None else b.add(Add(), y, bias)


def transposed(b: Builder, x: Value) -> Value:
    """The last two dimensions exchanged."""
    rank = x.type.rank
    return b.permute(x, (*range(rank - 2), rank - 1, rank - 2))


def matmul(b: Builder, left: Value, right: Value) -> Value:
    """A vector is a row on the left and a column on the right; its dimension leaves the result again."""
    rows = left if left.type.rank > 1 else b.reshape(left, (1, *left.type.shape))
    columns = right if right.type.rank > 1 else b.reshape(right, (*right.type.shape, 1))
    y = b.add(Matmul(), rows, columns)
    *batch, m, k = y.type.shape
    kept = [size for size, stays in ((m, left.type.rank > 1), (k, right.type.rank > 1)) if stays]
    return b.reshape(y, (*batch, *kept))
