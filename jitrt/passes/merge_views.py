"""Chains of the same movement are one movement: permutes, reshapes, slices, expands, and casts that lose nothing."""

from __future__ import annotations

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Op
from jitrt.graph.ops import Cast, Expand, Permute, Reshape, Slice
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, is_no_op, remove_dead

_DIGITS = {DType.f16: 11, DType.bf16: 8, DType.f32: 24, DType.f64: 53}  # binary, that a float holds exactly


def merge_views(graph: Graph, context: PassContext) -> None:
    """Make each node of a chain read the chain's start; two that undo each other vanish."""
    for node in list(graph.nodes):
        before = node.inputs[0].producer if node.inputs else None
        merged = _merged(before, node) if before is not None else None
        if merged is not None:
            assert before is not None
            node.op = merged
            graph.set_input(node, 0, before.inputs[0])
            context.applied(node, f"{before.op.name} and {node.op.name} merged")
        if is_no_op(node) and bypass(graph, node, node.inputs[0]):
            context.applied(node, f"{node.op.name} changes nothing: dropped")
    remove_dead(graph)


def _merged(before: Node, node: Node) -> Op | None:
    """The one op that does what `before`, then `node` do; None if there is none."""
    match before.op, node.op:
        case Permute(order=first), Permute(order=second):
            return Permute(tuple(first[d] for d in second))
        case (Reshape(), Reshape()) | (Expand(), Expand()):
            return node.op
        case Slice(), Slice():
            return _merged_slices(before.op, node.op, node.output.type.shape)
        case Cast(dtype=middle), Cast():
            return node.op if _holds(middle, before.inputs[0].type.dtype) else None
    return None


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if narrow == DType.b8:
        return True
    if narrow.is_float:
        return wide.is_float and wide.itemsize > narrow.itemsize
    if wide.is_float:
        return 8 * narrow.itemsize - (not narrow.is_unsigned) <= _DIGITS[wide]
    return np.can_cast(narrow.numpy, wide.numpy)


def _merged_slices(first: Slice, second: Slice, shape: tuple[int, ...]) -> Slice | None:
    if 0 in shape:
        return None
    start = tuple(a + b * step for a, b, step in zip(first.start, second.start, first.step, strict=True))
    step = tuple(a * b for a, b in zip(first.step, second.step, strict=True))
    stop = tuple(a + (size - 1) * by + 1 for a, size, by in zip(start, shape, step, strict=True))
    return Slice(start, stop, step)
