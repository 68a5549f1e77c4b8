"""Convolutions, 1d to 3d by the rank of x: (n, c, spatial...)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitrt.frontend.layers.conv import convolve, convolve_transposed, named_padding
from jitrt.frontend.network.frame import Frame, Sizes, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import Value

Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def spatial_dims(net: Frame, x: Value) -> int:
    """How many spatial dimensions (n, c, spatial...) has. Raises NetworkError unless 1 to 3."""
    if not 3 <= x.type.rank <= 5:
        net.refuse(f"x has shape {x.type.shape}, expected (n, c, ...) with 1 to 3 spatial dimensions")
    return x.type.rank - 2


@layer
def add_conv(
    net: Frame,
    x: Tensor,
    channels: int,
    kernel: Sizes,
    *,
    weights: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    name: str | None = None,
) -> Value:
    """Convolution (cross-correlation) to `channels` channels, as torch.nn.Conv1d to Conv3d.

    `weights` are (channels, c / groups, *kernel), `bias` (channels,). `padding` is a number for all sides, one a
    spatial dimension, a pair (before, after) a dimension, "same" or "valid".
    """
    value = net.value(x)
    dims = spatial_dims(net, value)
    k, g = _channels_and_groups(net, value, channels, groups)
    shape = (k, value.type.shape[1] // g, *net.sizes("kernel", kernel, dims))
    w = net.weights("weights", weights, shape, value.type.dtype, "channels, input channels / groups, kernel")
    b = net.optional_weights("bias", bias, (k,), value.type.dtype, "one number a channel")
    stride, dilation = net.sizes("stride", stride, dims), net.sizes("dilation", dilation, dims)
    return convolve(net.builder, value, w, b, stride, _pairs(net, padding, w, dilation), dilation, g)


@layer
def add_conv_transpose(
    net: Frame,
    x: Tensor,
    channels: int,
    kernel: Sizes,
    *,
    weights: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    name: str | None = None,
) -> Value:
    """Transposed convolution ("deconvolution") to `channels` channels, as torch.nn.ConvTranspose1d to ConvTranspose3d.

    `weights` are (c, channels / groups, *kernel), `bias` (channels,). `padding` is taken off both sides of each spatial
    dimension, `output_padding` added after.
    """
    value = net.value(x)
    dims = spatial_dims(net, value)
    k, g = _channels_and_groups(net, value, channels, groups)
    shape = (value.type.shape[1], k // g, *net.sizes("kernel", kernel, dims))
    w = net.weights("weights", weights, shape, value.type.dtype, "input channels, channels / groups, kernel")
    b = net.optional_weights("bias", bias, (k,), value.type.dtype, "one number a channel")
    return convolve_transposed(
        net.builder,
        value,
        w,
        b,
        net.sizes("stride", stride, dims),
        net.sizes("padding", padding, dims, least=0),
        net.sizes("output_padding", output_padding, dims, least=0),
        net.sizes("dilation", dilation, dims),
        g,
    )


def _channels_and_groups(net: Frame, x: Value, channels: int, groups: int) -> tuple[int, int]:
    (k,), (g,) = net.sizes("channels", channels, 1), net.sizes("groups", groups, 1)
    for count, of in ((x.type.shape[1], "x"), (k, "the result")):
        if count % g:
            net.refuse(f"groups is {g}, which does not divide the {count} channels of {of}")
    return k, g


def _pairs(net: Frame, padding: Padding, w: Value, dilation: Sequence[int]) -> list[tuple[int, int]]:
    if isinstance(padding, str):
        return named_padding(net.choose("padding", padding, ("same", "valid")), w, dilation)
    dims = w.type.rank - 2
    if isinstance(padding, Sequence) and any(isinstance(item, Sequence) for item in padding):
        if len(padding) != dims:
            net.refuse(f"padding is {padding!r}; give {dims} pairs (before, after), one a spatial dimension")
        pairs = [net.sizes("padding", item, 2, least=0) for item in padding]
        return [(before, after) for before, after in pairs]
    return [(size, size) for size in net.sizes("padding", padding, dims, least=0)]
