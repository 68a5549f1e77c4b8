"""Let a convolution or a pool pad for itself: a mask on its loads instead of a copy of the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op
from jitrt.graph.ops import Abs, AvgPool, Clamp, Conv, Exp, HardSigmoid, MaxPool, Pad, Relu, Sigmoid, Softplus, Sqrt
from jitrt.passes.base import PassContext
from jitrt.passes.edit import remove_dead

_NOT_NEGATIVE = (Relu, Sigmoid, HardSigmoid, Abs, Exp, Softplus, Sqrt)


def absorb_padding(graph: Graph, context: PassContext) -> None:
    """Give each reader of a `pad` that can pad for itself the unpadded image; each decides alone."""
    for node in list(graph.nodes):
        pad = node.inputs[0].producer if node.inputs else None
        if pad is None or not isinstance(pad.op, Pad) or not isinstance(node.op, Conv | MaxPool | AvgPool):
            continue
        padded = _padded(node, pad)
        if isinstance(padded, str):
            context.refused(node, f"pad before {node.op.name} stays: {padded}")
            continue
        node.op = padded
        graph.set_input(node, 0, pad.inputs[0])
        context.applied(node, f"pad absorbed by {node.op.name}")
    remove_dead(graph)


def _padded(node: Node, pad: Node) -> Op | str:
    """The op that pads by itself, or why there is none."""
    assert isinstance(pad.op, Pad)
    if any(pair != (0, 0) for pair in pad.op.padding[:2]):
        return "it pads images or channels, not only space"
    margin = pad.op.padding[2:]
    if isinstance(node.op, Conv):
        if pad.op.value != 0:
            return f"it pads with {pad.op.value}, a convolution pads with 0"
        both = [(a + c, b + d) for (a, b), (c, d) in zip(node.op.padding, margin, strict=True)]
        return replace(node.op, padding=tuple(both))
    assert isinstance(node.op, MaxPool | AvgPool)
    if any(before != after for before, after in margin):
        return "it pads one side more than the other, a pool both alike"
    if node.op.ceil_mode:
        return "the pool rounds its size up, which counts padding differently"
    padding = tuple(p + m for p, (m, _) in zip(node.op.padding, margin, strict=True))
    if any(2 * p > k for p, k in zip(padding, node.op.kernel, strict=True)):
        return "it pads more than half the pool's window"
    if isinstance(node.op, AvgPool):
        if pad.op.value != 0:
            return f"it pads with {pad.op.value}, a mean needs 0"
        if not node.op.count_include_pad and any(node.op.padding):
            return "the pool leaves its own padding out of the mean"
        return replace(node.op, padding=padding, count_include_pad=True)
    if pad.op.value != -np.inf and not (pad.op.value <= 0 and _never_negative(pad.inputs[0])):
        return f"it pads with {pad.op.value}, which may be the maximum"
    return replace(node.op, padding=padding)


def _never_negative(value: Value) -> bool:
    """Whether the producer alone shows that no element is negative: then padding with 0 never wins a maximum."""
    if value.producer is None:
        return False
    op = value.producer.op
    return isinstance(op, _NOT_NEGATIVE) or (isinstance(op, Clamp) and op.low >= 0)
