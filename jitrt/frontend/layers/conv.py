"""Convolutions; the bias is an Add of its own."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.frontend.builder import Builder, spread
from jitrt.graph import Value
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Conv, ConvTranspose


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
    return _biased(b, Conv(spread(stride, dims), tuple(padding), spread(dilation, dims), groups), x, w, bias)


def convolve_transposed(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int | tuple[int, int]],
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Value:
    """x (n, c, spatial...) or without its n; w (c, k / groups, filter...); a padding or a pair a spatial dimension."""
    dims = w.type.rank - 2
    sides = [padding] * dims if isinstance(padding, int) else list(padding) * (dims if len(padding) == 1 else 1)
    pairs = tuple((side, side) if isinstance(side, int) else side for side in sides)
    op = ConvTranspose(spread(stride, dims), pairs, spread(output_padding, dims), spread(dilation, dims), groups)
    return _biased(b, op, x, w, bias)


def _biased(b: Builder, op: Op, x: Value, w: Value, bias: Value | None) -> Value:
    batched = x if x.type.rank == w.type.rank else b.reshape(x, (1, *x.type.shape))
    y = b.add(op, batched, w)
    if bias is not None:
        y = b.add(Add(), y, b.per_channel(bias, y.type.rank))
    return y if batched is x else b.reshape(y, y.type.shape[1:])


def named_padding(name: str, w: Value, dilation: int | Sequence[int]) -> list[tuple[int, int]]:
    """The pairs that "valid" (none) and "same" (as much as the filter reaches, the odd one after) stand for."""
    dims = w.type.rank - 2
    if name == "valid":
        return [(0, 0)] * dims
    reach = [d * (size - 1) for d, size in zip(spread(dilation, dims), w.type.shape[2:], strict=True)]
    return [(r // 2, r - r // 2) for r in reach]
