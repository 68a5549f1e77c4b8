"""Where a graph is cut: few turns, no value lost, the same meaning."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, Node, TensorType, f32, interpret, verify
from jitrt.graph.ops import Add, Exp, Neg, Relu, Reshape
from jitrt.hybrid.cut import Part, cut
from jitrt.hybrid.prepare import prepare

X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def branches() -> Graph:
    """relu -> exp -> neg, and both ends of it added, with a constant."""
    g = Graph("branches")
    x = g.add_input("x", TensorType(f32, (2, 3)))
    a = g.add(Relu(), x, name="a")
    b = g.add(Exp(), a, name="b")
    c = g.add(Neg(), b, name="c")
    d = g.add(Add(), a, c, name="d")
    y = g.add(Add(), d, g.add_constant(np.ones((2, 3), np.float32), "w"), name="y")
    g.mark_output(y, b)
    return g


def nodes(graph: Graph, *names: str) -> list[Node]:
    return [node for node in graph.nodes if node.outputs[0].name in names]


def run(parts: list[Part], there: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for part in parts:
        verify(part.graph)
        results = interpret(part.graph, [there[value.name] for value in part.graph.inputs])
        there |= {value.name: result for value, result in zip(part.graph.outputs, results, strict=True)}
    return there


@pytest.mark.parametrize(
    ("host", "places"),
    [
        ((), [False]),
        (("b",), [False, True, False]),
        (("a", "b"), [True, False]),
        (("b", "c"), [False, True, False]),
        (("a", "c"), [True, False, True, False]),
        (("a", "b", "c", "d", "y"), [True]),
    ],
)
def test_parts_take_turns_and_mean_the_same(host: tuple[str, ...], places: list[bool]) -> None:
    graph = branches()
    parts = cut(graph, nodes(graph, *host))
    assert [part.host for part in parts] == places
    there = run(parts, {"x": X})
    for value, expected in zip(graph.outputs, interpret(graph, [X]), strict=True):
        np.testing.assert_array_equal(there[value.name], expected)


def test_independent_steps_share_a_turn() -> None:
    g = Graph("two")
    x = g.add_input("x", TensorType(f32, (4,)))
    for name in "ab":
        g.mark_output(g.add(Neg(), g.add(Exp(), g.add(Relu(), x), name=name)))
    assert [part.host for part in cut(g, nodes(g, "a", "b"))] == [False, True, False]


def test_views_alone_stay_on_the_host() -> None:
    g = Graph("view")
    x = g.add_input("x", TensorType(f32, (4,)))
    g.mark_output(g.add(Exp(), g.add(Reshape((2, 2)), x), name="e"))
    assert [part.host for part in cut(g, nodes(g, "e"))] == [True, True]


def test_nothing_empty_is_left() -> None:
    g = Graph("empty")
    x, none = g.add_input("x", TensorType(f32, (2, 3))), g.add_input("none", TensorType(f32, (0, 3)))
    y, nothing = g.add(Relu(), x, name="y"), g.add(Exp(), g.add(Relu(), none), name="nothing")
    g.mark_output(nothing, y)
    whole = prepare(g, None)
    assert whole.changed
    assert [value.name for value in whole.graph.inputs] == ["x"]
    assert [value.name for value in whole.graph.outputs] == ["y"]
    assert [value.name for value in whole.outputs] == ["nothing", "y"]
    verify(whole.graph)


def test_only_what_was_asked_for_is_prepared() -> None:
    whole = prepare(branches(), ("b",))
    assert [value.name for node in whole.graph.nodes for value in node.outputs] == ["a", "b"]
    assert not whole.changed
    assert prepare(branches(), None).graph.nodes
