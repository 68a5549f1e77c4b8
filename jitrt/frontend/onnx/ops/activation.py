"""Activations."""

from __future__ import annotations

from jitrt.frontend.layers import activation as layers
from jitrt.frontend.layers.arithmetic import binary, choose
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value
from jitrt.graph import ops as g
from jitrt.graph.op import Op

_PLAIN: dict[str, type[Op]] = {
    "Relu": g.Relu,
    "Sigmoid": g.Sigmoid,
    "Tanh": g.Tanh,
    "Softplus": g.Softplus,
    "HardSwish": g.HardSwish,
}


@onnx_op(*_PLAIN)
def plain(n: Call, x: Value) -> Value:
    return n.add(_PLAIN[n.op_type](), x)


@onnx_op("LeakyRelu")
def leaky_relu(n: Call, x: Value) -> Value:
    return n.add(g.LeakyRelu(n.attribute("alpha", 0.01)), x)


@onnx_op("PRelu")
def prelu(n: Call, x: Value, slope: Value) -> Value:
    """x where it is positive, slope * x elsewhere; up to opset 6 one slope, or one a channel (dimension 1)."""
    if n.opset < 7 and slope.type.rank == 1 and x.type.rank > 1:
        slope = n.b.per_channel(slope, x.type.rank)
    above = binary(n.b, g.Greater(), x, 0, x.type.dtype)
    return n.add(g.Where(), above, x, n.add(g.Mul(), x, slope))


@onnx_op("Elu")
def elu(n: Call, x: Value) -> Value:
    return n.add(g.Elu(n.attribute("alpha", 1.0)), x)


@onnx_op("Selu")
def selu(n: Call, x: Value) -> Value:
    alpha, gamma = n.attribute("alpha", 1.6732632423543772), n.attribute("gamma", 1.0507009873554805)
    return layers.elu(n.b, x, alpha, gamma)


@onnx_op("Celu", since=12)
def celu(n: Call, x: Value) -> Value:
    return layers.celu(n.b, x, n.attribute("alpha", 1.0))


@onnx_op("ThresholdedRelu", since=10)
def thresholded_relu(n: Call, x: Value) -> Value:
    return layers.thresholded_relu(n.b, x, n.attribute("alpha", 1.0))


@onnx_op("HardSigmoid")
def hard_sigmoid(n: Call, x: Value) -> Value:
    return layers.hard_sigmoid(n.b, x, n.attribute("alpha", 0.2), n.attribute("beta", 0.5))


@onnx_op("Softsign")
def softsign(n: Call, x: Value) -> Value:
    return layers.softsign(n.b, x)


@onnx_op("Gelu", since=20)
def gelu(n: Call, x: Value) -> Value:
    kind = n.attribute("approximate", "none")
    if kind not in ("none", "tanh"):
        n.refuse(f"approximate={kind!r}, expected 'none' or 'tanh'")
    return n.add(g.Gelu(approximate=kind == "tanh"), x)


@onnx_op("Mish", since=18)
def mish(n: Call, x: Value) -> Value:
    return layers.mish(n.b, x)


@onnx_op("Swish", since=24)
def swish(n: Call, x: Value) -> Value:
    return layers.swish(n.b, x, n.attribute("alpha", 1.0))


@onnx_op("SwiGLU", since=28)
def swiglu(n: Call, gate: Value, value: Value) -> Value:
    """swish(gate) * value."""
    return n.add(g.Mul(), swish(n, gate), value)


@onnx_op("Shrink", since=9)
def shrink(n: Call, x: Value) -> Value:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    bias, limit, dtype = n.attribute("bias", 0.0), n.attribute("lambd", 0.5), x.type.dtype
    below = choose(n.b, binary(n.b, g.Less(), x, -limit, dtype), binary(n.b, g.Add(), x, bias, dtype), 0, dtype)
    return choose(n.b, binary(n.b, g.Greater(), x, limit, dtype), binary(n.b, g.Sub(), x, bias, dtype), below, dtype)
