"""Indexing, embedding, top k, sorting, positions of extremes, running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from jitrt.frontend.builder import spread
from jitrt.frontend.layers import index as layers
from jitrt.frontend.layers.arithmetic import binary
from jitrt.frontend.torch.context import Context, axis_of
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op


@register("aten.embedding.default")
def embedding(ctx: Context, table: Value, index: Value, *_: Any) -> Value:
    return layers.embedding(ctx, table, index)


@register("aten.embedding_bag.padding_idx")
def embedding_bag(
    ctx: Context,
    table: Value,
    index: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Value, None, None, None]:
    """Bags of one length: the sum, mean or maximum (mode 0, 1, 2) of the rows of each."""
    if offsets.data is None or padding_idx is not None or include_last_offset:
        raise Unsupported("of bags whose lengths differ; give the indices as a matrix, without padding_idx")
    bags, width = offsets.type.numel, table.type.shape[1]
    length = index.type.numel // max(bags, 1)
    if not np.array_equal(offsets.data, np.arange(bags) * length):
        raise Unsupported("of bags whose lengths differ; give the indices as a matrix, without padding_idx")
    rows = ctx.reshape(layers.embedding(ctx, table, index), (bags, length, width))
    if per_sample_weights is not None:
        rows = ctx.add(g.Mul(), rows, ctx.reshape(per_sample_weights, (bags, length, 1)))
    return ctx.add((g.ReduceSum, g.ReduceMean, g.ReduceMax)[mode]((1,)), rows), None, None, None


@register("aten.index_select.default")
def index_select(ctx: Context, x: Value, dim: int, index: Value) -> Value:
    if x.type.rank == 0:
        return ctx.reshape(ctx.expand(x, ctx.shape), ctx.shape)
    return ctx.reshape(layers.take(ctx, x, index, axis_of(dim, x.type.rank)), ctx.shape)


@register("aten.gather.default")
def gather(ctx: Context, x: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    if x.type.rank == 0 or index.type.rank == 0:
        raise Unsupported("of rank 0")
    return layers.gather(ctx, x, index, axis_of(dim, x.type.rank))


@register("aten.take_along_dim.default")
def take_along_dim(ctx: Context, x: Value, index: Value, dim: int | None = None) -> Value:
    if dim is None:
        return ctx.add(g.Gather(0), _flat(ctx, x), _flat(ctx, index))
    return ctx.add(g.Gather(axis_of(dim, x.type.rank)), x, index)


@register("aten.take.default")
def take(ctx: Context, x: Value, index: Value) -> Value:
    return layers.take(ctx, _flat(ctx, x), index, 0)


def _flat(ctx: Context, x: Value) -> Value:
    return ctx.reshape(x, (x.type.numel,))


@register("aten.index.Tensor")
def index(ctx: Context, x: Value, indices: Sequence[Value | None]) -> Value:
    """x[i, :, j]: dimensions side by side are replaced where they stand, others move to the front, as in PyTorch."""
    given = {d: i for d, i in enumerate(indices) if i is not None}
    for i in given.values():
        if i.type.dtype in (DType.b8, DType.u8):
            raise Unsupported("by a mask: how large the result is would depend on values; use torch.where")
    axes = list(given)
    if axes != list(range(axes[0], axes[0] + len(axes))):
        rest = [d for d in range(x.type.rank) if d not in given]
        x, axes = ctx.permute(x, (*axes, *rest)), list(range(len(axes)))
    return ctx.reshape(layers.take_several(ctx, x, list(given.values()), axes[0]), ctx.shape)


@register("aten.flip.default")
def flip(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    return layers.flip(ctx, x, [axis_of(d, x.type.rank) for d in dims])


@register("aten.fliplr.default")
def fliplr(ctx: Context, x: Value) -> Value:
    return flip(ctx, x, (1,))


@register("aten.flipud.default")
def flipud(ctx: Context, x: Value) -> Value:
    return flip(ctx, x, (0,))


@register("aten.repeat_interleave.self_int")
def repeat_interleave(
    ctx: Context, x: Value, repeats: int, dim: int | None = None, *, output_size: int | None = None
) -> Value:
    x = _flat(ctx, x) if dim is None else x
    axis = 0 if dim is None else axis_of(dim, x.type.rank)
    before, size, after = x.type.shape[:axis], x.type.shape[axis], x.type.shape[axis + 1 :]
    apart = ctx.reshape(x, (*before, size, 1, *after))
    return ctx.reshape(ctx.expand(apart, (*before, size, repeats, *after)), ctx.shape)


@register("aten.unfold.default")
def unfold(ctx: Context, x: Value, dim: int, size: int, step: int) -> Value:
    return layers.windows(ctx, x, axis_of(dim, x.type.rank), size, step)


@register("aten.im2col.default")
def im2col(
    ctx: Context,
    x: Value,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    batched = x if x.type.rank == 4 else ctx.reshape(x, (1, *x.type.shape))
    window = [(pair[0], pair[1]) for pair in (spread(v, 2) for v in (kernel, dilation, padding, stride))]
    return ctx.reshape(layers.image_columns(ctx, batched, *window), ctx.shape)


@register("aten.col2im.default")
def col2im(
    ctx: Context,
    x: Value,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    batched = x if x.type.rank == 3 else ctx.reshape(x, (1, *x.type.shape))
    window = [(pair[0], pair[1]) for pair in (spread(v, 2) for v in (size, kernel, dilation, padding, stride))]
    return ctx.reshape(layers.fold_columns(ctx, batched, *window), ctx.shape)


@register("aten.one_hot.default")
def one_hot(ctx: Context, x: Value, classes: int) -> Value:
    numbers = ctx.constant(np.arange(classes, dtype=np.int64))
    equal = binary(ctx, g.Equal(), ctx.reshape(x, (*x.type.shape, 1)), numbers, DType.i64)
    return ctx.operand(equal, DType.i64)


# -- order -----------------------------------------------------------------------------------------------------------


Pair = tuple[Value | None, Value]


def _sortable(x: Value, k: int, dim: int) -> int:
    """The axis to sort along. What no kernel can sort is refused here, so that it can be left to PyTorch."""
    if x.type.rank == 0:
        raise Unsupported("of rank 0")
    axis = axis_of(dim, x.type.rank)
    if x.type.dtype.itemsize > 4:
        raise Unsupported(f"of {x.type.dtype.value}: elements of more than 32 bits have no kernel, cast them first")
    if not layers.can_sort(x.type.shape[axis], k):
        raise Unsupported(f"of the best {k} of {x.type.shape[axis]} elements: too many for the registers of a kernel")
    return axis


def _ordered(ctx: Context, x: Value, k: int, dim: int, largest: bool) -> Pair:
    """(values if they are read, positions) of the k best along a dimension."""
    axis = _sortable(x, k, dim)
    found = layers.best(ctx, x, k, axis, largest)
    return ctx.add(g.Gather(axis), x, found) if ctx.reads(0) else None, found


@register("aten.topk.default")
def topk(ctx: Context, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Pair:
    return _ordered(ctx, x, k, dim, largest)


def _length(x: Value, dim: int) -> int:
    return x.type.shape[dim] if x.type.rank else 1


@register("aten.sort.default")
def sort(ctx: Context, x: Value, dim: int = -1, descending: bool = False) -> Pair:
    return _ordered(ctx, x, _length(x, dim), dim, descending)


@register("aten.sort.stable")
def sort_stable(ctx: Context, x: Value, *, stable: bool, dim: int = -1, descending: bool = False) -> Pair:
    return sort(ctx, x, dim, descending)


@register("aten.msort.default")
def msort(ctx: Context, x: Value) -> Value:
    return layers.topk(ctx, x, _length(x, 0), _sortable(x, _length(x, 0), 0), False)[0]


@register("aten.argsort.default")
def argsort(ctx: Context, x: Value, dim: int = -1, descending: bool = False) -> Value:
    return layers.best(ctx, x, _length(x, dim), _sortable(x, _length(x, dim), dim), descending)


@register("aten.argsort.stable")
def argsort_stable(ctx: Context, x: Value, *, stable: bool, dim: int = -1, descending: bool = False) -> Value:
    return argsort(ctx, x, dim, descending)


def position(ctx: Context, x: Value, largest: bool, dim: int | None, keepdim: bool) -> Value:
    """Argmax or argmin over one dimension, or of everything as it lies row-major."""
    if dim is not None and x.type.rank > 0:
        return layers.position(ctx, x, axis_of(dim, x.type.rank), largest, keepdim)
    shape = (1,) * x.type.rank if keepdim else ()
    return ctx.reshape(layers.position(ctx, _flat(ctx, x), 0, largest), shape)


@register("aten.argmax.default")
def argmax(ctx: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return position(ctx, x, True, dim, keepdim)


@register("aten.argmin.default")
def argmin(ctx: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return position(ctx, x, False, dim, keepdim)


# -- running sums ----------------------------------------------------------------------------------------------------


def _register_running(name: str, op: Callable[[int], Op]) -> None:
    @register(f"aten.{name}.default")
    def running(ctx: Context, x: Value, dim: int, *, dtype: torch.dtype | None = None) -> Value:
        x = ctx.operand(x, ctx.dtype)
        return x if x.type.rank == 0 else ctx.add(op(axis_of(dim, x.type.rank)), x)


_register_running("cumsum", g.CumSum)
_register_running("cumprod", g.CumProd)


# -- triangles -------------------------------------------------------------------------------------------------------


def _register_triangle(name: str, keep: Callable[[Any, int], Any]) -> None:
    @register(f"aten.{name}.default")
    def triangle(ctx: Context, x: Value, diagonal: int = 0) -> Value:
        mask = ctx.constant(keep(np.ones(x.type.shape[-2:], bool), diagonal))
        return ctx.add(g.Where(), mask, x, ctx.graph.scalar(0, x.type.dtype))


_register_triangle("tril", np.tril)
_register_triangle("triu", np.triu)


@register("aten.diagonal.default")
def diagonal(ctx: Context, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    axes = [axis_of(dim1, x.type.rank), axis_of(dim2, x.type.rank)]
    rest = [d for d in range(x.type.rank) if d not in axes]
    moved = ctx.permute(x, (*rest, *axes))
    rows, columns = moved.type.shape[-2:]
    at = np.arange(ctx.shape[-1], dtype=np.int64)
    flat = ctx.reshape(moved, (*moved.type.shape[:-2], rows * columns))
    return layers.take(ctx, flat, ctx.constant((at + max(-offset, 0)) * columns + at + max(offset, 0)), len(rest))


@register("aten.roll.default")
def roll(ctx: Context, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    if not dims:
        return ctx.reshape(roll(ctx, _flat(ctx, x), shifts, (0,)), x.type.shape)
    by = [0] * x.type.rank
    for shift, dim in zip(shifts, dims, strict=True):
        by[axis_of(dim, x.type.rank)] += shift
    return layers.roll(ctx, x, by)
