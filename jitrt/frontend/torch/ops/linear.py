"""Matrix products."""

from __future__ import annotations

from jitrt.frontend.layers import linear as layers
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import register
from jitrt.graph import Value
from jitrt.graph.ops import Add, Mul


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
