"""Constants, conversions, and what passes its operand on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_VALUES: dict[str, Any] = {  # Constant's attributes, and the type of what they hold
    "value": None,
    "sparse_value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@onnx_op("Constant")
def constant(n: Call) -> Value:
    for name, dtype in _VALUES.items():
        if name in n.attributes:
            return _held(n, np.asarray(n.attributes[name], dtype))
    if "value_string" in n.attributes or "value_strings" in n.attributes:
        n.refuse("strings")
    return n.refuse("it has no value")


def _held(n: Call, data: Any) -> Value:
    try:
        DType.of(data.dtype)
    except KeyError:
        n.refuse(f"elements of type {data.dtype}")
    return n.constant(data)


@onnx_op("ConstantOfShape", since=9)
def constant_of_shape(n: Call, shape: Value) -> Value:
    value = np.ravel(n.attribute("value", np.zeros(1, np.float32)))
    return n.b.expand(_held(n, value.reshape(())), n.ints(shape, "the shape"))


@onnx_op("Cast")
def cast(n: Call, x: Value) -> Value:
    return n.b.operand(x, _target(n))


@onnx_op("CastLike", since=15)
def cast_like(n: Call, x: Value, like: Value) -> Value:
    return n.b.operand(x, like.type.dtype)


@onnx_op("BitCast", since=26)
def bit_cast(n: Call, x: Value) -> Value:
    """The same bits in another type; a boolean is a byte of 0 or 1."""
    source, dtype = x.type.dtype, _target(n)
    if source.itemsize != dtype.itemsize:
        n.refuse(f"from {source.value} to {dtype.value}, which has not as many bits")
    if source == dtype:
        return x
    if dtype == DType.b8:
        return n.b.operand(x if source == DType.u8 else n.add(g.BitCast(source, DType.u8), x), dtype)
    if source == DType.b8:
        x = n.b.operand(x, DType.u8)
    return x if dtype == x.type.dtype else n.add(g.BitCast(x.type.dtype, dtype), x)


def _target(n: Call) -> DType:
    """Of attribute `to`, which up to opset 5 is a name."""
    to = n.required("to")
    try:
        return n.dtype(onnx.TensorProto.DataType.Value(to) if isinstance(to, str) else to)
    except ValueError as error:
        n.refuse(str(error))


@onnx_op("Identity")
def identity(n: Call, x: Any) -> Any:
    return x


@onnx_op("Dropout")
def dropout(n: Call, x: Value, ratio: Value | None = None, training: Value | None = None) -> tuple[Value, ...]:
    """At inference the operand, and a mask of ones."""
    if n.opset < 7 and not n.attribute("is_test", 0):
        n.refuse("without is_test it trains, and its result is random")
    if training is not None and n.need(training, "whether it trains").any():
        rate = 0.5 if ratio is None else float(n.need(ratio, "the ratio"))
        if rate != 0:
            n.refuse("in training mode its result is random")
    if not n.wants(1):
        return (x,)
    mask = n.graph.scalar(True, x.type.dtype if n.opset < 10 else DType.b8)
    return x, n.b.expand(mask, x.type.shape)


@onnx_op("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
def random(n: Call, *_: Value) -> Value:
    return n.refuse("its result is random; jitrt's engines give the same result every time: make it an input")
