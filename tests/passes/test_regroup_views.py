"""Joins that are taken apart again, as torch.nn.MultiheadAttention makes them."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f32, interpret
from jitrt.graph.ops import Permute, Reshape
from jitrt.passes.base import PassContext
from jitrt.passes.regroup_views import refinement, regroup_views

Shape = tuple[int, ...]


def chain(source: Shape, joined: Shape, order: Shape, result: Shape) -> Graph:
    g = Graph("chain")
    x = g.add_input("x", TensorType(f32, source))
    g.mark_output(g.add(Reshape(result), g.add(Permute(order), g.add(Reshape(joined), x))))
    return g


@pytest.mark.parametrize(
    ("source", "joined", "order", "result", "fine", "moved"),
    [
        ((1, 5, 2, 8), (5, 4, 4), (1, 0, 2), (2, 2, 5, 4), (5, 2, 2, 4), (1, 2, 0, 3)),
        ((6, 4, 5), (24, 5), (1, 0), (5, 6, 1, 4), (6, 4, 5), (2, 0, 1)),
        ((3, 4, 1, 5), (1, 12, 5), (2, 1, 0), (5, 3, 2, 2), (3, 4, 5), (2, 0, 1)),
    ],
)
def test_nothing_is_joined(
    source: Shape, joined: Shape, order: Shape, result: Shape, fine: Shape, moved: Shape
) -> None:
    graph, context = chain(source, joined, order, result), PassContext()
    x = np.random.default_rng(0).standard_normal(source).astype(np.float32)
    (before,) = interpret(graph, [x])
    regroup_views(graph, context)
    assert [node.op for node in graph.nodes] == [Reshape(fine), Permute(moved), Reshape(result)]
    np.testing.assert_array_equal(interpret(graph, [x])[0], before)
    assert [d.text for d in context.report] == ["dimensions are not joined only to be taken apart again"]


@pytest.mark.parametrize(
    ("source", "joined", "order", "result"),
    [
        ((5, 16), (5, 4, 4), (1, 0, 2), (4, 20)),  # joins nothing to begin with
        ((6, 4, 5), (24, 5), (1, 0), (5, 4, 6)),  # takes it apart elsewhere
        ((6, 4, 5), (24, 5), (1, 0), (5, 24)),  # leaves it joined
        ((6, 4), (8, 3), (1, 0), (3, 8)),  # has no common parts: 4 and 3
        ((0, 4), (4, 0), (1, 0), (0, 4)),  # has no elements
    ],
)
def test_what_stays(source: Shape, joined: Shape, order: Shape, result: Shape) -> None:
    graph = chain(source, joined, order, result)
    before = [node.op for node in graph.nodes]
    regroup_views(graph, PassContext())
    assert [node.op for node in graph.nodes] == before


def test_refinements() -> None:
    assert refinement((5, 2, 8), (5, 4, 4)) == [5, 2, 2, 4]
    assert refinement((1, 6), (6, 1, 1)) == [6]
    assert refinement((4, 3), (2, 6)) == [2, 2, 3]
    assert refinement((2, 3), (3, 2)) is None
