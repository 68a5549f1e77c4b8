"""Put the nodes in an order that keeps little alive at once."""

from __future__ import annotations

from collections import Counter

from jitrt.graph.graph import Graph, Node
from jitrt.passes.base import PassContext
from jitrt.passes.plan_memory import lifetimes, peak
from jitrt.passes.storage import is_structural, storage_of


def schedule(graph: Graph, context: PassContext) -> None:
    """Compare today's order with a greedy one, which always takes the ready node that adds least to what is live; keep
    the better, today's if they are equal."""
    before, greedy = list(graph.nodes), _greedy(graph)
    now, then = (peak(lifetimes(nodes, graph)) for nodes in (before, greedy))
    if then < now:
        graph.nodes = greedy
        context.applied(greedy[0], f"order changed: {then} instead of {now} bytes live at the peak")


def _greedy(graph: Graph) -> list[Node]:
    elsewhere = {storage_of(value) for value in (*graph.inputs, *graph.constants.values(), *graph.outputs)}
    nbytes = {block.name: block.nbytes for block in lifetimes(graph.nodes, graph)}
    readers = Counter(name for node in graph.nodes for name in _reads(node))
    missing = {node: len({v.producer for v in node.inputs if v.producer is not None}) for node in graph.nodes}
    position = {node: index for index, node in enumerate(graph.nodes)}
    ready = [node for node in graph.nodes if not missing[node]]
    written: set[str] = set()
    order: list[Node] = []

    def growth(node: Node) -> tuple[int, int]:
        if is_structural(node):
            return (-1 << 62, position[node])
        new = sum(nbytes[name] for name in _writes(node) - written - elsewhere)
        freed = sum(nbytes[name] for name in _reads(node) - elsewhere if readers[name] == 1)
        return (new - freed, position[node])

    while ready:
        node = min(ready, key=growth)
        ready.remove(node)
        order.append(node)
        written |= _writes(node)
        readers.subtract(_reads(node))
        for user in dict.fromkeys(user for value in node.outputs for user in value.users):
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    return order


def _reads(node: Node) -> set[str]:
    return set() if is_structural(node) else {storage_of(value) for value in node.inputs}


def _writes(node: Node) -> set[str]:
    return set() if is_structural(node) else {storage_of(value) for value in node.outputs}
