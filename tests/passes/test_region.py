from __future__ import annotations

import numpy as np

from jitrt.graph import Graph, TensorType, f32, interpret, verify
from jitrt.graph.ops import Add, Exp, Linear, Mul, Relu
from jitrt.graph.types import Layout
from jitrt.passes.layout import layout
from jitrt.passes.pipeline import PassContext
from jitrt.passes.region import body_of, describe, make_region, relaid


def _laid_out() -> Graph:
    graph = Graph("net")
    x = graph.add_input("x", TensorType(f32, (2, 3)))
    y = graph.add(Linear(), x, graph.add_constant(np.ones((4, 3), np.float32)), loc="model.py:1")
    y = graph.add(Mul(), graph.add(Exp(), y, loc="model.py:2"), graph.scalar(0.5, f32))
    graph.mark_output(graph.add(Add(), y, y, name="out"))
    layout(graph, PassContext())
    return graph


def test_a_body_holds_scalars_and_takes_the_rest_as_operands():
    graph = _laid_out()
    body, operands = body_of(graph.nodes, graph.outputs[0])
    verify(body)
    assert str(body).splitlines()[0] == "graph region(%i0: f32[2,3]{3,1}, %i1: f32[4,3]{3,1}) {"
    assert [v.name for v in operands] == ["x", "c"]
    assert [v.type.rank for v in body.constants.values()] == [0]


def test_the_same_nodes_give_the_same_text_whatever_they_are_called():
    first, second = _laid_out(), _laid_out()
    for index, node in enumerate(second.nodes):
        second.rename(node.output, f"other{index}")
    texts = [str(body_of(g.nodes, g.outputs[0])[0]) for g in (first, second)]
    assert texts[0] == texts[1]


def test_types_in_a_body_know_neither_offset_nor_storage():
    graph = _laid_out()
    node = graph.nodes[1]
    node.output.type = node.output.type.with_layout(Layout((8, 1), 3, "elsewhere"))
    body, _ = body_of([node], node.output)
    assert body.outputs[0].type.layout == Layout((8, 1))


def test_a_region_stands_for_its_nodes():
    graph = _laid_out()
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    expected = interpret(graph, [x])
    region = make_region(graph, graph.nodes[1:], graph.outputs[0])
    verify(graph)
    assert [node.op.name for node in graph.nodes] == ["linear", "region"]
    assert graph.outputs[0] is region.output
    assert region.output.name == "out"
    np.testing.assert_allclose(interpret(graph, [x])[0], expected[0], rtol=1e-6)


def test_a_region_is_located_at_its_anchor():
    graph = _laid_out()
    assert make_region(graph, graph.nodes, graph.outputs[0]).loc == "model.py:1"


def test_a_node_others_read_stays_for_them():
    graph = _laid_out()
    graph.mark_output(graph.add(Relu(), graph.nodes[1].output))
    linear, exp = graph.nodes[:2]
    region = make_region(graph, [exp, graph.nodes[2]], graph.nodes[2].output)
    verify(graph)
    assert exp in graph.nodes
    assert linear.output in region.inputs


def test_relaid_changes_layouts_and_nothing_else():
    graph = _laid_out()
    region = make_region(graph, graph.nodes, graph.outputs[0])
    moved = region.output.type.with_layout(Layout((9, 1), 5, "big"))
    body = relaid(region, {region.output: moved})
    assert body.outputs[0].type.layout == Layout((9, 1))
    assert body.inputs[0].type == region.op.body.inputs[0].type
    assert describe(body.nodes) == "linear + exp + mul + add"
