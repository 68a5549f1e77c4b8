"""Elements put, or reduced, at positions in a tensor. Of several for one place the last stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jitrt.frontend.layers import scatter as layers
from jitrt.frontend.torch.context import Context, Number, axis_of
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.types import broadcast_shapes

_REDUCTIONS = {"sum": "add", "prod": "mul", "amin": "min", "amax": "max"}


@register("aten.scatter.src")
def scatter(ctx: Context, x: Value, dim: int, index: Value, source: Value, reduction: str = "none") -> Value:
    """What of the source is beyond the index is not looked at."""
    if x.type.rank == 0 or index.type.rank == 0:
        raise Unsupported("of rank 0")
    for d, size in enumerate(index.type.shape):
        source = ctx.slice(source, d, 0, min(size, source.type.shape[d]))
    return layers.scatter(ctx, x, index, source, axis_of(dim, x.type.rank), reduction)


@register("aten.scatter.value")
def scatter_value(ctx: Context, x: Value, dim: int, index: Value, value: Number) -> Value:
    return scatter(ctx, x, dim, index, ctx.constant(np.full((1,) * x.type.rank, value), x.type.dtype))


@register("aten.scatter_add.default")
def scatter_add(ctx: Context, x: Value, dim: int, index: Value, source: Value) -> Value:
    return scatter(ctx, x, dim, index, source, "add")


@register("aten.scatter_reduce.two")
def scatter_reduce(
    ctx: Context, x: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if reduce not in _REDUCTIONS or not include_self:
        raise Unsupported(f"by {reduce}{'' if include_self else ' without what was there'}")
    return scatter(ctx, x, dim, index, source, _REDUCTIONS[reduce])


@register("aten.index_put.default")
def index_put(
    ctx: Context, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    """x[i, :, j] = values: where the indexed dimensions stand in the values is as in `index`."""
    given = {d: i for d, i in enumerate(indices) if i is not None}
    if any(i.type.dtype in (DType.b8, DType.u8) for i in given.values()):
        return _masked(ctx, x, given, values, accumulate)
    axes = list(given)
    rest = [d for d in range(x.type.rank) if d not in given]
    where = broadcast_shapes(*(i.type.shape for i in given.values()))
    assert where is not None
    beside = axes == list(range(axes[0], axes[0] + len(axes)))
    before = axes[0] if beside else 0  # dimensions that stand before the indexed ones in the values
    kept = [x.type.shape[d] for d in rest]
    new = ctx.expand(values, (*kept[:before], *where, *kept[before:]))
    turned = [*range(before, before + len(where)), *range(before), *range(before + len(where), new.type.rank)]
    order = (*axes, *rest)
    how = "add" if accumulate else "none"
    y = layers.scatter_several(ctx, ctx.permute(x, order), list(given.values()), ctx.permute(new, tuple(turned)), how)
    return ctx.permute(y, tuple(int(d) for d in np.argsort(order)))


def _masked(ctx: Context, x: Value, given: dict[int, Value], values: Value, accumulate: bool) -> Value:
    if list(given) != [0] or given[0].type.dtype != DType.b8 or values.type.numel != 1 or accumulate:
        raise Unsupported("by a mask, other than with one value for all: use torch.where")
    mask = ctx.reshape(given[0], (*given[0].type.shape, *[1] * (x.type.rank - given[0].type.rank)))
    return ctx.add(g.Where(), mask, ctx.reshape(values, ()), x)
