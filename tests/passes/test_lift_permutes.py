"""Permutes of rows that a linear layer stands between."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f32, interpret
from jitrt.graph.ops import Add, Exp, Linear, Mul, Permute, Reshape, Softmax
from jitrt.passes.base import PassContext
from jitrt.passes.lift_permutes import lift_permutes
from jitrt.passes.merge_views import merge_views

HEADS = """
    graph g(%x: f32[2,4,3,5]) {
      const %w: f32[2,20] = #w
      const %b: f32[2] = [1.0, 2.0]
      %0 = exp(%x) : f32[2,4,3,5]
      %1 = permute(%0) <order=(2, 0, 1, 3)> : f32[3,2,4,5]
      %2 = reshape(%1) <shape=(3, 2, 20)> : f32[3,2,20]
      %3 = linear(%2, %w) <tf32=False> : f32[3,2,2]
      %4 = add(%3, %b) : f32[3,2,2]
      %5 = permute(%4) <order=(1, 0, 2)> : f32[2,3,2]
      return %5
    }"""
LIFTED = """
    graph g(%x: f32[2,4,3,5]) {
      const %w: f32[2,20] = #w
      const %b: f32[2] = [1.0, 2.0]
      %0 = exp(%x) : f32[2,4,3,5]
      %1 = permute(%0) <order=(0, 2, 1, 3)> : f32[2,3,4,5]
      %2 = reshape(%1) <shape=(2, 3, 20)> : f32[2,3,20]
      %3 = linear(%2, %w) <tf32=False> : f32[2,3,2]
      %5 = add(%3, %b) : f32[2,3,2]
      return %5
    }"""
WEIGHT = f"[[{', '.join(f'{i}.0' for i in range(20))}], [{', '.join(f'{-i}.5' for i in range(20))}]]"


def test_the_permute_meets_the_one_above(rewrites):
    def both(graph, context):
        lift_permutes(graph, context)
        merge_views(graph, context)

    outcome = rewrites(both, HEADS.replace("#w", WEIGHT), LIFTED.replace("#w", WEIGHT))
    assert outcome.done[0] == "permute of rows moved above linear"


def chain(
    *,
    order: tuple[int, ...] = (1, 0, 2),
    source: tuple[int, ...] = (3, 2, 4, 5),
    flat: bool = False,
    scale: tuple[int, ...] = (2,),
    read_twice: bool = False,
    permuted: bool = True,
    between: bool = False,
) -> Graph:
    """exp -> permute -> reshape to (3, 2, 20) -> linear -> mul -> permute; with `flat` the rows are one dimension for a
    while."""
    g = Graph("chain")
    rng = np.random.default_rng(0)
    x = g.add(Exp(), g.add_input("x", TensorType(f32, source)))
    if permuted:
        x = g.add(Permute((1, 0, *range(2, len(source)))), g.add(Permute((1, 0, *range(2, len(source)))), x))
    w, c = (g.add_constant(rng.standard_normal(shape).astype(np.float32)) for shape in ((2, 20), scale))
    y = g.add(Linear(), g.add(Reshape((3, 2, 20)), x), w)
    y = g.add(Add(), g.add(Reshape((6, 2)), y) if flat else y, g.scalar(1.0, f32))
    y = g.add(Reshape((3, 2, 2)), y) if flat else y
    y = g.add(Mul(), y, c)
    y = g.add(Softmax(2), y) if between else y
    g.mark_output(g.add(Permute(order), y))
    if read_twice:
        g.mark_output(y)
    return g


@pytest.mark.parametrize("flat", [False, True])
def test_rows_counted_otherwise_for_a_while_do_not_matter(rewrites_freely, flat: bool) -> None:
    graph = rewrites_freely(chain(flat=flat))
    kinds = [node.op.name for node in graph.nodes]
    assert kinds == ["exp", "permute", "reshape", "linear", "add", "mul"]
    (permute,) = (node for node in graph.nodes if isinstance(node.op, Permute))
    assert permute.op == Permute((1, 0, 2, 3))


@pytest.mark.parametrize(
    "graph",
    [
        chain(order=(0, 2, 1)),
        chain(source=(6, 20)),
        chain(source=(2, 3, 20)),
        chain(permuted=False),
        chain(scale=(3, 2, 2)),
        chain(read_twice=True),
        chain(between=True),
    ],
    ids=["columns", "rows taken apart", "other rows", "no permute above", "full operand", "two readers", "softmax"],
)
def test_what_stays(rewrites, graph: Graph) -> None:
    assert not rewrites(lift_permutes, graph).done


@pytest.fixture
def rewrites_freely():
    """The graph after both passes, which computes the same."""

    def run(graph: Graph) -> Graph:
        x = np.random.default_rng(1).standard_normal(graph.inputs[0].type.shape).astype(np.float32)
        (before,) = interpret(graph, [x])
        for step in (lift_permutes, merge_views):
            step(graph, PassContext())
        np.testing.assert_allclose(interpret(graph, [x])[0], before, rtol=1e-6)
        return graph

    return run
