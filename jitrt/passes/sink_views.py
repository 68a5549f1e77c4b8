"""Move permutes and reshapes below the elementwise ops that follow them, and permutes of rows below linear layers.

    add(permute(linear(x)), y)           ->  permute(add(linear(x), permute'(y)))
    linear(permute(x, (1, 0, 2)), w)     ->  permute(linear(x, w), (1, 0, 2)), where heads follow

so that an anchor and its elementwise followers stand side by side and fuse, and linear layers read even rows; what
moves costs nothing, since a view is only a layout. Above elementwise ops views of graph inputs stay: there is no anchor
above them to fuse with.
"""

from __future__ import annotations

import numpy as np

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Contiguous, Linear, Permute, Reshape
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader, remove_dead
from jitrt.passes.lift_permutes import keeps_columns


def sink_views(graph: Graph, context: PassContext) -> None:
    """Sink each permute and reshape as far as it goes. The inverse permutes this puts on other operands stay."""
    for view in reversed(list(graph.nodes)):  # the last first, so that those above it can come to stand on it
        if not isinstance(view.op, Permute | Reshape):
            continue
        while (reader := only_reader(graph, view.output)) is not None:
            operands = _operands_above(graph, view, reader)
            if operands is None:
                break
            context.applied(view, f"{view.op.name} moved below {reader.op.name}")
            view = _swap(graph, view, reader, operands)
    remove_dead(graph)


def _computed(value: Value) -> bool:
    """Whether some node that moves more than a view made the value."""
    while value.producer is not None and value.producer.has(Trait.VIEW):
        value = value.producer.inputs[0]
    return value.producer is not None


def _operands_above(graph: Graph, view: Node, reader: Node) -> list[Value] | None:
    """The reader's operands as it would read them above the view; None if it must stay below."""
    if isinstance(reader.op, Linear):
        x, weight = reader.inputs
        fits = x is view.output and keeps_columns(view) and _splits_columns_next(graph, reader)
        return [view.inputs[0], weight] if fits else None
    if not _computed(view.inputs[0]):
        return None
    if not reader.has(Trait.ELEMENTWISE) or isinstance(reader.op, Contiguous):
        return None
    if reader.output.type.shape != view.output.type.shape:
        return None
    others = [v for v in reader.inputs if v is not view.output and v.type.rank > 0]
    if others and not isinstance(view.op, Permute):
        alike = view.inputs[0].type.shape[-1:] == view.output.type.shape[-1:] and all(v.type.rank == 1 for v in others)
        # What goes along the columns does not mind how the rows are counted.
        return [view.inputs[0] if v is view.output else v for v in reader.inputs] if alike else None
    if any(not v.is_constant and v.type.rank != view.output.type.rank for v in others):
        return None
    moved = {v: _unpermute(graph, view, v) for v in others}
    return [view.inputs[0] if v is view.output else moved.get(v, v) for v in reader.inputs]


def _splits_columns_next(graph: Graph, node: Node) -> bool:
    """Whether the columns of a linear layer are taken apart next, past elementwise ops: into the heads of an attention,
    which may lie in any order. A recurrence turns its rows back itself, and would have them copied."""
    columns, reader = node.output.type.shape[-1], only_reader(graph, node.output)
    while reader is not None and reader.has(Trait.ELEMENTWISE):
        reader = only_reader(graph, reader.output)
    return reader is not None and isinstance(reader.op, Reshape) and reader.op.shape[-1:] != (columns,)


def _unpermute(graph: Graph, view: Node, value: Value) -> Value:
    assert isinstance(view.op, Permute)
    inverse = tuple(int(d) for d in np.argsort(view.op.order))
    if value.data is not None:
        full = value.data.reshape((1,) * (len(inverse) - value.type.rank) + value.type.shape).transpose(inverse)
        lead = next((d for d, size in enumerate(full.shape) if size != 1), full.ndim)
        return graph.add_constant(full.reshape(full.shape[lead:]), value.name)
    before = view.output.users[0]
    return graph.append(Permute(inverse), [value], loc=view.loc, before=before).output


def _swap(graph: Graph, view: Node, reader: Node, operands: list[Value]) -> Node:
    """Put the reader above the view; returns the view's new node."""
    above = graph.append(reader.op, operands, loc=reader.loc, before=reader)
    below = graph.append(view.op, [above.output], loc=view.loc, before=reader)
    bypass(graph, reader, below.output)
    graph.erase(view)
    return below
