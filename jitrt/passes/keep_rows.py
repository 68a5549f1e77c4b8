"""A linear layer reads rows in as many dimensions as they come: flattened for it and taken apart again, they stay.

    reshape(add(linear(reshape(x, (t*n, c)), w), b), (t, n, k))  ->  add(linear(x, w), b)

So what follows, a residual sum above all, has the shape of the layer's result and goes into its kernel.
"""

from __future__ import annotations

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Linear, Reshape
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass, only_reader, remove_dead


def keep_rows(graph: Graph, context: PassContext) -> None:
    """Move the flattening below each linear layer after which it is undone; there the two meet and vanish."""
    for node in list(graph.nodes):
        flatten = node.inputs[0].producer if isinstance(node.op, Linear) else None
        if flatten is None or not isinstance(flatten.op, Reshape):
            continue
        source, columns = flatten.inputs[0], flatten.output.type.shape[-1]
        rows = _rows_after(graph, node.output)
        if rows is None or flatten.output.type.rank != 2:
            continue
        apart = graph.append(Reshape((*rows, columns)), [source], loc=flatten.loc, before=node)
        linear = graph.append(node.op, [apart.output, node.inputs[1]], loc=node.loc, before=node)
        flattened = graph.append(Reshape(node.output.type.shape), [linear.output], loc=flatten.loc, before=node)
        if bypass(graph, node, flattened.output):
            context.applied(linear, "linear reads its rows as they come, without flattening them")
    remove_dead(graph)


def _rows_after(graph: Graph, value: Value) -> tuple[int, ...] | None:
    """The shape of the rows once the reshape that alone reads the value, through elementwise ops at most, has taken
    them apart; None if there is none, or if it changes the columns."""
    reader: Node | None = only_reader(graph, value)
    while reader is not None and reader.has(Trait.ELEMENTWISE) and reader.output.type.shape == value.type.shape:
        reader = only_reader(graph, reader.output)
    if reader is None or not isinstance(reader.op, Reshape) or len(reader.op.shape) <= value.type.rank:
        return None
    *rows, columns = reader.op.shape
    return tuple(rows) if columns == value.type.shape[-1] else None
