"""All that is in the way of an ONNX model, found without building it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jitrt.errors import ModelError, OptionError
from jitrt.frontend.onnx.checkup import HOST, REFUSED, Checkup, examine
from jitrt.frontend.onnx.registry import importers


def node(op: str, inputs: str, output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], f"node_{output}", domain=domain, **attributes)


def model(nodes: list[onnx.NodeProto], dims: Any = ("N", 3, "H", "W"), **extra: Any) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 18), ("lab", 1))]
    graph = helper.make_graph(nodes, "graph", [x], [y], **extra)
    return helper.make_model(graph, opset_imports=opsets, producer_name="us", producer_version="3")


def outcomes(found: Checkup) -> dict[str, tuple[str, list[str]]]:
    return {finding.operator: (finding.outcome, finding.nodes) for finding in found.findings}


def test_a_model_that_is_all_there() -> None:
    weights = [helper.make_tensor("w", TensorProto.FLOAT, (8, 3, 3, 3), np.ones(216))]
    found = examine(model([node("Conv", "x w", "c"), node("Relu", "c", "y")], initializer=weights))
    assert found.supported
    assert found.builds
    assert (found.name, found.producer, found.opsets) == ("graph", "us 3", {"": 18, "lab": 1})
    assert (dict(found.operators), found.weights) == ({"Conv": 1, "Relu": 1}, 864)
    assert found.dynamic == {"x": ["N", "H", "W"]}
    assert (found.sizes, found.guessed) == ({"x": (1, 3, 224, 224)}, ("x",))
    given = examine(
        model([node("Conv", "x w", "c"), node("Relu", "c", "y")], initializer=weights), {"x": (2, 3, 10, 10)}
    )
    assert (given.sizes, given.guessed, given.layers) == ({"x": (2, 3, 10, 10)}, (), 2)
    assert given.flops == 2 * 8 * 64 * (2 * 27) + 2 * 8 * 64


def test_all_that_is_missing_is_found_behind_what_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Abs", "Neg"):
        monkeypatch.delitem(importers(), ("", name))
    typed = [helper.make_tensor_value_info("d", TensorProto.FLOAT, (4,))]
    nodes = [
        node("Abs", "x", "a"),
        node("Sin", "a", "b"),
        node("Abs", "b", "c"),
        node("Strange", "c", "d", "lab"),
        node("Relu", "d", "e"),
        node("Neg", "e", "f"),
        node("Unknown", "f", "g", "lab"),
        node("Odd", "g", "h", "lab"),
        node("Sin", "h", "y"),
    ]
    found = examine(model(nodes, (4,), value_info=typed))
    assert outcomes(found) == {
        "Abs": (HOST, ["node_a (Abs)", "node_c (Abs)"]),
        "lab::Strange": (REFUSED, ["node_d (Strange)"]),
        "Neg": (HOST, ["node_f (Neg)"]),
        "lab::Unknown": (REFUSED, ["node_g (Unknown)"]),
        "lab::Odd": (REFUSED, ["node_h (Odd)"]),
    }
    assert found.unsupported == {"Abs": 2, "lab::Strange": 1, "Neg": 1, "lab::Unknown": 1, "lab::Odd": 1}
    assert found.hidden == 2  # Odd, which was looked at by name, and the Sin behind it
    assert not found.builds
    assert [finding.flops for finding in found.findings] == [8, 0, 4, 0, 0]
    assert found.flops == 3 * 4 + 2 * 4  # steps and ops as far as types are known
    assert found.host_share == 12 / 20


def test_a_model_that_falls_back_builds() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(importers(), ("", "Abs"))
        found = examine(model([node("Abs", "x", "a"), node("Relu", "a", "y")], (4,)))
    assert (found.builds, found.supported, found.host_share) == (True, False, 0.5)


def test_numbers_that_decide_what_is_built_are_named() -> None:
    size = helper.make_tensor_value_info("size", TensorProto.INT64, (1,))
    made = model([node("Reshape", "x size", "a"), node("Relu", "a", "y")], (4,))
    made.graph.input.append(size)
    found = examine(made)
    assert list(found.values) == ["size"]
    assert "node_a (Reshape)" in found.values["size"]
    assert (found.supported, found.hidden) == (True, 1)


def test_what_else_ends_a_build_is_said_and_the_operators_are_looked_at_all_the_same() -> None:
    weights = [helper.make_tensor("w", TensorProto.FLOAT, (7,), np.ones(7))]
    found = examine(model([node("Add", "x w", "a"), node("Strange", "a", "y", "lab")], (4,), initializer=weights))
    assert found.failure is not None
    assert "node_a (Add)" in found.failure
    assert outcomes(found) == {"lab::Strange": (REFUSED, ["node_y (Strange)"])}
    assert not found.builds
    text = model([node("Relu", "x", "y")], (4,))
    text.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    assert "no element type string" in str(examine(text).failure)


def test_nodes_inside_are_counted_and_dims_of_one_name_have_one_size() -> None:
    then = helper.make_graph([node("Sin", "x", "t")], "then", [], [helper.make_tensor_value_info("t", 1, None)])
    other = helper.make_graph([node("Cos", "x", "t")], "else", [], [helper.make_tensor_value_info("t", 1, None)])
    yes = helper.make_tensor("yes", TensorProto.BOOL, (), [True])
    made = model([node("If", "yes", "y", then_branch=then, else_branch=other)], ("seq", "N"), initializer=[yes])
    made.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ("N", "seq")))
    found = examine(made)
    assert dict(found.operators) == {"If": 1, "Sin": 1, "Cos": 1}
    assert found.sizes == {"x": (1, 16), "other": (16, 1)}


def test_what_is_no_model_is_an_error() -> None:
    with pytest.raises(ModelError):
        examine(b"nonsense")
    with pytest.raises(OptionError, match="no input 'z'"):
        examine(model([node("Relu", "x", "y")]), {"z": (1,)})
