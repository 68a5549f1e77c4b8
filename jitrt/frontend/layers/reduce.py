"""Reductions and softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitrt.frontend.builder import Builder, axis_of
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op

Dims = int | Sequence[int] | None
Reduction = Callable[..., Op]


def reduced(b: Builder, op: Reduction, x: Value, dim: Dims, keepdim: bool) -> Value:
    """`op` over `dim`: all dimensions if None or empty."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.type.rank))
    if x.type.rank == 0:
        return b.reshape(b.add(op((0,), keepdims=False), b.reshape(x, (1,))), ())
    return b.add(op(tuple(sorted(axis_of(d, x.type.rank) for d in dims)), keepdims=keepdim), x)


def along(b: Builder, op: Callable[[int], Op], x: Value, dim: int) -> Value:
    """`op` along one dimension; a tensor of rank 0 has one, of size 1."""
    if x.type.rank == 0:
        return b.reshape(b.add(op(0), b.reshape(x, (1,))), ())
    return b.add(op(axis_of(dim, x.type.rank)), x)


def softmax(b: Builder, x: Value, dim: int) -> Value:
    """exp(x - max) / sum of the same. Of float64, which the kernel of softmax is none for, from its parts."""
    if x.type.dtype != DType.f64:
        return along(b, g.Softmax, x, dim)
    e = b.add(g.Exp(), _shifted(b, x, dim))
    return b.add(g.Div(), e, reduced(b, g.ReduceSum, e, dim, True))


def log_softmax(b: Builder, x: Value, dim: int) -> Value:
    """x - max - log(sum(exp(x - max))). Of float64 as `softmax`."""
    if x.type.dtype != DType.f64:
        return along(b, g.LogSoftmax, x, dim)
    shifted = _shifted(b, x, dim)
    return b.add(g.Sub(), shifted, b.add(g.Log(), reduced(b, g.ReduceSum, b.add(g.Exp(), shifted), dim, True)))


def _shifted(b: Builder, x: Value, dim: int) -> Value:
    return b.add(g.Sub(), x, reduced(b, g.ReduceMax, x, dim, True))
