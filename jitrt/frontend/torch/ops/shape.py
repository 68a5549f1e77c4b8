"""Operators that move elements: every size is explicit in the graph, every bound clipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitrt.frontend.builder import axis_of
from jitrt.frontend.layers.index import put_slice
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import register
from jitrt.graph import Value
from jitrt.graph.ops import Concat, Slice

# The result's shape says everything about these.
_RESHAPES = (
    "view.default",
    "_unsafe_view.default",
    "reshape.default",
    "flatten.using_ints",
    "unflatten.int",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze.default",
    "view_as.default",
    "reshape_as.default",
    "ravel.default",
)


@register(*(f"aten.{name}" for name in _RESHAPES))
def reshape(ctx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return ctx.reshape(x, ctx.shape)


@register("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(ctx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return ctx.expand(x, ctx.shape)


@register("aten.permute.default")
def permute(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    return ctx.permute(x, tuple(axis_of(d, x.type.rank) for d in dims))


@register("aten.transpose.int", "aten.transpose_.default", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(ctx: Context, x: Value, a: int, b: int) -> Value:
    if x.type.rank == 0:
        return x
    order = list(range(x.type.rank))
    a, b = axis_of(a, x.type.rank), axis_of(b, x.type.rank)
    order[a], order[b] = order[b], order[a]
    return ctx.permute(x, tuple(order))


@register("aten.t.default", "aten.numpy_T.default")
def reverse_dims(ctx: Context, x: Value) -> Value:
    return ctx.permute(x, tuple(reversed(range(x.type.rank))))


@register("aten.mT.default", "aten.adjoint.default")
def matrix_transpose(ctx: Context, x: Value) -> Value:
    return transpose(ctx, x, -1, -2)


@register("aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.int")
def movedim(ctx: Context, x: Value, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    rank = x.type.rank
    sources = [axis_of(d, rank) for d in ([source] if isinstance(source, int) else source)]
    targets = [axis_of(d, rank) for d in ([destination] if isinstance(destination, int) else destination)]
    placed = dict(zip(targets, sources, strict=True))
    rest = iter(d for d in range(rank) if d not in sources)
    return ctx.permute(x, tuple(placed[d] if d in placed else next(rest) for d in range(rank)))


def _clip(bound: int, size: int) -> int:
    return min(max(bound + size if bound < 0 else bound, 0), size)


@register("aten.slice.Tensor")
def slice_(
    ctx: Context, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    axis = axis_of(dim, x.type.rank)
    size = x.type.shape[axis]
    first = _clip(start or 0, size)
    return ctx.slice(x, axis, first, max(first, _clip(size if end is None else end, size)), step)


@register("aten.slice_scatter.default")
def slice_scatter(
    ctx: Context,
    x: Value,
    source: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    axis = axis_of(dim, x.type.rank)
    size = x.type.shape[axis]
    first = _clip(start or 0, size)
    return _scattered(ctx, x, source, axis, first, max(first, _clip(size if end is None else end, size)), step)


@register("aten.select_scatter.default")
def select_scatter(ctx: Context, x: Value, source: Value, dim: int, index: int) -> Value:
    axis = axis_of(dim, x.type.rank)
    at = index % x.type.shape[axis]
    shape = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
    return _scattered(ctx, x, ctx.reshape(source, shape), axis, at, at + 1)


def _scattered(ctx: Context, x: Value, source: Value, axis: int, first: int, last: int, step: int = 1) -> Value:
    at = Slice.along(x.type.shape, axis, first, last, step)
    return put_slice(ctx, x, ctx.operand(source, x.type.dtype), at) if first < last else x


@register("aten.narrow.default")
def narrow(ctx: Context, x: Value, dim: int, start: int, length: int) -> Value:
    axis = axis_of(dim, x.type.rank)
    first = start + x.type.shape[axis] if start < 0 else start
    return ctx.slice(x, axis, first, first + length)


@register("aten.select.int")
def select(ctx: Context, x: Value, dim: int, index: int) -> Value:
    axis = axis_of(dim, x.type.rank)
    at = index % x.type.shape[axis]
    return ctx.reshape(ctx.slice(x, axis, at, at + 1), ctx.shape)


@register("aten.unbind.int")
def unbind(ctx: Context, x: Value, dim: int = 0) -> tuple[Value, ...]:
    axis = axis_of(dim, x.type.rank)
    parts = (ctx.slice(x, axis, i, i + 1) for i in range(x.type.shape[axis]))
    return tuple(ctx.reshape(part, ctx.shape) for part in parts)


def _pieces(ctx: Context, x: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(ctx.slice(x, axis, start, start + size) for start, size in zip(starts, sizes, strict=True))


@register("aten.split.Tensor")
def split(ctx: Context, x: Value, size: int, dim: int = 0) -> tuple[Value, ...]:
    axis = axis_of(dim, x.type.rank)
    total = x.type.shape[axis]
    return _pieces(ctx, x, axis, [min(size, total - at) for at in range(0, total, size)] or [0])


@register("aten.split_with_sizes.default", "aten.split.sizes")
def split_with_sizes(ctx: Context, x: Value, sizes: Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    return _pieces(ctx, x, axis_of(dim, x.type.rank), list(sizes))


@register("aten.chunk.default")
def chunk(ctx: Context, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    size = -(-x.type.shape[axis_of(dim, x.type.rank)] // chunks)
    return split(ctx, x, max(size, 1), dim)


@register("aten.cat.default")
def cat(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    # PyTorch skips operands of shape (0,), whatever the rank of the others.
    parts = [ctx.operand(t, ctx.dtype) for t in tensors if t.type.shape != (0,)] or [ctx.operand(tensors[0], ctx.dtype)]
    return parts[0] if len(parts) == 1 else ctx.add(Concat(axis_of(dim, parts[0].type.rank)), *parts)


@register("aten.stack.default")
def stack(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = axis_of(dim, tensors[0].type.rank + 1)
    shape = tensors[0].type.shape
    rows = [ctx.reshape(ctx.operand(t, ctx.dtype), (*shape[:axis], 1, *shape[axis:])) for t in tensors]
    return rows[0] if len(rows) == 1 else ctx.add(Concat(axis), *rows)


@register("aten.repeat.default")
def repeat(ctx: Context, x: Value, repeats: Sequence[int]) -> Value:
    shape = (*([1] * (len(repeats) - x.type.rank)), *x.type.shape)
    paired = tuple(size for r, s in zip(repeats, shape, strict=True) for size in (r, s))
    ones = tuple(size for s in shape for size in (1, s))
    return ctx.reshape(ctx.expand(ctx.reshape(x, ones), paired), ctx.shape)


@register("aten.pixel_shuffle.default")
def pixel_shuffle(ctx: Context, x: Value, factor: int) -> Value:
    *lead, c, h, w = x.type.shape
    n = len(lead)
    split_channels = ctx.reshape(x, (*lead, c // factor**2, factor, factor, h, w))
    return ctx.reshape(ctx.permute(split_channels, (*range(n), n, n + 3, n + 1, n + 4, n + 2)), ctx.shape)


@register("aten.pixel_unshuffle.default")
def pixel_unshuffle(ctx: Context, x: Value, factor: int) -> Value:
    *lead, c, h, w = x.type.shape
    n = len(lead)
    split_pixels = ctx.reshape(x, (*lead, c, h // factor, factor, w // factor, factor))
    return ctx.reshape(ctx.permute(split_pixels, (*range(n), n, n + 2, n + 4, n + 1, n + 3)), ctx.shape)


@register("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(ctx: Context, x: Value, groups: int) -> Value:
    n, c, *spatial = x.type.shape
    grouped = ctx.reshape(x, (n, groups, c // groups, *spatial))
    return ctx.reshape(ctx.permute(grouped, (0, 2, 1, *range(3, len(spatial) + 3))), ctx.shape)


# Layout, storage and autograd are no business of the graph's: these return their operand.
_SAME = (
    "contiguous.default",
    "clone.default",
    "alias.default",
    "detach.default",
    "detach_.default",
    "lift_fresh_copy.default",
)


@register(*(f"aten.{name}" for name in _SAME))
def same(ctx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return x


@register("aten._assert_tensor_metadata.default")
def nothing(ctx: Context, *_: Any, **__: Any) -> None:
    """A check that tracing left behind: types are static here and were checked on the way in."""
