"""Convolutions; the bias is an Add of its own."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.frontend.builder import spread
from jitrt.frontend.layers.conv import convolve, convolve_transposed, named_padding
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import register
from jitrt.graph import Value


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
    return convolve(ctx, x, w, bias, stride, named_padding(padding, w, dilation), dilation, groups)


@register("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def conv_transpose(
    ctx: Context,
    x: Value,
    w: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Value:
    return convolve_transposed(ctx, x, w, bias, stride, padding, output_padding, dilation, groups)


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
        return conv_transpose(ctx, x, w, bias, stride, padding, output_padding, groups, dilation)
    return conv(ctx, x, w, bias, stride, padding, dilation, groups)
