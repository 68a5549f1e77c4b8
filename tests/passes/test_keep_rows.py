"""Rows that are flattened for a linear layer and taken apart after it."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f32, interpret
from jitrt.graph.ops import Add, Linear, Relu, Reshape
from jitrt.passes.base import PassContext
from jitrt.passes.keep_rows import keep_rows
from jitrt.passes.merge_views import merge_views
from jitrt.passes.sink_views import sink_views

Shape = tuple[int, ...]


def flattened(source: Shape, flat: Shape, apart: Shape, *, read_twice: bool = False) -> Graph:
    rng = np.random.default_rng(0)
    g = Graph("flattened")
    x = g.add(Relu(), g.add_input("x", TensorType(f32, source)))
    w, bias = (g.add_constant(rng.standard_normal(shape).astype(np.float32)) for shape in ((4, flat[-1]), (4,)))
    value = g.add(Add(), g.add(Linear(), g.add(Reshape(flat), x), w), bias)
    g.mark_output(g.add(Relu(), g.add(Reshape(apart), value)))
    if read_twice:
        g.mark_output(value)
    return g


@pytest.mark.parametrize("source", [(2, 3, 6), (2, 3, 2, 3), (6, 6)])
def test_rows_stay_as_they_are(source: Shape) -> None:
    graph, context = flattened(source, (6, 6), (2, 3, 4)), PassContext()
    x = np.random.default_rng(1).standard_normal(source).astype(np.float32)
    (before,) = interpret(graph, [x])
    for step in (keep_rows, sink_views, merge_views):
        step(graph, context)
    np.testing.assert_allclose(interpret(graph, [x])[0], before, rtol=1e-6)
    kinds = [node.op.name for node in graph.nodes if node.op != Reshape((2, 3, 6))]
    assert kinds == ["relu", "linear", "add", "relu"]
    assert "linear reads its rows as they come, without flattening them" in [d.text for d in context.report]


@pytest.mark.parametrize(
    "graph",
    [
        flattened((2, 3, 6), (6, 6), (6, 2, 2)),  # the columns are taken apart
        flattened((2, 3, 6), (6, 6), (3, 8)),  # nothing is
        flattened((2, 3, 6), (6, 6), (2, 3, 4), read_twice=True),
        flattened((2, 2, 6), (2, 2, 6), (2, 1, 2, 4)),  # it was not flattened
    ],
)
def test_what_stays(graph: Graph) -> None:
    context = PassContext()
    keep_rows(graph, context)
    assert not list(context.report)
