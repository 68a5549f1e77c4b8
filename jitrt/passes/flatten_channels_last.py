"""Let the flatten between the last convolution and a classifier be a view.

`flatten` of (n, c, h, w) wants its elements in the order c, h, w; in memory they lie as h, w, c. The weights of the
linear layer that follows are constant, so their columns are put in that order once, at build time, instead.
"""

from __future__ import annotations

import math

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Linear, Permute, Reshape
from jitrt.passes.base import PassContext
from jitrt.passes.edit import remove_dead
from jitrt.passes.layout import SPATIAL


def flatten_channels_last(graph: Graph, context: PassContext) -> None:
    """Rewrite linear(reshape(x), w) as linear(reshape(permute(x)), w with its columns permuted)."""
    for node in list(graph.nodes):
        flatten = node.inputs[0].producer if isinstance(node.op, Linear) else None
        if flatten is None or not _flattens_image(flatten):
            continue
        weight = node.inputs[1]
        if weight.data is None:
            context.refused(node, "flatten before linear is in channel order: the weights are no constant")
            continue
        image = flatten.inputs[0]
        _, channels, *size = image.type.shape
        filters = weight.type.shape[0]
        columns = weight.data.reshape(filters, channels, math.prod(size)).transpose(0, 2, 1)
        order = (0, *range(2, image.type.rank), 1)
        last = graph.append(Permute(order), [image], loc=flatten.loc, before=node).output
        flat = graph.append(flatten.op, [last], loc=flatten.loc, before=node).output
        graph.set_input(node, 0, flat)
        graph.set_input(node, 1, graph.add_constant(columns.reshape(filters, -1), weight.name))
        context.applied(node, "flatten before linear is a view: the columns of its weights are in the image's order")
    remove_dead(graph)


def _flattens_image(node: Node) -> bool:
    """Whether `node` reshapes an image of several pixels, which will lie channels-last, to one row an image."""
    if not isinstance(node.op, Reshape) or node.inputs[0].type.rank < 3:
        return False
    batch, channels, *size = node.inputs[0].type.shape
    if node.output.type.shape != (batch, channels * math.prod(size)) or channels == 1 or math.prod(size) == 1:
        return False
    return _is_image(node.inputs[0])


def _is_image(value: Value) -> bool:
    """Whether a convolution or pool made the value, through elementwise nodes at most."""
    node = value.producer
    while node is not None and not isinstance(node.op, SPATIAL):
        like = [v for v in node.inputs if v.type.shape == value.type.shape] if node.has(Trait.ELEMENTWISE) else []
        node = next((v.producer for v in like if v.producer is not None), None)
    return node is not None
