"""Operators that make a tensor out of numbers: computed once, here."""

from __future__ import annotations

from typing import Any

from jitrt.frontend.torch.arrays import to_numpy
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import register
from jitrt.graph import Value


@register(
    "aten.full.default",
    "aten.zeros.default",
    "aten.ones.default",
    "aten.eye.default",
    "aten.eye.m",
    "aten.arange.default",
    "aten.arange.start",
    "aten.arange.start_step",
    "aten.linspace.default",
    "aten.scalar_tensor.default",
)
def create(ctx: Context, *args: Any, **kwargs: Any) -> Value:
    assert ctx.node is not None and callable(ctx.node.target)
    options = {name: value for name, value in kwargs.items() if name not in ("device", "layout", "pin_memory")}
    return ctx.constant(to_numpy(ctx.node.target(*args, **options, device="cpu")), ctx.dtype)


@register("aten.empty.memory_format", "aten.empty_permuted.default")
def empty(ctx: Context, *_: Any, **__: Any) -> Value:
    """Nobody's promise what is in it: zeros."""
    return ctx.full(ctx.shape, 0, ctx.dtype)


_EMPTY = ("empty_like.default", "new_empty.default")


@register("aten.zeros_like.default", "aten.new_zeros.default", *(f"aten.{name}" for name in _EMPTY))
def zeros_like(ctx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return ctx.full(ctx.shape, 0, ctx.dtype)


@register("aten.ones_like.default", "aten.new_ones.default")
def ones_like(ctx: Context, x: Value, *_: Any, **__: Any) -> Value:
    return ctx.full(ctx.shape, 1, ctx.dtype)


@register("aten.full_like.default")
def full_like(ctx: Context, x: Value, number: Number, **_: Any) -> Value:
    return ctx.full(ctx.shape, number, ctx.dtype)


@register("aten.new_full.default")
def new_full(ctx: Context, x: Value, size: object, number: Number, **_: Any) -> Value:
    return ctx.full(ctx.shape, number, ctx.dtype)
