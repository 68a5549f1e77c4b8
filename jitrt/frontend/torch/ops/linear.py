"""Matrix products."""

from __future__ import annotations

from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import register
from jitrt.graph import Value
from jitrt.graph.ops import Add, Linear, Matmul, Mul


@register("aten.linear.default")
def linear(ctx: Context, x: Value, w: Value, bias: Value | None = None) -> Value:
    y = ctx.add(Linear(), x, w)
    return y if bias is None else ctx.add(Add(), y, bias)


@register("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default")
def matmul(ctx: Context, a: Value, b: Value) -> Value:
    # A vector is a row on the left and a column on the right; its dimension leaves the result again.
    rows = a if a.type.rank > 1 else ctx.reshape(a, (1, *a.type.shape))
    columns = b if b.type.rank > 1 else ctx.reshape(b, (*b.type.shape, 1))
    return ctx.reshape(ctx.add(Matmul(), rows, columns), ctx.shape)


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
