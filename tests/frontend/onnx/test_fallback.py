"""ONNX operators without an importer, as steps on the host: right, named, and refused where they cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jitrt.compiler import Options, optimize_for_reference
from jitrt.errors import ShapeError, UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from jitrt.frontend.onnx.fallback import HostStep, host_step
from jitrt.frontend.onnx.registry import Unsupported
from jitrt.graph import Graph, TensorType, f32, i64, interpret, parse, verify
from jitrt.reference import ReferenceEngine

X = np.linspace(-1, 1, 25, dtype=np.float32).reshape(1, 5, 5)


def step(op_type: str, *operands: Any, domain: str = "", opset: int = 21, outputs: int = 1, **attributes: Any) -> Graph:
    """A graph of one step: a TensorType is an input, an array a constant, None left out."""
    g = Graph("step")
    values = []
    for index, operand in enumerate(operands):
        if isinstance(operand, TensorType):
            values.append(g.add_input(f"x{index}", operand))
        else:
            values.append(None if operand is None else g.add_constant(operand))
    names = ["" if value is None else f"v{index}" for index, value in enumerate(values)]
    node = helper.make_node(op_type, names, [f"y{i}" for i in range(outputs)], domain=domain, **attributes)
    results = host_step(g, node, values, domain, opset, "no importer", "here")
    g.mark_output(*(value for value in results if value is not None))
    verify(g)
    return g


SHAPE, BLOCK = np.array([5, 5]), np.array([1, 5])


def col2im() -> Graph:
    return step("Col2Im", TensorType(f32, (1, 5, 5)), SHAPE, BLOCK)


def test_a_step_computes_what_the_reference_does() -> None:
    graph = col2im()
    (node,) = graph.nodes
    assert isinstance(node.op, HostStep)
    assert (node.op.title, node.op.reason, node.loc) == ("Col2Im", "no importer", "here")
    assert graph.outputs[0].type == TensorType(f32, (1, 1, 5, 5))
    (y,) = interpret(graph, [X])
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y[0, 0], X[0].T)


def test_it_round_trips_as_text() -> None:
    graph = col2im()
    constants = {v.digest: v.data for v in graph.constants.values() if v.data is not None}
    assert parse(str(graph), constants) == graph


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_keeps_its_types_in_the_reference_target(precision: str) -> None:
    graph = optimize_for_reference(col2im(), Options(precision=precision)).graph
    (y,) = interpret(graph, [X])
    np.testing.assert_allclose(y[0, 0], X[0].T, atol=1e-3)


def test_the_reference_engine_names_and_costs_it() -> None:
    engine = ReferenceEngine(col2im())
    (layer,) = engine.inspect().layers
    assert (layer.text, layer.location) == ("Col2Im", "here")
    (time,) = engine.profile(X).layers
    assert time.microseconds > 0


def test_an_operand_that_is_left_out() -> None:
    graph = step("Clip", TensorType(f32, (1, 5, 5)), None, np.float32(0.5), None)
    np.testing.assert_array_equal(interpret(graph, [X])[0], np.minimum(X, 0.5))


def test_several_results() -> None:
    graph = step("TopK", TensorType(f32, (1, 5, 5)), np.array([2]), outputs=2)
    values, indices = interpret(graph, [X])
    np.testing.assert_array_equal(values, X[..., :2:-1])
    assert indices.dtype == np.int64


def test_what_is_known_is_computed_at_once() -> None:
    graph = step("NonZero", np.array([0.0, 1.0, 2.0], np.float32))
    assert graph.nodes == []
    np.testing.assert_array_equal(graph.outputs[0].data, [[1, 2]])


def test_operands_of_another_type_are_refused() -> None:
    (node,) = col2im().nodes
    with pytest.raises(ShapeError, match="Col2Im takes"):
        node.op.infer(TensorType(f32, (1, 5, 6)), TensorType(i64, (2,)), TensorType(i64, (2,)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: step("NonZero", TensorType(f32, (3,))), "depends on values"),
        (lambda: step("RandomNormalLike", TensorType(f32, (3,))), "random"),
        (lambda: step("Dropout", TensorType(f32, (3,)), None, np.bool_(True)), "random"),
        (lambda: step("Nowhere", TensorType(f32, (3,)), domain="com.example"), "no tensor of a type|reference"),
        (lambda: step("Relu", TensorType(f32, (3,)), TensorType(f32, (3,))), "shape inference|reference"),
        (lambda: host_step(Graph(), helper.make_node("Relu", ["a"], ["b"]), [[]], "", 21, "", ""), "sequence"),
        (
            lambda: host_step(
                Graph(),
                helper.make_node("If", ["a"], ["b"], then_branch=helper.make_graph([], "g", [], [])),
                [],
                "",
                21,
                "",
                "",
            ),
            "subgraph",
        ),
    ],
)
def test_what_cannot_be_a_step_says_why(build: Any, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        build()


def test_an_attribute_in_a_file_is_not_read() -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "value")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Relu", ["a"], ["b"])
    node.attribute.append(helper.make_attribute("value", tensor))
    with pytest.raises(Unsupported, match="file of its own"):
        host_step(Graph(), node, [], "", 21, "", "")


# -- through the importer --------------------------------------------------------------------------------------------


def model(op_type: str, domain: str, opset: int, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x"], ["y"], domain=domain, name="odd", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(domain, opset)]
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets)


def test_fallback_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitrt.frontend.onnx.importer.importer_of", lambda domain, name, opset: None)
    binarizer = model("Binarizer", "ai.onnx.ml", 1, threshold=0.5)
    with pytest.raises(UnsupportedOpError, match="ml::Binarizer"):
        import_onnx(binarizer)
    graph = import_onnx(binarizer, fallback=True).graph
    assert [getattr(node.op, "title", "") for node in graph.nodes] == ["ai.onnx.ml::Binarizer"]
    (y,) = interpret(graph, [np.array([[0, 0.5, 1], [2, -1, 0.6]], np.float32)])
    np.testing.assert_array_equal(y, [[0, 0, 1], [1, 0, 1]])


def test_what_cannot_fall_back_is_named_with_both_reasons() -> None:
    with pytest.raises(UnsupportedOpError, match="no importer, and no step on the host"):
        import_onnx(model("Nothing", "com.example", 1), fallback=True)
