"""A copy that a channel shuffle needs rides along in the kernel that makes its other half.

ShuffleNet's units pass half of their channels on and shuffle them with what they compute of the other half: x0 y0 x1 y1
and so on. Written by two kernels, every element is a store of its own with a gap behind it, and the copy is a launch
with nothing to compute. Written by the kernel of y, which reads x like a residual, pairs lie side by side in runs:

                      launches   bytes read   bytes written   32-byte sectors written, of n elements of f16
    y, then a copy    2          x            x and y         2 x n/8, each twice and half full
    together          1          x            x and y         n/8

What moves is the same; the launch and half of the sectors are saved. So it is done wherever a kernel accepts the pair.
Leaving x where it is would save its bytes too, but then the channels that the next unit reads lie in four places, the
one after in eight; no strides say that.
"""

from __future__ import annotations

from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Concat, Contiguous, Region, Reshape
from jitrt.graph.rebuild import rebuild
from jitrt.graph.types import Layout
from jitrt.passes.base import PassContext
from jitrt.passes.region import strided
from jitrt.passes.storage import owns_storage


def pair_copies(graph: Graph, context: PassContext) -> None:
    """Do so for every concat of two channels of equally many, one of them a copy."""
    for node in list(graph.nodes):
        found = _halves(graph, node)
        if found is None:
            continue
        copy, region = found
        body = _paired(node, copy, region)
        reason = context.accepts(body)
        if reason is not None:
            context.refused(node, f"the copy of an operand stays a kernel: {reason}")
            continue
        made = _replace(graph, node, copy, region, body)
        context.applied(made, "the copy of a concat's operand is written together with the other half")


def _halves(graph: Graph, node: Node) -> tuple[Node, Node] | None:
    """(the region that copies one operand, the region that computes the other), if nobody else reads what they make."""
    if not isinstance(node.op, Concat) or node.output.type.shape[node.op.axis] != 2 or len(node.inputs) != 2:
        return None
    if not owns_storage(node.output) or node.output.type.strides[node.op.axis] != 1:
        return None
    copies: list[Node] = []
    others: list[Node] = []
    for value in node.inputs:
        if value.users != [node] or len(value.uses) != 1:
            return None
        if value.producer is not None and isinstance(value.producer.op, Reshape):
            value = value.producer.inputs[0]
        maker = value.producer
        if maker is None or not isinstance(maker.op, Region) or value in graph.outputs or len(value.users) != 1:
            return None
        (copies if _is_copy(maker) else others).append(maker)
    if len(copies) != 1 or copies[0].output not in node.inputs:
        return None
    return copies[0], others[0]


def _is_copy(region: Node) -> bool:
    assert isinstance(region.op, Region)
    return [type(node.op) for node in region.op.body.nodes] == [Contiguous]


def _paired(node: Node, copy: Node, region: Node) -> Graph:
    """The body of `region` that ends in the concat, the copy's operand its last input."""
    assert isinstance(node.op, Concat) and isinstance(region.op, Region)
    body = rebuild(region.op.body)
    made = body.outputs[0]
    made.type = made.type.with_layout(None)  # it is not in memory any more
    kept = body.add_input(f"i{len(body.inputs)}", strided(copy.inputs[0].type))
    half = node.inputs[0].type.shape
    halves = [
        kept if value.producer is copy else body.add(Reshape(half), made, loc=region.loc) for value in node.inputs
    ]
    joined = body.append(node.op, halves, loc=node.loc, types=[strided(node.output.type)]).output
    body.outputs = [joined]
    return body


def _replace(graph: Graph, node: Node, copy: Node, region: Node, body: Graph) -> Node:
    """One region in place of the two and of the concat, whose storage it owns from now on."""
    type, name = node.output.type, node.output.name
    assert type.layout is not None
    own = type.with_layout(Layout(type.strides, type.layout.offset))
    operands = [*region.inputs, copy.inputs[0]]
    made = graph.append(Region(body), operands, loc=region.loc, types=[own], before=node)
    graph.replace_uses(node.output, made.output)
    views = [value.producer for value in node.inputs if value.producer not in (copy, region)]
    graph.erase(node)
    graph.rename(made.output, name)
    for dead in (*views, copy, region):
        assert dead is not None
        graph.erase(dead)
    return made
