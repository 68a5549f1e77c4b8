"""A transposed convolution of stride 1 is a convolution with its filters turned around, and as fast as any.

conv_transpose(x, w) cut by p  =  conv(x, w turned around, in and out exchanged) padded by dilation * (filter - 1) - p
"""

from __future__ import annotations

import numpy as np

from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Conv, ConvTranspose
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass


def untranspose(graph: Graph, context: PassContext) -> None:
    """Rewrite every transposed convolution of stride 1 whose weights are constant."""
    for node in list(graph.nodes):
        if not isinstance(node.op, ConvTranspose) or set(node.op.stride) != {1}:
            continue
        reason = _refuse(node, node.op)
        if reason is not None:
            context.refused(node, f"conv_transpose of stride 1 stays: {reason}")
            continue
        x, w = node.inputs
        assert w.data is not None
        turned = np.flip(node.op.as_filters(w.data), tuple(range(2, w.type.rank)))
        conv = Conv(node.op.stride, _padding(node, node.op), node.op.dilation, node.op.groups, node.op.tf32)
        weights = graph.add_constant(np.ascontiguousarray(turned), w.name)
        result = graph.append(conv, [x, weights], loc=node.loc, before=node).output
        bypass(graph, node, result)
        assert result.producer is not None
        context.applied(result.producer, "conv_transpose of stride 1 is a conv with its filters turned around")
    graph.drop_unused_constants()


def _refuse(node: Node, op: ConvTranspose) -> str | None:
    """None, or why the node stays."""
    x, w = node.inputs
    if w.data is None:
        return "its weights are no constant"
    if any(side < 0 for pair in _padding(node, op) for side in pair):
        return "it cuts off more than its filters reach"
    if any(size == 1 and taps > 1 for size, taps in zip(x.type.shape[2:], w.type.shape[2:], strict=True)):
        return "each output pixel has one tap, a convolution would multiply padding with the others"
    return None


def _padding(node: Node, op: ConvTranspose) -> tuple[tuple[int, int], ...]:
    """That of the convolution, before and after."""
    reach = [d * (taps - 1) for d, taps in zip(op.dilation, node.inputs[1].type.shape[2:], strict=True)]
    return tuple(
        (r - before, r - after + extra)
        for r, (before, after), extra in zip(reach, op.padding, op.output_padding, strict=True)
    )
