"""Comparisons, truths, bits, and choices by them."""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.layers import arithmetic as layers
from jitrt.frontend.onnx.legacy import aligned
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op

_BINARY: dict[str, type[Op]] = {
    "Equal": g.Equal,
    "Greater": g.Greater,
    "GreaterOrEqual": g.GreaterEqual,
    "Less": g.Less,
    "LessOrEqual": g.LessEqual,
    "And": g.LogicalAnd,
    "Or": g.LogicalOr,
    "Xor": g.NotEqual,
    "BitwiseAnd": g.BitwiseAnd,
    "BitwiseOr": g.BitwiseOr,
    "BitwiseXor": g.BitwiseXor,
}


@onnx_op(*_BINARY)
def binary(n: Call, a: Value, b: Value) -> Value:
    return n.add(_BINARY[n.op_type](), a, aligned(n, a, b))


@onnx_op("Not")
def logical_not(n: Call, x: Value) -> Value:
    return n.add(g.LogicalNot(), x)


@onnx_op("BitwiseNot", since=18)
def bitwise_not(n: Call, x: Value) -> Value:
    dtype = x.type.dtype
    ones = np.iinfo(dtype.numpy).max if dtype.is_unsigned else -1
    return n.add(g.BitwiseXor(), x, n.constant(ones, dtype))


@onnx_op("BitShift", since=11)
def bit_shift(n: Call, x: Value, by: Value) -> Value:
    direction = n.required("direction")
    if direction not in ("LEFT", "RIGHT"):
        n.refuse(f"direction {direction!r}, expected 'LEFT' or 'RIGHT'")
    return n.add(g.ShiftLeft() if direction == "LEFT" else g.ShiftRight(), x, by)


@onnx_op("Where", since=9)
def where(n: Call, condition: Value, yes: Value, no: Value) -> Value:
    return n.add(g.Where(), condition, yes, no)


@onnx_op("IsNaN", since=9)
def is_nan(n: Call, x: Value) -> Value:
    return n.add(g.NotEqual(), x, x)


@onnx_op("IsInf", since=10)
def is_inf(n: Call, x: Value) -> Value:
    up, down = n.attribute("detect_positive", 1), n.attribute("detect_negative", 1)
    if up and down:
        return layers.is_infinite(n.b, x)
    if not up and not down:
        return n.b.expand(n.graph.scalar(False, DType.b8), x.type.shape)
    return layers.binary(n.b, g.Equal(), x, math.inf if up else -math.inf, x.type.dtype)
