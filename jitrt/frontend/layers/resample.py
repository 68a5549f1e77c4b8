"""Interpolation and padding by name."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.frontend.builder import Builder, Number
from jitrt.graph import Value
from jitrt.graph import ops as g


def resize(
    b: Builder,
    x: Value,
    size: Sequence[int],
    mode: str,
    align_corners: bool = False,
    scales: Sequence[float | None] = (),
) -> Value:
    """x (n, c, spatial...) at the spatial `size`. `scales` are the factors it was asked for by, which decide where an
    output element lies in x unless they come to just the ratio of the sizes."""
    spatial = x.type.shape[2:]
    if tuple(size) == spatial and all(scale in (None, 1) for scale in scales):
        return x
    steps = tuple(i / o if s is None or s <= 0 else 1 / s for s, i, o in zip(scales, spatial, size))
    if align_corners or steps == tuple(i / o for i, o in zip(spatial, size, strict=True)):
        steps = ()
    return b.add(g.Resize(tuple(size), mode, align_corners, steps), x)


def pad(b: Builder, x: Value, pairs: Sequence[tuple[int, int]], mode: str = "constant", value: Number = 0) -> Value:
    """Before and after each dimension: a constant, or x's own elements by "reflect", "replicate" or "circular".
    Negative padding crops."""
    for axis, (before, after) in enumerate(pairs):
        x = b.slice(x, axis, max(-before, 0), x.type.shape[axis] - max(-after, 0))
    positive = tuple((max(before, 0), max(after, 0)) for before, after in pairs)
    if not any(map(any, positive)):
        return x
    return b.add(g.Pad(positive, float(value)) if mode == "constant" else g.Extend(positive, mode), x)
