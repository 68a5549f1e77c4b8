"""Reductions, softmax, positions of extremes, sorting and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from jitrt.frontend.builder import Number
from jitrt.frontend.layers import index
from jitrt.frontend.layers.arithmetic import binary, choose
from jitrt.frontend.layers.reduce import Reduction, along, log_softmax, reduced, softmax
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_Step = Callable[[Call, Value], Value]


def _axes(n: Call, x: Value, axes: Value | None) -> tuple[int, ...]:
    """The dimensions to reduce, from the attribute or the input: none if the node asks for none to be a no-op."""
    given = n.attribute("axes") if axes is None else n.ints(axes, "which dimensions are reduced")
    if not given or x.type.rank == 0:
        return () if n.attribute("noop_with_empty_axes", 0) else tuple(range(x.type.rank))
    return tuple(sorted({axis_in(n, x, axis) for axis in given}))


def axis_in(n: Call, x: Value, axis: int) -> int:
    """A dimension of x, counted from the front. A tensor of rank 0 has one."""
    return n.axis(axis, max(x.type.rank, 1))


def reduction(n: Call, op: Reduction, x: Value, axes: tuple[int, ...], keepdims: bool, empty: Number) -> Value:
    """`op` over `axes`, over none of them x itself. Of no elements at all it is `empty`."""
    if not axes:
        return x
    if math.prod(x.type.shape[axis] for axis in axes) == 0:
        (out,) = op(axes, keepdims).infer(x.type)
        return n.b.full(out.shape, empty, x.type.dtype)
    return reduced(n.b, op, x, axes, keepdims)


def _reducer(name: str, op: Reduction, empty: Number, before: _Step | None = None, after: _Step | None = None) -> None:
    """Register `after(op(before(x)))` as the importer of a reduction. What is between is computed in float32 for 16-bit
    floats, and in float64 for integers where a function of theirs is no integer."""

    @onnx_op(name)
    def importer(n: Call, x: Value, axes: Value | None = None) -> Value:
        dims, keepdims = _axes(n, x, axes), bool(n.attribute("keepdims", 1))
        y = x
        if before is not None or after is not None:
            y = n.b.operand(x, _between(x.type.dtype, whole=after is None))
        y = reduction(n, op, y if before is None else before(n, y), dims, keepdims, empty)
        return n.b.operand(y if after is None else after(n, y), x.type.dtype)


def _between(dtype: DType, *, whole: bool) -> DType:
    if not dtype.is_float:
        return dtype if whole else DType.f64
    return DType.f32 if dtype.itemsize == 2 else dtype


_reducer("ReduceSum", g.ReduceSum, 0)
_reducer("ReduceProd", g.ReduceProd, 1)
_reducer("ReduceL1", g.ReduceSum, 0, lambda n, x: n.add(g.Abs(), x))
_reducer("ReduceSumSquare", g.ReduceSum, 0, lambda n, x: n.add(g.Mul(), x, x))
_reducer("ReduceL2", g.ReduceSum, 0, lambda n, x: n.add(g.Mul(), x, x), lambda n, x: n.add(g.Sqrt(), x))
_reducer("ReduceLogSum", g.ReduceSum, 0, None, lambda n, x: n.add(g.Log(), x))


@onnx_op("ReduceMean")
def reduce_mean(n: Call, x: Value, axes: Value | None = None) -> Value:
    dtype = x.type.dtype
    between = n.b.operand(x, dtype if dtype.is_float else DType.f64)
    mean = reduction(n, g.ReduceMean, between, _axes(n, x, axes), bool(n.attribute("keepdims", 1)), math.nan)
    return n.b.operand(mean, dtype)


@onnx_op("ReduceMax")
def reduce_max(n: Call, x: Value, axes: Value | None = None) -> Value:
    return _extreme(n, g.ReduceMax, x, axes, largest=True)


@onnx_op("ReduceMin")
def reduce_min(n: Call, x: Value, axes: Value | None = None) -> Value:
    return _extreme(n, g.ReduceMin, x, axes, largest=False)


def _extreme(n: Call, op: Reduction, x: Value, axes: Value | None, *, largest: bool) -> Value:
    """Of booleans in integers, which is what kernels count truths in; of nothing the number that never wins."""
    dtype = x.type.dtype
    if dtype == DType.b8:
        worst: Number = not largest
    elif dtype.is_float:
        worst = -math.inf if largest else math.inf
    else:
        limits = np.iinfo(dtype.numpy)
        worst = int(limits.min if largest else limits.max)
    between = n.b.operand(x, DType.i32 if dtype == DType.b8 else dtype)
    y = reduction(n, op, between, _axes(n, x, axes), bool(n.attribute("keepdims", 1)), worst)
    return n.b.operand(y, dtype)


@onnx_op("ReduceLogSumExp")
def reduce_log_sum_exp(n: Call, x: Value, axes: Value | None = None) -> Value:
    """log(sum(exp(x - h))) + h with h the maximum, or 0 where that is infinite."""
    dims, keepdims = _axes(n, x, axes), bool(n.attribute("keepdims", 1))
    dtype = _between(x.type.dtype, whole=False)
    y = n.b.operand(x, dtype)
    if not dims or math.prod(x.type.shape[axis] for axis in dims) == 0:
        return n.b.operand(reduction(n, g.ReduceSum, y, dims, keepdims, -math.inf), x.type.dtype)
    high = reduced(n.b, g.ReduceMax, y, dims, True)
    endless = binary(n.b, g.Equal(), n.add(g.Abs(), high), math.inf, dtype)
    high = choose(n.b, endless, 0, high, dtype)
    total = reduced(n.b, g.ReduceSum, n.add(g.Exp(), n.add(g.Sub(), y, high)), dims, keepdims)
    y = n.add(g.Add(), n.add(g.Log(), total), n.b.reshape(high, total.type.shape))
    return n.b.operand(y, x.type.dtype)


# -- along one dimension ---------------------------------------------------------------------------------------------


@onnx_op("ArgMax")
def arg_max(n: Call, x: Value) -> Value:
    return _position(n, x, largest=True)


@onnx_op("ArgMin")
def arg_min(n: Call, x: Value) -> Value:
    return _position(n, x, largest=False)


def _position(n: Call, x: Value, *, largest: bool) -> Value:
    """The first such place, or the last: the first in what is reversed, counted from the end."""
    axis, keepdims = axis_in(n, x, n.attribute("axis", 0)), bool(n.attribute("keepdims", 1))
    if not n.attribute("select_last_index", 0):
        return index.position(n.b, x, axis, largest, keepdims)
    last = x.type.shape[axis] - 1
    place = index.position(n.b, index.flip(n.b, x, [axis]), axis, largest, keepdims)
    return n.add(g.Sub(), n.graph.scalar(last, DType.i64), place)


def _rows(n: Call, x: Value, layer: Callable[[Call, Value, int], Value]) -> Value:
    """A layer along `axis`. Before opset 13 the dimensions from `axis` on were one row."""
    if x.type.numel == 0:
        return x
    if n.opset >= 13:
        return layer(n, x, axis_in(n, x, n.attribute("axis", -1)))
    axis = axis_in(n, x, n.attribute("axis", 1))
    rows = n.b.reshape(x, (math.prod(x.type.shape[:axis]), math.prod(x.type.shape[axis:])))
    return n.b.reshape(layer(n, rows, 1), x.type.shape)


@onnx_op("Softmax")
def softmax_(n: Call, x: Value) -> Value:
    return _rows(n, x, lambda n, x, axis: softmax(n.b, x, axis))


@onnx_op("LogSoftmax")
def log_softmax_(n: Call, x: Value) -> Value:
    return _rows(n, x, lambda n, x, axis: log_softmax(n.b, x, axis))


@onnx_op("Hardmax")
def hardmax(n: Call, x: Value) -> Value:
    """1 at the first of the largest elements of each row, else 0."""
    return _rows(n, x, _hardmax)


def _hardmax(n: Call, x: Value, axis: int) -> Value:
    if x.type.rank == 0:
        return n.b.full((), 1, x.type.dtype)
    place = index.position(n.b, x, axis, keepdims=True)
    n.claim(x.type.shape[axis])
    count = np.arange(x.type.shape[axis], dtype=np.int64).reshape(-1, *[1] * (x.type.rank - 1 - axis))
    return n.b.operand(n.add(g.Equal(), place, n.constant(count)), x.type.dtype)


# -- order -----------------------------------------------------------------------------------------------------------


@onnx_op("TopK")
def top_k(n: Call, x: Value, k: Value | None = None) -> tuple[Value, Value]:
    count = n.required("k") if k is None else n.ints(k, "how many elements are taken")[0]
    axis, largest = axis_in(n, x, n.attribute("axis", -1)), bool(n.attribute("largest", 1))
    if not 0 <= count <= x.type.shape[axis]:
        n.refuse(f"the {count} best of {x.type.shape[axis]} elements")
    return index.topk(n.b, x, count, axis, largest)


# -- running sums ----------------------------------------------------------------------------------------------------


@onnx_op("CumSum")
def cum_sum(n: Call, x: Value, axis: Value) -> Value:
    return _running(n, g.CumSum, x, axis, 0)


@onnx_op("CumProd")
def cum_prod(n: Call, x: Value, axis: Value) -> Value:
    return _running(n, g.CumProd, x, axis, 1)


def _running(n: Call, op: Callable[[int], g.CumSum | g.CumProd], x: Value, axis: Value, neutral: int) -> Value:
    """`exclusive` leaves the element itself out: what runs is shifted by one place."""
    (at,) = n.ints(axis, "along which dimension it runs")
    d, reverse, shape = axis_in(n, x, at), n.attribute("reverse", 0), x.type.shape
    y = index.flip(n.b, x, [d]) if reverse else x
    if n.attribute("exclusive", 0) and x.type.numel:
        first = n.b.full((*shape[:d], 1, *shape[d + 1 :]), neutral, x.type.dtype)
        y = n.add(g.Concat(d), first, n.b.slice(y, d, 0, shape[d] - 1))
    y = along(n.b, op, y, d)
    return index.flip(n.b, y, [d]) if reverse else y
