from __future__ import annotations

import pytest

from jitrt.graph import Graph, TensorType, Value, f32, parse
from jitrt.graph.op import Op
from jitrt.graph.ops import Concat, Permute, Region, Relu, Slice, Softmax
from jitrt.passes import optimize
from jitrt.passes.join_slices import join_slices


def test_a_split_that_is_joined_again_was_none(rewrites):
    outcome = rewrites(
        join_slices,
        """
        graph g(%x: f32[2,6]) {
          %y = relu(%x) : f32[2,6]
          %a = slice(%y) <start=(0, 0), stop=(2, 2), step=(1, 1)> : f32[2,2]
          %b = slice(%y) <start=(0, 2), stop=(2, 6), step=(1, 1)> : f32[2,4]
          %c = concat(%a, %b) <axis=1> : f32[2,6]
          %out = exp(%c) : f32[2,6]
          return %out
        }""",
        """
        graph g(%x: f32[2,6]) {
          %y = relu(%x) : f32[2,6]
          %out = exp(%y) : f32[2,6]
          return %out
        }""",
    )
    assert outcome.done == ["2 operands of concat are slices of 1 values side by side"]


def test_chunks_that_others_join(rewrites):
    """YOLO's C2f: both halves of a convolution, and what is made of the second."""
    rewrites(
        join_slices,
        """
        graph g(%x: f32[2,6]) {
          %y = relu(%x) : f32[2,6]
          %a = slice(%y) <start=(0, 0), stop=(2, 3), step=(1, 1)> : f32[2,3]
          %b = slice(%y) <start=(0, 3), stop=(2, 6), step=(1, 1)> : f32[2,3]
          %z = exp(%b) : f32[2,3]
          %c = concat(%a, %b, %z) <axis=1> : f32[2,9]
          %out = softmax(%c) <axis=1> : f32[2,9]
          return %out
        }""",
        """
        graph g(%x: f32[2,6]) {
          %y = relu(%x) : f32[2,6]
          %b = slice(%y) <start=(0, 3), stop=(2, 6), step=(1, 1)> : f32[2,3]
          %z = exp(%b) : f32[2,3]
          %c = concat(%y, %z) <axis=1> : f32[2,9]
          %out = softmax(%c) <axis=1> : f32[2,9]
          return %out
        }""",
    )


def test_a_value_lies_across_either_edge(rewrites):
    outcome = rewrites(
        join_slices,
        """
        graph g(%x: f32[2,6]) {
          %y = relu(%x) : f32[2,6]
          %z = exp(%x) : f32[2,6]
          %w = neg(%x) : f32[2,6]
          %a = slice(%y) <start=(0, 2), stop=(2, 6), step=(1, 1)> : f32[2,4]
          %b = slice(%z) <start=(0, 0), stop=(2, 1), step=(1, 1)> : f32[2,1]
          %c = concat(%a, %w, %b) <axis=1> : f32[2,11]
          %out = softmax(%c) <axis=1> : f32[2,11]
          return %out
        }""",
        """
        graph g(%x: f32[2,6]) {
          %y = relu(%x) : f32[2,6]
          %z = exp(%x) : f32[2,6]
          %w = neg(%x) : f32[2,6]
          %all = concat(%y, %w, %z) <axis=1> : f32[2,18]
          %first = slice(%all) <start=(0, 0), stop=(2, 13), step=(1, 1)> : f32[2,13]
          %c = slice(%first) <start=(0, 2), stop=(2, 13), step=(1, 1)> : f32[2,11]
          %out = softmax(%c) <axis=1> : f32[2,11]
          return %out
        }""",
    )
    assert len(outcome.done) == 2


class Edge:
    """%x (2, 6) is an input, %y = relu(%x); `part(v, 2, 6)` is v[:, 2:6]."""

    def __init__(self) -> None:
        self.graph = Graph("edge")
        self.x = self.graph.add_input("x", TensorType(f32, (2, 6)))
        self.y = self(Relu(), self.x, name="y")

    def __call__(self, op: Op, *operands: Value, name: str | None = None) -> Value:
        return self.graph.add(op, *operands, name=name)

    def part(self, value: Value, start: int, stop: int, step: int = 1, rows: int = 2) -> Value:
        return self(Slice((0, start), (rows, stop), (1, step)), value)

    def join(self, *operands: Value) -> Value:
        return self(Concat(1), *operands)


def of_a_view(e: Edge) -> Value:
    return e.join(e.part(e(Permute((1, 0)), e.part(e.x, 0, 2), name="v"), 1, 2), e.part(e.x, 0, 3, rows=2))


def of_an_input(e: Edge) -> Value:
    return e.join(e.part(e.x, 2, 6), e.y)


def of_an_output(e: Edge) -> Value:
    e.graph.mark_output(e.y)
    return e.join(e.part(e.y, 2, 6), e.x)


def that_is_an_output(e: Edge) -> Value:
    joined = e.join(e.part(e.y, 2, 6), e.x)
    e.graph.mark_output(joined)
    return joined


def in_two_concats(e: Edge) -> Value:
    e.graph.mark_output(e(Softmax(1), e.join(e.y, e.x)))
    return e.join(e.part(e.y, 2, 6), e.x)


def beginning_first(e: Edge) -> Value:
    return e.join(e.part(e.y, 0, 4), e.x)


def end_last(e: Edge) -> Value:
    return e.join(e.x, e.part(e.y, 2, 6))


def twice(e: Edge) -> Value:
    return e.join(e.part(e.y, 2, 6), e.x, e.y)


def little_of_much(e: Edge) -> Value:
    return e.join(e.part(e.y, 5, 6), e(Relu(), e.part(e.x, 0, 3)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            of_a_view,
            "a slice as first operand stays by itself: its value has its place in memory from what it is made of",
        ),
        (of_an_input, "it is one of an input of the graph"),
        (of_an_output, "what the graph returns has memory of its own"),
        (that_is_an_output, "what the graph returns has memory of its own"),
        (in_two_concats, "its value goes into another concat too"),
        (
            beginning_first,
            "as first operand stays by itself: the rest of its value would lie where other operands do",
        ),
        (end_last, "as last operand stays by itself: the rest of its value would lie where other operands do"),
        (twice, "the concat takes several parts of its value, which are not side by side"),
        (little_of_much, "the rest of its value is larger than the whole concat"),
    ],
)
def test_where_the_rest_would_be_in_the_way(apply, make, reason):
    edge = Edge()
    edge.graph.mark_output(edge(Softmax(1), make(edge)))
    outcome = apply(join_slices, edge.graph)
    assert reason in outcome.refused[0]
    assert not outcome.done


def test_slices_with_gaps_or_across_are_none_of_its_business(apply):
    edge = Edge()
    gaps = edge.join(edge.part(edge.y, 0, 5, step=2), edge.x)
    across = edge.join(edge.part(edge.y, 0, 6, rows=1), edge.part(edge.x, 0, 6, rows=1))
    edge.graph.mark_output(edge(Softmax(1), gaps), edge(Softmax(1), across))
    assert len(apply(join_slices, edge.graph).report) == 0


def test_nothing_is_copied_in_the_end():
    """Through the whole pipeline: three kernels, no copy, one storage."""
    graph = optimize(
        parse(
            """
            graph g(%x: f32[1,4,4,4]) {
              %y = softmax(%x) <axis=1> : f32[1,4,4,4]
              %a = slice(%y) <start=(0, 0, 0, 0), stop=(1, 2, 4, 4), step=(1, 1, 1, 1)> : f32[1,2,4,4]
              %b = slice(%y) <start=(0, 2, 0, 0), stop=(1, 4, 4, 4), step=(1, 1, 1, 1)> : f32[1,2,4,4]
              %z = softmax(%a) <axis=2> : f32[1,2,4,4]
              %c = concat(%b, %z) <axis=1> : f32[1,4,4,4]
              %out = softmax(%c) <axis=1> : f32[1,4,4,4]
              return %out
            }"""
        )
    )
    assert [n.op.body.nodes[0].op.name for n in graph.nodes if isinstance(n.op, Region)] == ["softmax"] * 3
