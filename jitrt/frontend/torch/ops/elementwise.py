"""Elementwise operators, with PyTorch's type promotion: a Python number never widens a tensor of its own category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from jitrt.frontend.layers.arithmetic import Operand, binary, choose
from jitrt.frontend.torch.arrays import dtype_of
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op

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
    "floor": g.Floor,
    "ceil": g.Ceil,
    "log1p": g.Log1p,
    "expm1": g.Expm1,
    "atan": g.Atan,
    "logical_not": g.LogicalNot,
}
_ARITHMETIC: dict[str, tuple[type[Op], tuple[str, ...]]] = {  # and their overloads
    "mul": (g.Mul, ("Tensor", "Scalar")),
    "div": (g.Div, ("Tensor", "Scalar")),
    "pow": (g.Pow, ("Tensor_Tensor", "Tensor_Scalar", "Scalar")),
    "maximum": (g.Maximum, ("default",)),
    "minimum": (g.Minimum, ("default",)),
    "remainder": (g.Remainder, ("Tensor", "Scalar", "Scalar_Tensor")),
    "fmod": (g.Fmod, ("Tensor", "Scalar")),
    "floor_divide": (g.FloorDiv, ("default", "Scalar")),
}
_COMPARISONS: dict[str, type[Op]] = {
    "eq": g.Equal,
    "ne": g.NotEqual,
    "lt": g.Less,
    "le": g.LessEqual,
    "gt": g.Greater,
    "ge": g.GreaterEqual,
}
_LOGICAL: dict[str, tuple[type[Op], type[Op]]] = {  # of truths, and of bits
    "and": (g.LogicalAnd, g.BitwiseAnd),
    "or": (g.LogicalOr, g.BitwiseOr),
    "xor": (g.NotEqual, g.BitwiseXor),
}


def common_dtype(ctx: Context) -> DType:
    """The dtype PyTorch computes a binary operator in: torch.result_type of its first two operands."""
    assert ctx.node is not None
    a, b = (x.meta["val"] if isinstance(x, torch.fx.Node) else cast(Number, x) for x in ctx.node.args[:2])
    return dtype_of(torch.result_type(a, b))


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


def _register_logical(name: str, op: type[Op], of_bits: type[Op]) -> None:
    @register(f"aten.logical_{name}.default")
    def logical(ctx: Context, a: Value, b: Value) -> Value:
        return binary(ctx, op(), a, b, DType.b8)

    stems = (f"bitwise_{name}", f"__{name}__")

    @register(*(f"aten.{stem}.{form}" for stem in stems for form in ("Tensor", "Scalar")))
    def bitwise(ctx: Context, a: Operand, b: Operand) -> Value:
        return binary(ctx, op() if ctx.dtype == DType.b8 else of_bits(), a, b, ctx.dtype)


for _name, _op in _UNARY.items():
    _register_unary(_name, _op)
for _name, (_op, _forms) in _ARITHMETIC.items():
    _register_arithmetic(_name, _op, _forms)
for _name, _op in _COMPARISONS.items():
    _register_comparison(_name, _op)
for _name, (_op, _of_bits) in _LOGICAL.items():
    _register_logical(_name, _op, _of_bits)


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
    if rounding_mode == "floor":
        return binary(ctx, g.FloorDiv(), a, b, ctx.dtype)
    return binary(ctx, g.Div() if rounding_mode is None else g.TruncDiv(), a, b, ctx.dtype)


@register("aten.square.default")
def square(ctx: Context, x: Value) -> Value:
    return ctx.add(g.Mul(), x, x)


@register("aten.bitwise_not.default")
def bitwise_not(ctx: Context, x: Value) -> Value:
    return ctx.add(g.LogicalNot(), x) if ctx.dtype == DType.b8 else binary(ctx, g.BitwiseXor(), x, -1, ctx.dtype)


_SHIFTS: dict[str, type[Op]] = {"left": g.ShiftLeft, "right": g.ShiftRight}


def _register_shift(name: str, op: type[Op]) -> None:
    stem = f"aten.bitwise_{name}_shift"
    short = f"aten.__{name[0]}shift__"

    @register(*(f"{stem}.{form}" for form in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")))
    @register(f"{short}.Tensor", f"{short}.Scalar")
    def shift(ctx: Context, a: Operand, b: Operand) -> Value:
        return binary(ctx, op(), a, b, ctx.dtype)


for _name, _op in _SHIFTS.items():
    _register_shift(_name, _op)


@register("aten.view.dtype")
def view_as(ctx: Context, x: Value, dtype: Any) -> Value:
    """The bits as another type of as many."""
    source = x.type.dtype
    if source == ctx.dtype:
        return x
    if source.itemsize != ctx.dtype.itemsize or DType.b8 in (source, ctx.dtype):
        raise Unsupported(f"of {source.value} as {ctx.dtype.value}: elements would split or join; cast instead")
    return ctx.add(g.BitCast(source, ctx.dtype), x)


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
    return choose(ctx, condition, a, b, ctx.dtype)


@register("aten.clamp.default", "aten.clip.default", "aten.clamp.Tensor", "aten.clip.Tensor")
def clamp(ctx: Context, x: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    x = ctx.operand(x, ctx.dtype)
    if isinstance(min, int | float) and isinstance(max, int | float) and ctx.dtype.is_float:
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
