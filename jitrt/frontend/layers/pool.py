"""Pooling."""

from __future__ import annotations

from jitrt.frontend.builder import Builder
from jitrt.graph import Value
from jitrt.graph.op import Op


def pooled(b: Builder, x: Value, dims: int, op: Op) -> Value:
    """`op` over (n, c, spatial...), or over x without its n."""
    if x.type.rank == dims + 2:
        return b.add(op, x)
    y = b.add(op, b.reshape(x, (1, *x.type.shape)))
    return b.reshape(y, y.type.shape[1:])
