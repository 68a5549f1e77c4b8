"""Interpolation and padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jitrt.frontend.layers import resample as layers
from jitrt.frontend.torch.context import Context, Number
from jitrt.frontend.torch.registry import Unsupported, register
from jitrt.graph import Value


@register("aten.pad.default")
def pad(ctx: Context, x: Value, padding: Sequence[int], mode: str = "constant", value: Number | None = None) -> Value:
    pairs = [(0, 0)] * x.type.rank
    for i in range(len(padding) // 2):  # given from the last dimension backwards
        pairs[-1 - i] = (padding[2 * i], padding[2 * i + 1])
    return layers.pad(ctx, x, pairs, mode, value or 0)


@register("aten.constant_pad_nd.default")
def constant_pad(ctx: Context, x: Value, padding: Sequence[int], value: Number = 0) -> Value:
    return pad(ctx, x, padding, "constant", value)


@register(*(f"aten.reflection_pad{dims}d.default" for dims in (1, 2, 3)))
def reflection_pad(ctx: Context, x: Value, padding: Sequence[int]) -> Value:
    return pad(ctx, x, padding, "reflect")


@register(*(f"aten.replication_pad{dims}d.default" for dims in (1, 2, 3)))
def replication_pad(ctx: Context, x: Value, padding: Sequence[int]) -> Value:
    return pad(ctx, x, padding, "replicate")


def _register_nearest(stem: str, mode: str) -> None:
    names = [f"aten.{stem}{dims}d" for dims in (1, 2, 3)]

    @register(*(f"{name}.vec" for name in names))
    def by_size_or_factors(
        ctx: Context, x: Value, size: Sequence[int] | None, factors: Sequence[float] | None = None
    ) -> Value:
        return layers.resize(ctx, x, ctx.shape[2:], mode, scales=factors or ())

    @register(*(f"{name}.default" for name in names))
    def by_size(ctx: Context, x: Value, size: Sequence[int], *factors: float | None) -> Value:
        return layers.resize(ctx, x, ctx.shape[2:], mode, scales=factors)


def _register_smooth(stem: str, mode: str, resize: Callable[..., Value] = layers.resize) -> None:
    @register(f"aten.{stem}.vec")
    def by_size_or_factors(
        ctx: Context, x: Value, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None = None
    ) -> Value:
        return resize(ctx, x, ctx.shape[2:], mode, align_corners, factors or ())

    @register(f"aten.{stem}.default")
    def by_size(ctx: Context, x: Value, size: Sequence[int], align_corners: bool, *factors: float | None) -> Value:
        return resize(ctx, x, ctx.shape[2:], mode, align_corners, factors)


def _antialiased(ctx: Context, x: Value, *how: Any) -> Value:
    if not x.type.dtype.is_float:
        raise Unsupported(f"antialias=True of {x.type.dtype.value}: cast it first")
    return layers.antialiased(ctx, x, *how)


_register_nearest("upsample_nearest", "nearest")
_register_nearest("_upsample_nearest_exact", "nearest_exact")
for _stem in ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"):
    _register_smooth(_stem, "linear")
_register_smooth("upsample_bicubic2d", "cubic")
_register_smooth("_upsample_bilinear2d_aa", "linear", _antialiased)
_register_smooth("_upsample_bicubic2d_aa", "cubic", _antialiased)
