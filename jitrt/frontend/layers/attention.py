"""Scaled dot-product attention, as two products with a softmax between them."""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary
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
        mask = b.constant(np.tril(np.ones((q.type.shape[-2], k.type.shape[-2]), bool)))
    if groups == 1:
        return _attend(b, q, k, v, mask, factor)
    grouped = _attend(b, *_grouped(b, q, k, v, mask, groups), factor)
    return b.reshape(grouped, (*q.type.shape[:-1], v.type.shape[-1]))


def _attend(b: Builder, q: Value, k: Value, v: Value, mask: Value | None, factor: float) -> Value:
    rank = k.type.rank
    turned = b.permute(k, (*range(rank - 2), rank - 1, rank - 2))
    scores = b.add(g.Matmul(), q, turned)
    scores = binary(b, g.Mul(), scores, factor, scores.type.dtype)
    return b.add(g.Matmul(), _masked_softmax(b, scores, mask), v)


def _grouped(
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


def _masked_softmax(b: Builder, scores: Value, mask: Value | None) -> Value:
    last, dtype = scores.type.rank - 1, scores.type.dtype
    if mask is None:
        return b.add(g.Softmax(last), scores)
    if mask.type.dtype == DType.b8:
        scores = b.add(g.Where(), mask, scores, b.graph.scalar(-math.inf, dtype))
    else:
        scores = b.add(g.Add(), scores, b.operand(mask, dtype))
    weights = b.add(g.Softmax(last), scores)
    if mask.data is not None and _shown(mask.data).any(-1).all():
        return weights
    shown = mask if mask.type.dtype == DType.b8 else binary(b, g.Greater(), mask, -math.inf, mask.type.dtype)
    row = b.add(g.ReduceMax((mask.type.rank - 1,), keepdims=True), b.operand(shown, DType.i32))
    some = binary(b, g.Greater(), row, 0, DType.i32)
    return b.add(g.Where(), some, weights, b.graph.scalar(0, dtype))


def _shown(mask: np.ndarray) -> np.ndarray:
    return mask if mask.dtype == bool else mask.astype(np.float64) > -math.inf
