from __future__ import annotations

import pytest

from jitrt.errors import GraphError
from jitrt.graph import Graph, Layout, TensorType, f16, f32
from jitrt.graph.draw import draw_module, find_module, label
from jitrt.graph.ops import Cast, Concat, MaxPool, Region, Relu, Sigmoid, Slice


def branches() -> Graph:
    """Two branches of unequal length from %x into a concat."""
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (1, 4, 8, 8)))
    long = graph.add(MaxPool((3, 3), (1, 1), (1, 1)), graph.add(Relu(), x))
    graph.mark_output(graph.add(Concat(1), long, graph.add(Relu(), x)))
    return graph


def test_branches_stand_side_by_side_between_source_and_join():
    lines = draw_module(find_module(branches())).splitlines()
    assert "f32[1, 4, 8, 8]" in lines[0]
    assert any(line.count("relu") == 2 for line in lines)
    assert sum("max_pool 3x3" in line for line in lines) == 1
    assert "concat" in lines[-1]


def test_a_node_that_begins_several_branches_is_one_box_across_them():
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (1, 4, 8, 8)))
    wide = graph.add(Relu(), x)
    parts = [graph.add(Slice((0, i, 0, 0), (1, i + 2, 8, 8), (1, 1, 1, 1)), wide) for i in (0, 2)]
    branches = [graph.add(Sigmoid(), parts[0]), graph.add(Sigmoid(), parts[1]), graph.add(Sigmoid(), x)]
    graph.mark_output(graph.add(Concat(1), *branches))
    assert draw_module(find_module(graph)).splitlines() == [
        "           f32[1, 4, 8, 8]",
        "           ┌───────────────────┐",
        "┌──────────┴───────────┐  ┌────┴────┐",
        "│         relu         │  │ sigmoid │",
        "└────┬────────────┬────┘  └────┬────┘",
        "┌────┴────┐  ┌────┴────┐       │",
        "│ sigmoid │  │ sigmoid │       │",
        "└────┬────┘  └────┬────┘       │",
        "     └────────────┴────────────┘",
        "       concat  f32[1, 8, 8, 8]",
    ]


def test_a_concat_in_place_is_drawn_as_memory():
    graph = branches()
    (join,) = [node for node in graph.nodes if isinstance(node.op, Concat)]
    strides, start = join.output.type.strides, 0
    for value in join.inputs:
        value.type = value.type.with_layout(Layout(strides, start, join.output.name))
        start += 256
    lines = draw_module(find_module(graph)).splitlines()
    assert "(each branch wrote its part of)  f32[1, 8, 8, 8]" in lines[-1]


def test_a_graph_without_branches_has_no_module():
    with pytest.raises(GraphError, match="0 modules"):
        find_module(Graph("plain"))


def test_a_kernel_is_named_without_its_casts():
    def region(*ops):
        body = Graph("region")
        value = body.add_input("i0", TensorType(f32, (4,)))
        for op in ops:
            value = body.add(op, value)
        body.mark_output(value)
        graph = Graph("g")
        return graph.append(Region(body), [graph.add_input("x", TensorType(f32, (4,)))])

    assert label(region(Cast(f16), Relu(), Cast(f32))) == "relu"
    assert label(region(Cast(f16))) == "cast"
