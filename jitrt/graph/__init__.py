"""The graph: a small, numpy-only intermediate representation in which an op is its own specification.

>>> from jitrt.graph import Graph, TensorType, f32
>>> from jitrt.graph.ops import Relu
>>> g = Graph("demo"); x = g.add_input("x", TensorType(f32, (2, 3)))
>>> g.mark_output(g.add(Relu(), x))
>>> print(g)
graph demo(%x: f32[2,3]) {
  %0 = relu(%x) : f32[2,3]
  return %0
}
"""

from jitrt.graph.dtype import DType, b8, bf16, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.interpret import interpret
from jitrt.graph.op import Op, Trait
from jitrt.graph.text import parse
from jitrt.graph.types import Layout, TensorType
from jitrt.graph.verify import verify

__all__ = [
    "DType",
    "Graph",
    "Layout",
    "Node",
    "Op",
    "TensorType",
    "Trait",
    "Value",
    "b8",
    "bf16",
    "f16",
    "f32",
    "f64",
    "i8",
    "i16",
    "i32",
    "i64",
    "interpret",
    "parse",
    "u8",
    "u16",
    "u32",
    "u64",
    "verify",
]
