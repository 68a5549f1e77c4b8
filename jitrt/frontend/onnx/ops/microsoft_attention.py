"""Attention as the domain com.microsoft has it: with the projection of its inputs, and masks of several kinds."""

from __future__ import annotations

import itertools

import numpy as np

from jitrt.frontend.layers import attention as layers
from jitrt.frontend.layers.arithmetic import binary, choose
from jitrt.frontend.layers.index import embedding
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.attention import heads, rotate, unheaded
from jitrt.frontend.onnx.ops.linear import product
from jitrt.frontend.onnx.registry import MICROSOFT, onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g


def _shown(n: Call, mask: Value, batch: int, columns: int) -> Value:
    """Which keys there are, to broadcast with (batch, heads, rows, columns), from the numbers of those there are in
    each row (batch), ends and then starts of them (2 * batch), or ones and zeros."""
    shape = mask.type.shape
    if len(shape) == 2 and shape == (batch, columns):
        mask = n.b.reshape(mask, (batch, 1, 1, columns))
    elif len(shape) == 3 and shape[2] == columns:
        mask = n.b.reshape(mask, (shape[0], 1, *shape[1:]))
    elif len(shape) == 1 and shape[0] in (batch, 2 * batch):
        n.claim(columns)
        place = n.constant(np.arange(columns, dtype=np.int32))
        ends = n.b.reshape(n.b.slice(mask, 0, 0, batch), (batch, 1, 1, 1))
        before = n.add(g.Less(), place, ends)
        if shape[0] == batch:
            return before
        starts = n.b.reshape(n.b.slice(mask, 0, batch, 2 * batch), (batch, 1, 1, 1))
        return n.add(g.LogicalAnd(), before, n.add(g.GreaterEqual(), place, starts))
    else:
        n.refuse(f"a mask of {mask.type} for {batch} rows of {columns} keys")
    return binary(n.b, g.NotEqual(), mask, 0, mask.type.dtype)


def _attend(n: Call, q: Value, k: Value, v: Value, mask: Value | None, bias: Value | None, past: int) -> Value:
    """q, k and v with heads of their own, (batch, heads, rows, width); the result without."""
    (batch, _, rows, _), columns, dtype = q.type.shape, k.type.shape[2], q.type.dtype
    hidden = None if mask is None else _shown(n, mask, batch, columns)
    numbers = bias
    if hidden is not None:
        low = choose(n.b, hidden, 0.0, max(n.attribute("mask_filter_value", -10000.0), -65504.0), dtype)
        numbers = low if bias is None else n.add(g.Add(), bias, low)
    if n.attribute("unidirectional", 0):
        n.claim(rows, columns)
        before = n.constant(np.tri(rows, columns, past, dtype=bool))
        numbers = before if numbers is None else choose(n.b, before, numbers, -np.inf, dtype)
    return unheaded(n.b, layers.attention(n.b, q, k, v, numbers, scale=n.attribute("scale") or None))


@onnx_op("Attention", domain=MICROSOFT)
def attention(
    n: Call,
    x: Value,
    weights: Value,
    bias: Value | None = None,
    mask: Value | None = None,
    past: Value | None = None,
    added: Value | None = None,
    past_length: Value | None = None,
) -> tuple[Value, ...]:
    """x (batch, rows, inputs) is projected to q, k and v by one matrix; past and present are k and v, (2, batch, heads,
    rows, width)."""
    if n.attribute("do_rotary", 0) or n.attribute("past_present_share_buffer", 0) or past_length is not None:
        n.refuse("with rotary embeddings, or past and present in one buffer")
    count, width = n.required("num_heads"), weights.type.shape[1]
    sizes = n.attribute("qkv_hidden_sizes") or [width // 3] * 3
    together = product(n, x, weights)
    together = together if bias is None else n.add(g.Add(), together, bias)
    starts = np.cumsum([0, *sizes]).tolist()
    q, k, v = (heads(n.b, n.b.slice(together, 2, a, b), count) for a, b in itertools.pairwise(starts))
    length = 0
    if past is not None:
        length = past.type.shape[3]
        before = [n.b.reshape(n.b.slice(past, 0, i, i + 1), past.type.shape[1:]) for i in range(2)]
        k, v = n.add(g.Concat(2), before[0], k), n.add(g.Concat(2), before[1], v)
    y = _attend(n, q, k, v, mask, added, length)
    if not n.wants(1):
        return (y,)
    return y, n.add(g.Concat(0), *(n.b.reshape(each, (1, *each.type.shape)) for each in (k, v)))


@onnx_op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    n: Call,
    q: Value,
    k: Value | None = None,
    v: Value | None = None,
    bias: Value | None = None,
    mask: Value | None = None,
    added: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    *others: Value | None,
) -> tuple[Value, ...]:
    """q, k and v are (batch, rows, heads * width), or packed, (batch, rows, heads, 3 or 2, width), or k and v
    (batch, heads, rows, width)."""
    if any(other is not None for other in others) or n.wants(3):
        n.refuse("with past and present in one buffer, or the scores as a result")
    count = n.required("num_heads")
    if q.type.rank == 5:
        q, k, v = (_unpacked(n, q, i) for i in range(3))
    elif k is not None and k.type.rank == 5:
        k, v = _unpacked(n, k, 0), _unpacked(n, k, 1)
    if k is None or v is None:
        n.refuse("without k or v")
    ready = k.type.rank == 4
    if bias is not None:
        if ready:
            n.refuse("with a bias and k and v that have heads")
        starts = np.cumsum([0, *(x.type.shape[2] for x in (q, k, v))]).tolist()
        parts = [n.b.slice(bias, 0, a, b) for a, b in itertools.pairwise(starts)]
        q, k, v = (n.add(g.Add(), x, part) for x, part in zip((q, k, v), parts, strict=True))
    q = heads(n.b, q, count)
    k, v = (x if ready else heads(n.b, x, count) for x in (k, v))
    length = 0
    if past_key is not None and past_value is not None:
        length = past_key.type.shape[2]
        k, v = n.add(g.Concat(2), past_key, k), n.add(g.Concat(2), past_value, v)
    return _attend(n, q, k, v, mask, added, length), k, v


def _unpacked(n: Call, packed: Value, i: int) -> Value:
    batch, rows, count, _, width = packed.type.shape
    return n.b.reshape(n.b.slice(packed, 3, i, i + 1), (batch, rows, count * width))


@onnx_op("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(n: Call, x: Value, positions: Value, cos: Value, sin: Value) -> Value:
    """As the standard's, with positions of every row, or the first one of all rows alike."""
    if n.attribute("is_packed_batching", 0):
        n.refuse("is_packed_batching")
    if n.attribute("scale", 1.0) != 1:
        n.refuse(f"scale={n.attribute('scale')}")
    batch, rows = x.type.shape[0], x.type.shape[1 if x.type.rank == 3 else 2]
    if positions.type.numel == 1:
        n.claim(batch, rows)
        own = n.constant(np.broadcast_to(np.arange(rows, dtype=np.int64), (batch, rows)))
        positions = n.add(g.Add(), own, n.b.reshape(n.b.operand(positions, DType.i64), ()))
    cos, sin = embedding(n.b, cos, positions), embedding(n.b, sin, positions)
    half = cos.type.shape[-1]
    count = n.attribute("num_heads", 0)
    if x.type.rank == 3 and count == 0:  # as many heads as the whole width of the caches makes
        count = x.type.shape[2] // (2 * half)
    return rotate(n, x, cos, sin, count)
