"""Normalisations."""

from __future__ import annotations

from jitrt.frontend.layers import norm as layers
from jitrt.frontend.layers.arithmetic import binary, scaled
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g


@onnx_op("BatchNormalization", since=6)
def batch_norm_6(n: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Value:
    if not n.attribute("spatial", 1):
        n.refuse("spatial=0: statistics of every pixel by itself")
    if any(n.wants(i) for i in range(1, 5)) or (n.opset < 7 and not n.attribute("is_test", 0)):
        n.refuse("its running statistics as results: a model being trained; export it in evaluation mode")
    return _batch_norm(n, x, scale, bias, mean, var)


@onnx_op("BatchNormalization", since=14)
def batch_norm(n: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> tuple[Value, ...]:
    """In training mode by the batch's own mean and (population) variance, which also move the running ones."""
    if not n.attribute("training_mode", 0):
        return (_batch_norm(n, x, scale, bias, mean, var),)
    axes = (0, *range(2, x.type.rank))
    own = n.add(g.ReduceMean(axes), x)
    centred = n.add(g.Sub(), x, n.b.per_channel(own, x.type.rank))
    spread = n.add(g.ReduceMean(axes), n.add(g.Mul(), centred, centred))
    running = [_moved(n, old, new) for old, new in ((mean, own), (var, spread))]
    return _batch_norm(n, x, scale, bias, own, spread), *running


def _moved(n: Call, old: Value, new: Value) -> Value:
    momentum = n.attribute("momentum", 0.9)
    kept = scaled(n.b, old, momentum)
    return n.add(g.Add(), kept, scaled(n.b, n.b.operand(new, old.type.dtype), 1 - momentum))


def _batch_norm(n: Call, x: Value, *parameters: Value) -> Value:
    scale, bias, mean, var = (n.b.operand(p, x.type.dtype) for p in parameters)
    if x.type.rank == 1:  # one channel
        return n.b.reshape(_batch_norm(n, n.b.reshape(x, (x.type.shape[0], 1)), scale, bias, mean, var), x.type.shape)
    return layers.batch_norm(n.b, x, scale, bias, mean, var, n.attribute("epsilon", 1e-5))


@onnx_op("InstanceNormalization", since=6)
def instance_norm(n: Call, x: Value, scale: Value, bias: Value) -> Value:
    return _group_norm(n, x, x.type.shape[1], scale, bias)


@onnx_op("GroupNormalization", since=18)
def group_norm_18(n: Call, x: Value, scale: Value, bias: Value) -> Value:
    """Its parameters are one number a group."""
    groups, channels = n.required("num_groups"), x.type.shape[1]
    if channels % groups:
        n.refuse(f"{groups} groups of {channels} channels")
    each = [
        n.b.reshape(n.b.expand(n.b.reshape(p, (groups, 1)), (groups, channels // groups)), (channels,))
        for p in (scale, bias)
    ]
    return _group_norm(n, x, groups, *each)


@onnx_op("GroupNormalization", since=21)
def group_norm(n: Call, x: Value, scale: Value, bias: Value) -> Value:
    return _group_norm(n, x, n.required("num_groups"), scale, bias)


def _group_norm(n: Call, x: Value, groups: int, scale: Value, bias: Value) -> Value:
    eps = n.attribute("epsilon", 1e-5)
    if _has_kernel(x):
        return layers.group_norm(n.b, x, groups, scale, bias, eps)
    rows = n.b.reshape(x, (x.type.shape[0], groups, x.type.numel // (x.type.shape[0] * groups)))
    normal = n.b.reshape(_normal(n, rows, (2,), eps)[0], x.type.shape)
    scaled_up = n.add(g.Mul(), normal, n.b.per_channel(scale, x.type.rank))
    return n.add(g.Add(), scaled_up, n.b.per_channel(bias, x.type.rank))


@onnx_op("LayerNormalization", since=17)
def layer_norm(n: Call, x: Value, scale: Value, bias: Value | None = None) -> tuple[Value, ...]:
    """Results y, and the mean and 1 / standard deviation of every row in the type of `stash_type`, float32."""
    axis, eps = n.axis(n.attribute("axis", -1), x.type.rank), n.attribute("epsilon", 1e-5)
    axes = tuple(range(axis, x.type.rank))
    wide = n.b.widened(x)
    last, dtype = x.type.shape[axis:], x.type.dtype
    statistics = (
        [n.b.operand(v, DType.f32) for v in _normal(n, wide, axes, eps)[1:]] if n.wants(1) or n.wants(2) else ()
    )
    if _has_kernel(x) and scale.type.shape == last and (bias is None or bias.type.shape == last):
        y = layers.layer_norm(n.b, x, len(last), _as(n, scale, dtype), _as(n, bias, dtype), eps)
    else:
        y = n.add(g.Mul(), _normal(n, wide, axes, eps)[0], scale)
        y = n.b.operand(y if bias is None else n.add(g.Add(), y, bias), dtype)
        _check_broadcast(n, x, y)
    return y, *statistics


@onnx_op("RMSNormalization", since=23)
def rms_norm(n: Call, x: Value, scale: Value) -> Value:
    axis, eps = n.axis(n.attribute("axis", -1), x.type.rank), n.attribute("epsilon", 1e-5)
    last = x.type.shape[axis:]
    if _has_kernel(x) and scale.type.shape == last:
        return n.b.operand(layers.rms_norm(n.b, x, len(last), n.b.operand(scale, x.type.dtype), eps), scale.type.dtype)
    wide = n.b.widened(x)
    mean = n.add(g.ReduceMean(tuple(range(axis, x.type.rank)), keepdims=True), n.add(g.Mul(), wide, wide))
    normal = n.add(g.Div(), wide, n.add(g.Sqrt(), binary(n.b, g.Add(), mean, eps, wide.type.dtype)))
    y = n.b.operand(n.add(g.Mul(), normal, scale), scale.type.dtype)
    _check_broadcast(n, x, y)
    return y


def _check_broadcast(n: Call, x: Value, y: Value) -> None:
    if y.type.shape != x.type.shape:
        n.refuse(f"parameters that make {list(y.type.shape)} of {x.type}")


def _as(n: Call, value: Value | None, dtype: DType) -> Value | None:
    return None if value is None else n.b.operand(value, dtype)


def _has_kernel(x: Value) -> bool:
    """Whether there are kernels that normalise x in one go: not for float64, which is made of reductions."""
    return x.type.dtype != DType.f64


def _normal(n: Call, x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value, Value]:
    """((x - mean) / sqrt(variance + eps), mean, 1 / sqrt(variance + eps)), over `axes`, which stay with size 1."""
    mean = n.add(g.ReduceMean(axes, keepdims=True), x)
    centred = n.add(g.Sub(), x, mean)
    variance = n.add(g.ReduceMean(axes, keepdims=True), n.add(g.Mul(), centred, centred))
    inverse = n.add(g.Rsqrt(), binary(n.b, g.Add(), variance, eps, x.type.dtype))
    return n.add(g.Mul(), centred, inverse), mean, inverse


@onnx_op("MeanVarianceNormalization", since=9)
def mean_variance_norm(n: Call, x: Value) -> Value:
    """(x - mean) / (standard deviation + 1e-9), over `axes`."""
    axes = tuple(sorted(n.axis(axis, x.type.rank) for axis in n.attribute("axes", [0, 2, 3])))
    centred = n.add(g.Sub(), x, n.add(g.ReduceMean(axes, keepdims=True), x))
    variance = n.add(g.ReduceMean(axes, keepdims=True), n.add(g.Mul(), centred, centred))
    return n.add(g.Div(), centred, binary(n.b, g.Add(), n.add(g.Sqrt(), variance), 1e-9, x.type.dtype))


@onnx_op("LRN")
def local_response_norm(n: Call, x: Value) -> Value:
    """x / (bias + alpha / size * sum of x * x over (size - 1) / 2 channels to each side, the odd one after) ** beta."""
    size = n.required("size")
    alpha, beta, bias = n.attribute("alpha", 1e-4), n.attribute("beta", 0.75), n.attribute("bias", 1.0)
    return layers.local_response_norm(n.b, x, size, alpha, beta, bias, before=(size - 1) // 2)


@onnx_op("LpNormalization")
def lp_norm(n: Call, x: Value) -> Value:
    """x / its p-norm along `axis`; 0 where that is 0."""
    axis, power = n.axis(n.attribute("axis", -1), x.type.rank), n.attribute("p", 2)
    if power not in (1, 2):
        n.refuse(f"p is {power}, not 1 or 2")
    if power == 1:
        norm = n.add(g.ReduceSum((axis,), keepdims=True), n.add(g.Abs(), x))
    else:
        norm = n.add(g.Sqrt(), n.add(g.ReduceSum((axis,), keepdims=True), n.add(g.Mul(), x, x)))
    zero = binary(n.b, g.Equal(), norm, 0, x.type.dtype)
    return n.add(g.Where(), zero, n.b.graph.scalar(0, x.type.dtype), n.add(g.Div(), x, norm))
