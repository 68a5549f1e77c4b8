"""Padding and interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jitrt.frontend.layers import resample as layers
from jitrt.frontend.network.conv import spatial_dims
from jitrt.frontend.network.frame import Frame, Sizes, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import Value

_RESIZES = {"nearest": "nearest", "nearest_exact": "nearest_exact", "linear": "linear", "cubic": "cubic"}
_RESIZES |= {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


@layer
def add_pad(
    net: Frame,
    x: Tensor,
    padding: Sequence[Sequence[int]],
    mode: str = "constant",
    *,
    value: float = 0.0,
    name: str | None = None,
) -> Value:
    """More elements around x: `padding` is a pair (before, after) for each of the last dimensions; negative ones crop.

    They are `value`, or, by mode, x's own: "reflect" (mirrored without the border), "replicate" (the border) or
    "circular" (from the other side).
    """
    tensor = net.value(x)
    pairs = [net.integers("padding", pair) for pair in (padding if isinstance(padding, Sequence) else [padding])]
    if not 1 <= len(pairs) <= tensor.type.rank or any(len(pair) != 2 for pair in pairs):
        net.refuse(
            f"padding is {padding!r}; give a pair (before, after) for each of up to {tensor.type.rank} dimensions"
        )
    net.choose("padding mode", mode, ("constant", "reflect", "replicate", "circular"))
    if isinstance(value, bool) or not isinstance(value, int | float) or (value and mode != "constant"):
        net.refuse(f"value is {value!r}; give a number, to mode 'constant' alone")
    sizes = tensor.type.shape[tensor.type.rank - len(pairs) :]
    if any(before + size + after < 1 for size, (before, after) in zip(sizes, pairs, strict=True)):
        net.refuse(f"padding is {padding!r}, which leaves nothing of x of shape {tensor.type.shape}")
    whole = [(0, 0)] * (tensor.type.rank - len(pairs)) + [(before, after) for before, after in pairs]
    return layers.pad(net.builder, tensor, whole, mode, value)


@layer
def add_resize(
    net: Frame,
    x: Tensor,
    size: Sizes | None = None,
    mode: str = "nearest",
    *,
    scale: Any = None,
    align_corners: bool = False,
    antialias: bool = False,
    name: str | None = None,
) -> Value:
    """x (n, c, spatial...) at another spatial `size`, or larger by a factor `scale`, as torch's interpolate.

    `mode` is "nearest", "nearest_exact", "linear" ("bilinear", "trilinear") or "cubic" ("bicubic", of images);
    `align_corners` lets the corners of both lie on each other, for the last two; `antialias` makes their filter as wide
    as the elements that become one.
    """
    value = net.value(x)
    dims = spatial_dims(net, value)
    kind = _RESIZES[net.choose("resize mode", mode, _RESIZES)]
    if (size is None) == (scale is None):
        net.refuse("give either size or scale")
    if align_corners and kind.startswith("nearest"):
        net.refuse(f"align_corners is for linear and cubic; {mode} takes one element each")
    if antialias and kind.startswith("nearest"):
        net.refuse(f"antialias is for linear and cubic; {mode} takes one element each")
    resize = layers.antialiased if antialias else layers.resize
    if kind == "cubic" and dims != 2:
        net.refuse(f"cubic is for images, of 2 spatial dimensions; x has {dims}")
    if kind in ("linear", "cubic"):
        net.floating(x)
    if size is not None:
        return resize(net.builder, value, net.sizes("size", size, dims), kind, bool(align_corners))
    factors = list(scale) if isinstance(scale, Sequence) else [scale] * dims
    if len(factors) != dims or not all(isinstance(f, int | float) and 0 < f < math.inf for f in factors):
        net.refuse(f"scale is {scale!r}; give one positive factor or {dims}, one a dimension")
    wanted = [int(length * factor) for length, factor in zip(value.type.shape[2:], factors, strict=True)]
    if 0 in wanted:
        net.refuse(f"scale is {scale!r}, which leaves nothing of x of shape {value.type.shape}")
    return resize(net.builder, value, wanted, kind, bool(align_corners), [float(factor) for factor in factors])
