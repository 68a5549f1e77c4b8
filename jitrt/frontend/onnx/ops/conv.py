"""Convolutions, plain, transposed, deformable and of integers."""

from __future__ import annotations

from jitrt.frontend.layers.conv import convolve, convolve_transposed
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.frontend.onnx.windows import numbers, paddings, split_padding, windows_of
from jitrt.graph import Graph, Value
from jitrt.graph import ops as g
from jitrt.graph.graph import live_nodes


@onnx_op("Conv")
def conv(n: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    windows = windows_of(n, x, w.type.shape[2:])
    _check_groups(n, x, w, w.type.shape[1])
    stride, padding, dilation = windows.stride, windows.whole_padding(x.type.shape[2:]), windows.dilation
    padding = tuple((before, max(after, 0)) for before, after in padding)
    depthwise = w.type.shape[1] == 1  # whose kernel takes any filters
    parts = [(x, w)] if depthwise else _groups(n, x, w)
    if len(parts) == 1:
        return convolve(n.b, x, w, bias, stride, padding, dilation, n.attribute("group", 1))
    y = n.add(g.Concat(1), *(convolve(n.b, *part, None, stride, padding, dilation, 1) for part in parts))
    return y if bias is None else n.add(g.Add(), y, n.b.per_channel(bias, y.type.rank))


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
    parts = _groups(n, x, w)
    if len(parts) == 1:
        return convolve_transposed(n.b, x, w, bias, stride, padding, extra, dilation, n.attribute("group", 1))
    y = n.add(
        g.Concat(1), *(convolve_transposed(n.b, *part, None, stride, padding, extra, dilation, 1) for part in parts)
    )
    return y if bias is None else n.add(g.Add(), y, n.b.per_channel(bias, y.type.rank))


def _check_groups(n: Call, x: Value, w: Value, channels: int) -> None:
    groups = n.attribute("group", 1)
    if groups < 1 or x.type.shape[1] != channels * groups:
        n.refuse(f"{groups} groups of {channels} channels of {x.type}")
    if (kernel := n.attribute("kernel_shape")) and tuple(kernel) != w.type.shape[2:]:
        n.refuse(f"kernel_shape {list(kernel)} of filters {w.type}")


def _groups(n: Call, x: Value, w: Value) -> list[tuple[Value, Value]]:
    """(x, w) of every group that has to be a convolution of its own: all of them if the filters are computed while
    the model runs, for kernels pack grouped filters when a plan is built. One pair of all if not."""
    groups = n.attribute("group", 1)
    if groups == 1 or not _varies(w):
        return [(x, w)]
    each, filters = x.type.shape[1] // groups, w.type.shape[0] // groups
    return [
        (n.b.slice(x, 1, i * each, (i + 1) * each), n.b.slice(w, 0, i * filters, (i + 1) * filters))
        for i in range(groups)
    ]


def _varies(value: Value) -> bool:
    """Whether a value depends on an input of the graph."""
    if value.producer is None:
        return not value.is_constant
    nodes = live_nodes(Graph(), [value])
    return any(v.producer is None and not v.is_constant for node in nodes for v in node.inputs)
