"""Two regions, one after the other, as one kernel with both anchors: what the rules of this kind have in common."""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op, Trait
from jitrt.graph.ops import Region
from jitrt.graph.types import TensorType
from jitrt.passes.base import PassContext
from jitrt.passes.edit import remove_dead
from jitrt.passes.proposal import Match, refusal
from jitrt.passes.region import inline, only_anchor, strided, supersede


class JoinRegions:
    """A rule that joins a region with the one that reads its result, if `follows` says so of their anchors, wherever a
    kernel exists for both. `what` says in words what that makes one kernel of."""

    name: str
    what: str

    def follows(self, first: Node, second: Node) -> bool:
        """Whether a region around `first` and one around `second`, which reads it, may be worth one kernel."""
        raise NotImplementedError

    def loses(self, first: Node, second: Node) -> str | None:
        """Why two kernels are faster where both follow, as far as it is known without a try; or None."""
        return None

    def doubts(self, first: Node, second: Node) -> str | None:
        """Why one kernel may well be slower, so that it must be tried; or None."""
        return None

    def reshaped(self, first: Node, type: TensorType) -> Op | None:
        """What does the work of `first` and results in `type`, that of a view of its result; None if nothing does."""
        return None

    def find(self, graph: Graph, context: PassContext) -> list[Match]:
        matches = []
        for region in graph.nodes:
            found = self._match(graph, region)
            if isinstance(found, Match):
                found = refusal(self, graph, found.values, context) or found
            if isinstance(found, str):
                context.refused(region, f"not joined with what follows: {found}")
            elif found is not None:
                matches.append(found)
        return matches

    def rewrite(self, graph: Graph, values: Sequence[Value]) -> None:
        first, link, second = values[0].producer, values[-2], values[-1].producer
        assert first is not None and second is not None
        nodes, made = inline(graph, first, {}, before=second)
        if link.type.shape != made.type.shape:
            assert made.producer is not None
            op = self.reshaped(made.producer, link.type)
            assert op is not None
            made.producer.op, made.type = op, strided(link.type)
        more, result = inline(graph, second, {link: made}, before=second)
        supersede(graph, second, [*nodes, *more], result)
        remove_dead(graph)

    def _match(self, graph: Graph, region: Node) -> Match | str | None:
        """The match that begins with `region`; a reason where only little is missing; or None."""
        first = only_anchor(region)
        if first is None:
            return None
        values = [region.output]
        while True:
            value = values[-1]
            seconds = [(user, anchor) for user in value.users if (anchor := _reader(user, value)) is not None]
            wanted = [(user, anchor) for user, anchor in seconds if self.follows(first, anchor)]
            alone = len(value.users) == 1 and value not in graph.outputs
            if wanted and not alone:
                return "its result is read elsewhere too"
            if wanted and not self._leads(region, first, value):
                return None
            if wanted:
                second, anchor = wanted[0]
                if (reason := self.loses(first, anchor)) is not None:
                    return reason
                return Match((*values, second.output), f"{self.what} in one kernel", self.doubts(first, anchor))
            if not alone or not value.users[0].has(Trait.VIEW):
                return None
            values.append(value.users[0].output)

    def _leads(self, region: Node, first: Node, link: Value) -> bool:
        """Whether the first region can result in `link`: the same elements in the same order, in as many dimensions or
        in those that `reshaped` makes. A transposed square would do for the shape alone."""
        assert isinstance(region.op, Region)
        if _steps(link.type) != _steps(region.output.type):
            return False
        if link.type.shape == region.output.type.shape:
            return True
        return region.op.body.outputs[0] is first.output and self.reshaped(first, link.type) is not None


def _steps(type: TensorType) -> list[tuple[int, int]]:
    """Size and stride of the dimensions, those of a single element left out."""
    return [(size, stride) for size, stride in zip(type.shape, type.strides, strict=True) if size != 1]


def _reader(node: Node, value: Value) -> Node | None:
    """The only anchor of a region, if it reads `value` as its first operand and nothing else there does."""
    anchor = only_anchor(node)
    if anchor is None or node.inputs.count(value) != 1:
        return None
    assert isinstance(node.op, Region)
    inner = node.op.body.inputs[node.inputs.index(value)]
    return anchor if inner.uses == [(anchor, 0)] else None
