"""Whole numbers in the domain com.microsoft: what it adds to the standard's quantised operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.linear import product
from jitrt.frontend.onnx.ops.quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
    matmul_integer,
    quantize_linear,
)
from jitrt.frontend.onnx.registry import MICROSOFT, onnx_op
from jitrt.graph import Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array

onnx_op("QuantizeLinear", domain=MICROSOFT)(quantize_linear)
onnx_op("DequantizeLinear", domain=MICROSOFT)(dequantize_linear)


def _quantized(n: Call, y: Value, scale: Value, zero: Value | None, like: Value) -> Value:
    zero = n.graph.scalar(0, like.type.dtype) if zero is None else zero
    return quantize_linear(n, y, n.b.reshape(scale, ()), n.b.reshape(zero, ()))


def _number(n: Call, x: Value, scale: Value, zero: Value | None) -> Value:
    return dequantize_linear(n, x, n.b.reshape(scale, ()), None if zero is None else n.b.reshape(zero, ()))


@onnx_op("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def qlinear_binary(
    n: Call,
    a: Value,
    a_scale: Value,
    a_zero: Value | None,
    b: Value,
    b_scale: Value,
    b_zero: Value | None,
    scale: Value,
    zero: Value | None = None,
) -> Value:
    op = g.Add() if n.op_type == "QLinearAdd" else g.Mul()
    y = n.add(op, _number(n, a, a_scale, a_zero), _number(n, b, b_scale, b_zero))
    return _quantized(n, y, scale, zero, a)


_UNARY: dict[str, Callable[[Call, Value], Value]] = {
    "QLinearSigmoid": lambda n, x: n.add(g.Sigmoid(), x),
    "QLinearLeakyRelu": lambda n, x: n.add(g.LeakyRelu(n.attribute("alpha", 0.01)), x),
    "QLinearGlobalAveragePool": lambda n, x: n.add(g.ReduceMean(_spatial(n, x), keepdims=True), x),
}


def _spatial(n: Call, x: Value) -> tuple[int, ...]:
    return tuple(range(1, x.type.rank - 1)) if n.attribute("channels_last", 0) else tuple(range(2, x.type.rank))


@onnx_op(*_UNARY, domain=MICROSOFT)
def qlinear_unary(
    n: Call, x: Value, x_scale: Value, x_zero: Value | None, scale: Value, zero: Value | None = None
) -> Value:
    return _quantized(n, _UNARY[n.op_type](n, _number(n, x, x_scale, x_zero)), scale, zero, x)


@onnx_op("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(n: Call, scale: Value, zero: Value, *operands: Value) -> Value:
    """Operands are a tensor, its scale and its zero point, one after another."""
    parts = [_number(n, *operands[i : i + 3]) for i in range(0, len(operands), 3)]
    return _quantized(n, n.add(g.Concat(n.axis(n.required("axis"), parts[0].type.rank)), *parts), scale, zero, zero)


@onnx_op("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    n: Call,
    a: Value,
    b: Value,
    a_scale: Value,
    b_scale: Value,
    a_zero: Value | None = None,
    b_zero: Value | None = None,
    bias: Value | None = None,
) -> Value:
    sums = n.b.operand(matmul_integer(n, a, b, a_zero, b_zero), a_scale.type.dtype)
    y = n.add(g.Mul(), sums, n.add(g.Mul(), a_scale, b_scale))
    return y if bias is None else n.add(g.Add(), y, bias)


@onnx_op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(
    n: Call, a: Value, b: Value, b_scale: Value, b_zero: Value | None = None, bias: Value | None = None
) -> Value:
    whole, scale, zero = dynamic_quantize_linear(n, a)
    return matmul_integer_to_float(n, whole, b, scale, b_scale, zero, b_zero, bias)


@onnx_op("MatMulNBits", domain=MICROSOFT)
def matmul_n_bits(
    n: Call,
    a: Value,
    b: Value,
    scales: Value,
    zeros: Value | None = None,
    order: Value | None = None,
    bias: Value | None = None,
) -> Value:
    """A product with weights (N, K) of 4 or 8 bits, every `block_size` of a row with a scale and a zero point of their
    own. They are written out when the plan is built."""
    rows, columns, bits, block = (n.required(name) for name in ("N", "K", "bits", "block_size"))
    if bits not in (4, 8) or order is not None:
        n.refuse(f"weights of {bits} bits" if order is None else "with an order of its inputs (g_idx)")
    blocks = math.ceil(columns / block)
    n.claim(rows, blocks * block)
    weights = _unpacked(n.need(b, "the weights"), bits, rows, blocks * block).reshape(rows, blocks, block)
    if zeros is None:
        middle: Array | float = 2.0 ** (bits - 1)
    elif zeros.type.dtype.is_float:
        middle = n.need(zeros, "the zero points").astype(np.float32).reshape(rows, blocks, 1)
    else:
        middle = _unpacked(n.need(zeros, "the zero points"), bits, rows, blocks).reshape(rows, blocks, 1)
    each = n.need(scales, "the scales").astype(np.float32).reshape(rows, blocks, 1)
    data = ((weights - middle) * each).reshape(rows, blocks * block)[:, :columns]
    y = product(n, a, n.constant(np.ascontiguousarray(data.T), a.type.dtype))
    return y if bias is None else n.add(g.Add(), y, bias)


def _unpacked(packed: Array, bits: int, rows: int, columns: int) -> Array:
    """(rows, columns) numbers, two a byte if they have 4 bits: the lower half first."""
    flat = packed.astype(np.uint8).reshape(rows, -1)
    if bits == 4:
        flat = np.stack([flat & 15, flat >> 4], -1).reshape(rows, -1)
    return flat[:, :columns].astype(np.float32)
