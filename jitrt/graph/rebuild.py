"""Copy a graph, changing types or ops on the way."""

from __future__ import annotations

from collections.abc import Callable

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op
from jitrt.graph.types import TensorType


def rebuild(
    graph: Graph,
    *,
    op: Callable[[Node], Op] | None = None,
    type: Callable[[Value], TensorType] | None = None,
) -> Graph:
    """A new graph with the same structure and names; `op` and `type` may replace each node's op and value's type."""
    out = Graph(graph.name)
    new_type = type or (lambda value: value.type)
    mapping: dict[Value, Value] = {}
    for value in graph.inputs:
        mapping[value] = out.add_input(value.name, new_type(value))
    for value in graph.constants.values():
        assert value.data is not None
        mapping[value] = copy = out.add_constant(value.data, value.name, new_type(value))
        if copy.type.logical() == value.type.logical():
            copy._digest = value._digest  # hashing a large weight is slow
    for node in graph.nodes:
        made = out.append(
            op(node) if op else node.op,
            [mapping[v] for v in node.inputs],
            loc=node.loc,
            names=[v.name for v in node.outputs],
            types=[new_type(v) for v in node.outputs],
        )
        mapping.update(zip(node.outputs, made.outputs, strict=True))
    out.mark_output(*(mapping[v] for v in graph.outputs))
    return out
