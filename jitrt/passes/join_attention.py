"""Two products and the softmax between them as one kernel: attention.

Saves two launches, and the scores' and weights' trips through memory. Not where somebody reads the scores or weights
besides, or where the products and the softmax do not follow each other directly.
"""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.ops import Matmul, Softmax
from jitrt.passes.base import PassContext
from jitrt.passes.edit import only_reader, remove_dead
from jitrt.passes.proposal import Match, refusal
from jitrt.passes.region import inline, only_anchor, supersede


class JoinAttention:
    """The rule for the template `attention`."""

    name = "join_attention"

    def find(self, graph: Graph, context: PassContext) -> list[Match]:
        matches = []
        for softmax in graph.nodes:
            values = _attention_around(graph, softmax)
            if values is None:
                continue
            reason = refusal(self, graph, values, context)
            if reason is not None:
                context.refused(softmax, f"not joined with the products around it: {reason}")
            else:
                matches.append(Match(values, "two products and the softmax between them in one kernel"))
        return matches

    def rewrite(self, graph: Graph, values: Sequence[Value]) -> None:
        *before, last = (value.producer for value in values)
        assert last is not None
        nodes: list[Node] = []
        made: dict[Value, Value] = {}
        for value, region in zip(values, before):
            assert region is not None
            more, made[value] = inline(graph, region, made, before=last)
            nodes += more
        more, result = inline(graph, last, made, before=last)
        supersede(graph, last, [*nodes, *more], result)
        remove_dead(graph)


def _attention_around(graph: Graph, softmax: Node) -> tuple[Value, Value, Value] | None:
    """The results of a region with a product, of the region `softmax`, which alone reads it, and of one with a product
    of that; None if it is not so."""
    anchor = only_anchor(softmax)
    if anchor is None or not isinstance(anchor.op, Softmax):
        return None
    firsts = [v for v in softmax.inputs if _has_product(v.producer) and v.type.shape == softmax.output.type.shape]
    last = only_reader(graph, softmax.output)
    if len(firsts) != 1 or not _has_product(last) or last is None or only_reader(graph, firsts[0]) is not softmax:
        return None
    return firsts[0], softmax.output, last.output


def _has_product(node: Node | None) -> bool:
    anchor = None if node is None else only_anchor(node)
    return anchor is not None and isinstance(anchor.op, Matmul)
