"""A reshape that joins dimensions, a permute, and a reshape that takes them apart again: without the joining.

    reshape(permute(reshape(x, (t, n*h, d)), (1, 0, 2)), (n, h, t, d))
    -> permute(reshape(x, (t, n, h, d)), (1, 2, 0, 3))

torch.nn.MultiheadAttention treats batch and heads as one dimension for a while. No strides can express that of a slice
of the joint projection of queries, keys and values, so it would cost a copy of each; what is left here are views.
"""

from __future__ import annotations

from collections.abc import Sequence

from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Permute, Reshape
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, remove_dead


def regroup_views(graph: Graph, context: PassContext) -> None:
    """Rewrite every such chain whose joined dimensions are all taken apart again."""
    for node in list(graph.nodes):
        permute = node.inputs[0].producer if isinstance(node.op, Reshape) else None
        join = permute.inputs[0].producer if permute is not None and isinstance(permute.op, Permute) else None
        if permute is None or join is None or not isinstance(join.op, Reshape):
            continue
        movement = _regrouped(join, permute, node)
        if movement is None:
            continue
        fine, order = movement
        source, shape = join.inputs[0], node.output.type.shape
        apart = graph.append(Reshape(fine), [source], loc=join.loc, before=node)
        moved = graph.append(Permute(order), [apart.output], loc=permute.loc, before=node)
        last = graph.append(Reshape(shape), [moved.output], loc=node.loc, before=node)
        if bypass(graph, node, last.output):
            context.applied(last, "dimensions are not joined only to be taken apart again")
    remove_dead(graph)


def _regrouped(join: Node, permute: Node, split: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(shape, order) of a reshape that joins nothing and of the permute after it; None if there is nothing to gain."""
    assert isinstance(permute.op, Permute)
    source, joined, result = join.inputs[0].type.shape, join.output.type.shape, split.output.type.shape
    if 0 in source:
        return None
    fine = refinement(source, joined)
    if fine is None or fine == _sized(joined):
        return None
    # Which of the fine dimensions make each of the joined ones, and where the permute puts them.
    parts: list[list[int]] = []
    at = 0
    for size in joined:
        part: list[int] = []
        while size > 1:
            size //= fine[at]
            part.append(at)
            at += 1
        parts.append(part)
    order = [index for d in permute.op.order for index in parts[d]]
    moved = [fine[index] for index in order]
    if refinement(moved, result) != _sized(result):
        return None  # the last reshape joins some of them itself
    return tuple(fine), tuple(order)


def refinement(shape: Sequence[int], other: Sequence[int]) -> list[int] | None:
    """The coarsest dimensions, none of size 1, of which those of both shapes are runs; None if there are none.

    >>> refinement((5, 2, 8), (5, 4, 4))
    [5, 2, 2, 4]
    """
    left, right = _sized(shape), _sized(other)
    fine: list[int] = []
    while left and right:
        a, b = left.pop(), right.pop()
        small, large = min(a, b), max(a, b)
        if large % small:
            return None
        fine.append(small)
        if a != b:
            (left if a > b else right).append(large // small)
    return fine[::-1]


def _sized(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]
