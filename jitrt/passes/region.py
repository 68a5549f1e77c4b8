"""Make a region out of nodes: the body that a kernel is asked for, and the node that stands for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.op import Trait
from jitrt.graph.ops import Region
from jitrt.graph.rebuild import rebuild
from jitrt.graph.types import Layout, TensorType

MOST = 256
"""Nodes of a region at most: Triton reads kernels by recursion, and a build takes ever longer. A loop unrolled over
hundreds of steps becomes several kernels."""


def body_of(nodes: Sequence[Node], output: Value) -> tuple[Graph, list[Value]]:
    """(body, operands) of a region of `nodes`, in topological order, that results in `output`.

    The body's inputs are i0, i1, ... in order of first use; constants of rank 0 go inside, others are operands. Types
    carry strides but neither offset nor storage, which belong to the outer graph. The same nodes give the same text in
    every model.
    """
    body = Graph("region")
    operands: list[Value] = []
    inside: dict[Value, Value] = {}
    made = {value for node in nodes for value in node.outputs}
    for node in nodes:
        for value in node.inputs:
            if value in made or value in inside:
                continue
            if value.data is not None and value.type.rank == 0:
                inside[value] = body.add_constant(value.data, type=strided(value.type))
            else:
                inside[value] = body.add_input(f"i{len(operands)}", strided(value.type))
                operands.append(value)
        types = [strided(value.type) for value in node.outputs]
        copy = body.append(node.op, [inside[v] for v in node.inputs], loc=node.loc, types=types)
        inside.update(zip(node.outputs, copy.outputs, strict=True))
    body.mark_output(inside[output])
    return body, operands


def only_anchor(node: Node) -> Node | None:
    """The anchor of a region that has just one; None of any other node."""
    if not isinstance(node.op, Region):
        return None
    anchors = anchors_of(node.op.body)
    return anchors[0] if len(anchors) == 1 else None


def strided(type: TensorType) -> TensorType:
    """The type with its strides alone."""
    return type.with_layout(Layout(type.strides))


def make_region(graph: Graph, nodes: Iterable[Node], output: Value) -> Node:
    """Replace `nodes`, all but `output` of whose results only they read, by one region node; returns it.

    It stands where the last of them stood, keeps the output's name and type, and has the anchor's location. A node some
    of whose results others read too is left in place for them.
    """
    position = {node: index for index, node in enumerate(graph.nodes)}
    ordered = sorted(nodes, key=position.__getitem__)
    body, operands = body_of(ordered, output)
    anchor = next((node for node in ordered if node.has(Trait.ANCHOR)), ordered[-1])
    region = graph.append(Region(body), operands, loc=anchor.loc, types=[output.type], before=ordered[-1])
    name = output.name
    graph.replace_uses(output, region.output)
    for node in reversed(ordered):
        if not any(value.uses or value in graph.outputs for value in node.outputs):
            graph.erase(node)
    graph.rename(region.output, name)
    return region


def inline(graph: Graph, region: Node, given: Mapping[Value, Value], *, before: Node) -> tuple[list[Node], Value]:
    """(copies of a region's nodes in the graph around it, their result). Operands in `given` are replaced."""
    assert isinstance(region.op, Region)
    body = region.op.body
    inside = {inner: given.get(outer, outer) for inner, outer in zip(body.inputs, region.inputs, strict=True)}
    for value in body.constants.values():
        assert value.data is not None
        inside[value] = graph.add_constant(value.data, type=value.type)
    nodes = []
    for node in body.nodes:
        types = [value.type for value in node.outputs]
        copy = graph.append(node.op, [inside[v] for v in node.inputs], loc=node.loc, types=types, before=before)
        inside.update(zip(node.outputs, copy.outputs, strict=True))
        nodes.append(copy)
    result = inside[body.outputs[0]]
    result.type = region.output.type
    return nodes, result


def supersede(graph: Graph, region: Node, nodes: Iterable[Node], result: Value) -> Node:
    """One region of `nodes`, which compute `result`, instead of `region`, whose result's name it takes over."""
    name = region.output.name
    graph.replace_uses(region.output, result)
    graph.erase(region)
    made = make_region(graph, nodes, result)
    graph.rename(made.output, name)
    return made


def relaid(region: Node, types: Mapping[Value, TensorType]) -> Graph:
    """The region's body as it would be with other layouts of the outer values in `types`."""
    assert isinstance(region.op, Region)
    body = region.op.body
    pairs = [*zip(body.inputs, region.inputs, strict=True), *zip(body.outputs, region.outputs, strict=True)]
    outer = {inner: strided(types.get(value, value.type)) for inner, value in pairs}
    return rebuild(body, type=lambda value: outer.get(value, value.type))


def describe(nodes: Iterable[Node]) -> str:
    """The ops of a region, as reports name it: "conv + add + relu"."""
    return " + ".join(node.op.name for node in nodes)
