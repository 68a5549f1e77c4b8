"""Small ONNX graphs written as text, and whether what they are imported as means the same.

>>> same("y = Gather <axis = 1> (x, i)", known="i", x=np.ones((2, 3)), i=np.array([2, 0]))
Graph(...)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator

from jitrt.frontend.onnx import import_onnx
from jitrt.graph import Graph, interpret
from jitrt.graph.op import Array

NEWEST = onnx.defs.onnx_opset_version()


def model(text: str, opset: int = NEWEST, outputs: str = "y", **arrays: Array) -> onnx.ModelProto:
    """A model of the nodes in `text`, with inputs like `arrays`; `outputs` names its results."""
    graph = parser.parse_graph(f"test () => () {{ {text} }}")
    for name, array in arrays.items():
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, element, array.shape))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs.split())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def load(text: str, known: str = "", opset: int = NEWEST, outputs: str = "y", **arrays: Array) -> Graph:
    """What it is imported as, with the inputs that `known` names known."""
    constants = {name: arrays[name] for name in known.split()}
    return import_onnx(model(text, opset, outputs, **arrays), constants=constants).graph


def same(text: str, known: str = "", opset: int = NEWEST, outputs: str = "y", **arrays: Array) -> Graph:
    """`load`, after checking that it computes what ONNX's reference does, bit by bit."""
    graph = load(text, known, opset, outputs, **arrays)
    wanted: Any = ReferenceEvaluator(model(text, opset, outputs, **arrays)).run(None, arrays)
    agree(graph, wanted, [array for name, array in arrays.items() if name not in known.split()])
    return graph


def agree(graph: Graph, wanted: list[Any], given: list[Array]) -> None:
    """Assert that a graph's results are those wanted, in type, shape and every element."""
    got = interpret(graph, given)
    assert [(a.dtype, a.shape) for a in got] == [(np.asarray(a).dtype, np.shape(a)) for a in wanted]
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def ops(graph: Graph) -> list[str]:
    """The names of a graph's ops, in order."""
    return [node.op.name for node in graph.nodes]


def close(
    text: str, known: str = "", opset: int = NEWEST, outputs: str = "y", rtol: float = 1e-5, **arrays: Array
) -> Graph:
    """As `same`, but floats may differ by `rtol` of the largest element."""
    graph = load(text, known, opset, outputs, **arrays)
    wanted: Any = ReferenceEvaluator(model(text, opset, outputs, **arrays)).run(None, arrays)
    near(interpret(graph, [array for name, array in arrays.items() if name not in known.split()]), wanted, rtol)
    return graph


def near(got: Any, wanted: Any, rtol: float = 1e-5) -> None:
    """Assert that results are those wanted in type and shape, and within `rtol` of the largest element wanted."""
    assert [(a.dtype, a.shape) for a in got] == [(np.asarray(a).dtype, np.shape(a)) for a in wanted]
    for one, other in zip(got, wanted, strict=True):
        wide = np.asarray(other).astype(np.float64)
        size = np.abs(wide[np.isfinite(wide)]).max(initial=0)
        np.testing.assert_allclose(one.astype(np.float64), wide, rtol=rtol, atol=rtol * size)
