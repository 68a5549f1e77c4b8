"""Convolutions; the bias is an Add of its own."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import Value
from jitrt.graph.ops import Add, Conv


def spread(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number a dimension: PyTorch lets a single one stand for all."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * dims if len(values) == 1 else values)


def convolve(
    ctx: Context,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: int | Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: int | Sequence[int],
    groups: int,
) -> Value:
    dims = w.type.rank - 2
    batched = x if x.type.rank == dims + 2 else ctx.reshape(x, (1, *x.type.shape))
    y = ctx.add(Conv(spread(stride, dims), tuple(padding), spread(dilation, dims), groups), batched, w)
    if bias is not None:
        y = ctx.add(Add(), y, ctx.per_channel(bias, dims + 2))
    return y if batched is x else ctx.reshape(y, y.type.shape[1:])


@register("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def conv(
    ctx: Context,
    x: Value,
    w: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    pairs = [(p, p) for p in spread(padding, w.type.rank - 2)]
    return convolve(ctx, x, w, bias, stride, pairs, dilation, groups)


@register("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def conv_named_padding(
    ctx: Context,
    x: Value,
    w: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    dims = w.type.rank - 2
    if padding == "valid":
        return convolve(ctx, x, w, bias, stride, [(0, 0)] * dims, dilation, groups)
    reach = [d * (size - 1) for d, size in zip(spread(dilation, dims), w.type.shape[2:], strict=True)]
    return convolve(ctx, x, w, bias, stride, [(r // 2, r - r // 2) for r in reach], dilation, groups)


@register("aten.convolution.default")
def convolution(
    ctx: Context,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    if transposed:
        raise Unsupported("transposed")
    return conv(ctx, x, w, bias, stride, padding, dilation, groups)
