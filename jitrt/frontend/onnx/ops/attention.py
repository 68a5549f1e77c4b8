"""Attention and rotary embeddings, as the standard has them since opset 23."""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import binary, choose, scaled
from jitrt.frontend.layers.attention import grouped, masked, masked_softmax, products
from jitrt.frontend.layers.index import embedding
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_RAW, _CAPPED, _BIASED, _WEIGHTS = range(4)  # what the fourth result holds


def heads(b: Builder, x: Value, count: int) -> Value:
    """(batch, rows, count * width) as (batch, count, rows, width)."""
    batch, rows, width = x.type.shape
    return b.permute(b.reshape(x, (batch, rows, count, width // count)), (0, 2, 1, 3))


def unheaded(b: Builder, x: Value) -> Value:
    """(batch, heads, rows, width) as (batch, rows, heads * width)."""
    batch, count, rows, width = x.type.shape
    return b.reshape(b.permute(x, (0, 2, 1, 3)), (batch, rows, count * width))


@onnx_op("Attention", since=23)
def attention(
    n: Call,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    lengths: Value | None = None,
) -> tuple[Value | None, ...]:
    flat = q.type.rank == 3
    if flat:
        count, kv_count = n.required("q_num_heads"), n.required("kv_num_heads")
        q, k, v = heads(n.b, q, count), heads(n.b, k, kv_count), heads(n.b, v, kv_count)
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.type.shape[2]
        k, v = n.add(g.Concat(2), past_key, k), n.add(g.Concat(2), past_value, v)
    if q.type.shape[1] % k.type.shape[1]:
        n.refuse(f"{q.type.shape[1]} heads of q share {k.type.shape[1]} of k")
    bias = _bias(n, q, k, mask, lengths, past)
    y, scores = _attend(n, q, k, v, bias)
    return unheaded(n.b, y) if flat else y, k, v, scores


def _attend(n: Call, q: Value, k: Value, v: Value, bias: Value | None) -> tuple[Value, Value]:
    """(the result, what the fourth output holds)."""
    b, dtype, shape = n.b, q.type.dtype, q.type.shape
    scale = n.attribute("scale") or 1 / math.sqrt(shape[-1])
    whole = dtype.itemsize > 2
    if not whole:  # before the product, so that 16 bits hold it
        q = scaled(b, q, scale)
    many = shape[1] // k.type.shape[1]
    if many > 1:
        q, k, v, bias = grouped(b, q, k, v, bias, many)
    scores = products(b, q, k)
    stages = [scaled(b, scores, scale) if whole else scores]
    cap = n.attribute("softcap", 0.0)
    stages.append(scaled(b, n.add(g.Tanh(), binary(b, g.Div(), stages[-1], cap, dtype)), cap) if cap else stages[-1])
    stages.append(masked(b, stages[-1], bias))
    precision = n.attribute("softmax_precision")
    between = dtype if precision is None else n.dtype(precision)
    stages.append(b.operand(masked_softmax(b, b.operand(stages[-1], between), bias), dtype))
    y = b.reshape(n.add(g.Matmul(), stages[-1], v), (*shape[:3], v.type.shape[-1]))
    return y, b.reshape(stages[n.attribute("qk_matmul_output_mode", _RAW)], (*shape[:3], k.type.shape[-2]))


def _bias(n: Call, q: Value, k: Value, mask: Value | None, lengths: Value | None, past: int) -> Value | None:
    """Everything that hides keys, as booleans, or as numbers to add where the model's mask has those. Position i of q
    stands at i + offset among the keys: after what is in the cache."""
    b, (batch, _, rows, _), columns = n.b, q.type.shape, k.type.shape[2]
    if mask is not None and mask.type.shape[-1] < columns:
        outside = 0.0 if mask.type.dtype == DType.b8 else -math.inf
        fill = [(0, 0)] * (mask.type.rank - 1) + [(0, columns - mask.type.shape[-1])]
        mask = n.add(g.Pad(tuple(fill), outside), mask)
    left, right = n.attribute("left_window_size", -1), n.attribute("right_window_size", -1)
    if n.attribute("is_causal", 0):
        right = 0 if right < 0 else min(right, 0)
    n.claim(rows, columns)
    keys, own = np.arange(columns, dtype=np.int64), np.arange(rows, dtype=np.int64)[:, None]
    shown: Value | None = None
    if lengths is None:
        near = np.ones((rows, columns), bool)
        near &= (keys - own - past <= right) if right >= 0 else True
        near &= (own + past - keys <= left) if left >= 0 else True
        shown = None if near.all() else b.constant(near)
    else:
        held = b.reshape(b.operand(lengths, DType.i64), (batch, 1, 1, 1))
        shown = n.add(g.Less(), b.constant(keys), held)
        ahead = n.add(g.Sub(), b.constant(keys - own + rows), held)  # how far a key stands after the query
        if right >= 0:
            shown = n.add(g.LogicalAnd(), shown, binary(b, g.LessEqual(), ahead, right, DType.i64))
        if left >= 0:
            shown = n.add(g.LogicalAnd(), shown, binary(b, g.GreaterEqual(), ahead, -left, DType.i64))
    if mask is None or shown is None:
        return mask or shown
    if mask.type.dtype == DType.b8:
        return n.add(g.LogicalAnd(), shown, mask)
    return choose(b, shown, mask, -math.inf, mask.type.dtype)


@onnx_op("RotaryEmbedding", since=23)
def rotary_embedding(n: Call, x: Value, cos: Value, sin: Value, positions: Value | None = None) -> Value:
    if positions is not None:
        cos, sin = embedding(n.b, cos, positions), embedding(n.b, sin, positions)
    return rotate(n, x, cos, sin, n.attribute("num_heads", 0))


def rotate(n: Call, x: Value, cos: Value, sin: Value, count: int) -> Value:
    """x (batch, heads, rows, width), or (batch, rows, heads * width), by the angles of every row: cos and sin are
    (batch, rows, half of what is rotated)."""
    b, shape = n.b, x.type.shape
    if x.type.rank == 3:
        if count == 0:
            n.refuse("of a tensor of rank 3 without num_heads")
        x = b.reshape(x, (*shape[:2], count, shape[2] // count))
    else:
        x = b.permute(x, (0, 2, 1, 3))
    *lead, width = x.type.shape
    rotated = n.attribute("rotary_embedding_dim", 0) or width
    half = rotated // 2
    cos, sin = (b.reshape(a, (*a.type.shape[:-1], 1, half)) for a in (cos, sin))
    part = b.slice(x, 3, 0, rotated)
    if n.attribute("interleaved", 0):
        first, second = b.slice(part, 3, 0, rotated, 2), b.slice(part, 3, 1, rotated, 2)
    else:
        first, second = b.slice(part, 3, 0, half), b.slice(part, 3, half, rotated)
    real = n.add(g.Sub(), n.add(g.Mul(), cos, first), n.add(g.Mul(), sin, second))
    imaginary = n.add(g.Add(), n.add(g.Mul(), sin, first), n.add(g.Mul(), cos, second))
    if n.attribute("interleaved", 0):
        pairs = [b.reshape(a, (*lead, half, 1)) for a in (real, imaginary)]
        done = [b.reshape(n.add(g.Concat(4), *pairs), (*lead, rotated))]
    else:
        done = [real, imaginary]
    rest = [b.slice(x, 3, rotated, width)] if rotated < width else []
    y = b.concat([*done, *rest], 3)
    return b.reshape(y, shape) if len(shape) == 3 else b.permute(y, (0, 2, 1, 3))
