from __future__ import annotations

from jitrt.graph import Graph, TensorType, f32, parse
from jitrt.graph.numbered import numbered
from jitrt.graph.ops import Add, Region, Relu
from jitrt.graph.types import Layout

_ONE = """
    graph One(%image: f32[2]) {
      const %unread_first: f32[2] = [3.0, 4.0]
      const %shift: f32[2] = [1.0, 2.0]
      %a = add(%image, %shift) : f32[2] @ 'one.py:1'
      %b = mul(%a, %unread_first) : f32[2] @ 'one.py:2'
      return %b
    }"""
_OTHER = """
    graph Other(%x: f32[2]) {
      const %bias: f32[2] = [1.0, 2.0]
      const %scale: f32[2] = [3.0, 4.0]
      %0 = add(%x, %bias) : f32[2]
      %1 = mul(%0, %scale) : f32[2]
      return %1
    }"""


def test_graphs_that_differ_in_names_lines_and_order_of_constants_have_one_text() -> None:
    one, other = parse(_ONE), parse(_OTHER)
    assert one != other
    assert one.text(names=False, locations=False) == other.text(names=False, locations=False)


def test_graphs_that_mean_something_else_do_not() -> None:
    for change in (("add(%x, %bias)", "sub(%x, %bias)"), ("[1.0, 2.0]", "[1.0, 2.5]"), ("mul(%0, ", "mul(%x, ")):
        other = parse(_OTHER.replace(*change))
        assert parse(_OTHER).text(names=False) != other.text(names=False), change


def test_bodies_are_numbered_and_layouts_follow() -> None:
    def region(names: tuple[str, str, str]) -> Graph:
        body = Graph("body")
        x, y = (body.add_input(name, TensorType(f32, (2,))) for name in names[:2])
        body.mark_output(body.add(Relu(), body.add(Add(), x, y), name=names[2]))
        graph = Graph(names[0])
        x = graph.add_input(names[1], TensorType(f32, (4,)))
        half = TensorType(f32, (2,), Layout((1,), 2, x.name))
        part = graph.append(parse(_SLICE).nodes[0].op, [x], types=[half], names=[names[2]]).output
        graph.mark_output(graph.add(Region(body), part, part))
        return graph

    one, other = region(("a", "b", "c")), region(("e", "f", "g"))
    assert one != other
    assert one.text(names=False) == other.text(names=False)
    assert "f32[2]{1+2@%x0}" in one.text(names=False)


_SLICE = """
    graph g(%x: f32[4]) {
      %0 = slice(%x) <start=(2,), stop=(4,), step=(1,)> : f32[2]
      return %0
    }"""


def test_kept_values_keep_their_names() -> None:
    graph = parse(_ONE)
    assert [v.name for v in numbered(graph, keep={*graph.inputs, *graph.outputs}).outputs] == ["b"]
