"""Elementwise functions made of others: they run in one kernel anyway."""

from __future__ import annotations

import math
from collections.abc import Callable

from jitrt.frontend.builder import Builder, Number
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op

Operand = Value | Number


def binary(b: Builder, op: Op, left: Operand, right: Operand, dtype: DType) -> Value:
    """`op` on both operands in `dtype`; a number becomes a constant."""
    return b.add(op, b.operand(left, dtype), b.operand(right, dtype))


def scaled(b: Builder, x: Value, factor: Number) -> Value:
    return x if factor == 1 else binary(b, g.Mul(), x, factor, x.type.dtype)


def affine(b: Builder, x: Value, factor: Number, summand: Number) -> Value:
    """factor * x + summand."""
    return _with(b, g.Add(), scaled(b, x, factor), summand)


def _with(b: Builder, op: Op, x: Value, number: Number) -> Value:
    return binary(b, op, x, number, x.type.dtype)


def choose(b: Builder, condition: Value, yes: Operand, no: Operand, dtype: DType) -> Value:
    """condition ? yes : no, in `dtype`."""
    return b.add(g.Where(), condition, b.operand(yes, dtype), b.operand(no, dtype))


def trunc(b: Builder, x: Value) -> Value:
    """Towards 0; integers are as they are."""
    if not x.type.dtype.is_float:
        return x
    return b.add(g.Where(), _with(b, g.Less(), x, 0), b.add(g.Ceil(), x), b.add(g.Floor(), x))


def frac(b: Builder, x: Value) -> Value:
    return b.add(g.Sub(), x, trunc(b, x))


def round_to(b: Builder, x: Value, decimals: int) -> Value:
    """To so many decimals, ties to even; integers are as they are."""
    if not x.type.dtype.is_float:
        return x
    if decimals == 0:
        return b.add(g.Round(), x)
    size = 10.0 ** abs(decimals)
    there, back = (g.Mul(), g.Div()) if decimals > 0 else (g.Div(), g.Mul())
    return _with(b, back, b.add(g.Round(), _with(b, there, x, size)), size)


def tan(b: Builder, x: Value) -> Value:
    return b.add(g.Div(), b.add(g.Sin(), x), b.add(g.Cos(), x))


def asin(b: Builder, x: Value) -> Value:
    """atan(x / sqrt((1 - x) * (1 + x)))."""
    one = b.graph.scalar(1, x.type.dtype)
    cosine = b.add(g.Sqrt(), b.add(g.Mul(), b.add(g.Sub(), one, x), b.add(g.Add(), one, x)))
    return b.add(g.Atan(), b.add(g.Div(), x, cosine))


def acos(b: Builder, x: Value) -> Value:
    """2 * atan(sqrt((1 - x) / (1 + x)))."""
    one = b.graph.scalar(1, x.type.dtype)
    half = b.add(g.Sqrt(), b.add(g.Div(), b.add(g.Sub(), one, x), b.add(g.Add(), one, x)))
    return scaled(b, b.add(g.Atan(), half), 2)


def atan2(b: Builder, y: Value, x: Value) -> Value:
    """The angle of (x, y); that of two infinities is NaN."""
    dtype = y.type.dtype
    slope = b.add(g.Atan(), b.add(g.Div(), y, x))
    slope = b.add(g.Where(), _with(b, g.Equal(), y, 0), y, slope)
    turned = b.add(g.Add(), slope, choose(b, signbit(b, y), -math.pi, math.pi, dtype))
    angle = b.add(g.Where(), signbit(b, x), turned, slope)
    return b.add(g.Where(), b.add(g.Equal(), x, x), angle, x)


def sinh(b: Builder, x: Value) -> Value:
    """(expm1(x) - expm1(-x)) / 2."""
    up, down = b.add(g.Expm1(), x), b.add(g.Expm1(), b.add(g.Neg(), x))
    return scaled(b, b.add(g.Sub(), up, down), 0.5)


def cosh(b: Builder, x: Value) -> Value:
    """(exp(x) + exp(-x)) / 2."""
    up, down = b.add(g.Exp(), x), b.add(g.Exp(), b.add(g.Neg(), x))
    return scaled(b, b.add(g.Add(), up, down), 0.5)


def asinh(b: Builder, x: Value) -> Value:
    """sign(x) * log1p(|x| + x^2 / (1 + sqrt(1 + x^2))), and sign(x) * log(2 |x|) for large x."""
    size = b.add(g.Abs(), x)
    square = b.add(g.Mul(), x, x)
    root = _with(b, g.Add(), b.add(g.Sqrt(), _with(b, g.Add(), square, 1)), 1)
    near = b.add(g.Log1p(), b.add(g.Add(), size, b.add(g.Div(), square, root)))
    return b.add(g.Mul(), b.add(g.Sign(), x), _or_log_of_twice(b, size, near))


def acosh(b: Builder, x: Value) -> Value:
    """log1p(t + sqrt(t * (t + 2))) with t = x - 1, and log(2 x) for large x."""
    t = _with(b, g.Sub(), x, 1)
    root = b.add(g.Sqrt(), b.add(g.Mul(), t, _with(b, g.Add(), t, 2)))
    return _or_log_of_twice(b, x, b.add(g.Log1p(), b.add(g.Add(), t, root)))


def _or_log_of_twice(b: Builder, size: Value, near: Value) -> Value:
    far = _with(b, g.Add(), b.add(g.Log(), size), math.log(2))
    return b.add(g.Where(), _with(b, g.Greater(), size, 1e4), far, near)


def atanh(b: Builder, x: Value) -> Value:
    """log1p(2 x / (1 - x)) / 2."""
    rest = b.add(g.Sub(), b.graph.scalar(1, x.type.dtype), x)
    return scaled(b, b.add(g.Log1p(), b.add(g.Div(), scaled(b, x, 2), rest)), 0.5)


def sinc(b: Builder, x: Value) -> Value:
    """sin(pi x) / (pi x), 1 at 0."""
    angle = scaled(b, x, math.pi)
    ratio = b.add(g.Div(), b.add(g.Sin(), angle), angle)
    return choose(b, _with(b, g.Equal(), x, 0), 1, ratio, x.type.dtype)


def logit(b: Builder, x: Value, eps: float | None) -> Value:
    """log(x / (1 - x)), x first clamped to [eps, 1 - eps]."""
    x = x if eps is None else b.add(g.Clamp(eps, 1 - eps), x)
    return b.add(g.Log(), b.add(g.Div(), x, b.add(g.Sub(), b.graph.scalar(1, x.type.dtype), x)))


def xlogy(b: Builder, x: Value, y: Value) -> Value:
    """x * log(y), 0 where x is 0 unless y is NaN."""
    product = b.add(g.Mul(), x, b.add(g.Log(), y))
    nothing = b.add(g.LogicalAnd(), _with(b, g.Equal(), x, 0), b.add(g.Equal(), y, y))
    return choose(b, nothing, 0, product, x.type.dtype)


def logaddexp(b: Builder, x: Value, y: Value, base: float = math.e) -> Value:
    """log(base^x + base^y) to that base, without overflow."""
    unit = math.log(base)
    high = b.add(g.Maximum(), x, y)
    gap = b.add(g.Abs(), b.add(g.Sub(), x, y))
    more = b.add(g.Log1p(), b.add(g.Exp(), scaled(b, gap, -unit)))
    total = b.add(g.Add(), high, scaled(b, more, 1 / unit))
    return b.add(g.Where(), b.add(g.Equal(), x, y), _with(b, g.Add(), high, math.log(2) / unit), total)  # inf with inf


def hypot(b: Builder, x: Value, y: Value) -> Value:
    """sqrt(x^2 + y^2), without overflow: larger * sqrt(1 + (smaller / larger)^2)."""
    x, y = b.add(g.Abs(), x), b.add(g.Abs(), y)
    high, low = b.add(g.Maximum(), x, y), b.add(g.Minimum(), x, y)
    ratio = b.add(g.Div(), low, high)
    stretch = b.add(g.Sqrt(), _with(b, g.Add(), b.add(g.Mul(), ratio, ratio), 1))
    plain = b.add(g.LogicalOr(), _with(b, g.Equal(), high, 0), _with(b, g.Equal(), high, math.inf))
    return b.add(g.Where(), plain, high, b.add(g.Mul(), high, stretch))


def copysign(b: Builder, x: Value, sign: Value) -> Value:
    size = b.add(g.Abs(), x)
    return b.add(g.Where(), signbit(b, sign), b.add(g.Neg(), size), size)


def sign(b: Builder, x: Value) -> Value:
    """-1, 0 or 1, as PyTorch has it: 0 for NaN, which ONNX and numpy keep."""
    made = b.add(g.Sign(), x)
    if not x.type.dtype.is_float:
        return made
    return b.add(g.Where(), b.add(g.Equal(), x, x), made, b.graph.scalar(0, made.type.dtype))


def signbit(b: Builder, x: Value) -> Value:
    """Whether x is negative, or the negative zero."""
    negative = _with(b, g.Less(), x, 0)
    if not x.type.dtype.is_float:
        return negative
    zero = _with(b, g.Equal(), x, 0)
    minus = _with(b, g.Less(), b.add(g.Reciprocal(), x), 0)
    return b.add(g.LogicalOr(), negative, b.add(g.LogicalAnd(), zero, minus))


def heaviside(b: Builder, x: Value, at_zero: Value) -> Value:
    """0 below zero, 1 above, `at_zero` there."""
    dtype = at_zero.type.dtype
    step = choose(b, _with(b, g.Less(), x, 0), 0, 1, dtype)
    stepped = b.add(g.Where(), _with(b, g.Equal(), x, 0), at_zero, step)
    return b.add(g.Where(), b.add(g.NotEqual(), x, x), x, stepped) if x.type.dtype.is_float else stepped


def number_of_two(b: Builder, op: Op, x: Value, y: Value) -> Value:
    """`op` (a maximum or minimum), but of a NaN and a number the number."""
    if not x.type.dtype.is_float:
        return b.add(op, x, y)
    either = b.add(g.Where(), b.add(g.NotEqual(), y, y), x, b.add(op, x, y))
    return b.add(g.Where(), b.add(g.NotEqual(), x, x), y, either)


def nan_to_num(b: Builder, x: Value, nan: float | None, high: float | None, low: float | None) -> Value:
    """Numbers for NaN (0 unless given) and the infinities (the largest of the dtype unless given)."""
    if not x.type.dtype.is_float:
        return x
    largest = {DType.f16: 65504.0, DType.bf16: 3.3895313892515355e38, DType.f32: 3.4028234663852886e38}
    limit = largest.get(x.type.dtype, 1.7976931348623157e308)
    dtype = x.type.dtype
    y = choose(b, b.add(g.NotEqual(), x, x), nan or 0, x, dtype)
    y = choose(b, _with(b, g.Equal(), x, math.inf), limit if high is None else high, y, dtype)
    return choose(b, _with(b, g.Equal(), x, -math.inf), -limit if low is None else low, y, dtype)


def is_finite(b: Builder, x: Value) -> Value:
    return _with(b, g.Less(), b.add(g.Abs(), x), math.inf)


def is_infinite(b: Builder, x: Value) -> Value:
    return _with(b, g.Equal(), b.add(g.Abs(), x), math.inf)


def log_to(base: float) -> Callable[[Builder, Value], Value]:
    """The logarithm to a base."""
    return lambda b, x: scaled(b, b.add(g.Log(), x), 1 / math.log(base))
