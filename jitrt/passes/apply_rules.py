"""Rules that users registered, over the ops of a normalised graph.

They run when batch norms are folded, constants computed and dead nodes gone, and before precision, layout and fusion
see anything: what they put there is fused like the rest. An unconditional rule is applied wherever it fits. A judged
one is first cut out, brought to kernels both ways and compared, as rules of regions are (proposal.py); alone, though,
without what would have been fused with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.rebuild import rebuild
from jitrt.passes.base import PassContext, Proposal
from jitrt.passes.pattern import PatternRule, match_at
from jitrt.passes.proposal import Match, cut_out
from jitrt.passes.report import Report

_REGISTERED: dict[str, PatternRule] = {}


def register(rule: PatternRule) -> None:
    """Have a rule run in every build from now on; it takes the place of one of the same name."""
    _REGISTERED[rule.name] = rule


def unregister(name: str) -> None:
    """Undo `register`."""
    _REGISTERED.pop(name, None)


def registered() -> tuple[PatternRule, ...]:
    """The rules there are, in the order in which they run."""
    return tuple(_REGISTERED.values())


def claimed(graph: Graph, context: PassContext) -> dict[Node, str]:
    """The nodes that the patterns of registered rules fit, and the rule's name: passes that would rewrite them before
    the rules run leave them as they are written."""
    found: dict[Node, str] = {}
    for rule in registered():
        if rule.name not in context.without:
            matches = [match_at(rule.pattern, root) for root in graph.nodes]
            found |= {node: rule.name for match in matches if match is not None for node in match.nodes}
    return found


def apply_rules(graph: Graph, context: PassContext) -> None:
    """Apply every registered rule that is not in `context.without`."""
    for rule in registered():
        if rule.name in context.without:
            continue
        signed = context.within(rule.name)
        matches = rule.find(graph, signed)
        if rule.judged and matches:
            matches = _worthwhile(rule, graph, matches, signed)
        for match in matches:
            root = match.values[-1].producer
            assert root is not None
            if not rule.judged:
                signed.applied(root, match.text)
            rule.rewrite(graph, match.values)


def _worthwhile(rule: PatternRule, graph: Graph, matches: Sequence[Match], context: PassContext) -> list[Match]:
    """The matches that the judge is for; both ways and their times are reported."""
    proposals = [_propose(rule, graph, match, context) for match in matches]
    kept = []
    for match, verdict in zip(matches, context.judge(proposals), strict=True):
        root = match.values[-1].producer
        assert root is not None
        if verdict.accepted:
            context.applied(root, f"{match.text}: {verdict.text}")
            kept.append(match)
        else:
            context.refused(root, f"not done: {match.text}: {verdict.text}")
    return kept


def _propose(rule: PatternRule, graph: Graph, match: Match, context: PassContext) -> Proposal:
    before, _ = _cut(graph, match)
    after, values = _cut(graph, match)
    rule.rewrite(after, values)
    return Proposal(rule.name, match.text, _to_kernels(before, context), _to_kernels(after, context), graph)


def _cut(graph: Graph, match: Match) -> tuple[Graph, list[Value]]:
    """The matched nodes as a graph of their own, no layouts decided."""
    part, _ = cut_out(graph, match.values)
    plain = rebuild(part, type=lambda value: value.type.logical())
    by_name = {value.name: value for value in plain.values()}
    return plain, [by_name[value.name] for value in match.values]


def _to_kernels(graph: Graph, context: PassContext) -> Graph:
    """What the passes after this one make of a graph."""
    from jitrt.passes.pipeline import PIPELINE, optimize

    names = [step.name for step in PIPELINE]
    rest = PIPELINE[names.index(apply_rules.__name__) + 1 :]
    return optimize(graph, replace(context, outputs=None, report=Report()), passes=rest)
