"""Convolutions: plain, transposed, and of integers.

A convolution of 8-bit integers is one of float32, which is exact as long as no sum passes 2^24: of more channels there
are several, whose sums are added as int32. What has no such kernel (float64) is a matrix product of columns.
"""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.layers.conv import as_product, convolve, convolve_transposed
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.quantize import centred, rescaled
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.frontend.onnx.windows import numbers, paddings, split_padding, windows_of
from jitrt.graph import DType, Value
from jitrt.graph import ops as g


@onnx_op("Conv")
def conv(n: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    windows = windows_of(n, x, w.type.shape[2:])
    _check_groups(n, x, w, w.type.shape[1])
    if x.type.dtype == DType.f64:
        n.claim(*windows.out, *windows.kernel)
    return convolve(n.b, x, w, bias, windows.stride, windows.padding, windows.dilation, n.attribute("group", 1))


@onnx_op("ConvInteger", since=10)
def conv_integer(n: Call, x: Value, w: Value, x_zero: Value | None = None, w_zero: Value | None = None) -> Value:
    """The convolution of (x - x_zero) with (w - w_zero), in int32."""
    _check_groups(n, x, w, w.type.shape[1])
    windows = windows_of(n, x, w.type.shape[2:])
    values = centred(n, x, None if x_zero is None else n.b.reshape(x_zero, ()))
    filters = centred(n, w, _per_filter(n, w_zero, w.type.rank))
    n.claim(w.type.shape[1], 256)  # what is counted a channel takes time as well
    groups, cuts = n.attribute("group", 1), _exact_channels(filters)
    if not cuts or (groups > 1 and len(cuts) > 1):
        n.claim(*windows.out, *windows.kernel)
        op = g.Conv(windows.stride, windows.padding, windows.dilation, groups)
        return as_product(n.b, n.b.operand(values, DType.i32), n.b.operand(filters, DType.i32), op)
    op = g.ExactConv(windows.stride, windows.padding, windows.dilation, groups)
    if len(cuts) == 1:
        return n.b.operand(n.add(op, values, filters), DType.i32)
    total = n.b.full((), 0, DType.i32)
    for start, stop in zip([0, *cuts], cuts):
        part = n.add(op, n.b.slice(values, 1, start, stop), n.b.slice(filters, 1, start, stop))
        total = n.add(g.Add(), total, n.b.operand(part, DType.i32))
    return total


def _per_filter(n: Call, parameter: Value | None, rank: int) -> Value | None:
    """A parameter as one number, or as (k, 1...), `rank` dimensions that broadcast along the first."""
    if parameter is None or parameter.type.numel == 1:
        return None if parameter is None else n.b.reshape(parameter, ())
    return n.b.reshape(parameter, (parameter.type.numel, *[1] * (rank - 1)))


def _exact_channels(w: Value) -> list[int]:
    """Where the channels of filters end that are summed together: before products with 8-bit integers can pass 2^24.
    None if those of one channel can."""
    channels, most = w.type.shape[1], np.full(w.type.shape[1], 255.0 * math.prod(w.type.shape[2:]))
    if w.data is not None and w.data.size:
        most = np.abs(w.data).sum(tuple(range(2, w.type.rank)), dtype=np.float64).max(0)
    cuts, total = [], 0.0
    for channel, size in enumerate(255 * most):
        if size >= 2**24:
            return []
        if total + size >= 2**24:
            cuts.append(channel)
            total = 0.0
        total += size
    return [*cuts, channels]


@onnx_op("QLinearConv", since=10)
def q_linear_conv(
    n: Call,
    x: Value,
    x_scale: Value,
    x_zero: Value | None,
    w: Value,
    w_scale: Value,
    w_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None,
    bias: Value | None = None,
) -> Value:
    """y_zero + round((conv of x and w without their zeros, plus bias) * x_scale * w_scale / y_scale), saturated."""
    total = conv_integer(n, x, w, x_zero, w_zero)
    rank = total.type.rank
    if bias is not None:
        total = n.add(g.Add(), total, n.b.per_channel(bias, rank))
    scale = _per_filter(n, w_scale, rank - 1)
    assert scale is not None
    return rescaled(n, total, n.b.reshape(x_scale, ()), scale, n.b.reshape(y_scale, ()), y_zero, x.type.dtype)


@onnx_op("ConvTranspose")
def conv_transpose(n: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    dims = x.type.rank - 2
    if dims < 1 or w.type.rank != x.type.rank:
        n.refuse(f"filters {w.type} over {x.type}")
    _check_groups(n, x, w, w.type.shape[0] // n.attribute("group", 1))
    stride, dilation = numbers(n, "strides", dims), numbers(n, "dilations", dims)
    extra = list(numbers(n, "output_padding", dims, 0))
    shape, auto = n.attribute("output_shape"), n.attribute("auto_pad", "NOTSET")
    size = x.type.shape[2:]
    if shape is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        shape = [i * s for i, s in zip(size, stride, strict=True)]
    if shape is None:
        padding = list(paddings(n, dims)) if auto == "NOTSET" else [(0, 0)] * dims
    else:
        padding = []
        for d, wanted in enumerate(shape[-dims:]):
            full = (size[d] - 1) * stride[d] + dilation[d] * (w.type.shape[2 + d] - 1) + 1 + extra[d]
            extra[d] += max(0, wanted - full)  # longer than the filters reach: more of the bias behind them
            padding.append(split_padding(max(0, full - wanted), auto == "SAME_UPPER"))
    return convolve_transposed(n.b, x, w, bias, stride, padding, extra, dilation, n.attribute("group", 1))


def _check_groups(n: Call, x: Value, w: Value, channels: int) -> None:
    groups = n.attribute("group", 1)
    if groups < 1 or x.type.shape[1] != channels * groups:
        n.refuse(f"{groups} groups of {channels} channels of {x.type}")
    if (kernel := n.attribute("kernel_shape")) and tuple(kernel) != w.type.shape[2:]:
        n.refuse(f"kernel_shape {list(kernel)} of filters {w.type}")
