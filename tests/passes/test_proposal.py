"""The driver of rules: what it asks the judge, and what it does with the answers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from jitrt.errors import OptionError
from jitrt.graph import Graph, TensorType, f32, verify
from jitrt.graph.ops import Exp, Neg, Region, Relu, Slice
from jitrt.graph.types import Layout
from jitrt.passes import Match, PassContext, Verdict, judged, optimize
from jitrt.passes.proposal import cut_out
from jitrt.passes.region import make_region


def chain(count: int) -> Graph:
    """relu -> neg -> exp -> relu ..., a region each."""
    graph = Graph("chain")
    value = graph.add_input("x", TensorType(f32, (4,)))
    for index in range(count):
        value = graph.add((Relu(), Neg(), Exp())[index % 3], value, name=f"v{index}")
        value = make_region(graph, [value.producer], value).output
    graph.mark_output(value)
    return graph


class JoinPairs:
    """Two regions after one another become one: every pair of neighbours is a match, so that matches overlap."""

    name = "join_pairs"

    def find(self, graph, context):
        regions = graph.nodes
        return [Match((a.output, b.output), f"join {a.output.name} {b.output.name}") for a, b in pairwise(regions)]

    def rewrite(self, graph, values):
        first, second = (value.producer for value in values)
        inner = [graph.append(n.op.body.nodes[0].op, [v], before=second) for n, v in ((first, first.inputs[0]),)]
        last = graph.append(second.op.body.nodes[0].op, [inner[0].output], before=second)
        region = make_region(graph, [inner[0], last], last.output)
        graph.replace_uses(second.output, region.output)
        graph.erase(second)
        graph.erase(first)


def gains(*amounts):
    return lambda proposals: [Verdict(a, f"{a:g}") for a, _ in zip(amounts, proposals, strict=True)]


def test_the_match_that_gains_most_goes_first_and_those_it_overlaps_are_gone():
    graph = chain(4)
    context = PassContext(judge=gains(1.0, 5.0, 2.0))
    judged(JoinPairs())(graph, context)
    verify(graph)
    assert [len(n.op.body.nodes) for n in graph.nodes] == [1, 2, 1]
    assert [d.text for d in context.report] == ["join v1 v2: 5"]


def test_matches_apart_from_each_other_are_all_done_and_the_slow_refused_with_its_time():
    graph = chain(4)
    context = PassContext(judge=gains(3.0, -1.0, 2.0))
    judged(JoinPairs())(graph, context)
    assert [len(n.op.body.nodes) for n in graph.nodes] == [2, 2]
    graph = chain(2)
    judged(JoinPairs())(graph, context.__class__(judge=gains(0.0), report=context.report))
    assert [(d.applied, d.text) for d in context.report][-1] == (False, "not done: join v0 v1: 0")
    assert len(graph.nodes) == 2


def test_what_is_cut_out_stands_alone():
    graph = chain(4)
    values = [graph.nodes[1].output, graph.nodes[2].output]
    part, inside = cut_out(graph, values)
    verify(part)
    assert [v.name for v in part.inputs] == ["v0"]
    assert [v.name for v in inside] == ["v1", "v2"]
    assert [v.name for v in part.outputs] == ["v2"]
    assert all(isinstance(n.op, Region) for n in part.nodes)


def test_views_inside_what_is_cut_out_show_what_they_showed():
    graph = Graph("views")
    x = graph.add_input("x", TensorType(f32, (2, 6)))
    whole = graph.add(Relu(), x, name="whole")
    whole = make_region(graph, [whole.producer], whole).output
    part = graph.append(Slice((0, 2), (2, 5), (1, 1)), [whole], names=["part"]).output
    part.type = part.type.with_layout(Layout((6, 1), 2, "whole"))
    last = graph.add(Neg(), part, name="last")
    last = make_region(graph, [last.producer], last).output
    graph.mark_output(last)
    for chosen, storage, offset in (([whole, part, last], "whole", 2), ([part, last], "whole", 2)):
        cut, inside = cut_out(graph, chosen)
        verify(cut)
        assert inside[-2].type.layout == Layout((6, 1), offset, storage)


def test_a_rule_can_be_left_out_by_name():
    with pytest.raises(OptionError, match=r"'nothing'; what can be left out is .*fuse_horizontal"):
        optimize(chain(1), PassContext(without=("nothing",)))


def test_where_nothing_is_measured_a_doubt_is_enough() -> None:
    graph = chain(2)
    values = tuple(node.output for node in graph.nodes)

    class Doubtful(JoinPairs):
        def find(self, graph, context):
            return [Match(values, "join both", "it may lose")]

    context = PassContext()
    judged(Doubtful())(graph, context)
    assert len(graph.nodes) == 2
    assert [d.text for d in context.report] == [
        "not done: join both: 2 kernels become 1 (not measured), and it may lose"
    ]
    judged(Doubtful())(graph, PassContext(judge=gains(1.0)))
    assert len(graph.nodes) == 1
