"""Cut a graph into parts that run on the device and on the host, in turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jitrt.graph import Graph, Node, Value
from jitrt.graph.op import Trait


@dataclass(frozen=True)
class Part:
    """A subgraph that runs in one place. Its inputs and outputs have the names they have in the whole."""

    graph: Graph
    host: bool


def cut(graph: Graph, host: Iterable[Node]) -> list[Part]:
    """The parts of a graph, in the order they run: nodes in `host` on the host, all others on the device, as few turns
    as there can be. Views with nothing to compute among them stay on the host."""
    there = set(host)
    stage: dict[Node, int] = {}
    for node in graph.nodes:
        here = int(node in there)
        before = [stage[v.producer] for v in node.inputs if v.producer is not None]
        stage[node] = max((s + ((s + here) % 2) for s in before), default=here)
    parts: list[Part] = []
    for number in sorted(set(stage.values())):
        nodes = [node for node in graph.nodes if stage[node] == number]
        moved = number % 2 == 1 or all(node.has(Trait.VIEW) for node in nodes)
        parts.append(Part(_subgraph(graph, nodes, f"{graph.name}.{len(parts)}"), moved))
    return parts


def _subgraph(graph: Graph, nodes: Sequence[Node], name: str) -> Graph:
    part = Graph(name)
    inside = {value for node in nodes for value in node.outputs}
    copies: dict[Value, Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value in copies or value in inside:
                continue
            if value.data is not None:
                copies[value] = part.add_constant(value.data, value.name, value.type)
            else:
                copies[value] = part.add_input(value.name, value.type.logical())
        names, types = [value.name for value in node.outputs], [value.type for value in node.outputs]
        made = part.append(node.op, [copies[v] for v in node.inputs], loc=node.loc, names=names, types=types)
        copies.update(zip(node.outputs, made.outputs, strict=True))
    needed = [v for v in inside if v in graph.outputs or any(user not in nodes for user in v.users)]
    part.mark_output(*(copies[value] for value in sorted(needed, key=lambda v: v.name)))
    return part
