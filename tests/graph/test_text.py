from __future__ import annotations

import math

import numpy as np
import pytest

from jitrt.errors import GraphError
from jitrt.graph import Graph, TensorType, bf16, f16, f32, i64, interpret, parse, u8, verify
from jitrt.graph.ops import Add, Cast, Clamp, Conv, Greater, LeakyRelu, Linear, Pad, Region, Relu
from jitrt.graph.text import parse_type, to_text
from jitrt.passes import optimize


def _round_trips(graph: Graph) -> Graph:
    data = {v.digest: v.data for v in graph.constants.values()}
    copy = parse(str(graph), data)
    verify(copy)
    assert str(copy) == str(graph)
    assert copy == graph
    return copy


def test_the_text_form():
    graph = Graph("demo")
    x = graph.add_input("x", TensorType(f32, (2, 3)))
    weight = graph.add_constant(np.arange(6, dtype=np.float32).reshape(2, 3), "fc.weight")
    graph.mark_output(graph.add(Linear(), x, weight, loc="model.py:7"))
    assert str(graph) == (
        "graph demo(%x: f32[2,3]) {\n"
        "  const %fc.weight: f32[2,3] = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]\n"
        "  %0 = linear(%x, %fc.weight) <tf32=False> : f32[2,2] @ 'model.py:7'\n"
        "  return %0\n"
        "}"
    )
    assert "model.py" not in to_text(graph, locations=False)
    copy = _round_trips(graph)
    np.testing.assert_array_equal(interpret(copy, [np.ones((2, 3), np.float32)])[0], [[3, 12], [3, 12]])


@pytest.mark.parametrize(
    "op", [Clamp(-math.inf, 3.0), Clamp(0.0, math.inf), LeakyRelu(math.nan), Cast(f16), Cast(bf16)]
)
def test_attributes_round_trip(op):
    graph = Graph("g")
    graph.mark_output(graph.add(op, graph.add_input("x", TensorType(f32, (2,)))))
    _round_trips(graph)


def test_nested_tuples_round_trip():
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (1, 1, 3, 3)))
    y = graph.add(Pad(((0, 0), (0, 0), (1, 2), (0, 1)), -math.inf), x)
    weight = graph.add_constant(np.ones((1, 1, 3, 3), np.float32))
    graph.mark_output(graph.add(Conv((1, 2), ((1, 0), (0, 1)), (1, 1)), y, weight))
    copy = _round_trips(graph)
    assert [node.op for node in copy.nodes] == [node.op for node in graph.nodes]


@pytest.mark.parametrize(
    "data",
    [
        np.array([1.5, -0.0], np.float32),
        np.array(7, np.int64),
        np.array([True, False]),
        np.array([[1, 2]], np.uint8),
        np.array([0.1], bf16.numpy),
        np.array([math.inf, 1.0], np.float32),
        np.array([math.nan], np.float16),
        np.zeros((0, 3), np.float32),
        np.arange(9, dtype=np.float32),
        np.array(2**62 + 1),
    ],
)
def test_constants_round_trip(data):
    graph = Graph("g")
    graph.mark_output(graph.add_constant(data, "c"))
    (constant,) = _round_trips(graph).constants.values()
    assert constant.data.dtype == data.dtype
    np.testing.assert_array_equal(constant.data.astype(np.float64), data.astype(np.float64))


def test_names_and_locations_of_any_front_end():
    graph = Graph("my model (v2)")
    x = graph.add_input("input:0", TensorType(f32, (2,)))
    y = graph.add(Relu(), x, name="/block.1/Relu_output:0", loc="it's \"here\" @ 'there' : f32[3]")
    graph.mark_output(graph.add(Relu(), y, loc="plain"))
    copy = _round_trips(graph)
    assert [node.loc for node in copy.nodes] == [node.loc for node in graph.nodes]
    assert copy.nodes[0].output.name == "/block.1/Relu_output:0"


def test_layouts_and_regions_round_trip():
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (2, 3)))
    y = graph.add(Relu(), graph.add(Add(), x, graph.scalar(2.5, f32), loc="a.py:1"))
    graph.mark_output(graph.add(Greater(), y, x))
    optimised = optimize(graph)
    assert isinstance(optimised.nodes[0].op, Region)
    copy = _round_trips(optimised)
    assert copy.nodes[0].op.body == optimised.nodes[0].op.body


def test_an_empty_graph_and_several_outputs():
    graph = Graph("g")
    _round_trips(graph)
    x = graph.add_input("x", TensorType(u8, ()))
    graph.mark_output(x, x)
    assert len(_round_trips(graph).outputs) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 'graph NAME(...) {', the text ends"),
        ("nonsense", "expected 'graph NAME(...) {', got 'nonsense'"),
        ("graph g() {\nreturn", "expected '}', the text ends"),
        ("graph g() {\nreturn\nx", "expected '}', got 'x'"),
        (
            "graph g(%x: f32[2]) {\n%a = region(%x) graph r(%i0: f32[2]) {\nreturn %i0",
            "expected '} : type', the text ends",
        ),
        ("graph g() {", "ends inside a graph"),
        ("graph g() {\nreturn\n}\nmore", "unexpected text after the graph: 'more'"),
        ("graph g() {\nreturn %a\n}", "%a is not defined"),
        ("graph g() {\nnonsense\n}", "cannot read line: 'nonsense'"),
        ("graph g(%x: f32[2]) {\n%a = nosuchop(%x) : f32[2]\nreturn %a\n}", "unknown op 'nosuchop'"),
        ("graph g(%x: f32[2]) {\n%a = relu(%y) : f32[2]\nreturn %a\n}", "%y is not defined"),
        ("graph g(%x: f32[2]) {\n%a = relu(%x) <slope=1> : f32[2]\nreturn %a\n}", "cannot read the attributes of relu"),
        ("graph g(%x: f32[2]) {\n%a = cast(%x) <dtype='f7'> : f32[2]\nreturn %a\n}", "'f7' is not a valid DType"),
        ("graph g(%x: f32[2]) {\n%a = clamp(%x) <low=f()> : f32[2]\nreturn %a\n}", "cannot read the attributes"),
        ("graph g(%x: f32[2]) {\n%a = clamp(%x) <low=> : f32[2]\nreturn %a\n}", "cannot read the attributes"),
        ("graph g(%x: f32[2]) {\n%a, %b = relu(%x) : f32[2]\nreturn %a\n}", "2 outputs but 1 types"),
        ("graph g() {\nconst %c: f32[9] = #0123\nreturn %c\n}", "no data given for constant #0123"),
        ("graph g() {\nconst %c: f9[1] = [1.0]\nreturn %c\n}", "not a dtype: 'f9'"),
        (
            "graph g(%x: f32[2]) {\n%a = region(%x) graph r(%i0: f32[2]) {\nreturn %i0\nnope\n}",
            "expected '} : type', got 'nope'",
        ),
    ],
)
def test_a_bad_line_is_named(text, message):
    with pytest.raises(GraphError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_bad_type_is_named():
    assert parse_type(" i64[2] ") == TensorType(i64, (2,))
    with pytest.raises(GraphError, match="not a type: 'f32'"):
        parse_type("f32")
