"""Attention."""

from __future__ import annotations

from typing import Any

from jitrt.errors import ShapeError
from jitrt.frontend.layers import attention as layers
from jitrt.frontend.network.frame import Frame, layer
from jitrt.frontend.network.tensor import Tensor
from jitrt.graph import DType, Value
from jitrt.graph.types import broadcast_shapes


@layer
def add_attention(
    net: Frame,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    causal: bool = False,
    scale: float | None = None,
    name: str | None = None,
) -> Value:
    """softmax(q @ k.T * scale) @ v for q (..., l, e), k (..., s, e), v (..., s, w); scale is 1 / sqrt(e) unless given.

    `mask` broadcasts to (..., l, s): booleans say what is looked at, numbers are added. `causal` lets row i look at the
    first i + 1 of k. With fewer heads (dimension -3) in k and v than in q, each serves as many neighbouring ones of q.
    """
    query, key, value = (net.floating(tensor) for tensor in (q, k, v))
    shapes = query.type.shape, key.type.shape, value.type.shape
    text = f"q, k and v have shapes {', '.join(map(str, shapes))}"
    if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) < 2:
        raise ShapeError(f"{text}; they must have as many dimensions, at least 2")
    if shapes[0][-1] != shapes[1][-1] or shapes[1][-2] != shapes[2][-2]:
        raise ShapeError(f"{text}; the last sizes of q and k must agree, and the second last of k and v")
    if len(shapes[0]) > 2 and (shapes[1][-3] != shapes[2][-3] or shapes[0][-3] % shapes[1][-3]):
        raise ShapeError(f"{text}; k and v have as many heads (third last), which divide those of q")
    given = None if mask is None else net.parameter("mask", mask)
    scores = (*shapes[0][:-1], shapes[1][-2])
    if given is not None and broadcast_shapes(given.type.shape, scores) != scores:
        raise ShapeError(f"mask: shape {given.type.shape} does not broadcast to {scores}")
    if given is not None and given.type.dtype not in (DType.b8, query.type.dtype):
        net.refuse(f"mask is {given.type.dtype.numpy}, expected bool or {query.type.dtype.numpy}")
    factor = None if scale is None else net.number("scale", scale)
    return layers.attention(net.builder, query, key, value, given, causal=bool(causal), scale=factor)
