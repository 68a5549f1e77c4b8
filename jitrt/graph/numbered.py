"""The same graph under numbers for names: what two graphs that mean the same must agree on."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op
from jitrt.graph.types import TensorType


def numbered(graph: Graph, keep: Collection[Value] = ()) -> Graph:
    """A copy without source lines in which inputs are x0, x1..., constants c0, c1... in order of first use, and the
    nodes' results v0, v1...; but the values in `keep` have the names they had. Bodies of regions are numbered too.

    Two front ends that build the same layers in the same order arrive at the same text of this.
    """
    used = list(dict.fromkeys(v for node in graph.nodes for v in node.inputs if v.is_constant))
    used += [v for v in graph.constants.values() if v not in used]
    results = [v for node in graph.nodes for v in node.outputs]
    families = (("x", graph.inputs), ("c", used), ("v", results))
    names = {v: v.name if v in keep else f"{letter}{i}" for letter, values in families for i, v in enumerate(values)}
    renamed = {value.name: name for value, name in names.items()}

    def type_of(value: Value) -> TensorType:
        layout = value.type.layout
        if layout is None or layout.storage is None:
            return value.type
        return value.type.with_layout(dataclasses.replace(layout, storage=renamed[layout.storage]))

    out = Graph(graph.name)
    mapping = {v: out.add_input(names[v], type_of(v)) for v in graph.inputs}
    mapping |= {v: out.add_constant(v.data, names[v], type_of(v)) for v in used if v.data is not None}
    for node in graph.nodes:
        made = out.append(
            _numbered_op(node),
            [mapping[v] for v in node.inputs],
            names=[names[v] for v in node.outputs],
            types=[type_of(v) for v in node.outputs],
        )
        mapping.update(zip(node.outputs, made.outputs, strict=True))
    out.mark_output(*(mapping[v] for v in graph.outputs))
    return out


def _numbered_op(node: Node) -> Op:
    attributes = {field.name: getattr(node.op, field.name) for field in dataclasses.fields(node.op)}
    bodies = {name: numbered(value) for name, value in attributes.items() if isinstance(value, Graph)}
    return dataclasses.replace(node.op, **bodies) if bodies else node.op
