"""Slices that meet in a concat need no copy: the value they are parts of is written into its buffer as a whole.

Slices of one value that stand side by side, as `chunk` and `split` leave them, are one slice, or the value itself:

    concat(y[:2], y[2:], z)  ->  concat(y, z)

The end of a value as the first operand, or the beginning of one as the last, is made by a value that lies across the
concat's edge; what is asked for is a view of the larger buffer:

    concat(y[2:], z)         ->  concat(y, z)[2:]

Elsewhere the rest of the value would lie where other operands do. Where the rest is the larger part, it would spread
the concat over several times its memory, and a copy costs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Concat, Slice
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, readers, remove_dead


@dataclass(frozen=True)
class _Part:
    """`value[start:stop]` along the concat's axis, of `size`: a value itself, or a slice of one."""

    value: Value
    start: int
    stop: int
    size: int

    @property
    def rest(self) -> int:
        return self.size - (self.stop - self.start)


def join_slices(graph: Graph, context: PassContext) -> None:
    """Join neighbours, then let the outermost operands of each concat lie across its edges."""
    for node in list(graph.nodes):
        if not isinstance(node.op, Concat):
            continue
        parts = [_part(value, node.op.axis) for value in node.inputs]
        joined = _joined(parts)
        if len(joined) < len(parts):
            node = _replace(graph, node, [_slice(graph, part, node) for part in joined])
            context.applied(node, f"{len(parts)} operands of concat are slices of {len(joined)} values side by side")
            if len(joined) == 1:
                bypass(graph, node, node.inputs[0])
                continue
        for last in (False, True):
            node = _across(graph, node, last, context)
    remove_dead(graph)


def _part(value: Value, axis: int) -> _Part:
    slice = value.producer.op if value.producer is not None else None
    if isinstance(slice, Slice):
        assert value.producer is not None
        source = value.producer.inputs[0]
        shape = source.type.shape
        others = [d for d in range(len(shape)) if d != axis]
        dense = all(step == 1 for step in slice.step)
        if dense and all((slice.start[d], slice.stop[d]) == (0, shape[d]) for d in others):
            return _Part(source, slice.start[axis], slice.stop[axis], shape[axis])
    size = value.type.shape[axis]
    return _Part(value, 0, size, size)


def _joined(parts: Sequence[_Part]) -> list[_Part]:
    out: list[_Part] = []
    for part in parts:
        if out and out[-1].value is part.value and out[-1].stop == part.start:
            out[-1] = replace(out[-1], stop=part.stop)
        else:
            out.append(part)
    return out


def _slice(graph: Graph, part: _Part, concat: Node) -> Value:
    assert isinstance(concat.op, Concat)
    if part.rest == 0:
        return part.value
    return _sliced(graph, part.value, concat.op.axis, part.start, part.stop, concat)


def _sliced(graph: Graph, value: Value, axis: int, start: int, stop: int, before: Node) -> Value:
    slice = Slice.along(value.type.shape, axis, start, stop)
    return graph.append(slice, [value], loc=before.loc, before=before).output


def _replace(graph: Graph, node: Node, operands: Sequence[Value]) -> Node:
    """The concat of these operands in place of `node`."""
    made = graph.append(node.op, operands, loc=node.loc, types=[node.output.type], before=node)
    bypass(graph, node, made.output)
    return made


def _across(graph: Graph, node: Node, last: bool, context: PassContext) -> Node:
    """Let the value of the first operand (or the last one) lie across the edge, and the concat be a view of the larger
    one, which is returned; or report why not."""
    assert isinstance(node.op, Concat)
    axis = node.op.axis
    part = _part(node.inputs[-1 if last else 0], axis)
    inward = part.start if last else part.size - part.stop  # what of the rest lies on the side of the other operands
    if part.rest == 0 or len(node.inputs) == 1:
        return node
    reason = _refuse(graph, node, part) if inward == 0 else "the rest of its value would lie where other operands do"
    if reason is not None:
        context.refused(node, f"a slice as {'last' if last else 'first'} operand stays by itself: {reason}")
        return node
    operands = [*node.inputs[:-1], part.value] if last else [part.value, *node.inputs[1:]]
    whole = graph.append(node.op, operands, loc=node.loc, before=node)
    start, size = 0 if last else part.rest, node.output.type.shape[axis]
    view = _sliced(graph, whole.output, axis, start, start + size, node)
    graph.replace_uses(node.output, view)
    graph.erase(node)
    context.applied(
        whole, "a value lies across the edge of this concat: what was asked for is a view of the larger one"
    )
    return whole


def _refuse(graph: Graph, node: Node, part: _Part) -> str | None:
    assert isinstance(node.op, Concat)
    value = part.value
    if value.producer is None:
        return f"it is one of {'a constant' if value.is_constant else 'an input of the graph'}"
    if value.producer.has(Trait.VIEW) or isinstance(value.producer.op, Concat):
        return "its value has its place in memory from what it is made of"
    if value in graph.outputs or node.output in graph.outputs:
        return "what the graph returns has memory of its own"
    if any(other is not node and isinstance(other.op, Concat) for other in readers(value)):
        return "its value goes into another concat too"
    if sum(_part(operand, node.op.axis).value is value for operand in node.inputs) > 1:
        return "the concat takes several parts of its value, which are not side by side"
    if part.rest > node.output.type.shape[node.op.axis]:
        return "the rest of its value is larger than the whole concat"
    return None
