from __future__ import annotations

from jitrt.graph import Graph, parse
from jitrt.graph.ops import Region
from jitrt.passes.fuse_pointwise import fuse_pointwise


def _kernels(graph: Graph) -> list[str]:
    return [
        "+".join(n.op.name for n in node.op.body.nodes) if isinstance(node.op, Region) else node.op.name
        for node in graph.nodes
    ]


def test_a_tree_becomes_one_region(apply):
    outcome = apply(
        fuse_pointwise,
        """
        graph g(%x: f32[2,3]{3,1}, %y: f32[3]{1}) {
          const %c: f32[]{} = 2.0
          %0 = exp(%y) : f32[3]{1}
          %1 = mul(%x, %c) : f32[2,3]{3,1}
          %2 = add(%1, %0) : f32[2,3]{3,1}
          %3 = mul(%2, %2) : f32[2,3]{3,1}
          return %3
        }""",
    )
    assert _kernels(outcome.graph) == ["exp+mul+add+mul"]
    assert outcome.done == ["exp + mul + add + mul in one kernel"]


def test_branches_that_join_again_are_one_region(apply):
    outcome = apply(
        fuse_pointwise,
        """
        graph g(%x: f32[2]{1}) {
          %0 = exp(%x) : f32[2]{1}
          %1 = neg(%0) : f32[2]{1}
          %2 = abs(%0) : f32[2]{1}
          %3 = add(%1, %2) : f32[2]{1}
          return %3
        }""",
    )
    assert _kernels(outcome.graph) == ["exp+neg+abs+add"]


_FORK = """
    graph g(%x: f32[2]{1}) {
      %0 = exp(%x) : f32[2]{1}
      %1 = neg(%0) : f32[2]{1}
      %2 = softmax(%0) <axis=0> : f32[2]{1}
      return %1, %2
    }"""


def test_what_others_read_is_a_region_of_its_own(apply):
    outcome = apply(fuse_pointwise, _FORK)
    assert _kernels(outcome.graph) == ["exp", "neg", "softmax"]
    assert outcome.refused == ["exp not fused with neg: others read its result too"]


def test_an_output_is_a_region_of_its_own(apply):
    outcome = apply(fuse_pointwise, _FORK.replace("%2 = softmax(%0) <axis=0> : f32[2]{1}", "").replace("%2", "%0"))
    assert _kernels(outcome.graph) == ["exp", "neg"]
    assert outcome.refused == ["exp not fused with neg: its result is an output of the graph"]


def test_a_kernel_that_refuses_says_why(apply):
    text = "graph g(%x: f32[2]{1}) {\n%0 = exp(%x) : f32[2]{1}\n%1 = neg(%0) : f32[2]{1}\nreturn %1\n}"
    outcome = apply(fuse_pointwise, text, accepts=lambda body: "too long" if len(body.nodes) > 1 else None)
    assert _kernels(outcome.graph) == ["exp", "neg"]
    assert outcome.refused == ["exp not fused with neg: too long"]


def test_views_and_concats_and_regions_are_left(apply):
    text = """
        graph g(%x: f32[2,2]{2,1}) {
          %0 = pad(%x) <padding=((0, 0), (1, 1)), value=0.0> : f32[2,4]{4,1}
          %1 = permute(%0) <order=(1, 0)> : f32[4,2]{1,4+0@%0}
          %2 = concat(%1, %1) <axis=0> : f32[8,2]{2,1}
          return %2
        }"""
    once = apply(fuse_pointwise, text).graph
    assert _kernels(once) == ["pad", "permute", "concat"]
    assert str(apply(fuse_pointwise, once).graph) == str(once)
    assert parse(text) != once


def test_a_chain_without_end_is_several_regions(apply):
    lines = "".join(f"%{i + 1} = neg(%{i}) : f32[2]{{1}}\n" for i in range(600))
    outcome = apply(fuse_pointwise, f"graph g(%0: f32[2]{{1}}) {{\n{lines}return %600\n}}")
    assert [kernel.count("neg") for kernel in _kernels(outcome.graph)] == [88, 256, 256]
    assert "neg not fused with neg: 256 operations are one kernel" in outcome.refused
