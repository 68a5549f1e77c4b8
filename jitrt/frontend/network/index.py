"""Layers that find or follow positions, and running sums."""

from __future__ import annotations

from typing import Any

from jitrt.frontend.layers import index as layers
from jitrt.frontend.network.frame import Frame, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import DType, Value
from jitrt.graph.ops import ArgMax, ArgMin, CumProd, CumSum, Gather


def _positions(net: Frame, given: Any) -> Value:
    index = net.parameter("indices", given)
    if index.type.dtype.is_float or index.type.dtype == DType.b8:
        net.refuse(f"indices are {index.type.dtype.numpy}, expected whole numbers such as int64")
    return index


@layer
def add_embedding(net: Frame, indices: Any, *, weights: Any, name: str | None = None) -> Value:
    """Rows of a table: weights (count, width) at indices (...) make (..., width). An index out of range is taken as the
    nearest there is, after counting negative ones from the end."""
    index, table = _positions(net, indices), net.parameter("weights", weights)
    if table.type.rank != 2:
        net.refuse(f"weights: shape {table.type.shape}, expected (count, width)")
    return layers.embedding(net.builder, table, index)


@layer
def add_gather(net: Frame, x: Tensor, indices: Any, axis: int = 0, *, name: str | None = None) -> Value:
    """numpy's take: dimension `axis` of x becomes those of the indices; out of range as for `add_embedding`."""
    value = net.value(x)
    return layers.take(net.builder, value, _positions(net, indices), net.axis(axis, value.type.rank))


@layer
def add_gather_elements(net: Frame, x: Tensor, indices: Any, axis: int = 0, *, name: str | None = None) -> Value:
    """numpy's take_along_axis: an element for each of the indices, which have as many dimensions as x. Out of range as
    for `add_embedding`."""
    value = net.value(x)
    return net.builder.add(Gather(net.axis(axis, value.type.rank)), value, _positions(net, indices))


@layer
def add_topk(
    net: Frame, x: Tensor, k: int, axis: int = -1, *, largest: bool = True, name: str | None = None
) -> tuple[Value, ...]:
    """(values, positions as int64) of the k largest elements along an axis, largest first; or the smallest."""
    value = net.value(x)
    at, (count,) = net.axis(axis, value.type.rank), net.sizes("k", k, 1)
    if count > value.type.shape[at]:
        net.refuse(f"k is {count}, but axis {at} has {value.type.shape[at]} elements")
    return layers.topk(net.builder, value, count, at, bool(largest))


@layer
def add_argmax(net: Frame, x: Tensor, axis: int = -1, *, keepdims: bool = False, name: str | None = None) -> Value:
    """Where the largest element along an axis is (int64), the first of equals."""
    value = net.value(x)
    return net.builder.add(ArgMax(net.axis(axis, value.type.rank), bool(keepdims)), value)


@layer
def add_argmin(net: Frame, x: Tensor, axis: int = -1, *, keepdims: bool = False, name: str | None = None) -> Value:
    """Where the smallest element along an axis is (int64), the first of equals."""
    value = net.value(x)
    return net.builder.add(ArgMin(net.axis(axis, value.type.rank), bool(keepdims)), value)


@layer
def add_cumsum(net: Frame, x: Tensor, axis: int = -1, *, name: str | None = None) -> Value:
    """The sum of all elements up to each one along an axis."""
    value = net.value(x)
    return net.builder.add(CumSum(net.axis(axis, value.type.rank)), value)


@layer
def add_cumprod(net: Frame, x: Tensor, axis: int = -1, *, name: str | None = None) -> Value:
    """The product of all elements up to each one along an axis."""
    value = net.value(x)
    return net.builder.add(CumProd(net.axis(axis, value.type.rank)), value)
