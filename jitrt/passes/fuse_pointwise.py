"""What no anchor took along: elementwise chains and trees become one pointwise region each, anything else its own.

A tree grows from its last node upward through nodes that only it reads; operands may be smaller than the result, which
then computes them again for every element: still less than a trip through memory.
"""

from __future__ import annotations

from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Trait
from jitrt.graph.ops import Concat
from jitrt.passes.base import PassContext
from jitrt.passes.region import MOST, body_of, describe, make_region
from jitrt.passes.storage import is_structural


def fuse_pointwise(graph: Graph, context: PassContext) -> None:
    """Afterwards only regions, views and concats are left."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    done: set[Node] = set()
    for last in reversed(list(graph.nodes)):
        if last in done or last.has(Trait.OPAQUE) or isinstance(last.op, Concat) or is_structural(last):
            continue
        nodes = _tree(graph, last, position, context) if last.has(Trait.ELEMENTWISE) else [last]
        done.update(nodes)
        region = make_region(graph, nodes, last.output)
        if len(nodes) > 1:
            context.applied(region, f"{describe(nodes)} in one kernel")


def _tree(graph: Graph, last: Node, position: dict[Node, int], context: PassContext) -> list[Node]:
    """The nodes, in order, that can run in one kernel with `last` and are read by nobody else."""
    nodes = [last]
    waiting = list(last.inputs)
    while waiting:
        node = waiting.pop().producer
        if node is None or node in nodes or not node.has(Trait.ELEMENTWISE):
            continue
        if node.output in graph.outputs:
            context.refused(node, f"{node.op.name} not fused with {last.op.name}: its result is an output of the graph")
            continue
        if any(user not in nodes for user in node.output.users):
            if all(user.has(Trait.ELEMENTWISE) for user in node.output.users if user not in nodes):
                continue  # asked again once its other readers have joined
            context.refused(node, f"{node.op.name} not fused with {last.op.name}: others read its result too")
            continue
        if len(nodes) == MOST:
            context.refused(node, f"{node.op.name} not fused with {last.op.name}: {MOST} operations are one kernel")
            continue
        larger = sorted([*nodes, node], key=position.__getitem__)
        body, _ = body_of(larger, last.output)
        reason = context.accepts(body)
        if reason is not None:
            context.refused(node, f"{node.op.name} not fused with {last.op.name}: {reason}")
            continue
        nodes = larger
        waiting.extend(node.inputs)
    return nodes
