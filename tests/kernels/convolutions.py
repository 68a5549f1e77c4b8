"""Convolution problems for the kernel tests."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.graph import DType, Graph, Layout, TensorType, f16, verify
from jitrt.graph.graph import Value
from jitrt.graph.ops import Add, Cast, Conv, ConvTranspose, HardSigmoid, Linear, Log, Mul, Relu, Sigmoid
from jitrt.graph.types import channels_last, strides_in_order
from jitrt.kernels.base import Problem
from jitrt.testing import make_problem


def nhwc(type: TensorType) -> TensorType:
    return type.with_layout(Layout(channels_last(type.shape)))


def conv_problem(
    shape: Sequence[int],
    filters: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] = (),
    padding: Sequence[Sequence[int]] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
    dtype: DType = f16,
    tf32: bool = False,
    nchw_in: bool = False,
    nchw_out: bool = False,
    cast_from: DType | None = None,
    residual: bool = False,
    row_gap: int = 0,
    input_gap: int = 0,
    row_major_weights: bool = False,
) -> Problem:
    """conv + bias (+ residual) + relu, in as many dimensions as `kernel` has. `row_gap` adds channels between output
    pixels, as a slice of a concat has; `input_gap` does so for the input. Weights lie channels-last unless
    `row_major_weights`, as joined ones do."""
    one = (1,) * len(kernel)
    body = Graph("region")
    x_type = TensorType(cast_from or dtype, tuple(shape))
    x = body.add_input("x", x_type if nchw_in else gapped(x_type, input_gap))
    w_type = TensorType(dtype, (filters, shape[1] // groups, *kernel))
    w = body.add_input("w", w_type if row_major_weights else nhwc(w_type))
    bias = body.add_input("bias", TensorType(dtype, (filters, *one)))
    value = body.add(Cast(dtype), x) if cast_from else x
    pads = tuple((int(a), int(b)) for a, b in padding) or ((0, 0),) * len(kernel)
    value = body.add(Conv(tuple(stride) or one, pads, tuple(dilation) or one, groups, tf32), value, w)
    value = body.add(Add(), value, bias)
    weights = [False, True, True]
    if residual:
        value = body.add(Add(), value, body.add_input("residual", nhwc(value.type)))
        weights.append(False)
    value = body.add(Relu(), value)
    if not nchw_out:
        value.type = gapped(value.type, row_gap)
    body.mark_output(value)
    verify(body)
    aligned = 16 if row_gap == 0 and input_gap == 0 else 2
    return Problem(body, tuple(weights), (aligned,) * (len(body.inputs) + 1))


def transposed_problem(
    shape: Sequence[int],
    filters: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] = (),
    padding: Sequence[Sequence[int]] = (),
    output_padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
    dtype: DType = f16,
    tf32: bool = False,
    row_major: bool = False,
    cast_from: DType | None = None,
    residual: bool = False,
    row_gap: int = 0,
) -> Problem:
    """transposed conv + bias (+ residual) + relu. With `row_major` x and y lie so, otherwise channels-last, with
    `row_gap` channels between output pixels."""
    one, none = (1,) * len(kernel), (0,) * len(kernel)
    body = Graph("region")
    x_type = TensorType(cast_from or dtype, tuple(shape))
    x = body.add_input("x", x_type if row_major else nhwc(x_type))
    w_shape = (shape[1], filters // groups, *kernel)
    order = (1, *range(2, len(w_shape)), 0)
    w = body.add_input("w", TensorType(dtype, w_shape, Layout(strides_in_order(w_shape, order))))
    bias = body.add_input("bias", TensorType(dtype, (filters, *one)))
    value = body.add(Cast(dtype), x) if cast_from else x
    pads = tuple((int(a), int(b)) for a, b in padding) or ((0, 0),) * len(kernel)
    op = ConvTranspose(tuple(stride) or one, pads, tuple(output_padding) or none, tuple(dilation) or one, groups, tf32)
    value = body.add(Add(), body.add(op, value, w), bias)
    weights = [False, True, True]
    if residual:
        value = body.add(Add(), value, body.add_input("residual", nhwc(value.type)))
        weights.append(False)
    value = body.add(Relu(), value)
    if not row_major:
        value.type = gapped(value.type, row_gap)
    body.mark_output(value)
    verify(body)
    return Problem(body, tuple(weights), (16 if row_gap == 0 else 2,) * (len(body.inputs) + 1))


def linear_problem(shape: Sequence[int], filters: int, *, dtype: DType = f16) -> Problem:
    """linear + bias."""
    body = Graph("region")
    x: Value = body.add_input("x", TensorType(dtype, tuple(shape)))
    w = body.add_input("w", TensorType(dtype, (filters, shape[-1])))
    bias = body.add_input("bias", TensorType(dtype, (filters,)))
    body.mark_output(body.add(Add(), body.add(Linear(), x, w), bias))
    return Problem(body, (False, True, True), (16,) * 4)


def gapped(type: TensorType, gap: int) -> TensorType:
    """Channels last, with `gap` channels of somebody else's after each pixel."""
    n, c, *size = type.shape
    return type.with_layout(Layout(channels_last((n, c + gap, *size))))


def computed_problem(
    before: str,
    shape: Sequence[int] = (2, 37, 5, 3),
    filters: int = 19,
    *,
    dtype: DType = f16,
    stored: DType | None = None,
    gap: int = 0,
    nchw: bool = False,
    residual: bool = False,
    tf32: bool = False,
    live: bool = False,
    kernel: int = 1,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Problem:
    """relu(conv(`before`(x)) + bias (+ residual)). `gap` adds channels of somebody else's after each pixel of x, which
    is stored as `stored`; `live` weights are no constants."""
    body = Graph("region")
    n, c, h, w = shape
    constants = ["w", "bias", "scale", "shift"] if not live else []

    def operand(name: str, size: Sequence[int], gap: int = 0) -> Value:
        type = TensorType(stored or dtype, tuple(size))
        if len(size) == 4 and not nchw:
            type = type.with_layout(Layout(channels_last((size[0], size[1] + gap, *size[2:]))))
        return body.add_input(name, type)

    x = operand("x", shape, gap)
    match before:
        case "scale, shift and relu":
            scaled = body.add(Mul(), x, operand("scale", (c, 1, 1)))
            value = body.add(Relu(), body.add(Add(), scaled, operand("shift", (c, 1, 1))))
        case "gate":
            value = body.add(Mul(), operand("gate", (n, c, 1, 1)), x)
        case "gate before its activation":
            value = body.add(Mul(), body.add(HardSigmoid(), operand("gate", (n, c, 1, 1))), x)
        case "gate of every pixel":
            value = body.add(Mul(), x, body.add(Sigmoid(), operand("gate", (n, 1, h, w))))
        case "gate of every image":
            value = body.add(Mul(), x, operand("gate", (n, 1, 1, 1)))
        case "sum of two":
            value = body.add(Relu(), body.add(Add(), x, operand("other", shape)))
        case "logarithm":
            value = body.add(Log(), x)
        case _:
            raise ValueError(before)
    value = body.add(Cast(dtype), value)
    weights = TensorType(dtype, (filters, c // groups, kernel, kernel))
    weight = body.add_input("w", weights.with_layout(Layout(channels_last(weights.shape))))
    pads = ((padding, padding), (padding, padding))
    value = body.add(Conv((stride, stride), pads, (1, 1), groups, tf32), value, weight)
    value = body.add(Add(), value, body.add_input("bias", TensorType(dtype, (filters, 1, 1))))
    if residual:
        value = body.add(Add(), value, body.add_input("residual", value.type))
    value = body.add(Relu(), value)
    body.mark_output(value)
    lying = {} if nchw else {v.name: channels_last(v.type.shape) for v in body.inputs if v.name == "residual"}
    if not nchw:
        lying[value.name] = channels_last(value.type.shape)
    return make_problem(body, strides=lying, weights=constants, alignment=16 if gap % 8 == c % 8 == 0 else 2)
