"""Quantisation, and what is computed of whole numbers.

Products of 8-bit numbers are summed exactly: as float32, which the fast kernels take, with every sum below 2^24; where
more are summed, the second factor is cut into two parts of 4 bits, and beyond that they are integers.
"""

from __future__ import annotations

import numpy as np

from jitrt.frontend.builder import fixed
from jitrt.frontend.layers.arithmetic import binary, scaled
from jitrt.frontend.layers.linear import matmul
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.linear import product
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array

_WIDEST = 255  # of the difference of two numbers of 8 bits
_EXACT = 2**24  # float32 holds all whole numbers below


def _granular(n: Call, parameter: Value, x: Value) -> Value:
    """A scale or zero point in a shape that broadcasts: one for all, one a slice along `axis`, or one a block."""
    shape, rank = parameter.type.shape, x.type.rank
    if parameter.type.numel == 1 and len(shape) < 2:
        return n.b.reshape(parameter, ())
    axis, size = n.axis(n.attribute("axis", 1), rank), n.attribute("block_size", 0)
    if len(shape) == 1 and not size:
        if shape[0] != x.type.shape[axis]:
            n.refuse(f"{shape[0]} scales along dimension {axis} of {x.type}")
        return n.b.reshape(parameter, (*shape, *[1] * (rank - 1 - axis)))
    others = [a == b for d, (a, b) in enumerate(zip(shape, x.type.shape)) if d != axis]
    if len(shape) != rank or not all(others) or -(-x.type.shape[axis] // max(size, 1)) != shape[axis]:
        n.refuse(f"scales {list(shape)} for blocks of {size} along dimension {axis} of {x.type}")
    blocks = n.b.reshape(parameter, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    spread = n.b.expand(blocks, (*shape[: axis + 1], size, *shape[axis + 1 :]))
    flat = n.b.reshape(spread, (*shape[:axis], shape[axis] * size, *shape[axis + 1 :]))
    return n.b.slice(flat, axis, 0, x.type.shape[axis])


def _quantized(n: Call, y: Value, zero: Value | None, dtype: DType) -> Value:
    """round(y) + zero as the nearest number of `dtype`. It is float32 on the way, which holds them all."""
    limits = np.iinfo(dtype.numpy)
    if limits.bits > 16:
        n.refuse(f"to {dtype.value}")
    y = n.add(g.Round(), y)
    if zero is not None:
        y = n.add(g.Add(), y, n.b.operand(zero, y.type.dtype))
    return n.b.operand(n.add(g.Clamp(float(limits.min), float(limits.max)), y), dtype)


@onnx_op("QuantizeLinear", since=10)
def quantize_linear(n: Call, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """The division is done in float64 and rounded: kernels divide float32 only nearly, and a tie must stay one."""
    kind = n.attribute("output_dtype", 0)
    dtype = zero.type.dtype if zero is not None else n.dtype(kind) if kind else DType.u8
    if dtype.is_float or dtype == DType.b8:
        n.refuse(f"to {dtype.value}")
    precision = n.attribute("precision", 0)
    between = n.dtype(precision) if precision else scale.type.dtype
    wide = [n.b.operand(n.b.operand(v, between), DType.f64) for v in (x, _granular(n, scale, x))]
    ratio = n.b.operand(n.b.operand(n.add(g.Div(), *wide), between), DType.f32)
    return _quantized(n, ratio, None if zero is None else _granular(n, zero, x), dtype)


@onnx_op("DequantizeLinear", since=10)
def dequantize_linear(n: Call, x: Value, scale: Value, zero: Value | None = None) -> Value:
    kind = n.attribute("output_dtype", 0)
    dtype = n.dtype(kind) if kind else scale.type.dtype
    between = DType.f64 if DType.f64 in (dtype, scale.type.dtype) else DType.f32
    y = n.b.operand(x, between)
    if zero is not None:
        y = n.add(g.Sub(), y, n.b.operand(_granular(n, zero, x), between))
    y = n.b.operand(n.add(g.Mul(), y, n.b.operand(_granular(n, scale, x), between)), dtype)
    return n.constant(_computed(y)) if y.data is None and fixed(y) else y


def _computed(value: Value) -> Array:
    """What a value that is made of constants alone is, however large: weights are not dequantised in every run."""
    if value.data is not None:
        return value.data
    assert value.producer is not None
    (result,) = value.producer.op.eval(*(_computed(operand) for operand in value.producer.inputs))
    return np.asarray(result).astype(value.type.dtype.numpy, copy=False)


# -- products of whole numbers -----------------------------------------------------------------------------------------


def centred(n: Call, x: Value, zero: Value | None) -> Value:
    """x - zero as float32; a weight's at once, however large, so that it is one still."""
    if x.data is not None and (zero is None or zero.data is not None):
        data = x.data.astype(np.float32)
        return n.constant(data if zero is None or zero.data is None else data - zero.data.astype(np.float32))
    y = n.b.operand(x, DType.f32)
    return y if zero is None else n.add(g.Sub(), y, n.b.operand(zero, DType.f32))


def _whole_matmul(n: Call, a: Value, b: Value) -> Value:
    """a @ b, of float32 that are whole numbers up to 255, as int32."""
    terms = a.type.shape[-1]
    limit = _WIDEST if b.data is None or not b.data.size else int(np.abs(b.data).max())
    if terms * _WIDEST * limit < _EXACT:
        return n.b.operand(product(n, a, b), DType.i32)
    if terms * _WIDEST * 16 >= _EXACT:
        return matmul(n.b, n.b.operand(a, DType.i32), n.b.operand(b, DType.i32))
    high = n.add(g.Floor(), scaled(n.b, b, 1 / 16))  # -16 to 15
    low = n.add(g.Sub(), b, scaled(n.b, high, 16.0))  # 0 to 15
    sums = [n.b.operand(product(n, a, part), DType.i32) for part in (high, low)]
    return n.add(g.Add(), scaled(n.b, sums[0], 16), sums[1])


def _per_row(n: Call, parameter: Value | None) -> Value | None:
    """A parameter of the left operand: one for all, or one a row."""
    if parameter is None or parameter.type.rank != 1:
        return parameter
    count = parameter.type.shape[0]
    return n.b.reshape(parameter, () if count == 1 else (count, 1))


@onnx_op("MatMulInteger", since=10)
def matmul_integer(n: Call, a: Value, b: Value, a_zero: Value | None = None, b_zero: Value | None = None) -> Value:
    return _whole_matmul(n, centred(n, a, _per_row(n, a_zero)), centred(n, b, b_zero))


@onnx_op("QLinearMatMul", since=10)
def qlinear_matmul(
    n: Call,
    a: Value,
    a_scale: Value,
    a_zero: Value | None,
    b: Value,
    b_scale: Value,
    b_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None,
) -> Value:
    y = matmul_integer(n, a, b, a_zero, b_zero)
    row = _per_row(n, a_scale)
    assert row is not None
    return rescaled(n, y, row, b_scale, y_scale, y_zero, a.type.dtype)


def rescaled(n: Call, y: Value, left: Value, right: Value, scale: Value, zero: Value | None, dtype: DType) -> Value:
    """Sums of products by left * right / scale, quantised."""
    wide = [n.b.operand(v, DType.f64) for v in (left, right, scale)]
    ratio = n.add(g.Div(), n.add(g.Mul(), wide[0], wide[1]), wide[2])
    exact = n.add(g.Mul(), n.b.operand(y, DType.f64), ratio)
    return _quantized(n, n.b.operand(exact, DType.f32), zero, dtype if zero is None else zero.type.dtype)


@onnx_op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(n: Call, x: Value) -> tuple[Value, Value, Value]:
    """x as u8 by the range it has and 0: the scale is (max - min) / 255, or 1 / 255 if those are equal."""
    axes = tuple(range(x.type.rank))
    high, low = n.add(g.ReduceMax(axes), x), n.add(g.ReduceMin(axes), x)
    high, low = binary(n.b, g.Maximum(), high, 0, DType.f32), binary(n.b, g.Minimum(), low, 0, DType.f32)
    span = n.add(g.Sub(), high, low)
    span = n.add(g.Where(), binary(n.b, g.Equal(), span, 0, DType.f32), n.graph.scalar(1, DType.f32), span)
    scale = _divided(n, span, n.graph.scalar(255, DType.f32))
    start = n.add(g.Neg(), _divided(n, low, scale))
    zero = n.b.operand(n.add(g.Round(), n.add(g.Clamp(0.0, 255.0), start)), DType.u8)
    return _quantized(n, _divided(n, x, scale), zero, DType.u8), scale, zero


def _divided(n: Call, left: Value, right: Value) -> Value:
    """left / right as float32, correctly rounded."""
    wide = [n.b.operand(v, DType.f64) for v in (left, right)]
    return n.b.operand(n.add(g.Div(), *wide), DType.f32)
