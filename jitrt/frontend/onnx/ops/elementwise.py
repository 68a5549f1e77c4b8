"""Arithmetic, element by element. Operands have one type, and broadcast as in numpy (before opset 7 see `legacy`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from jitrt.frontend.layers import arithmetic as layers
from jitrt.frontend.onnx.legacy import aligned
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op

_UNARY: dict[str, type[Op]] = {
    "Abs": g.Abs,
    "Ceil": g.Ceil,
    "Cos": g.Cos,
    "Erf": g.Erf,
    "Exp": g.Exp,
    "Floor": g.Floor,
    "Log": g.Log,
    "Neg": g.Neg,
    "Reciprocal": g.Reciprocal,
    "Round": g.Round,
    "Sign": g.Sign,
    "Sin": g.Sin,
    "Sqrt": g.Sqrt,
    "Atan": g.Atan,
}
_COMPOSED = {
    "Acos": layers.acos,
    "Acosh": layers.acosh,
    "Asin": layers.asin,
    "Asinh": layers.asinh,
    "Atanh": layers.atanh,
    "Cosh": layers.cosh,
    "Sinh": layers.sinh,
    "Tan": layers.tan,
}
_BINARY: dict[str, type[Op]] = {"Add": g.Add, "Sub": g.Sub, "Mul": g.Mul}
_VARIADIC: dict[str, type[Op]] = {"Max": g.Maximum, "Min": g.Minimum, "Sum": g.Add}


@onnx_op(*_UNARY, *_COMPOSED)
def unary(n: Call, x: Value) -> Value:
    if n.op_type in _UNARY:
        return n.add(_UNARY[n.op_type](), x)
    return _COMPOSED[n.op_type](n.b, x)


@onnx_op(*_BINARY)
def binary(n: Call, a: Value, b: Value) -> Value:
    return n.add(_BINARY[n.op_type](), a, aligned(n, a, b))


@onnx_op("Div")
def div(n: Call, a: Value, b: Value) -> Value:
    return n.add(g.Div() if a.type.dtype.is_float else g.TruncDiv(), a, aligned(n, a, b))


@onnx_op("Mod", since=10)
def mod(n: Call, a: Value, b: Value) -> Value:
    """The sign of the divisor, or with `fmod` that of the dividend."""
    return n.add(g.Fmod() if n.attribute("fmod", 0) else g.Remainder(), a, b)


@onnx_op("Pow")
def power(n: Call, base: Value, exponent: Value) -> Value:
    """In the type of the base, whatever that of the exponent."""
    exponent = aligned(n, base, exponent)
    dtype, other = base.type.dtype, exponent.type.dtype
    if dtype.is_float or not other.is_float:
        return n.add(g.Pow(), base, n.b.operand(exponent, dtype))
    # A whole result is off by a rounding of the logarithm, and must not lose 1 where it is truncated.
    wide = n.add(g.Pow(), n.b.operand(base, DType.f64), n.b.operand(exponent, DType.f64))
    whole = n.add(g.Round(), wide)
    off = n.add(g.Abs(), n.add(g.Sub(), wide, whole))
    near = n.add(g.LessEqual(), off, layers.scaled(n.b, n.add(g.Abs(), whole), 1e-12))
    return n.b.operand(n.add(g.Where(), near, whole, wide), dtype)


@onnx_op(*_VARIADIC)
def variadic(n: Call, *values: Value) -> Value:
    return _all(n, _VARIADIC[n.op_type], values)


@onnx_op("Mean")
def mean(n: Call, *values: Value) -> Value:
    return layers.binary(n.b, g.Div(), _all(n, g.Add, values), len(values), values[0].type.dtype)


def _all(n: Call, op: type[Op], values: Sequence[Value]) -> Value:
    """`op` of the first two, of that and the third, ..."""
    return functools.reduce(lambda left, right: n.add(op(), left, right), values)


@onnx_op("Clip")
def clip_to_numbers(n: Call, x: Value) -> Value:
    lowest, largest = -3.4028234663852886e38, 3.4028234663852886e38
    low, high = n.attribute("min", lowest), n.attribute("max", largest)
    dtype = x.type.dtype
    if low <= lowest and high >= largest:
        return x
    return clip(
        n,
        x,
        None if low <= lowest else n.b.operand(low, dtype),
        None if high >= largest else n.b.operand(high, dtype),
    )


@onnx_op("Clip", since=11)
def clip(n: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Min(high, Max(x, low)); one Clamp where both are numbers."""
    numbers = [bound.data for bound in (low, high) if bound is not None]
    if len(numbers) == 2 and x.type.dtype in (DType.f32, DType.f16, DType.bf16):
        least, most = numbers
        if least is not None and most is not None and least <= most:
            return n.add(g.Clamp(float(least), float(most)), x)
    if low is not None:
        zero = low.data is not None and low.type.numel == 1 and not low.data.any()
        x = n.add(g.Relu(), x) if zero else n.add(g.Maximum(), x, low)
    return x if high is None else n.add(g.Minimum(), x, high)
