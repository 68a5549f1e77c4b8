"""Branches that end side by side in a concat, each in a convolution of its own kind, as one launch.

Horizontal fusion merges siblings that do the same; these differ in filter size, input or channels. What they share is
where they end: neighbouring operands of one concat, which become the result of one region.

    concat(wide, conv3x3(a), conv5x5(b), conv1x1(c))  ->  concat(wide, [conv3x3(a) conv5x5(b) conv1x1(c)])
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.ops import Concat, Conv, Slice
from jitrt.graph.types import Layout, TensorType, strides_in_order
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader
from jitrt.passes.proposal import Match, refusal
from jitrt.passes.region import inline, make_region, only_anchor

_AXIS = 1
_MOST_PIXELS = 1280  # GoogLeNet and Inception-v3 gain 11 and 7% at batch 1, lose 1 and 2% at 8, 3 and 9% at 128 (H200)


class JoinBranches:
    """The rule for the template `conv_group`."""

    name = "join_branches"

    def find(self, graph: Graph, context: PassContext) -> list[Match]:
        matches = []
        for concat in graph.nodes:
            if not isinstance(concat.op, Concat) or concat.op.axis != _AXIS:
                continue
            for run in _runs(graph, concat):
                reason = refusal(self, graph, run, context)
                if reason is None:
                    matches.append(Match(tuple(run), f"{len(run)} branches of a concat in one launch", _doubt(run)))
                else:
                    context.refused(concat, f"{len(run)} of its branches are not joined: {reason}")
        return matches

    def rewrite(self, graph: Graph, values: Sequence[Value]) -> None:
        last = max((_producer(value) for value in values), key=graph.nodes.index)
        joined = _joined_type(values)
        nodes: list[Node] = []
        results: list[Value] = []
        for value in values:
            more, result = inline(graph, _producer(value), {}, before=last)
            nodes += more
            results.append(result)
        whole = graph.append(Concat(_AXIS), results, loc=last.loc, types=[joined], before=last)
        region = make_region(graph, [*nodes, whole], whole.output)
        reader = only_reader(graph, values[0])
        if reader is not None and isinstance(reader.op, Concat):
            _read_whole(graph, reader, values, region.output)
        else:
            _read_parts(graph, values, region.output, before=last)
        for value in values:
            graph.erase(_producer(value))


def _doubt(run: Sequence[Value]) -> str | None:
    """Large branches fill the GPU by themselves, each with the kernel that suits it."""
    images, _, *size = run[0].type.shape
    pixels = images * math.prod(size)
    return f"of {pixels} pixels they were slower together" if pixels > _MOST_PIXELS else None


def _runs(graph: Graph, concat: Node) -> Iterator[list[Value]]:
    """Neighbouring operands, two or more, that convolutions make for this concat alone, in the same order in memory."""
    run: list[Value] = []
    for value in concat.inputs:
        branch = _is_branch(graph, concat, value)
        if branch and run and value.type.memory_order == run[0].type.memory_order:
            run.append(value)
            continue
        if len(run) > 1:
            yield run
        run = [value] if branch else []
    if len(run) > 1:
        yield run


def _is_branch(graph: Graph, concat: Node, value: Value) -> bool:
    if value.producer is None or only_reader(graph, value) is not concat or concat.inputs.count(value) != 1:
        return False
    anchor = only_anchor(value.producer)
    return anchor is not None and isinstance(anchor.op, Conv) and anchor.op.groups == 1


def _producer(value: Value) -> Node:
    assert value.producer is not None
    return value.producer


def _joined_type(values: Sequence[Value]) -> TensorType:
    """The type of the values' concat, dense in their order in memory."""
    (type,) = Concat(_AXIS).infer(*(value.type for value in values))
    return type.with_layout(Layout(strides_in_order(type.shape, values[0].type.memory_order)))


def _read_whole(graph: Graph, concat: Node, values: Sequence[Value], whole: Value) -> None:
    """Let the concat read the joined value in place of its parts."""
    start = concat.inputs.index(values[0])
    operands = [*concat.inputs[:start], whole, *concat.inputs[start + len(values) :]]
    name = concat.output.name
    made = graph.append(concat.op, operands, loc=concat.loc, types=[concat.output.type], before=concat).output
    graph.replace_uses(concat.output, made)
    graph.erase(concat)
    graph.rename(made, name)
    if operands != [whole] or made.type != whole.type or made.producer is None:
        return
    if bypass(graph, made.producer, whole):
        graph.rename(whole, name)  # views of the concat lie in a storage of that name


def _read_parts(graph: Graph, values: Sequence[Value], whole: Value, *, before: Node) -> None:
    """Let views of the joined value stand for its parts."""
    start = 0
    for value in values:
        stop = start + value.type.shape[_AXIS]
        layout = Layout(whole.type.strides, start * whole.type.strides[_AXIS], whole.name)
        part = Slice.along(whole.type.shape, _AXIS, start, stop)
        view = graph.append(part, [whole], types=[value.type.with_layout(layout)], before=before)
        graph.replace_uses(value, view.output)
        start = stop
