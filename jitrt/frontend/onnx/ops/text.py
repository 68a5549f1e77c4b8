"""Counting n-grams of whole numbers. Strings themselves are no tensors that jitrt has."""

from __future__ import annotations

import numpy as np

from jitrt.frontend.layers.arithmetic import binary
from jitrt.frontend.layers.index import take
from jitrt.frontend.layers.linear import matmul
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array


@onnx_op("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(n: Call, x: Value) -> Value:
    """How often each n-gram of a pool is in a row, its elements next to each other or up to `max_skip_count` apart:
    x (length) or (rows, length), the result (columns) or (rows, columns)."""
    if n.attribute("pool_strings"):
        n.refuse("of strings")
    columns = n.required("ngram_indexes")
    if x.type.rank not in (1, 2) or not columns:
        n.refuse(f"of {x.type} with {len(columns)} n-grams")
    rows = n.b.operand(n.b.reshape(x, (1, *x.type.shape) if x.type.rank == 1 else x.type.shape), DType.i64)
    width = max(columns) + 1
    n.claim(len(columns), width)
    place = np.zeros((len(columns), width), np.float32)  # one n-gram a row, whose column is 1
    place[np.arange(len(columns)), columns] = 1
    counts = _counts(n, rows, place)
    y = _weighted(n, counts, width)
    return n.b.reshape(y, (width,)) if x.type.rank == 1 else y


def _counts(n: Call, rows: Value, place: Array) -> Value:
    """(rows, columns) as float32. N-grams of sizes outside the bounds are in the pool too, but not counted."""
    pool, starts = np.asarray(n.required("pool_int64s"), np.int64), n.required("ngram_counts")
    low, high, first = n.required("min_gram_length"), n.required("max_gram_length"), 0
    total = n.b.full((rows.type.shape[0], place.shape[1]), 0, DType.f32)
    for size, (start, stop) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), 1):
        if not 0 <= start <= stop <= len(pool) or (stop - start) % size:
            n.refuse(f"the pool of {len(pool)} numbers does not end in whole n-grams of {size}")
        grams = pool[start:stop].reshape(-1, size)
        if first + len(grams) > len(place):
            n.refuse(f"more n-grams than the {len(place)} that have a column")
        if len(grams) and low <= size <= high:
            own = n.constant(place[first : first + len(grams)])
            skips = min(n.required("max_skip_count"), rows.type.shape[1]) if size > 1 else 0
            for apart in range(1, 2 + skips):
                found = _found(n, rows, grams, apart)
                total = total if found is None else n.add(g.Add(), total, matmul(n.b, found, own))
        first += len(grams)
    return total


def _found(n: Call, rows: Value, grams: Array, apart: int) -> Value | None:
    """(rows, n-grams) as float32: in how many places each is, its elements `apart` from each other; None if a row is
    too short for that."""
    size = grams.shape[1]
    places = rows.type.shape[1] - apart * (size - 1)
    if places < 1:
        return None
    n.claim(places, size)
    index = np.arange(places)[:, None] + apart * np.arange(size)
    windows = take(n.b, rows, n.constant(index.astype(np.int64)), 1)  # (rows, places, size)
    there: Value | None = None
    for j in range(size):
        same = n.add(g.Equal(), n.b.slice(windows, 2, j, j + 1), n.constant(grams[:, j].copy()))
        there = same if there is None else n.add(g.LogicalAnd(), there, same)
    assert there is not None
    return n.add(g.ReduceSum((1,)), n.b.operand(there, DType.f32))


def _weighted(n: Call, counts: Value, width: int) -> Value:
    mode, weights = n.required("mode"), np.asarray(n.attribute("weights") or [1.0] * width, np.float32)
    if mode not in ("TF", "IDF", "TFIDF") or len(weights) < width:
        n.refuse(f"mode {mode!r} with {len(weights)} weights for {width} columns")
    if mode == "TF":
        return counts
    if mode == "IDF":
        counts = n.b.operand(binary(n.b, g.Greater(), counts, 0, DType.f32), DType.f32)
    return n.add(g.Mul(), counts, n.constant(weights[:width]))
