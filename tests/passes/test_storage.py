from __future__ import annotations

import pytest

from jitrt.errors import GraphError
from jitrt.graph import parse
from jitrt.graph.types import Layout
from jitrt.passes.storage import is_structural, moved_types, owns_storage, place, root_of, sources, storage_of

_VIEWS = """
    graph g(%x: f32[2,6]{6,1}) {
      %a = relu(%x) : f32[2,6]{6,1}
      %b = reshape(%a) <shape=(2, 2, 3)> : f32[2,2,3]{6,3,1+0@%a}
      %c = permute(%b) <order=(0, 2, 1)> : f32[2,3,2]{6,1,3+0@%a}
      %d = slice(%c) <start=(0, 1, 0), stop=(2, 3, 2), step=(1, 1, 1)> : f32[2,2,2]{6,1,3+1@%a}
      %e = neg(%d) : f32[2,2,2]{4,2,1}
      return %e
    }"""


def _values():
    graph = parse(_VIEWS)
    return graph, {v.name: v for v in graph.values()}


def test_a_view_lies_in_its_root():
    graph, values = _values()
    assert [storage_of(values[n]) for n in "abcde"] == ["a", "a", "a", "a", "e"]
    assert [owns_storage(values[n]) for n in "abcde"] == [True, False, False, False, True]
    assert root_of(graph, values["d"]) is values["a"]
    assert root_of(graph, values["e"]) is values["e"]
    assert [node.op.name for node in sources(values["d"])] == ["slice", "permute", "reshape"]


def test_a_storage_that_is_not_there():
    graph, values = _values()
    values["d"].type = values["d"].type.with_layout(Layout((4, 2, 1), 0, "nobody"))
    with pytest.raises(GraphError, match="%nobody, which does not exist"):
        root_of(graph, values["d"])


def test_views_are_structural_and_so_are_concats_written_in_place():
    graph, _ = _values()
    assert [is_structural(node) for node in graph.nodes] == [False, True, True, True, False]
    text = """
        graph g(%x: f32[2,2]{{2,1}}) {{
          %a = relu(%x) : f32[2,2]{{{place}}}
          %b = neg(%x) : f32[2,2]{{4,1+2@%c}}
          %c = concat(%a, %b) <axis=1> : f32[2,4]{{4,1}}
          return %c
        }}"""
    assert [is_structural(n) for n in parse(text.format(place="4,1+0@%c")).nodes] == [False, False, True]
    assert [is_structural(n) for n in parse(text.format(place="2,1")).nodes] == [False, False, False]


def test_placing_a_view_places_what_computed_it():
    _, values = _values()
    computed, layout = place(values["c"], Layout((12, 1, 3), 5, "somewhere"))
    assert computed is values["a"]
    assert layout == Layout((12, 1), 5, "somewhere")
    assert place(values["d"], Layout((4, 2, 1))) is None  # only part of %a


def test_moving_a_value_moves_its_views():
    graph, values = _values()
    types = moved_types(graph, values["a"], Layout((10, 1), 4, "big"))
    assert {v.name: str(t) for v, t in types.items()} == {
        "a": "f32[2,6]{10,1+4@%big}",
        "b": "f32[2,2,3]{10,3,1+4@%big}",
        "c": "f32[2,3,2]{10,1,3+4@%big}",
        "d": "f32[2,2,2]{10,1,3+5@%big}",
    }


def test_a_move_that_would_need_a_copy_is_refused():
    graph = parse(
        """
        graph g(%x: f32[2,6]{6,1}) {
          %a = relu(%x) : f32[2,6]{6,1}
          %b = reshape(%a) <shape=(12,)> : f32[12]{1+0@%a}
          %c = neg(%b) : f32[12]{1}
          return %c
        }"""
    )
    a = graph.nodes[0].output
    assert moved_types(graph, a, Layout((10, 1))) == "reshape of it would need a copy there"
    graph.nodes[1].output.type = graph.nodes[1].output.type.with_layout(Layout((1,)))
    assert moved_types(graph, a, Layout((6, 1), 0, "big")) == "a view of it, %b, is an output of the graph"
