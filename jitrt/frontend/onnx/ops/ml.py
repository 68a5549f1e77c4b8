"""What scikit-learn's pipelines are exported to (domain ai.onnx.ml): scalers, imputers, linear models, labels.

Rows are features, (n, f). Numbers become float32, as the standard says. Labels are integers: text has no place in a
tensor here.
"""

from __future__ import annotations

import math

import numpy as np

from jitrt.frontend.layers.arithmetic import binary, choose
from jitrt.frontend.layers.index import take
from jitrt.frontend.layers.reduce import softmax
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.linear import product
from jitrt.frontend.onnx.registry import ML, onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array


def _features(n: Call, name: str, x: Value, dtype: DType) -> Value:
    """An attribute of one number, or one a feature (the last dimension of x)."""
    numbers = n.required(name)
    if len(numbers) not in (1, x.type.shape[-1] if x.type.rank else 1):
        n.refuse(f"{name} has {len(numbers)} numbers for x of {x.type}")
    return n.constant(np.asarray(numbers), dtype)


def floats(n: Call, x: Value) -> Value:
    """x as float32; float64 stays."""
    return x if x.type.dtype == DType.f64 else n.b.operand(x, DType.f32)


@onnx_op("Scaler", domain=ML)
def scaler(n: Call, x: Value) -> Value:
    """(x - offset) * scale."""
    wide = n.b.operand(x, DType.f32)
    centred = n.add(g.Sub(), wide, _features(n, "offset", x, DType.f32))
    return n.add(g.Mul(), centred, _features(n, "scale", x, DType.f32))


@onnx_op("Binarizer", domain=ML)
def binarizer(n: Call, x: Value) -> Value:
    """1 where x is above the threshold, else 0."""
    above = binary(n.b, g.Greater(), x, n.attribute("threshold", 0.0), x.type.dtype)
    return n.b.operand(above, x.type.dtype)


@onnx_op("Imputer", domain=ML)
def imputer(n: Call, x: Value) -> Value:
    """x with what stands for a missing number, NaN perhaps, replaced feature by feature."""
    kind = "float" if x.type.dtype.is_float else "int64"
    missing = n.attribute(f"replaced_value_{kind}", 0)
    values = _features(n, f"imputed_value_{kind}s", x, x.type.dtype)
    if math.isnan(missing):
        gone = n.add(g.NotEqual(), x, x)
    else:
        gone = binary(n.b, g.Equal(), x, missing, x.type.dtype)
    return choose(n.b, gone, values, x, x.type.dtype)


@onnx_op("Normalizer", domain=ML)
def normalizer(n: Call, x: Value) -> Value:
    """Each row divided by its norm: the largest, the sum, or the root of the sum of squares of its absolute values."""
    kind, rows = n.attribute("norm", "MAX"), floats(n, x)
    last = (x.type.rank - 1,)
    if kind == "L2":
        size = n.add(g.Sqrt(), n.add(g.ReduceSum(last, keepdims=True), n.add(g.Mul(), rows, rows)))
    elif kind in ("L1", "MAX"):
        op = g.ReduceSum if kind == "L1" else g.ReduceMax
        size = n.add(op(last, keepdims=True), n.add(g.Abs(), rows))
    else:
        n.refuse(f"norm={kind!r}, expected MAX, L1 or L2")
    y = n.add(g.Div(), rows, binary(n.b, g.Maximum(), size, 1e-30, rows.type.dtype))
    return n.b.operand(y, DType.f32)


@onnx_op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(n: Call, x: Value, index: Value) -> Value:
    """x[..., index]: features by their positions, all of them in one dimension. A vector gives one row."""
    picked = take(n.b, x, n.b.reshape(index, (index.type.numel,)), x.type.rank - 1)
    return n.b.reshape(picked, (1, index.type.numel)) if x.type.rank == 1 else picked


def _scores(n: Call, x: Value, count: int) -> Value:
    """x @ coefficients.T + intercepts, (n, count)."""
    numbers = np.asarray(n.required("coefficients"), np.float32)
    if x.type.rank != 2 or numbers.size != count * x.type.shape[1]:
        n.refuse(f"{numbers.size} coefficients for x of {x.type} and {count} results")
    rows = floats(n, x)
    weights = n.constant(np.ascontiguousarray(numbers.reshape(count, -1).T), rows.type.dtype)
    y = product(n, rows, weights)
    intercepts = n.attribute("intercepts", [])
    return n.add(g.Add(), y, n.constant(np.asarray(intercepts), rows.type.dtype)) if intercepts else y


def transformed(n: Call, scores: Value, kind: str) -> Value:
    """Scores (n, results) through a `post_transform`."""
    dtype = scores.type.dtype
    if kind == "LOGISTIC":
        return n.add(g.Sigmoid(), scores)
    if kind == "SOFTMAX":
        return softmax(n.b, scores, 1)
    if kind == "SOFTMAX_ZERO":  # what is 0 stays
        zero = binary(n.b, g.Equal(), scores, 0, dtype)
        return choose(n.b, zero, 0, softmax(n.b, choose(n.b, zero, -np.inf, scores, dtype), 1), dtype)
    if kind != "NONE":
        n.refuse(f"post_transform={kind!r}")
    return scores


def labels_of(n: Call, name: str) -> Array:
    """The labels of a classifier, from an attribute."""
    labels = np.asarray(n.attribute(name, []), np.int64)
    if len(labels) < 2:
        n.refuse("labels that are text, or less than two: train with integers")
    return labels


def labelled(n: Call, labels: Array, scores: Value) -> Value:
    """The label of the best score in each row."""
    return take(n.b, n.constant(labels), n.add(g.ArgMax(1), scores), 0)


@onnx_op("LinearRegressor", domain=ML)
def linear_regressor(n: Call, x: Value) -> Value:
    return transformed(n, _scores(n, x, n.attribute("targets", 1)), n.attribute("post_transform", "NONE"))


@onnx_op("LinearClassifier", domain=ML)
def linear_classifier(n: Call, x: Value) -> tuple[Value, Value]:
    """(labels, scores). Two classes may share one row of coefficients: the first has its scores negated."""
    labels = labels_of(n, "classlabels_ints")
    shared = len(labels) == 2 and x.type.rank == 2 and len(n.required("coefficients")) == x.type.shape[1]
    scores = _scores(n, x, 1 if shared else len(labels))
    if shared:
        scores = n.add(g.Concat(1), n.add(g.Neg(), scores), scores)
    scores = transformed(n, scores, n.attribute("post_transform", "NONE"))
    return labelled(n, labels, scores), n.b.operand(scores, DType.f32)


@onnx_op("ZipMap", domain=ML)
def zip_map(n: Call, x: Value) -> Value:
    n.refuse("its result is a list of dictionaries; export with options={'zipmap': False} and read the matrix")
