"""Concat elimination: every operand is written straight into its slice of the result.

Latest concats first, so that one whose operands lie side by side in a later, larger one (DenseNet's growing features)
is a view of that, and one that is itself an operand (nested) already has its place when its own operands get theirs.
An operand that cannot be written in place (it is an input, a constant, an output, or lies elsewhere) is copied there by
a region of its own. Afterwards no concat launches anything.
"""

from __future__ import annotations

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Concat, Contiguous, Expand, Slice
from jitrt.graph.types import Layout, TensorType
from jitrt.passes.base import PassContext
from jitrt.passes.region import make_region, relaid
from jitrt.passes.storage import moved_types, owns_storage, place, sources, storage_of


def eliminate_concat(graph: Graph, context: PassContext) -> None:
    """Give every operand of every concat its place in the result's storage."""
    for node in reversed(list(graph.nodes)):
        if not isinstance(node.op, Concat):
            continue
        inside = _view_of(graph, node, context)
        if inside is None:
            context.applied(node, "concat is a view: its operands lie side by side already")
            continue
        copied = 0
        for index in range(len(node.inputs)):
            reason = _place_operand(graph, node, index, context)
            if reason is not None:
                reason = inside or reason
                _copy_operand(graph, node, index)
                copied += 1
                context.refused(node, f"an operand of concat is copied: {reason}")
        if copied < len(node.inputs):
            placed = len(node.inputs) - copied
            context.applied(node, f"{placed} of {len(node.inputs)} operands of concat written in place")


def _slices(node: Node) -> list[Layout]:
    """Where each operand belongs."""
    assert isinstance(node.op, Concat)
    type = node.output.type
    step, start, out = type.strides[node.op.axis], type.offset, []
    for value in node.inputs:
        out.append(Layout(type.strides, start, storage_of(node.output)))
        start += value.type.shape[node.op.axis] * step
    return out


def _view_of(graph: Graph, node: Node, context: PassContext) -> str | None:
    """Make the result a view of the storage in which all operands already lie side by side: None if that was done, else
    why it cannot be; an empty reason if they do not lie so."""
    assert isinstance(node.op, Concat)
    first = node.inputs[0]
    if node.output in graph.outputs or not owns_storage(node.output) or owns_storage(first):
        return ""
    strides, at = first.type.strides, first.type.offset
    for value in node.inputs:
        if storage_of(value) != storage_of(first) or value.type.strides != strides or value.type.offset != at:
            return ""
        at += value.type.shape[node.op.axis] * strides[node.op.axis]
    reason = _move(graph, node.output, Layout(strides, first.type.offset, storage_of(first)), context)
    return reason and f"all operands lie side by side in %{storage_of(first)}, but {reason}"


def _place_operand(graph: Graph, node: Node, index: int, context: PassContext) -> str | None:
    """Have operand `index` written in place; the reason if that cannot be."""
    value, wanted = node.inputs[index], _slices(node)[index]
    if value.type.layout == wanted:
        return None
    placed = place(value, wanted)
    if placed is None:
        return _why_not_through(value)
    computed, target = placed
    if computed.producer is None:
        return f"it is {'a constant' if computed.is_constant else 'an input of the graph'}"
    if computed in graph.outputs:
        return "it is an output of the graph, which has memory of its own"
    if not owns_storage(computed):
        twice = storage_of(computed) == storage_of(node.output)
        return "it is an operand twice" if twice else "it has its place in another buffer already"
    return _move(graph, computed, target, context)


def _why_not_through(value: Value) -> str:
    """Why the value that `value` is a view of cannot be written so that the view lies in its slice."""
    for view in sources(value):
        if isinstance(view.op, Slice):
            return "it is a part of a value whose rest would lie outside its slice"
        if isinstance(view.op, Expand):
            return "it repeats elements of a smaller value"
    return "no strides write it in the order that the views before the concat ask for"


def _move(graph: Graph, value: Value, layout: Layout, context: PassContext) -> str | None:
    """Let `value`, which has its own storage, and all its views lie at `layout`; or the reason why that cannot be."""
    types = moved_types(graph, value, layout)
    if isinstance(types, str):
        return types
    for node in _regions_touching(types):
        reason = context.accepts(relaid(node, types))
        if reason is not None and context.accepts(relaid(node, {})) is None:
            return f"no kernel could use it there: {reason}"
    for moved, type in types.items():
        moved.type = type
    return None


def _regions_touching(types: dict[Value, TensorType]) -> list[Node]:
    nodes = [value.producer for value in types if value.producer is not None]
    nodes += [user for value in types for user in value.users]
    return [node for node in dict.fromkeys(nodes) if node.has(Trait.OPAQUE)]


def _copy_operand(graph: Graph, node: Node, index: int) -> None:
    value = node.inputs[index]
    type = value.type.with_layout(_slices(node)[index])
    copy = graph.append(Contiguous(), [value], loc=node.loc, types=[type], before=node)
    graph.set_input(node, index, copy.output)
    make_region(graph, [copy], copy.output)
