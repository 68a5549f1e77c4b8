"""Pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitrt.frontend.builder import spread
from jitrt.frontend.layers.arithmetic import binary
from jitrt.frontend.layers.pool import pooled
from jitrt.frontend.torch.context import Context
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import Value
from jitrt.graph.ops import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool, Mul

Sizes = int | Sequence[int]


def _numbered(stem: str, dims: Sequence[int] = (1, 2, 3)) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register `function(ctx, dims, ...)` for stem1d, stem2d and stem3d."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for d in dims:
            register(f"aten.{stem.format(d)}.default")(_bind(function, d))
        return function

    return decorate


def _bind(function: Callable[..., Any], dims: int) -> Callable[..., Any]:
    return lambda ctx, *args, **kwargs: function(ctx, dims, *args, **kwargs)


@_numbered("max_pool{}d")
def max_pool(
    ctx: Context,
    dims: int,
    x: Value,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Value:
    size = spread(kernel, dims)
    op = MaxPool(size, spread(stride or size, dims), spread(padding, dims), ceil_mode, spread(dilation, dims))
    return pooled(ctx, x, dims, op)


@_numbered("max_pool{}d_with_indices", (2, 3))
def max_pool_with_indices(ctx: Context, dims: int, *args: Any) -> tuple[Value, None]:
    _refuse_positions(ctx)
    return max_pool(ctx, dims, *args), None


def _refuse_positions(ctx: Context) -> None:
    if ctx.reads(1):
        raise Unsupported("return_indices=True: the positions of the maxima have no kernel")


@_numbered("avg_pool{}d")
def avg_pool(
    ctx: Context,
    dims: int,
    x: Value,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    size = spread(kernel, dims)
    window = (size, spread(stride or size, dims), spread(padding, dims), ceil_mode)
    if divisor_override is None:
        return pooled(ctx, x, dims, AvgPool(*window, count_include_pad))
    # The mean of what lies inside x, times how much that is: the sum.
    op = AvgPool(*window, False)
    counts = op.windows(np.ones((1, 1, *x.type.shape[-dims:])), 0).sum(-1)[0] / divisor_override
    factor = float(counts.flat[0]) if np.ptp(counts) == 0 else ctx.constant(counts, ctx.dtype)
    return binary(ctx, Mul(), pooled(ctx, x, dims, op), factor, ctx.dtype)


@_numbered("adaptive_avg_pool{}d")
def adaptive_avg_pool(ctx: Context, dims: int, x: Value, size: Sizes) -> Value:
    return pooled(ctx, x, dims, AdaptiveAvgPool(spread(size, dims)))


@_numbered("adaptive_max_pool{}d")
def adaptive_max_pool(ctx: Context, dims: int, x: Value, size: Sizes) -> tuple[Value, None]:
    _refuse_positions(ctx)
    return pooled(ctx, x, dims, AdaptiveMaxPool(spread(size, dims))), None
