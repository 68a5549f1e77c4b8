"""The verifier: every invariant a pass may rely on, checked after every pass."""

from __future__ import annotations

import dataclasses

from jitrt.errors import GraphError, ShapeError
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.types import TensorType


def verify(graph: Graph) -> None:
    """Raise GraphError, naming the node, unless: names are unique, every operand is defined before it is read, use
    lists are exact, declared types agree with `op.infer` up to layout, strides have the rank of the shape, constant
    data has the declared dtype and shape, a value that lies in another's storage fits there, and outputs have storages
    of their own. Bodies of regions are graphs too and must hold to the same."""
    seen: dict[str, Value] = {}
    uses: dict[Value, list[tuple[int, int]]] = {}

    def define(value: Value, what: str) -> None:
        if value.name in seen:
            raise GraphError(f"{what}: the name %{value.name} is defined twice")
        seen[value.name] = value
        uses[value] = []
        if len(value.type.strides) != value.type.rank:
            raise GraphError(f"{what}: %{value.name} has rank {value.type.rank} but strides {value.type.strides}")

    for value in graph.inputs:
        define(value, "input")
    for value in graph.constants.values():
        define(value, "constant")
        assert value.data is not None
        if value.data.shape != value.type.shape or value.data.dtype != value.type.dtype.numpy:
            raise GraphError(
                f"constant %{value.name} is declared {value.type} but holds {value.data.dtype}{list(value.data.shape)}"
            )
    for position, node in enumerate(graph.nodes):
        for index, value in enumerate(node.inputs):
            if seen.get(value.name) is not value:
                raise GraphError(f"{node!r} reads %{value.name} before it is defined")
            uses[value].append((id(node), index))
        inferred = _infer(node)
        if len(inferred) != len(node.outputs):
            raise GraphError(f"{node!r} has {len(node.outputs)} outputs, its op infers {len(inferred)}")
        for value, type in zip(node.outputs, inferred, strict=True):
            if value.type.logical() != type.logical():
                raise GraphError(f"{node!r} declares {value.type}, its op infers {type}")
            if value.producer is not node:
                raise GraphError(f"%{value.name} does not name node {position} as its producer")
            define(value, repr(node))
        for body in _bodies(node):
            verify(body)
    for value in graph.outputs:
        if seen.get(value.name) is not value:
            raise GraphError(f"output %{value.name} is not defined in the graph")
        if value.type.layout is not None and value.type.layout.storage is not None:
            raise GraphError(f"output %{value.name} lies in the storage of %{value.type.layout.storage}")
    for value, expected in uses.items():
        if sorted((id(node), index) for node, index in value.uses) != sorted(expected):
            raise GraphError(f"the use list of %{value.name} is not exact")
    for value in seen.values():
        layout = value.type.layout
        if layout is not None and layout.storage is not None:
            _verify_storage(value, layout.storage, seen.get(layout.storage))


def _infer(node: Node) -> tuple[TensorType, ...]:
    try:
        return node.op.infer(*(v.type for v in node.inputs))
    except ShapeError as error:
        raise ShapeError(f"{node!r}{f' ({node.loc})' if node.loc else ''}: {error}") from error


def _bodies(node: Node) -> list[Graph]:
    attributes = (getattr(node.op, field.name) for field in dataclasses.fields(node.op))
    return [value for value in attributes if isinstance(value, Graph)]


def _verify_storage(value: Value, name: str, root: Value | None) -> None:
    if root is None:
        raise GraphError(f"%{value.name} lies in the storage of %{name}, which does not exist")
    if root.type.layout is not None and root.type.layout.storage is not None:
        raise GraphError(f"%{value.name} lies in the storage of %{name}, which has none of its own")
    if root.type.dtype != value.type.dtype:
        raise GraphError(f"%{value.name} is {value.type.dtype.value}, the storage of %{name} {root.type.dtype.value}")
    if value.type.offset < 0 or value.type.offset + value.type.span > root.type.offset + root.type.span:
        raise GraphError(f"%{value.name}: {value.type} reaches outside the storage of %{name}: {root.type}")
