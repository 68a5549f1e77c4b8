"""A graph without what has no elements: there is nothing to launch a kernel for, and nothing in it is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jitrt.graph import Graph, Node, Value
from jitrt.graph.graph import live_nodes
from jitrt.graph.op import Array


@dataclass(frozen=True)
class Prepared:
    """A graph of what is asked for, without inputs and outputs that have no elements; `changed` if there were any.

    The engine takes the inputs of `source` and returns `outputs`, values of it; names are the same in `graph`.
    """

    source: Graph
    graph: Graph
    outputs: tuple[Value, ...]
    changed: bool


def prepare(graph: Graph, outputs: Sequence[str] | None) -> Prepared:
    """The graph to build. An input without elements is a constant: nothing in it is unknown; and so is what depends on
    nothing else. An output without elements takes no computing."""
    by_name = {value.name: value for value in graph.values()}
    wanted = tuple(graph.outputs if outputs is None else (by_name[name] for name in outputs))
    empty = [value for value in graph.inputs if value.type.numel == 0]
    changed = bool(empty) or not all(value.type.numel for value in wanted)
    if outputs is None and not changed:
        return Prepared(graph, graph, wanted, False)
    known: dict[Value, Array] = {value: np.empty(value.type.shape, value.type.dtype.numpy) for value in empty}
    made = Graph(graph.name)
    copies = {value: made.add_input(value.name, value.type) for value in graph.inputs if value not in known}
    full = [value for value in wanted if value.type.numel]
    live = live_nodes(graph, full)
    for node in graph.nodes:
        if node in live:
            _copy(made, node, copies, known, fold=bool(empty))
    made.mark_output(*dict.fromkeys(_copied(made, value, copies, known) for value in full))
    return Prepared(graph, made, wanted, changed)


def _copy(made: Graph, node: Node, copies: dict[Value, Value], known: dict[Value, Array], *, fold: bool) -> None:
    data = [known.get(value, value.data) for value in node.inputs]
    if fold and data and all(array is not None for array in data):
        with np.errstate(all="ignore"):
            results = node.op.eval(*(array for array in data if array is not None))
        for value, result in zip(node.outputs, results, strict=True):
            known[value] = np.asarray(result).astype(value.type.dtype.numpy, copy=False)
        return
    operands = [_copied(made, value, copies, known) for value in node.inputs]
    names, types = [value.name for value in node.outputs], [value.type for value in node.outputs]
    copy = made.append(node.op, operands, loc=node.loc, names=names, types=types)
    copies.update(zip(node.outputs, copy.outputs, strict=True))


def _copied(made: Graph, value: Value, copies: dict[Value, Value], known: Mapping[Value, Array]) -> Value:
    if value not in copies:
        data = known.get(value, value.data)
        assert data is not None
        copies[value] = made.add_constant(data, value.name, value.type if value.is_constant else None)
    return copies[value]
