from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Add, Concat, Gather
from jitrt.passes import fold_constants as module
from jitrt.passes.base import PassContext
from jitrt.passes.fold_constants import fold_constants


def test_a_chain_of_constants_becomes_one(rewrites):
    rewrites(
        fold_constants,
        """
        graph g(%x: f32[2,2]) {
          const %w: f32[2,2] = [[1.0, 2.0], [3.0, 4.0]]
          const %s: f32[] = 2.0
          %0 = permute(%w) <order=(1, 0)> : f32[2,2]
          %1 = mul(%0, %s) : f32[2,2]
          %2 = matmul(%x, %1) <tf32=False> : f32[2,2]
          return %2
        }""",
        """
        graph g(%x: f32[2,2]) {
          const %c: f32[2,2] = [[2.0, 6.0], [4.0, 8.0]]
          %2 = matmul(%x, %c) <tf32=False> : f32[2,2]
          return %2
        }""",
    )


def test_results_are_rounded_to_their_dtype(rewrites):
    outcome = rewrites(
        fold_constants,
        """
        graph g(%x: f16[2]) {
          const %c: f32[2] = [1.0, 2.5]
          %0 = cast(%c) <dtype='f16'> : f16[2]
          %1 = add(%x, %0) : f16[2]
          return %1
        }""",
        """
        graph g(%x: f16[2]) {
          const %c: f16[2] = [1.0, 2.5]
          %1 = add(%x, %c) : f16[2]
          return %1
        }""",
    )
    assert outcome.done == ["cast of constants computed at build time"]


def test_what_has_no_elements_is_known(rewrites):
    outcome = rewrites(
        fold_constants,
        """
        graph g(%x: f32[2,3]) {
          %0 = slice(%x) <start=(0, 0), stop=(2, 0), step=(1, 1)> : f32[2,0]
          %1 = relu(%0) : f32[2,0]
          %2 = reduce_sum(%1) <axes=(1,), keepdims=True> : f32[2,1]
          %3 = add(%x, %2) : f32[2,3]
          return %3
        }""",
        """
        graph g(%x: f32[2,3]) {
          const %c: f32[2,1] = [[0.0], [0.0]]
          %3 = add(%x, %c) : f32[2,3]
          return %3
        }""",
    )
    assert outcome.done[:2] == ["slice has no elements: dropped", "relu has no elements: dropped"]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (
            "%0 = expand(%c) <shape=(100, 1000)> : f32[100,1000]\n%1 = add(%x, %0) : f32[100,1000]",
            "expand of constants not folded: 4 bytes would become 400000",
        ),
        (
            "%1 = expand(%c) <shape=(3,)> : f32[3]",
            "expand of constants not folded: it is an output of the graph",
        ),
    ],
)
def test_refusals(rewrites, nodes, reason):
    outcome = rewrites(
        fold_constants, f"graph g(%x: f32[100,1000]) {{\nconst %c: f32[1] = [2.0]\n{nodes}\nreturn %1\n}}"
    )
    assert outcome.refused == [reason]


@pytest.mark.parametrize(("count", "folded"), [(40_000, True), (400_000, False)])
def test_what_would_take_a_kernel_is_folded_though_it_grows(count, folded):
    graph = Graph("biases")
    table = graph.add_constant(np.arange(12, dtype=np.float32).reshape(3, 4))
    index = graph.add_constant((np.arange(count) % 3).reshape(count, 1).astype(np.int8))
    x = graph.add_input("x", TensorType(f32, (count, 4)))
    graph.mark_output(graph.add(Add(), x, graph.add(Gather(0), table, index)))
    context = PassContext()
    fold_constants(graph, context)
    assert [node.op.name for node in graph.nodes] == ([] if folded else ["gather"]) + ["add"]
    assert ("not folded" in next(iter(context.report)).text) != folded


def test_a_chain_of_nodes_that_each_double_a_constant_is_not_folded_for_ever(monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 0)
    graph = Graph()
    x, value = graph.add_input("x", TensorType(f32, (1,))), graph.add_constant(np.ones(1 << 14, np.float32))
    for _ in range(8):
        value = graph.add(Concat(0), value, value)
    graph.mark_output(graph.add(Add(), x, value))
    context = PassContext()
    fold_constants(graph, context)
    assert [node.op.name for node in graph.nodes] == ["concat"] * 6 + ["add"]  # 2 and 4 times its bytes are within 8
    assert any("too much has been folded before it" in decision.text for decision in context.report)
