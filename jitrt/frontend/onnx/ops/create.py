"""Tensors made of numbers that are known at the build, and masks."""

from __future__ import annotations

import numpy as np

from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value
from jitrt.graph import ops as g


@onnx_op("EyeLike")
def eye_like(n: Call, x: Value) -> Value:
    if x.type.rank != 2:
        n.refuse(f"ones on the diagonal of {x.type}, which is no matrix")
    n.claim(*x.type.shape)
    element = n.attribute("dtype")
    dtype = x.type.dtype if element is None else n.dtype(element)
    rows, columns = x.type.shape
    return n.constant(np.eye(rows, columns, n.attribute("k", 0)), dtype)


@onnx_op("Range")
def range_(n: Call, start: Value, limit: Value, step: Value) -> Value:
    first, last, by = (n.need(x, "how many numbers a range has").item() for x in (start, limit, step))
    if by == 0:
        n.refuse("a range of step 0")
    count = max(0, int(-((first - last) // by)))
    n.claim(count)
    return n.constant(first + np.arange(count) * by, start.type.dtype)


@onnx_op("Trilu")
def trilu(n: Call, x: Value, k: Value | None = None) -> Value:
    """What is on one side of a diagonal, zeros on the other."""
    if x.type.rank < 2:
        n.refuse(f"a triangle of {x.type}")
    (diagonal,) = (0,) if k is None else n.ints(k, "the diagonal")
    n.claim(*x.type.shape[-2:])
    every = np.ones(x.type.shape[-2:], bool)
    kept = np.triu(every, diagonal) if n.attribute("upper", 1) else np.tril(every, diagonal)
    return n.add(g.Where(), n.constant(kept), x, n.graph.scalar(0, x.type.dtype))
