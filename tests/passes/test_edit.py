from __future__ import annotations

import pytest

from jitrt.graph import parse, verify
from jitrt.passes.edit import bypass, is_no_op, only_reader, remove_dead

_TEXT = """
    graph g(%x: f32[2,2]) {
      const %c: f32[2] = [1.0, 2.0]
      %a = relu(%x) : f32[2,2]
      %b = dropout(%a) : f32[2,2]{1,2}
      %d = add(%x, %c) : f32[2,2]
      return %b
    }"""


def test_bypass_hands_an_outputs_name_and_layout_on():
    graph = parse(_TEXT)
    assert bypass(graph, graph.nodes[1], graph.nodes[0].output)
    verify(graph)
    assert str(graph.outputs[0].type) == "f32[2,2]{1,2}"
    assert graph.outputs[0].name == "b"


@pytest.mark.parametrize("of", ["input", "other output"])
def test_bypass_refuses_what_cannot_be_that_output(of):
    graph = parse(_TEXT)
    if of == "other output":
        graph.mark_output(graph.nodes[0].output)
    before = str(graph)
    value = graph.inputs[0] if of == "input" else graph.nodes[0].output
    assert not bypass(graph, graph.nodes[1], value)
    assert str(graph) == before


def test_remove_dead_takes_nodes_and_constants():
    graph = parse(_TEXT)
    assert [node.op.name for node in remove_dead(graph)] == ["add"]
    assert not graph.constants
    verify(graph)


def test_only_reader():
    graph = parse(_TEXT)
    a, b, _ = (node.output for node in graph.nodes)
    assert only_reader(graph, a) is graph.nodes[1]
    assert only_reader(graph, b) is None
    assert only_reader(graph, graph.inputs[0]) is None


@pytest.mark.parametrize(
    ("node", "no_op"),
    [
        ("dropout(%x) : f32[2,1]", True),
        ("contiguous(%x) : f32[2,1]", True),
        ("reshape(%x) <shape=(2, 1)> : f32[2,1]", True),
        ("reshape(%x) <shape=(1, 2)> : f32[1,2]", False),
        ("cast(%x) <dtype='f32'> : f32[2,1]", True),
        ("cast(%x) <dtype='f16'> : f16[2,1]", False),
        ("relu(%x) : f32[2,1]", False),
        ("concat(%x) <axis=0> : f32[2,1]", True),
        ("softmax(%x) <axis=0> : f32[2,1]", False),
    ],
)
def test_is_no_op(node, no_op):
    graph = parse(f"graph g(%x: f32[2,1]) {{\n%y = {node}\nreturn %y\n}}")
    assert is_no_op(graph.nodes[0]) is no_op
