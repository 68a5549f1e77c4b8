"""Pooling, 1d to 3d by the rank of x: (n, c, spatial...)."""

from __future__ import annotations

import math

from jitrt.frontend.layers.pool import lp_pool
from jitrt.frontend.network.conv import spatial_dims
from jitrt.frontend.network.frame import Frame, Sizes, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import DType, Value
from jitrt.graph.op import Op
from jitrt.graph.ops import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool

_ADAPTIVE = {"max": AdaptiveMaxPool, "average": AdaptiveAvgPool}


@layer
def add_pool(
    net: Frame,
    x: Tensor,
    kind: str,
    kernel: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    power: float = 2.0,
    name: str | None = None,
) -> Value:
    """The "max", "average" or "lp" (power-th root of the sum of powers) of windows, as torch.nn.MaxPool1d to LPPool3d;
    side by side unless a stride is given.

    `dilation` is for "max", `count_include_pad` for "average", `power` for "lp", which has no padding.
    """
    value = net.value(x)
    dims = spatial_dims(net, value)
    _refuse_booleans(net, value)
    net.call(net.choose("pool", kind, ("max", "average", "lp")) + "_pool")
    window = net.sizes("kernel", kernel, dims)
    steps = window if stride is None else net.sizes("stride", stride, dims)
    pads, spread = net.sizes("padding", padding, dims, least=0), net.sizes("dilation", dilation, dims)
    if kind != "max" and set(spread) != {1}:
        net.refuse(f"dilation is {dilation!r}; only a max pool has one")
    if kind == "lp":
        if any(pads):
            net.refuse(f"padding is {padding!r}; an lp pool has none, net.add_pad puts zeros around x")
        exponent = net.number("power", power)
        if not 0 < exponent < math.inf:
            net.refuse(f"power is {power!r}; give a positive number")
        return lp_pool(net.builder, net.floating(x), exponent, window, steps, bool(ceil_mode))
    op: Op
    if kind == "max":
        op = MaxPool(window, steps, pads, bool(ceil_mode), spread)
    else:
        net.floating(x)
        op = AvgPool(window, steps, pads, bool(ceil_mode), bool(count_include_pad))
    return net.builder.add(op, value)


@layer
def add_adaptive_pool(net: Frame, x: Tensor, kind: str, size: Sizes, *, name: str | None = None) -> Value:
    """The "max" or "average" of as many windows as the result, of spatial `size`, has elements; 1 is a global pool."""
    value = net.value(x)
    op = _ADAPTIVE[net.choose("pool", kind, _ADAPTIVE)]
    net.call(f"adaptive_{kind}_pool")
    _refuse_booleans(net, value)
    if kind == "average":
        net.floating(x)
    return net.builder.add(op(net.sizes("size", size, spatial_dims(net, value))), value)


def _refuse_booleans(net: Frame, x: Value) -> None:
    if x.type.dtype == DType.b8:
        net.refuse("x is bool; cast it first with net.add_cast(x, 'float32')")
