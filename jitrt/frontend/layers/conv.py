"""Convolutions; the bias is an Add of its own."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.frontend.builder import Builder, spread
from jitrt.graph import Value
from jitrt.graph.ops import Add, Conv


def convolve(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: int | Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: int | Sequence[int],
    groups: int,
) -> Value:
    """x (n, c, spatial...) or without its n; w (k, c / groups, filter...); a pair of paddings a spatial dimension."""
    dims = w.type.rank - 2
    batched = x if x.type.rank == dims + 2 else b.reshape(x, (1, *x.type.shape))
    y = b.add(Conv(spread(stride, dims), tuple(padding), spread(dilation, dims), groups), batched, w)
    if bias is not None:
        y = b.add(Add(), y, b.per_channel(bias, dims + 2))
    return y if batched is x else b.reshape(y, y.type.shape[1:])


def named_padding(name: str, w: Value, dilation: int | Sequence[int]) -> list[tuple[int, int]]:
    """The pairs that "valid" (none) and "same" (as much as the filter reaches, the odd one after) stand for."""
    dims = w.type.rank - 2
    if name == "valid":
        return [(0, 0)] * dims
    reach = [d * (size - 1) for d, size in zip(spread(dilation, dims), w.type.shape[2:], strict=True)]
    return [(r // 2, r - r // 2) for r in reach]
