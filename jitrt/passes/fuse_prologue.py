"""Prologue fusion: a pointwise region that one convolution or linear layer alone reads is computed while that loads it.

    relu(x * scale + shift) -> conv 1x1 + bias + relu           batch norm before the convolution (DenseNet)
    x * sigmoid(gate)       -> conv 1x1 + bias + residual       squeeze-and-excite (MobileNetV3, EfficientNet, RegNetY)

The region disappears whole, and with it a kernel and a trip through memory. The price is arithmetic in the loop, once
for every tile of filters, so each place is judged; a norm of few pixels is in doubt (H200: without the rule
DenseNet-121 is 3% faster at batch 1, as fast at 8, 37% slower at 128; MobileNetV3-L, with scales alone, 2.5, 0 and 1%
slower).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op, Trait
from jitrt.graph.ops import Cast, Conv, Linear, Region
from jitrt.passes.base import PassContext
from jitrt.passes.edit import remove_dead
from jitrt.passes.proposal import Match, refusal
from jitrt.passes.region import describe, inline, only_anchor, supersede

_FEW_PIXELS = 4096


def reads_repeatedly(op: Op) -> bool:
    """Whether a kernel for the anchor `op` reads its input several times over, so that computing it on the way in need
    not pay. Vertical fusion leaves that to the rule below."""
    return isinstance(op, Conv | Linear)


class FusePrologue:
    """The rule. A match is (the pointwise region's result, the product's)."""

    name = "fuse_prologue"

    def find(self, graph: Graph, context: PassContext) -> list[Match]:
        matches = []
        for node in graph.nodes:
            product = _product_after(node)
            if product is None:
                continue
            what, anchor = (describe(n.op.body.nodes) for n in (node, product) if isinstance(n.op, Region))
            match = Match((node.output, product.output), f"{what} computed on the way into {anchor}", _doubt(node))
            reason = _refuse(graph, node, product) or refusal(self, graph, match.values, context)
            if reason is None:
                matches.append(match)
            else:
                context.refused(node, f"{what} not computed on the way into {anchor}: {reason}")
        return matches

    def rewrite(self, graph: Graph, values: Sequence[Value]) -> None:
        pointwise, product = (value.producer for value in values)
        assert pointwise is not None and product is not None
        before, computed = inline(graph, pointwise, {}, before=product)
        # It is rounded as on its way through memory: a cast is what says so inside a region.
        rounded = graph.append(Cast(computed.type.dtype), [computed], types=[computed.type], before=product)
        after, result = inline(graph, product, {pointwise.output: rounded.output}, before=product)
        supersede(graph, product, [*before, rounded, *after], result)
        remove_dead(graph)


def _doubt(pointwise: Node) -> str | None:
    """A scale is one multiplication, a norm three ops; where pixels are few a kernel of its own costs little."""
    assert isinstance(pointwise.op, Region)
    type = pointwise.output.type
    pixels = type.numel // type.shape[1] if type.rank > 1 else 1
    made = [node for node in pointwise.op.body.nodes if not isinstance(node.op, Cast)]
    if sum(node.output.type.numel == type.numel for node in made) == 1 or pixels > _FEW_PIXELS:
        return None
    return f"of {pixels} pixels two were faster"


def _refuse(graph: Graph, pointwise: Node, product: Node) -> str | None:
    """Why the result of `pointwise` is needed in memory."""
    value = pointwise.output
    if value in graph.outputs:
        return "its result is an output of the graph"
    views = [user.op.name for user in value.users if user.has(Trait.VIEW)]
    if views:
        return f"its result is read through a {views[0]}"
    others = [user for user in value.users if user is not product]
    if others:
        return f"its result is read by {len(others)} more"
    return None


def _product_after(node: Node) -> Node | None:
    """The first region around a product that has the result of `node`, a pointwise region, for its input."""
    if not isinstance(node.op, Region) or not all(inner.has(Trait.ELEMENTWISE) for inner in node.op.body.nodes):
        return None
    return next((user for value in _shown(node.output) for user in value.users if _multiplies(user, value)), None)


def _shown(value: Value) -> Iterator[Value]:
    """A value and all views of it."""
    yield value
    for user in value.users:
        if user.has(Trait.VIEW):
            yield from _shown(user.output)


def _multiplies(node: Node, value: Value) -> bool:
    """Whether `node` is a region around a product whose input is `value`, or a cast of it."""
    if not isinstance(node.op, Region):
        return False
    body, anchor = node.op.body, only_anchor(node)
    if anchor is None or not reads_repeatedly(anchor.op):
        return False
    source = anchor.inputs[0]
    while source.producer is not None and isinstance(source.producer.op, Cast):
        source = source.producer.inputs[0]
    return source in body.inputs and node.inputs[body.inputs.index(source)] is value
