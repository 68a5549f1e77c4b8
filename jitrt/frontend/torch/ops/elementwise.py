"""Elementwise operators, with PyTorch's type promotion: a Python number never widens a tensor of its own category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from jitrt.frontend.torch.arrays import dtype_of
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op

Operand = Value | Number

_UNARY: dict[str, type[Op]] = {
    "relu": g.Relu,
    "sigmoid": g.Sigmoid,
    "tanh": g.Tanh,
    "silu": g.Silu,
    "hardsigmoid": g.HardSigmoid,
    "hardswish": g.HardSwish,
    "exp": g.Exp,
    "log": g.Log,
    "sqrt": g.Sqrt,
    "rsqrt": g.Rsqrt,
    "reciprocal": g.Reciprocal,
    "erf": g.Erf,
    "sin": g.Sin,
    "cos": g.Cos,
    "abs": g.Abs,
    "neg": g.Neg,
    "sign": g.Sign,
    "floor": g.Floor,
    "ceil": g.Ceil,
    "logical_not": g.LogicalNot,
}
_ARITHMETIC: dict[str, tuple[type[Op], tuple[str, ...]]] = {  # and their overloads
    "mul": (g.Mul, ("Tensor", "Scalar")),
    "div": (g.Div, ("Tensor", "Scalar")),
    "pow": (g.Pow, ("Tensor_Tensor", "Tensor_Scalar", "Scalar")),
    "maximum": (g.Maximum, ("default",)),
    "minimum": (g.Minimum, ("default",)),
}
_COMPARISONS: dict[str, type[Op]] = {
    "eq": g.Equal,
    "ne": g.NotEqual,
    "lt": g.Less,
    "le": g.LessEqual,
    "gt": g.Greater,
    "ge": g.GreaterEqual,
}
_LOGICAL: dict[str, type[Op]] = {"and": g.LogicalAnd, "or": g.LogicalOr}


def common_dtype(ctx: Context) -> DType:
    """The dtype PyTorch computes a binary operator in: torch.result_type of its first two operands."""
    assert ctx.node is not None
    a, b = (x.meta["val"] if isinstance(x, torch.fx.Node) else cast(Number, x) for x in ctx.node.args[:2])
    return dtype_of(torch.result_type(a, b))


def binary(ctx: Context, op: Op, a: Operand, b: Operand, dtype: DType) -> Value:
    """`op` on both operands in `dtype`."""
    return ctx.add(op, ctx.operand(a, dtype), ctx.operand(b, dtype))


def _register_unary(name: str, op: type[Op]) -> None:
    @register(f"aten.{name}.default")
    def unary(ctx: Context, x: Value) -> Value:
        # Integers go in as the float they come out as; only logical_not takes its operand as it is.
        return ctx.add(op(), x if ctx.dtype == DType.b8 else ctx.operand(x, ctx.dtype))


def _register_arithmetic(name: str, op: type[Op], forms: Sequence[str]) -> None:
    @register(*(f"aten.{name}.{form}" for form in forms))
    def arithmetic(ctx: Context, a: Operand, b: Operand) -> Value:
        return binary(ctx, op(), a, b, ctx.dtype)


def _register_comparison(name: str, op: type[Op]) -> None:
    @register(f"aten.{name}.Tensor", f"aten.{name}.Scalar")
    def comparison(ctx: Context, a: Operand, b: Operand) -> Value:
        return binary(ctx, op(), a, b, common_dtype(ctx))


def _register_logical(name: str, op: type[Op]) -> None:
    bitwise = (f"aten.{stem}.{form}" for stem in (f"bitwise_{name}", f"__{name}__") for form in ("Tensor", "Scalar"))

    @register(f"aten.logical_{name}.default", *bitwise)
    def logical(ctx: Context, a: Operand, b: Operand) -> Value:
        if ctx.dtype != DType.b8:
            raise Unsupported("on integers")
        return binary(ctx, op(), a, b, DType.b8)


for _name, _op in _UNARY.items():
    _register_unary(_name, _op)
for _name, (_op, _forms) in _ARITHMETIC.items():
    _register_arithmetic(_name, _op, _forms)
for _name, _op in _COMPARISONS.items():
    _register_comparison(_name, _op)
for _name, _op in _LOGICAL.items():
    _register_logical(_name, _op)


@register("aten.add.Tensor", "aten.add.Scalar")
def add(ctx: Context, a: Operand, b: Operand, alpha: Number = 1) -> Value:
    return binary(ctx, g.Add(), a, _scaled(ctx, b, alpha), ctx.dtype)


@register("aten.sub.Tensor", "aten.sub.Scalar")
def sub(ctx: Context, a: Operand, b: Operand, alpha: Number = 1) -> Value:
    return binary(ctx, g.Sub(), a, _scaled(ctx, b, alpha), ctx.dtype)


@register("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(ctx: Context, a: Operand, b: Operand, alpha: Number = 1) -> Value:
    return binary(ctx, g.Sub(), b, _scaled(ctx, a, alpha), ctx.dtype)


def _scaled(ctx: Context, x: Operand, alpha: Number) -> Operand:
    if alpha == 1:
        return x
    return binary(ctx, g.Mul(), x, alpha, ctx.dtype)


@register("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(ctx: Context, a: Operand, b: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "trunc" or not ctx.dtype.is_float:
        raise Unsupported(f"rounding_mode={rounding_mode!r} on {ctx.dtype.value}")
    quotient = binary(ctx, g.Div(), a, b, ctx.dtype)
    return quotient if rounding_mode is None else ctx.add(g.Floor(), quotient)


@register("aten.floor_divide.default", "aten.floor_divide.Scalar")
def floor_divide(ctx: Context, a: Operand, b: Operand) -> Value:
    return div_mode(ctx, a, b, "floor")


@register("aten.square.default")
def square(ctx: Context, x: Value) -> Value:
    return ctx.add(g.Mul(), x, x)


@register("aten.bitwise_not.default")
def bitwise_not(ctx: Context, x: Value) -> Value:
    if x.type.dtype != DType.b8:
        raise Unsupported("on integers")
    return ctx.add(g.LogicalNot(), x)


@register("aten.isnan.default")
def isnan(ctx: Context, x: Value) -> Value:
    return ctx.add(g.NotEqual(), x, x)


@register("aten.addcmul.default")
def addcmul(ctx: Context, x: Value, a: Value, b: Value, value: Number = 1) -> Value:
    product = binary(ctx, g.Mul(), a, b, ctx.dtype)
    return binary(ctx, g.Add(), x, _scaled(ctx, product, value), ctx.dtype)


@register("aten.addcdiv.default")
def addcdiv(ctx: Context, x: Value, a: Value, b: Value, value: Number = 1) -> Value:
    quotient = binary(ctx, g.Div(), a, b, ctx.dtype)
    return binary(ctx, g.Add(), x, _scaled(ctx, quotient, value), ctx.dtype)


@register("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(ctx: Context, start: Value, end: Value, weight: Operand) -> Value:
    step = binary(ctx, g.Mul(), ctx.add(g.Sub(), end, start), weight, ctx.dtype)
    return ctx.add(g.Add(), start, step)


@register("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
def where(ctx: Context, condition: Value, a: Operand, b: Operand) -> Value:
    return ctx.add(g.Where(), condition, ctx.operand(a, ctx.dtype), ctx.operand(b, ctx.dtype))


@register("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(ctx: Context, x: Value, mask: Value, value: Operand) -> Value:
    return ctx.add(g.Where(), mask, ctx.operand(value, ctx.dtype), ctx.operand(x, ctx.dtype))


@register("aten.hardtanh.default")
def hardtanh(ctx: Context, x: Value, low: Number = -1.0, high: Number = 1.0) -> Value:
    return clamp(ctx, x, low, high)


@register("aten.clamp.default", "aten.clip.default", "aten.clamp.Tensor", "aten.clip.Tensor")
def clamp(ctx: Context, x: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    x = ctx.operand(x, ctx.dtype)
    if min is not None and max is not None and not isinstance(min, Value) and not isinstance(max, Value):
        return ctx.add(g.Clamp(float(min), float(max)), x)
    # One bound alone must let infinities of the other sign through, which Clamp's finite default would not.
    x = x if min is None else clamp_min(ctx, x, min)
    return x if max is None else binary(ctx, g.Minimum(), x, max, ctx.dtype)


@register("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(ctx: Context, x: Value, min: Operand) -> Value:
    if not isinstance(min, Value) and min == 0:
        return ctx.add(g.Relu(), ctx.operand(x, ctx.dtype))
    return binary(ctx, g.Maximum(), x, min, ctx.dtype)


@register("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(ctx: Context, x: Value, max: Operand) -> Value:
    return binary(ctx, g.Minimum(), x, max, ctx.dtype)


@register("aten.relu6.default")
def relu6(ctx: Context, x: Value) -> Value:
    return ctx.add(g.Clamp(0.0, 6.0), x)


@register("aten.leaky_relu.default")
def leaky_relu(ctx: Context, x: Value, negative_slope: float = 0.01) -> Value:
    return ctx.add(g.LeakyRelu(float(negative_slope)), x)


@register("aten.prelu.default")
def prelu(ctx: Context, x: Value, weight: Value) -> Value:
    slope = ctx.per_channel(weight, max(x.type.rank, 2)) if weight.type.numel > 1 else ctx.reshape(weight, ())
    zero = ctx.graph.scalar(0, x.type.dtype)
    return ctx.add(g.Where(), ctx.add(g.Greater(), x, zero), x, ctx.add(g.Mul(), x, slope))


@register("aten.elu.default")
def elu(ctx: Context, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    if input_scale != 1:
        raise Unsupported(f"input_scale={input_scale}")
    y = ctx.add(g.Elu(float(alpha)), x)
    return y if scale == 1 else binary(ctx, g.Mul(), y, scale, ctx.dtype)


@register("aten.selu.default")
def selu(ctx: Context, x: Value) -> Value:
    return elu(ctx, x, 1.6732632423543772, 1.0507009873554805)  # the paper's constants, as in torch.nn.SELU


@register("aten.gelu.default")
def gelu(ctx: Context, x: Value, *, approximate: str = "none") -> Value:
    return ctx.add(g.Gelu(approximate == "tanh"), x)


@register("aten.softplus.default")
def softplus(ctx: Context, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    # PyTorch switches to y = x above the threshold; from 20 on both agree in float32, so the formula serves for both.
    if threshold < 20:
        raise Unsupported(f"threshold={threshold}")
    if beta == 1:
        return ctx.add(g.Softplus(), x)
    inner = ctx.add(g.Softplus(), binary(ctx, g.Mul(), x, beta, ctx.dtype))
    return binary(ctx, g.Div(), inner, beta, ctx.dtype)


@register("aten.mish.default")
def mish(ctx: Context, x: Value) -> Value:
    return ctx.add(g.Mul(), x, ctx.add(g.Tanh(), ctx.add(g.Softplus(), x)))


@register("aten.log_sigmoid.default")
def log_sigmoid(ctx: Context, x: Value) -> Value:
    return ctx.add(g.Neg(), ctx.add(g.Softplus(), ctx.add(g.Neg(), x)))


@register("aten.threshold.default")
def threshold(ctx: Context, x: Value, threshold: Number, value: Number) -> Value:
    above = binary(ctx, g.Greater(), x, threshold, x.type.dtype)
    return ctx.add(g.Where(), above, x, ctx.graph.scalar(value, x.type.dtype))


@register("aten.glu.default")
def glu(ctx: Context, x: Value, dim: int = -1) -> Value:
    axis = dim % x.type.rank
    half = x.type.shape[axis] // 2
    gate = ctx.add(g.Sigmoid(), ctx.slice(x, axis, half, 2 * half))
    return ctx.add(g.Mul(), ctx.slice(x, axis, 0, half), gate)


_CASTS = ("to.dtype", "to.dtype_layout", "to.device", "to.other", "_to_copy.default", "type_as.default")


@register(*(f"aten.{name}" for name in _CASTS))
def to_dtype(ctx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return ctx.operand(x, ctx.dtype)  # the result's dtype says it all; device and memory format are the engine's


@register("aten.copy.default")
def copy(ctx: Context, x: Value, source: Value, non_blocking: bool = False) -> Value:
    return ctx.expand(ctx.operand(source, x.type.dtype), x.type.shape)


@register("aten.fill.Scalar", "aten.fill.Tensor")
def fill(ctx: Context, x: Value, value: Operand) -> Value:
    return ctx.expand(ctx.operand(value, x.type.dtype), x.type.shape)


@register("aten.zero.default")
def zero(ctx: Context, x: Value) -> Value:
    return ctx.full(x.type.shape, 0, x.type.dtype)
