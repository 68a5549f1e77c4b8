from __future__ import annotations

from jitrt.passes.eliminate_common import eliminate_common


def test_equal_nodes_and_equal_constants_merge(rewrites):
    outcome = rewrites(
        eliminate_common,
        """
        graph g(%x: f32[2]) {
          const %c: f32[2] = [1.0, 2.0]
          const %d: f32[2] = [1.0, 2.0]
          %0 = add(%x, %c) : f32[2]
          %1 = add(%x, %d) : f32[2]
          %2 = relu(%0) : f32[2]
          %3 = relu(%1) : f32[2]
          %4 = mul(%2, %3) : f32[2]
          return %4
        }""",
        """
        graph g(%x: f32[2]) {
          const %c: f32[2] = [1.0, 2.0]
          %0 = add(%x, %c) : f32[2]
          %2 = relu(%0) : f32[2]
          %4 = mul(%2, %2) : f32[2]
          return %4
        }""",
    )
    assert outcome.done == ["add computed once instead of twice", "relu computed once instead of twice"]


def test_what_only_looks_equal_stays(rewrites):
    rewrites(
        eliminate_common,
        """
        graph g(%x: f32[2]) {
          const %c: f32[2] = [1.0, 2.0]
          const %d: f32[1,2] = [[1.0, 2.0]]
          const %e: f16[2] = [1.0, 2.0]
          %0 = add(%x, %c) : f32[2]
          %1 = add(%x, %d) : f32[1,2]
          %2 = leaky_relu(%0) <slope=0.1> : f32[2]
          %3 = leaky_relu(%0) <slope=0.2> : f32[2]
          %4 = add(%x, %e) : f32[2]
          return %1, %2, %3, %4
        }""",
    )


def test_two_equal_outputs_become_one_value(apply):
    graph = apply(
        eliminate_common,
        "graph g(%x: f32[2]) {\n%a = relu(%x) : f32[2]\n%b = relu(%x) : f32[2]\nreturn %a, %b\n}",
    ).graph
    assert len(graph.nodes) == 1
    assert graph.outputs[0] is graph.outputs[1]


def test_two_outputs_with_different_layouts_stay(rewrites):
    rewrites(
        eliminate_common,
        "graph g(%x: f32[2,2]) {\n%a = relu(%x) : f32[2,2]\n%b = relu(%x) : f32[2,2]{1,2}\nreturn %a, %b\n}",
    )


def test_large_constants_differ_in_the_middle(apply):
    import numpy as np

    from jitrt.graph import Graph, TensorType, f32
    from jitrt.graph.ops import Add

    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (100,)))
    ones = np.ones(100, np.float32)
    other = ones.copy()
    other[50] = 2
    for data in (ones, other, ones.copy()):
        graph.mark_output(graph.add(Add(), x, graph.add_constant(data)))
    outcome = apply(eliminate_common, graph)
    assert len(outcome.graph.constants) == 2
