from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from jitrt.errors import GraphError, ShapeError
from jitrt.graph import Graph, Layout, TensorType, f32, interpret, verify
from jitrt.graph.graph import live_nodes
from jitrt.graph.ops import Add, Exp, Linear, Neg, Relu
from jitrt.graph.rebuild import rebuild


@pytest.fixture
def graph() -> Graph:
    """out = relu(x) + neg(relu(x))."""
    g = Graph("g")
    x = g.add_input("x", TensorType(f32, (2,)))
    a = g.add(Relu(), x, name="a", loc="model.py:1")
    g.mark_output(g.add(Add(), a, g.add(Neg(), a, name="b"), name="out"))
    return g


def _names(graph: Graph) -> list[str]:
    return [node.output.name for node in graph.nodes]


def test_use_lists_follow_edits(graph):
    a, b = graph.nodes[0].output, graph.nodes[1].output
    assert a.users == [graph.nodes[1], graph.nodes[2]]
    graph.set_input(graph.nodes[2], 0, b)
    assert a.uses == [(graph.nodes[1], 0)]
    assert sorted(index for _, index in b.uses) == [0, 1]
    graph.replace_uses(b, a)
    assert b.uses == []
    assert len(a.uses) == 3
    graph.erase(graph.nodes[1])
    verify(graph)
    assert _names(graph) == ["a", "out"]


def test_replacing_the_uses_of_an_output_replaces_the_output(graph):
    graph.replace_uses(graph.outputs[0], graph.inputs[0])
    assert graph.outputs == graph.inputs
    graph.replace_uses(graph.inputs[0], graph.inputs[0])
    verify(graph)


def test_what_is_read_cannot_be_erased(graph):
    with pytest.raises(GraphError, match=r"%a is still read"):
        graph.erase(graph.nodes[0])
    with pytest.raises(GraphError, match=r"%out is still read"):
        graph.erase(graph.nodes[2])


def test_nodes_are_inserted_where_told(graph):
    made = graph.append(Exp(), [graph.inputs[0]], before=graph.nodes[1])
    assert graph.nodes[1] is made
    verify(graph)


def test_names_are_unique_and_fit_the_text(graph):
    assert graph.add(Relu(), graph.inputs[0], name="a").name == "a_1"
    assert graph.add(Relu(), graph.inputs[0], name="a").name == "a_2"
    assert graph.add(Relu(), graph.inputs[0], name="conv 1(%x), 'y'").name == "conv_1__x____y_"
    assert graph.add(Relu(), graph.inputs[0], name="/layer1/Conv:0").name == "/layer1/Conv:0"
    assert graph.add(Relu(), graph.inputs[0]).name == "0"
    verify(graph)


def test_rename_is_followed_by_layouts_and_constants(graph):
    root, view = graph.nodes[0].output, graph.nodes[1].output
    view.type = view.type.with_layout(Layout((1,), 0, "a"))
    graph.rename(root, "first")
    assert view.type.layout == Layout((1,), 0, "first")
    graph.rename(root, "first")
    assert root.name == "first"
    graph.rename(root, "out")
    assert root.name == "out_1"
    constant = graph.add_constant(np.ones(2, np.float32), "w")
    graph.rename(constant, "weight")
    assert graph.constants == {"weight": constant}
    assert graph.add(Relu(), graph.inputs[0], name="w").name == "w"


def test_many_are_renamed_at_once(graph):
    nodes = graph.nodes
    first, second = nodes[0].output, nodes[1].output
    second.type = second.type.with_layout(Layout(second.type.strides, storage=first.name))
    graph.rename_all({first: "a", second: "a"})
    assert (first.name, second.name) == ("a", "a_1")
    assert second.type.layout.storage == "a"


def test_a_name_that_is_free_again_is_given_again():
    graph = Graph()
    values = [graph.add_constant(np.float32(i), "c") for i in range(4)]
    assert [value.name for value in values] == ["c", "c_1", "c_2", "c_3"]
    graph.drop_unused_constants([values[1]])
    assert [graph.add_constant(np.float32(0), "c").name for _ in range(2)] == ["c_1", "c_4"]


def test_constants(graph):
    w = graph.add_constant(np.ones(2, np.float32), "w")
    assert w.is_constant
    same = graph.add_constant(np.ones(2, np.float32))
    assert w.digest == same.digest
    graph.set_data(same, np.zeros((2, 1), np.float16))
    assert str(same.type) == "f16[2,1]"
    assert w.digest != same.digest
    assert graph.scalar(3, f32).data == np.float32(3)
    assert graph.drop_unused_constants() == 3
    assert graph.constants == {}
    with pytest.raises(GraphError, match="is no constant"):
        graph.set_data(graph.inputs[0], np.zeros(2))
    with pytest.raises(GraphError, match="is no constant"):
        _ = graph.inputs[0].digest


def test_a_constant_that_is_an_output_is_no_unused_one(graph):
    graph.mark_output(graph.scalar(1, f32))
    assert graph.drop_unused_constants() == 0


def test_sort_restores_the_order(graph):
    before = _names(graph)
    graph.nodes.reverse()
    graph.sort()
    assert _names(graph) == before


def test_sort_finds_a_cycle(graph):
    graph.set_input(graph.nodes[0], 0, graph.nodes[1].output)
    with pytest.raises(GraphError, match="cycle"):
        graph.sort()


def test_clone_shares_data_and_nothing_else(graph):
    weight = graph.add_constant(np.ones(2, np.float32))
    graph.mark_output(graph.add(Add(), graph.inputs[0], weight))
    digest = weight.digest
    copy = graph.clone()
    assert copy == graph
    (same,) = copy.constants.values()
    assert same is not weight
    assert same.data is weight.data
    assert same.digest == digest
    copy.mark_output(copy.inputs[0])
    copy.set_data(same, np.zeros(2, np.float32))
    assert copy != graph
    assert np.all(weight.data == 1)


def test_equality_is_of_text(graph):
    assert graph != "no graph"
    assert hash(graph) == hash(graph)
    other = graph.clone()
    other.rename(other.nodes[0].output, "other")
    assert other != graph


def test_rebuild_changes_ops_and_types(graph):
    laid = rebuild(
        graph,
        op=lambda node: Exp() if node.op == Relu() else node.op,
        type=lambda value: value.type.with_layout(Layout((1,))),
    )
    verify(laid)
    assert [node.op.name for node in laid.nodes] == ["exp", "neg", "add"]
    assert all(v.type.layout == Layout((1,)) for v in laid.values())
    assert laid.nodes[0].loc == "model.py:1"


def test_live_nodes(graph):
    dead = graph.append(Exp(), graph.inputs)
    assert live_nodes(graph) == set(graph.nodes) - {dead}
    assert live_nodes(graph, [graph.nodes[1].output]) == set(graph.nodes[:2])


def test_adding_checks_shapes(graph):
    with pytest.raises(ShapeError, match="linear"):
        graph.add(Linear(), graph.inputs[0], graph.add_constant(np.ones((3, 3), np.float32)))


def test_a_node_of_several_outputs_has_no_single_one(graph):
    graph.nodes[0].outputs.append(graph.nodes[1].output)
    with pytest.raises(GraphError, match="2 outputs"):
        _ = graph.nodes[0].output


def test_values_drop_after_their_last_use_and_can_be_observed(graph):
    seen = []
    (out,) = interpret(graph, [np.array([1, -1], np.float32)], observe=lambda node, arrays: seen.append(node.op.name))
    assert seen == ["relu", "neg", "add"]
    np.testing.assert_array_equal(out, [0, 0])


def test_reprs(graph):
    assert repr(graph.inputs[0]) == "%x: f32[2]"
    assert repr(graph.nodes[0]) == "%a = relu"
    assert repr(graph) == f"Graph({graph.name!r}, inputs [%x: f32[2]], 3 nodes, outputs [{graph.outputs[0]!r}])"
    assert str(graph).startswith(f"graph {graph.name}(")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))])
def test_a_chain_of_any_length_is_copied_and_pickled(again):
    graph = Graph()
    x = value = graph.add_input("x", TensorType(f32, (3,)))
    for _ in range(2000):
        value = graph.add(Add(), value, x)
    graph.mark_output(value)
    other = again(graph)
    assert other == graph
    verify(other)
    assert other.inputs[0].uses == [
        (node, i) for node in other.nodes for i in (0, 1) if node.inputs[i] is other.inputs[0]
    ]
    assert other.add(Add(), other.outputs[0], other.inputs[0]).name not in [value.name for value in graph.values()]


def test_what_refers_to_a_node_still_does():
    graph = Graph()
    value = graph.add(Add(), *(graph.add_input(name, TensorType(f32, (3,))) for name in "xy"))
    other, node = pickle.loads(pickle.dumps((graph, value.producer)))
    assert node is other.nodes[0]
    node, other = pickle.loads(pickle.dumps((value.producer, graph)))
    assert node is other.nodes[0]
    assert node.output.producer is node
