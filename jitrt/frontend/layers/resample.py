"""Interpolation and padding by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jitrt.frontend.builder import Builder, Number
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array


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


def antialiased(
    b: Builder,
    x: Value,
    size: Sequence[int],
    mode: str,
    align_corners: bool = False,
    scales: Sequence[float | None] = (),
) -> Value:
    """x (n, c, spatial...) at another spatial `size`, "linear" or "cubic" by a filter as wide as the elements that
    become one, so that nothing aliases: torch's interpolate(antialias=True). A product with a matrix a dimension."""
    for d, (before, out) in reversed(list(enumerate(zip(x.type.shape[2:], size, strict=True), 2))):
        factor = scales[d - 2] if scales else None
        step = 1 / factor if factor else before / out
        if align_corners:
            step = (before - 1) / (out - 1) if out > 1 else 0.0
        b.claim(out, before)
        matrix = _wide_filter(before, out, mode, step)
        if matrix.shape != (before, before) or (matrix != np.eye(before)).any():
            x = multiplied(b, x, matrix, d)
    return x


def _wide_filter(size: int, out: int, mode: str, step: float) -> Array:
    """(out, size): the weight of every element in every output, `step` elements apart. The cubic is Keys' with -0.5."""
    stretch, half = max(step, 1.0), 2 if mode == "cubic" else 1
    centre, at = step * (np.arange(out)[:, None] + 0.5), np.arange(size)
    u = np.abs(at + 0.5 - centre) / stretch
    near, far = (1.5 * u - 2.5) * u * u + 1, ((2.5 - 0.5 * u) * u - 4) * u + 2
    weights = np.where(u <= 1, near, np.where(u < 2, far, 0.0)) if half == 2 else np.clip(1 - u, 0, 1)
    first, last = (np.floor(centre + sign * half * stretch + 0.5) for sign in (-1, 1))
    weights = np.where((at >= first) & (at < last), weights, 0.0)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def multiplied(b: Builder, x: Value, matrix: Array, axis: int) -> Value:
    """x with one dimension multiplied by a matrix (out, size): a linear layer, or a product from the left."""
    weights, shape = b.constant(matrix, x.type.dtype), x.type.shape
    if axis == x.type.rank - 1 and x.type.dtype != DType.f64:  # which only a product has a kernel for
        return b.add(g.Linear(), x, weights)
    rows = b.reshape(x, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
    return b.reshape(b.add(g.Matmul(), weights, rows), (*shape[:axis], len(matrix), *shape[axis + 1 :]))


def pad(b: Builder, x: Value, pairs: Sequence[tuple[int, int]], mode: str = "constant", value: Number = 0) -> Value:
    """Before and after each dimension: a constant, or x's own elements by "reflect", "replicate" or "circular".
    Negative padding crops."""
    for axis, (before, after) in enumerate(pairs):
        x = b.slice(x, axis, max(-before, 0), x.type.shape[axis] - max(-after, 0))
    positive = tuple((max(before, 0), max(after, 0)) for before, after in pairs)
    if not any(map(any, positive)):
        return x
    return b.add(g.Pad(positive, float(value)) if mode == "constant" else g.Extend(positive, mode), x)
