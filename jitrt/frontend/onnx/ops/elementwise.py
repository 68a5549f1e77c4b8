"""Arithmetic, element by element."""

from __future__ import annotations

from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph.graph import Value
from jitrt.graph.ops import Add, Relu


@onnx_op("Add", since=7)
def add(n: Call, left: Value, right: Value) -> Value:
    return n.add(Add(), left, right)


@onnx_op("Relu")
def relu(n: Call, x: Value) -> Value:
    return n.add(Relu(), x)
