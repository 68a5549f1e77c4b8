from __future__ import annotations

import pytest

from jitrt.passes.merge_views import merge_views
from jitrt.passes.sink_views import sink_views


def test_a_permute_sinks_below_what_could_fuse(rewrites):
    outcome = rewrites(
        sink_views,
        """
        graph g(%x: f32[1,2,3], %y: f32[1,3,2]) {
          const %w: f32[3,3] = #w
          const %scale: f32[3,1] = [[1.0], [2.0], [3.0]]
          const %half: f32[] = 0.5
          %0 = linear(%x, %w) <tf32=False> : f32[1,2,3]
          %1 = permute(%0) <order=(0, 2, 1)> : f32[1,3,2]
          %2 = mul(%1, %scale) : f32[1,3,2]
          %3 = mul(%2, %half) : f32[1,3,2]
          %4 = add(%3, %y) : f32[1,3,2]
          return %4
        }""".replace("f32[3,3] = #w", "f32[3,3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]"),
        """
        graph g(%x: f32[1,2,3], %y: f32[1,3,2]) {
          const %w: f32[3,3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]
          const %scale: f32[3] = [1.0, 2.0, 3.0]
          const %half: f32[] = 0.5
          %0 = linear(%x, %w) <tf32=False> : f32[1,2,3]
          %2 = mul(%0, %scale) : f32[1,2,3]
          %3 = mul(%2, %half) : f32[1,2,3]
          %p = permute(%y) <order=(0, 2, 1)> : f32[1,2,3]
          %v = add(%3, %p) : f32[1,2,3]
          %4 = permute(%v) <order=(0, 2, 1)> : f32[1,3,2]
          return %4
        }""",
    )
    assert outcome.done == ["permute moved below mul", "permute moved below mul", "permute moved below add"]


def test_two_permutes_of_one_residual_stream_cancel(apply):
    text = """
        graph g(%x: f32[2,3]) {
          %0 = relu(%x) : f32[2,3]
          %1 = permute(%0) <order=(1, 0)> : f32[3,2]
          %2 = neg(%0) : f32[2,3]
          %3 = permute(%2) <order=(1, 0)> : f32[3,2]
          %4 = add(%3, %1) : f32[3,2]
          %5 = relu(%4) : f32[3,2]
          return %5
        }"""
    graph = apply(merge_views, apply(sink_views, text).graph).graph
    assert [node.op.name for node in graph.nodes] == ["relu", "neg", "add", "relu", "permute"]


def test_a_reshape_sinks_below_what_needs_no_other_operand(apply):
    graph = apply(
        sink_views,
        """
        graph g(%x: f32[2,3], %y: f32[6]) {
          const %c: f32[] = 2.0
          %0 = exp(%x) : f32[2,3]
          %1 = reshape(%0) <shape=(6,)> : f32[6]
          %2 = relu(%1) : f32[6]
          %3 = mul(%2, %c) : f32[6]
          %4 = add(%3, %y) : f32[6]
          return %4
        }""",
    ).graph
    assert [node.op.name for node in graph.nodes] == ["exp", "relu", "mul", "reshape", "add"]


def test_a_reshape_of_rows_sinks_below_what_goes_along_the_columns(apply):
    text = """
        graph g(%x: f32[2,3,4], %y: f32[4]) {
          %0 = exp(%x) : f32[2,3,4]
          %1 = reshape(%0) <shape=(6, 4)> : f32[6,4]
          %2 = add(%1, %y) : f32[6,4]
          return %2
        }"""
    assert [node.op.name for node in apply(sink_views, text).graph.nodes] == ["exp", "add", "reshape"]


def test_a_permute_of_rows_sinks_below_a_linear_layer_that_makes_heads(apply):
    text = """
        graph g(%x: f32[2,3,4], %w: f32[6,4]) {
          const %b: f32[6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
          %0 = permute(%x) <order=(1, 0, 2)> : f32[3,2,4]
          %1 = linear(%0, %w) <tf32=False> : f32[3,2,6]
          %2 = add(%1, %b) : f32[3,2,6]
          %3 = FOLLOWER
          return %3
        }"""
    heads = "reshape(%2) <shape=(3, 2, 2, 3)> : f32[3,2,2,3]"
    graph = apply(sink_views, text.replace("FOLLOWER", heads)).graph
    assert [node.op.name for node in graph.nodes] == ["linear", "add", "permute", "reshape"]
    assert graph.nodes[0].inputs[0] is graph.inputs[0]
    rows = "reshape(%2) <shape=(6, 6)> : f32[6,6]"
    for follower in (rows, "softmax(%2) <axis=0> : f32[3,2,6]", "permute(%2) <order=(1, 0, 2)> : f32[2,3,6]"):
        graph = apply(sink_views, text.replace("FOLLOWER", follower)).graph
        assert [node.op.name for node in graph.nodes][:2] == ["permute", "linear"]


@pytest.mark.parametrize(
    "nodes",
    [
        "%1 = permute(%x) <order=(1, 0)> : f32[3,2]\n%2 = relu(%1) : f32[3,2]",
        "%0 = exp(%x) : f32[2,3]\n%1 = permute(%0) <order=(1, 0)> : f32[3,2]\n%9 = neg(%1) : f32[3,2]\n"
        "%8 = abs(%1) : f32[3,2]\n%2 = add(%9, %8) : f32[3,2]",
        "%0 = exp(%s) : f32[2,1]\n%1 = permute(%0) <order=(1, 0)> : f32[1,2]\n%2 = add(%1, %y) : f32[3,2]",
        "%0 = exp(%x) : f32[2,3]\n%1 = permute(%0) <order=(1, 0)> : f32[3,2]\n%2 = add(%1, %v) : f32[3,2]",
        "%0 = exp(%x) : f32[2,3]\n%1 = permute(%0) <order=(1, 0)> : f32[3,2]\n%2 = softmax(%1) <axis=1> : f32[3,2]",
        "%0 = exp(%x) : f32[2,3]\n%1 = permute(%0) <order=(1, 0)> : f32[3,2]\n%2 = contiguous(%1) : f32[3,2]{1,3}",
        "%0 = exp(%x) : f32[2,3]\n%1 = permute(%0) <order=(1, 0)> : f32[3,2]\n"
        "%9 = linear(%1, %y) <tf32=False> : f32[3,3]\n%2 = reshape(%9) <shape=(9,)> : f32[9]",
        "%0 = exp(%x) : f32[2,3]\n%1 = permute(%0) <order=(1, 0)> : f32[3,2]\n"
        "%9 = linear(%y, %1) <tf32=False> : f32[3,3]\n%2 = reshape(%9) <shape=(9,)> : f32[9]",
    ],
    ids=[
        "a view of an input",
        "two readers",
        "broadcast",
        "an operand of lower rank",
        "not elementwise",
        "a copy",
        "columns of a linear layer",
        "its weights",
    ],
)
def test_a_view_that_must_stay(rewrites, nodes):
    outcome = rewrites(
        sink_views, f"graph g(%x: f32[2,3], %y: f32[3,2], %s: f32[2,1], %v: f32[2]) {{\n{nodes}\nreturn %2\n}}"
    )
    assert not outcome.done
