"""TensorFlow's ops that tf2onnx has no translation for and leaves in the model as they are."""

from __future__ import annotations

from jitrt.frontend.layers.arithmetic import binary
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value
from jitrt.graph import ops as g


@onnx_op("Erfc")
def erfc(n: Call, x: Value) -> Value:
    """1 - erf(x), by which Keras 3 writes its gelu."""
    return binary(n.b, g.Sub(), 1, n.add(g.Erf(), x), x.type.dtype)
