"""Reductions and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from jitrt.frontend.layers import reduce as layers
from jitrt.frontend.layers.arithmetic import binary, choose
from jitrt.frontend.layers.reduce import Dims, Reduction
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.ops.index import position
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import DType, Value
from jitrt.graph import ops as g


def reduced(ctx: Context, op: Reduction, x: Value, dim: Dims, keepdim: bool, dtype: DType | None = None) -> Value:
    """`op` over `dim` (all dimensions if None or empty), computed in `dtype` (the result's unless given)."""
    dtype = dtype or ctx.dtype
    if dtype == DType.b8:  # a kernel counts truths in integers
        return ctx.operand(layers.reduced(ctx, op, ctx.operand(x, DType.i32), dim, keepdim), dtype)
    return layers.reduced(ctx, op, ctx.operand(x, dtype), dim, keepdim)


@register("aten.mean.default", "aten.mean.dim")
def mean(ctx: Context, x: Value, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Value:
    return reduced(ctx, g.ReduceMean, x, dim, keepdim)


@register("aten.sum.default", "aten.sum.dim_IntList")
def sum(ctx: Context, x: Value, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Value:
    return reduced(ctx, g.ReduceSum, x, dim, keepdim)


@register("aten.amax.default")
def amax(ctx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return reduced(ctx, g.ReduceMax, x, dim, keepdim)


@register("aten.amin.default")
def amin(ctx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return reduced(ctx, g.ReduceMin, x, dim, keepdim)


register("aten.max.default")(amax)
register("aten.min.default")(amin)


def _extreme(
    ctx: Context, op: Reduction, x: Value, dim: int, keepdim: bool, *, largest: bool
) -> tuple[Value, Value | None]:
    """(value, position if it is read) of the largest or smallest element along a dimension."""
    value = reduced(ctx, op, x, dim, keepdim)
    return value, position(ctx, x, largest, dim, keepdim) if ctx.reads(1) else None


@register("aten.max.dim")
def max_dim(ctx: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value | None]:
    return _extreme(ctx, g.ReduceMax, x, dim, keepdim, largest=True)


@register("aten.min.dim")
def min_dim(ctx: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value | None]:
    return _extreme(ctx, g.ReduceMin, x, dim, keepdim, largest=False)


@register("aten.aminmax.default")
def aminmax(ctx: Context, x: Value, *, dim: int | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    return reduced(ctx, g.ReduceMin, x, dim, keepdim), reduced(ctx, g.ReduceMax, x, dim, keepdim)


@register("aten.prod.default", "aten.prod.dim_int")
def prod(
    ctx: Context, x: Value, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    return reduced(ctx, g.ReduceProd, x, dim, keepdim)


@register("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_(ctx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return _truth(ctx, g.ReduceMax, x, dim, keepdim)


@register("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_(ctx: Context, x: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    return _truth(ctx, g.ReduceMin, x, dim, keepdim)


def _truth(ctx: Context, op: Reduction, x: Value, dim: Dims, keepdim: bool) -> Value:
    truths = ctx.operand(ctx.operand(x, DType.b8), DType.i32)
    return ctx.operand(layers.reduced(ctx, op, truths, dim, keepdim), ctx.dtype)


@register("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(ctx: Context, x: Value, dim: Dims = None) -> Value:
    return reduced(ctx, g.ReduceSum, ctx.operand(x, DType.b8), dim, False)


@register("aten.nansum.default")
def nansum(
    ctx: Context, x: Value, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    x = ctx.operand(x, ctx.dtype)
    number = ctx.add(g.Where(), ctx.add(g.Equal(), x, x), x, ctx.graph.scalar(0, ctx.dtype))
    return reduced(ctx, g.ReduceSum, number, dim, keepdim)


@register("aten.max.other")
def max_other(ctx: Context, a: Value, b: Value) -> Value:
    return ctx.add(g.Maximum(), ctx.operand(a, ctx.dtype), ctx.operand(b, ctx.dtype))


@register("aten.min.other")
def min_other(ctx: Context, a: Value, b: Value) -> Value:
    return ctx.add(g.Minimum(), ctx.operand(a, ctx.dtype), ctx.operand(b, ctx.dtype))


def _variance(ctx: Context, x: Value, dim: Dims, correction: Number | None, keepdim: bool) -> Value:
    centred = ctx.add(g.Sub(), x, reduced(ctx, g.ReduceMean, x, dim, True))
    total = reduced(ctx, g.ReduceSum, ctx.add(g.Mul(), centred, centred), dim, keepdim)
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.type.rank))
    count = math.prod(x.type.shape[d] for d in dims) - (1 if correction is None else correction)
    if count <= 0:
        raise Unsupported("over fewer elements than its correction")
    return ctx.add(g.Div(), total, ctx.graph.scalar(count, ctx.dtype))


@register("aten.var.correction")
def var(ctx: Context, x: Value, dim: Dims = None, *, correction: Number | None = None, keepdim: bool = False) -> Value:
    return _variance(ctx, x, dim, correction, keepdim)


@register("aten.std.correction")
def std(ctx: Context, x: Value, dim: Dims = None, *, correction: Number | None = None, keepdim: bool = False) -> Value:
    return ctx.add(g.Sqrt(), _variance(ctx, x, dim, correction, keepdim))


@register("aten.var.default", "aten.var.dim")
def var_unbiased(ctx: Context, x: Value, *args: Any) -> Value:
    dim, unbiased, keepdim = _unbiased(args)
    return _variance(ctx, x, dim, int(unbiased), keepdim)


@register("aten.std.default", "aten.std.dim")
def std_unbiased(ctx: Context, x: Value, *args: Any) -> Value:
    return ctx.add(g.Sqrt(), var_unbiased(ctx, x, *args))


def _unbiased(args: Sequence[Any]) -> tuple[Dims, bool, bool]:
    """(dim, unbiased, keepdim) of both overloads: (unbiased) and (dim, unbiased, keepdim)."""
    if not args or isinstance(args[0], bool):
        return None, args[0] if args else True, False
    return args[0], args[1] if len(args) > 1 else True, args[2] if len(args) > 2 else False


@register("aten.var_mean.correction")
def var_mean(
    ctx: Context, x: Value, dim: Dims = None, *, correction: Number | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return _variance(ctx, x, dim, correction, keepdim), reduced(ctx, g.ReduceMean, x, dim, keepdim)


@register("aten.var_mean.default", "aten.var_mean.dim")
def var_mean_unbiased(ctx: Context, x: Value, *args: Any) -> tuple[Value, Value]:
    dim, unbiased, keepdim = _unbiased(args)
    return var_mean(ctx, x, dim, correction=int(unbiased), keepdim=keepdim)


@register("aten.std_mean.correction")
def std_mean(
    ctx: Context, x: Value, dim: Dims = None, *, correction: Number | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return std(ctx, x, dim, correction=correction, keepdim=keepdim), reduced(ctx, g.ReduceMean, x, dim, keepdim)


@register("aten.std_mean.default", "aten.std_mean.dim")
def std_mean_unbiased(ctx: Context, x: Value, *args: Any) -> tuple[Value, Value]:
    dim, unbiased, keepdim = _unbiased(args)
    return std_mean(ctx, x, dim, correction=int(unbiased), keepdim=keepdim)


@register("aten.linalg_vector_norm.default")
def vector_norm(
    ctx: Context,
    x: Value,
    ord: Number = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Value:
    """(sum of |x|^ord)^(1/ord); the largest or smallest |x| for an infinite ord, the count of what is not 0 for 0."""
    x = ctx.operand(x, ctx.dtype)
    if ord == 2:
        return ctx.add(g.Sqrt(), reduced(ctx, g.ReduceSum, ctx.add(g.Mul(), x, x), dim, keepdim))
    if ord == 0:
        some = ctx.operand(binary(ctx, g.NotEqual(), x, 0, ctx.dtype), ctx.dtype)
        return reduced(ctx, g.ReduceSum, some, dim, keepdim)
    size = ctx.add(g.Abs(), x)
    if math.isinf(ord):
        return reduced(ctx, g.ReduceMax if ord > 0 else g.ReduceMin, size, dim, keepdim)
    if ord == 1:
        return reduced(ctx, g.ReduceSum, size, dim, keepdim)
    total = reduced(ctx, g.ReduceSum, binary(ctx, g.Pow(), size, float(ord), ctx.dtype), dim, keepdim)
    return binary(ctx, g.Pow(), total, 1 / ord, ctx.dtype)


@register("aten.logsumexp.default")
def logsumexp(ctx: Context, x: Value, dim: Dims, keepdim: bool = False) -> Value:
    high = reduced(ctx, g.ReduceMax, x, dim, True)
    # Of infinities it is left where it is: -inf less -inf is no number.
    dtype = high.type.dtype
    high = choose(ctx, binary(ctx, g.Equal(), ctx.add(g.Abs(), high), math.inf, dtype), 0, high, dtype)
    total = reduced(ctx, g.ReduceSum, ctx.add(g.Exp(), ctx.add(g.Sub(), x, high)), dim, keepdim)
    return ctx.add(g.Add(), ctx.add(g.Log(), total), ctx.reshape(high, total.type.shape))


@register("aten.softmax.int", "aten._softmax.default")
def softmax(ctx: Context, x: Value, dim: int, dtype: object = None) -> Value:
    return layers.along(ctx, g.Softmax, ctx.operand(x, ctx.dtype), dim)


@register("aten.log_softmax.int", "aten._log_softmax.default")
def log_softmax(ctx: Context, x: Value, dim: int, dtype: object = None) -> Value:
    return layers.along(ctx, g.LogSoftmax, ctx.operand(x, ctx.dtype), dim)
