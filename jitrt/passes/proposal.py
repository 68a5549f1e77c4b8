"""Rules: rewrites of regions that may be faster or not, each judged before it is applied.

A rule finds places (`find`) and rewrites one (`rewrite`). For every place the driver cuts out the regions concerned as
a graph of its own, rewrites a copy of it, and asks the judge which of the two is faster: on a GPU both are built and
timed (jitrt/judge.py), elsewhere fewer kernels win, but where the rule itself has its doubts. Only then is the graph
itself rewritten; both times are reported. Where matches overlap, the one that gains most goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Region
from jitrt.graph.types import Layout, TensorType
from jitrt.passes.base import PassContext, Proposal
from jitrt.passes.edit import remove_dead
from jitrt.passes.region import strided
from jitrt.passes.storage import root_of, storage_of
from jitrt.passes.views import view_layout


@dataclass(frozen=True)
class Match:
    """A place where a rule could apply: the outputs of the regions it would replace, in words what it would do, and
    where other such places lost, why this one may."""

    values: tuple[Value, ...]
    text: str
    doubt: str | None = None


class Rule(Protocol):
    """A rewrite of regions. `name` signs its decisions.

    `find` lists the places where the rewrite is possible and reports to `context` why it is not, where somebody might
    expect it. `rewrite` does it, in the graph searched or in one that was cut out of it: `values` are those of a match,
    in that graph. Values that others read keep their names.
    """

    name: str

    def find(self, graph: Graph, context: PassContext) -> list[Match]: ...

    def rewrite(self, graph: Graph, values: Sequence[Value]) -> None: ...


def judged(rule: Rule) -> Callable[[Graph, PassContext], None]:
    """The pass that applies `rule` wherever the judge is for it."""

    def run(graph: Graph, context: PassContext) -> None:
        matches = rule.find(graph, context)
        proposals = [_propose(rule, graph, match) for match in matches]
        verdicts = context.judge(proposals)
        heard = sorted(zip(matches, verdicts, strict=True), key=lambda pair: -pair[1].gain)
        replaced: set[Value] = set()
        for match, verdict in heard:
            node = match.values[0].producer
            if node is None or not replaced.isdisjoint(match.values):
                continue  # part of a match that gained more
            if not verdict.accepted:
                context.refused(node, f"not done: {match.text}: {verdict.text}")
            else:
                replaced.update(match.values)
                context.applied(node, f"{match.text}: {verdict.text}")
                rule.rewrite(graph, match.values)
        remove_dead(graph)

    run.__name__ = rule.name
    return run


def refusal(rule: Rule, graph: Graph, values: Sequence[Value], context: PassContext) -> str | None:
    """None, or why no kernel takes the one region that `rule` would make of `values`."""
    trial, inside = cut_out(graph, values)
    rule.rewrite(trial, inside)
    (region,) = (node for node in trial.nodes if isinstance(node.op, Region))
    return context.accepts(region.op.body) or context.supports(region)  # type: ignore[attr-defined]


def cut_out(graph: Graph, values: Sequence[Value]) -> tuple[Graph, list[Value]]:
    """(a graph of the nodes that make `values`, the values in it). Its inputs are what they read from elsewhere, its
    outputs what is read elsewhere; names are kept, constants shared, storages are each value's own."""
    nodes = [node for node in graph.nodes if any(value in values for value in node.outputs)]
    made = dict.fromkeys(value for node in nodes for value in node.outputs)
    out = Graph(graph.name)
    inside: dict[Value, Value] = {}
    for value in dict.fromkeys(v for node in nodes for v in node.inputs if v not in made):
        if value.data is not None:
            inside[value] = out.add_constant(value.data, value.name, value.type)
        else:
            inside[value] = out.add_input(value.name, strided(value.type))
    for node in nodes:
        operands = [inside[v] for v in node.inputs]
        types = [_view(node, operands[0])] if node.has(Trait.VIEW) else [strided(v.type) for v in node.outputs]
        names = [v.name for v in node.outputs]
        copy = out.append(node.op, operands, loc=node.loc, names=names, types=types)
        inside.update(zip(node.outputs, copy.outputs, strict=True))
    for value in made:
        if value in graph.outputs or any(user not in nodes for user in value.users):
            out.mark_output(inside[value])
    return out, [inside[value] for value in values]


def _view(node: Node, source: Value) -> TensorType:
    """The type of what a view shows of a value that has been cut out."""
    type = node.output.type
    layout = view_layout(node.op, source.type, type.shape)
    assert layout is not None  # it was a view before
    return type.with_layout(Layout(layout.strides, layout.offset, storage_of(source)))


def _propose(rule: Rule, graph: Graph, match: Match) -> Proposal:
    before, _ = cut_out(graph, match.values)
    after, values = cut_out(graph, match.values)
    rule.rewrite(after, values)
    remove_dead(after)
    # A view cannot be the output of a plan; what it shows can.
    after.outputs = list(dict.fromkeys(root_of(after, value) for value in after.outputs))
    return Proposal(rule.name, match.text, before, after, graph, match.doubt)
