"""Which value's memory a value lies in, and moving a value, with its views, into another's."""

from __future__ import annotations

from collections.abc import Iterator

from jitrt.errors import GraphError
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.types import Layout, TensorType
from jitrt.passes.views import source_strides, view_layout


def storage_of(value: Value) -> str:
    """The name of the value whose storage `value` lies in: its own, if it has one."""
    layout = value.type.layout
    return layout.storage if layout is not None and layout.storage is not None else value.name


def owns_storage(value: Value) -> bool:
    """Whether the value has a storage of its own."""
    return storage_of(value) == value.name


def root_of(graph: Graph, value: Value) -> Value:
    """The value that owns the storage `value` lies in. Raises GraphError if the graph has none of that name."""
    name = storage_of(value)
    if name == value.name:
        return value
    for other in graph.values():
        if other.name == name:
            return other
    raise GraphError(f"%{value.name} lies in the storage of %{name}, which does not exist")


def is_structural(node: Node) -> bool:
    """Whether a node of a laid-out graph launches nothing: a view, or a concat whose operands were written in place."""
    if node.has(Trait.VIEW):
        return True
    inside = {storage_of(value) for value in node.inputs} == {storage_of(value) for value in node.outputs}
    return inside and node.has(Trait.INJECTIVE) and not node.has(Trait.ELEMENTWISE)


def sources(value: Value) -> Iterator[Node]:
    """The views between a value and the node that computed it (or the input or constant it shows), last first."""
    while value.producer is not None and value.producer.has(Trait.VIEW):
        yield value.producer
        value = value.producer.inputs[0]


def place(value: Value, layout: Layout) -> tuple[Value, Layout] | None:
    """(computed value, its layout) such that `value`, a view of it or itself, comes to lie at `layout`; None if the
    views between show only part of it or no strides do it."""
    strides: tuple[int, ...] | None = layout.strides
    for view in sources(value):
        source = view.inputs[0]
        assert strides is not None
        strides = source_strides(view.op, source.type.shape, view.output.type, strides)
        if strides is None:
            return None
        value = source
    assert strides is not None
    return value, Layout(strides, layout.offset, layout.storage)


def moved_types(graph: Graph, value: Value, layout: Layout) -> dict[Value, TensorType] | str:
    """The types of `value` and all its views once `value` lies at `layout`; or why that cannot be."""
    types = {value: value.type.with_layout(layout)}
    for node in graph.nodes:
        if not node.has(Trait.VIEW) or node.inputs[0] not in types:
            continue
        view = view_layout(node.op, types[node.inputs[0]], node.output.type.shape)
        if view is None:
            return f"{node.op.name} of it would need a copy there"
        if owns_storage(node.output):
            return f"a view of it, %{node.output.name}, is an output of the graph"
        storage = layout.storage or value.name
        types[node.output] = node.output.type.with_layout(Layout(view.strides, view.offset, storage))
    return types
