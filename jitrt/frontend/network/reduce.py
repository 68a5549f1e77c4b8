"""Reductions and softmax."""

from __future__ import annotations

from typing import Any

from jitrt.frontend.layers import reduce as layers
from jitrt.frontend.network.frame import Frame, Sizes, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import DType, Value
from jitrt.graph.op import OPS
from jitrt.graph.ops import LogSoftmax, Softmax

_PREFIX = "reduce_"


@layer
def add_reduce(
    net: Frame, x: Tensor, kind: str, axes: Sizes | None = None, *, keepdims: bool = False, name: str | None = None
) -> Value:
    """ "sum", "mean", "max", "min"... (every reduce op of the graph) over axes, or over all of them."""
    value = net.value(x)
    kinds: dict[str, Any] = {n.removeprefix(_PREFIX): op for n, op in OPS.items() if n.startswith(_PREFIX)}
    op = kinds[net.choose("reduction", kind, kinds)]
    net.call(kind)
    if kind == "mean" and not value.type.dtype.is_float:
        net.refuse(f"x is {value.type.dtype.numpy}, and a mean is no whole number; cast it first with net.add_cast")
    if kind in ("sum", "prod") and value.type.dtype == DType.b8:
        net.refuse(f"a {kind} of booleans is none; cast x first with net.add_cast, or ask for 'max' or 'min'")
    numbers = range(value.type.rank) if axes is None else net.integers("axes", axes)
    wanted = [net.axis(a, value.type.rank) for a in numbers]
    if len(set(wanted)) != len(wanted) or (axes is not None and not wanted):
        net.refuse(f"axes is {axes!r}; name each dimension once, or leave it out for all")
    return layers.reduced(net.builder, op, value, wanted, bool(keepdims))


@layer
def add_softmax(net: Frame, x: Tensor, axis: int = -1, *, name: str | None = None) -> Value:
    """exp(x) / sum(exp(x)) along an axis."""
    value = net.floating(x)
    return layers.along(net.builder, Softmax, value, net.axis(axis, max(value.type.rank, 1)))


@layer
def add_log_softmax(net: Frame, x: Tensor, axis: int = -1, *, name: str | None = None) -> Value:
    """The logarithm of softmax along an axis."""
    value = net.floating(x)
    return layers.along(net.builder, LogSoftmax, value, net.axis(axis, max(value.type.rank, 1)))
