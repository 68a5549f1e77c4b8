"""Mathematical functions that are made of others, in `frontend.layers.arithmetic`."""

from __future__ import annotations

import math
from collections.abc import Callable

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers import arithmetic
from jitrt.frontend.layers.arithmetic import Operand, binary, choose, scaled
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import register
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_UNARY: dict[str, Callable[[Builder, Value], Value]] = {
    "trunc": arithmetic.trunc,
    "frac": arithmetic.frac,
    "tan": arithmetic.tan,
    "asin": arithmetic.asin,
    "acos": arithmetic.acos,
    "sinh": arithmetic.sinh,
    "cosh": arithmetic.cosh,
    "asinh": arithmetic.asinh,
    "acosh": arithmetic.acosh,
    "atanh": arithmetic.atanh,
    "sinc": arithmetic.sinc,
    "log2": arithmetic.log_to(2),
    "log10": arithmetic.log_to(10),
    "exp2": lambda b, x: b.add(g.Exp(), scaled(b, x, math.log(2))),
    "erfc": lambda b, x: b.add(g.Sub(), b.graph.scalar(1, x.type.dtype), b.add(g.Erf(), x)),
    "deg2rad": lambda b, x: scaled(b, x, math.pi / 180),
    "rad2deg": lambda b, x: scaled(b, x, 180 / math.pi),
    "sign": arithmetic.sign,
    "sgn": arithmetic.sign,
    "positive": lambda b, x: x,
}
_BINARY: dict[str, Callable[[Builder, Value, Value], Value]] = {
    "atan2": arithmetic.atan2,
    "hypot": arithmetic.hypot,
    "logaddexp": arithmetic.logaddexp,
    "logaddexp2": lambda b, x, y: arithmetic.logaddexp(b, x, y, 2.0),
    "heaviside": arithmetic.heaviside,
    "fmax": lambda b, x, y: arithmetic.number_of_two(b, g.Maximum(), x, y),
    "fmin": lambda b, x, y: arithmetic.number_of_two(b, g.Minimum(), x, y),
}


def _register_unary(name: str, function: Callable[[Builder, Value], Value]) -> None:
    @register(f"aten.{name}.default")
    def unary(ctx: Context, x: Value) -> Value:
        return function(ctx, ctx.operand(x, ctx.dtype))


def _register_binary(name: str, function: Callable[[Builder, Value, Value], Value]) -> None:
    @register(f"aten.{name}.default")
    def both(ctx: Context, x: Value, y: Value) -> Value:
        return function(ctx, ctx.operand(x, ctx.dtype), ctx.operand(y, ctx.dtype))


for _name, _function in _UNARY.items():
    _register_unary(_name, _function)
for _name, _both in _BINARY.items():
    _register_binary(_name, _both)


@register("aten.round.default", "aten.round.decimals")
def round(ctx: Context, x: Value, *, decimals: int = 0) -> Value:
    return arithmetic.round_to(ctx, x, decimals)


@register("aten.logit.default")
def logit(ctx: Context, x: Value, eps: float | None = None) -> Value:
    return arithmetic.logit(ctx, ctx.operand(x, ctx.dtype), eps)


@register("aten.xlogy.Tensor", "aten.xlogy.Scalar_Self", "aten.xlogy.Scalar_Other")
def xlogy(ctx: Context, x: Operand, y: Operand) -> Value:
    return arithmetic.xlogy(ctx, ctx.operand(x, ctx.dtype), ctx.operand(y, ctx.dtype))


@register("aten.copysign.Tensor", "aten.copysign.Scalar")
def copysign(ctx: Context, x: Value, sign: Operand) -> Value:
    return arithmetic.copysign(ctx, ctx.operand(x, ctx.dtype), ctx.operand(sign, ctx.dtype))


@register("aten.nan_to_num.default")
def nan_to_num(
    ctx: Context, x: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    return arithmetic.nan_to_num(ctx, x, nan, posinf, neginf)


@register("aten.signbit.default")
def signbit(ctx: Context, x: Value) -> Value:
    return arithmetic.signbit(ctx, x)


@register("aten.isinf.default")
def isinf(ctx: Context, x: Value) -> Value:
    return arithmetic.is_infinite(ctx, x) if x.type.dtype.is_float else ctx.full(ctx.shape, False, DType.b8)


@register("aten.isfinite.default")
def isfinite(ctx: Context, x: Value) -> Value:
    return arithmetic.is_finite(ctx, x) if x.type.dtype.is_float else ctx.full(ctx.shape, True, DType.b8)


@register("aten.isposinf.default")
def isposinf(ctx: Context, x: Value) -> Value:
    return _is(ctx, x, math.inf)


@register("aten.isneginf.default")
def isneginf(ctx: Context, x: Value) -> Value:
    return _is(ctx, x, -math.inf)


def _is(ctx: Context, x: Value, number: Number) -> Value:
    if not x.type.dtype.is_float:
        return ctx.full(ctx.shape, False, DType.b8)
    return binary(ctx, g.Equal(), x, number, x.type.dtype)


@register("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(ctx: Context, x: Value, mask: Value, value: Operand) -> Value:
    return choose(ctx, mask, value, x, ctx.dtype)
