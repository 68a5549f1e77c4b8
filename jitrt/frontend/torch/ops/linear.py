"""Matrix products."""

from __future__ import annotations

from jitrt.frontend.layers import linear as layers
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import register
from jitrt.graph import Value
from jitrt.graph.ops import Add, Linear, Mul, ReduceSum


@register("aten.linear.default")
def linear(ctx: Context, x: Value, w: Value, bias: Value | None = None) -> Value:
    return layers.linear(ctx, x, w, bias)


@register("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default")
def matmul(ctx: Context, a: Value, b: Value) -> Value:
    return layers.matmul(ctx, a, b)


@register("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(ctx: Context, c: Value, a: Value, b: Value, *, beta: Number = 1, alpha: Number = 1) -> Value:
    product = matmul(ctx, a, b)
    if alpha != 1:
        product = ctx.add(Mul(), product, ctx.graph.scalar(alpha, ctx.dtype))
    if beta == 0:
        return product
    if beta != 1:
        c = ctx.add(Mul(), c, ctx.graph.scalar(beta, ctx.dtype))
    return ctx.add(Add(), product, c)


@register("aten.bilinear.default")
def bilinear(ctx: Context, x: Value, y: Value, w: Value, bias: Value | None = None) -> Value:
    """z[..., k] = sum over i, j of x[..., i] * w[k, i, j] * y[..., j]."""
    k, i, j = w.type.shape
    rows = ctx.reshape(ctx.permute(w, (0, 2, 1)), (k * j, i))
    half = ctx.reshape(ctx.add(Linear(), x, rows), (*x.type.shape[:-1], k, j))
    product = ctx.add(Mul(), half, ctx.reshape(y, (*y.type.shape[:-1], 1, j)))
    z = ctx.add(ReduceSum((product.type.rank - 1,)), product)
    return z if bias is None else ctx.add(Add(), z, bias)
