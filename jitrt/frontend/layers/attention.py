"""Scaled dot-product attention, as two products with a softmax between them."""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary
from jitrt.frontend.layers.linear import transposed
from jitrt.frontend.layers.reduce import softmax
from jitrt.graph import DType, Value
from jitrt.graph import ops as g


def attention(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Value:
    """softmax(q @ k.T * scale, masked) @ v, for q (..., l, e), k (..., s, e) and v (..., s, w).

    The mask broadcasts to (..., l, s): booleans say what is looked at, numbers are added. `causal` lets position i look
    at positions up to i. A row that may look at nothing gives 0. The scale is 1 / sqrt(e) unless given. There may be
    fewer heads (dimension -3) in k and v than in q: each then serves as many neighbouring heads of q.
    """
    groups = q.type.shape[-3] // k.type.shape[-3] if min(q.type.rank, k.type.rank) > 2 else 1
    factor = 1 / math.sqrt(q.type.shape[-1]) if scale is None else scale
    if causal:
        b.claim(q.type.shape[-2], k.type.shape[-2])
        mask = b.constant(np.tril(np.ones((q.type.shape[-2], k.type.shape[-2]), bool)))
    if groups == 1:
        return _attend(b, q, k, v, mask, factor)
    y = _attend(b, *grouped(b, q, k, v, mask, groups), factor)
    return b.reshape(y, (*q.type.shape[:-1], v.type.shape[-1]))


def _attend(b: Builder, q: Value, k: Value, v: Value, mask: Value | None, factor: float) -> Value:
    scores = products(b, q, k)
    scores = binary(b, g.Mul(), scores, factor, scores.type.dtype)
    return b.add(g.Matmul(), masked_softmax(b, masked(b, scores, mask), mask), v)


def products(b: Builder, q: Value, k: Value) -> Value:
    """q @ k.T."""
    return b.add(g.Matmul(), q, transposed(b, k))


def grouped(
    b: Builder, q: Value, k: Value, v: Value, mask: Value | None, groups: int
) -> tuple[Value, Value, Value, Value | None]:
    """Heads of q as (heads of k, groups), so that k and v broadcast over the groups."""

    def split(x: Value, heads: int, each: int) -> Value:
        *lead, _, rows, columns = x.type.shape
        return b.reshape(x, (*lead, heads, each, rows, columns))

    heads = k.type.shape[-3]
    if mask is not None and mask.type.rank > 2:
        mask = split(mask, 1, 1) if mask.type.shape[-3] == 1 else split(mask, heads, groups)
    return split(q, heads, groups), split(k, heads, 1), split(v, heads, 1), mask


def masked(b: Builder, scores: Value, mask: Value | None) -> Value:
    """The scores with -inf where a boolean mask hides them, or a mask of numbers added."""
    if mask is None:
        return scores
    dtype = scores.type.dtype
    if mask.type.dtype == DType.b8:
        return b.add(g.Where(), mask, scores, b.graph.scalar(-math.inf, dtype))
    return b.add(g.Add(), scores, b.operand(mask, dtype))


def masked_softmax(b: Builder, scores: Value, mask: Value | None) -> Value:
    """The softmax along the last dimension of scores that `mask` was applied to; 0 in a row that it hides wholly."""
    weights = softmax(b, scores, scores.type.rank - 1)
    if mask is None or (mask.data is not None and _shown(mask.data).any(-1).all()):
        return weights
    shown = mask if mask.type.dtype == DType.b8 else binary(b, g.Greater(), mask, -math.inf, mask.type.dtype)
    row = b.add(g.ReduceMax((mask.type.rank - 1,), keepdims=True), b.operand(shown, DType.i32))
    some = binary(b, g.Greater(), row, 0, DType.i32)
    return b.add(g.Where(), some, weights, b.graph.scalar(0, weights.type.dtype))


def _shown(mask: np.ndarray) -> np.ndarray:
    return mask if mask.dtype == bool else mask.astype(np.float64) > -math.inf
