"""Vertical fusion: grow a region from each anchor, so that what follows it costs no trip through memory.

The epilogue is every elementwise node after the anchor with the shape of its result, as far as nobody outside needs
what lies between: bias, scale, residual add, activation, cast, x * sigmoid(x). The prologue is the elementwise nodes
that only this region reads; before a convolution or linear layer only casts, as the rest is for `fuse_prologue` to have
judged. Each step asks `context.accepts` whether a kernel for the larger body exists and stops, with the reason
reported, where there is none. An add of two anchors' results goes to the later one, which runs last.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.op import Trait
from jitrt.graph.ops import Cast, Contiguous
from jitrt.graph.types import Layout, TensorType, row_major, strides_in_order
from jitrt.passes.base import PassContext
from jitrt.passes.edit import remove_dead
from jitrt.passes.fuse_prologue import reads_repeatedly
from jitrt.passes.region import MOST, body_of, describe, make_region

_LONGEST = 32  # nodes between a value with several readers and the node where its branches join


def fuse_vertical(graph: Graph, context: PassContext) -> None:
    """Turn every anchor, with all it can take along, into a region."""
    anchors = anchors_of(graph)
    for anchor in anchors:
        _ensure_kernel(graph, anchor, context)
    fusion = _Fusion(graph, context)
    for anchor in reversed(anchors):
        fusion.grow_epilogue(anchor)
    for anchor in anchors:
        fusion.grow_prologue(anchor)
    fusion.share_input_casts()
    for anchor in anchors:
        fusion.build(anchor)
    remove_dead(graph)


class _Fusion:
    """Groups in the making: which nodes each anchor has claimed, and the value each group results in."""

    def __init__(self, graph: Graph, context: PassContext):
        self.graph, self.context = graph, context
        self.position = {node: index for index, node in enumerate(graph.nodes)}
        self.groups: dict[Node, list[Node]] = {}
        self.results: dict[Node, Value] = {}
        self.owner: dict[Node, Node] = {}

    def grow_epilogue(self, anchor: Node) -> None:
        self.groups[anchor], self.results[anchor], self.owner[anchor] = [anchor], anchor.output, anchor
        while True:
            found = self._following(self.results[anchor])
            if found is None:
                return
            if isinstance(found, str):
                self.context.refused(anchor, found)
                return
            if not self._claim(anchor, found, found[-1].output):
                return

    def grow_prologue(self, anchor: Node) -> None:
        """Take in elementwise nodes that feed the group alone, the whole tree or nothing: half saves no kernel."""
        tried: set[Value] = set()
        while True:
            operands = [v for node in self.groups[anchor] for v in node.inputs if v not in tried]
            tree = next((t for v in operands if (t := self._feeding(anchor, v))), None)
            tried.update(operands if tree is None else [tree[-1].output])
            if tree is None:
                return
            self._claim(anchor, tree, self.results[anchor])

    def share_input_casts(self) -> None:
        """A cast of a graph input that several anchors read goes into all of them, or stays a kernel of its own."""
        for node in self.graph.nodes:
            if not isinstance(node.op, Cast) or node in self.owner or node.inputs[0].producer is not None:
                continue
            readers = list(dict.fromkeys(self.owner.get(user) for user in node.output.users))
            anchors = [anchor for anchor in readers if anchor is not None]
            if not anchors or len(anchors) != len(readers) or node.output in self.graph.outputs:
                continue
            reasons = [self._refusal([node, *self.groups[a]], self.results[a]) for a in anchors]
            if any(reasons):
                reason = next(r for r in reasons if r)
                self.context.refused(node, f"cast of an input with {len(anchors)} readers stays a kernel: {reason}")
                continue
            for anchor in anchors:
                self.groups[anchor].append(node)

    def build(self, anchor: Node) -> None:
        nodes = sorted(self.groups[anchor], key=self.position.__getitem__)
        region = make_region(self.graph, nodes, self.results[anchor])
        if len(nodes) > 1:
            self.context.applied(region, f"{describe(nodes)} in one kernel")

    def _claim(self, anchor: Node, nodes: list[Node], result: Value) -> bool:
        reason = self._refusal([*self.groups[anchor], *nodes], result)
        if reason is not None:
            self.context.refused(anchor, f"{describe(nodes)} not fused with {anchor.op.name}: {reason}")
            return False
        self.groups[anchor] += nodes
        self.owner.update((node, anchor) for node in nodes)
        self.results[anchor] = result
        return True

    def _refusal(self, nodes: Iterable[Node], result: Value) -> str | None:
        taken = sorted(nodes, key=self.position.__getitem__)
        if len(taken) > MOST:
            return f"{MOST} operations are one kernel"
        body, _ = body_of(taken, result)
        return self.context.accepts(body)

    def _following(self, result: Value) -> list[Node] | str | None:
        """The fewest elementwise nodes after `result` such that nobody but they reads it or what lies between; the
        reason if there are none though an elementwise node or an anchor follows; None if none follows."""
        if not any(node.has(Trait.ELEMENTWISE) for node in result.users):
            anchors = {node.op.name for node in result.users if node.has(Trait.ANCHOR)}
            return f"fusion ends before {', '.join(sorted(anchors))}: a kernel has one anchor" if anchors else None
        source = result.producer
        assert source is not None
        if result in self.graph.outputs:
            return f"fusion ends at {source.op.name}: its result is an output of the graph"
        added: list[Node] = []
        waiting = set(result.users)
        while waiting and len(added) < _LONGEST:
            node = min(waiting, key=self.position.__getitem__)
            waiting.discard(node)
            reason = self._why_not_epilogue(node, result)
            if reason is not None:
                return reason if len(result.users) == 1 else _several(source, result)
            added.append(node)
            waiting.update(node.output.users)
            between = [result, *(n.output for n in added[:-1])]
            if all(user in added for value in between for user in value.users):
                if any(value in self.graph.outputs for value in between):
                    return _several(source, result)
                return added
        return _several(source, result)

    def _why_not_epilogue(self, node: Node, result: Value) -> str | None:
        if not node.has(Trait.ELEMENTWISE):
            return f"{node.op.name} is not elementwise"
        if node in self.owner:
            return f"{node.op.name} runs in the kernel of the later {self.owner[node].op.name}"
        if node.output.type.shape != result.type.shape:
            return f"{node.op.name} broadcasts the result to a larger shape"
        return None

    def _feeding(self, anchor: Node, value: Value) -> list[Node] | None:
        """The elementwise nodes, in order, that compute `value` for this group alone."""
        inside = set(self.groups[anchor])
        tree: list[Node] = []
        waiting = [value]
        while waiting:
            node = waiting.pop().producer
            if node is None or node in inside or not node.has(Trait.ELEMENTWISE) or node in self.owner:
                continue
            if node.output in self.graph.outputs or any(user not in inside for user in node.output.users):
                continue
            if isinstance(node.op, Contiguous):
                continue  # a copy was made because the anchor cannot read its operand as it lies
            inside.add(node)
            tree.append(node)
            waiting.extend(node.inputs)
        if reads_repeatedly(anchor.op) and value in anchor.inputs and not all(isinstance(n.op, Cast) for n in tree):
            return None  # the rule fuse_prologue has it judged
        return sorted(tree, key=self.position.__getitem__) or None


def _several(source: Node, result: Value) -> str:
    readers = ", ".join(sorted({node.op.name for node in result.users}))
    return f"fusion ends at {source.op.name}: its result is read by {readers}"


def _ensure_kernel(graph: Graph, anchor: Node, context: PassContext) -> None:
    """If no kernel takes the anchor's operands as they lie in memory, copy them into a dense order one does; constants,
    only where that is not enough, are stored in it."""
    body, operands = body_of([anchor], anchor.output)
    reason = context.accepts(body)
    if reason is None:
        return
    for constants, order in product((False, True), (_dense, _row_major)):
        able = [v for v in operands if constants or not v.is_constant]
        types = {v: type for v in able if (type := order(v.type)).strides != v.type.strides}
        if not types:
            continue
        lain = {v: v.type for v in types}
        for value, type in types.items():
            value.type = type
        body, _ = body_of([anchor], anchor.output)
        for value, type in lain.items():
            value.type = type
        if context.accepts(body) is None:
            for value, type in types.items():
                if value.data is not None:
                    copy = graph.add_constant(value.data, value.name, type)
                else:
                    copy = graph.append(Contiguous(), [value], loc=anchor.loc, types=[type], before=anchor).output
                for index in [i for i, v in enumerate(anchor.inputs) if v is value]:
                    graph.set_input(anchor, index, copy)
            if not all(value.is_constant for value in types):
                context.refused(anchor, f"a copy before {anchor.op.name}: {reason}")
            return
    context.refused(anchor, f"no kernel for {anchor.op.name}: {reason}")


def _dense(type: TensorType) -> TensorType:
    return type.with_layout(Layout(strides_in_order(type.shape, type.memory_order)))


def _row_major(type: TensorType) -> TensorType:
    return type.with_layout(Layout(row_major(type.shape)))
