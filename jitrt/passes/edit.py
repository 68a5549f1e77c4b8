"""Edits that several passes make."""

from __future__ import annotations

from collections.abc import Iterator

from jitrt.graph.graph import Graph, Node, Value, live_nodes
from jitrt.graph.op import Trait
from jitrt.graph.ops import Cast, Contiguous, Expand, Pad, Permute


def bypass(graph: Graph, node: Node, value: Value) -> bool:
    """Let `value` stand for the only output of `node`, and erase the node.

    A graph output keeps its name and its declared layout: `value` takes them over. Where it cannot, because it is a
    graph input, a constant or an output with another layout, nothing is changed and False returned.
    """
    old = node.output
    if old not in graph.outputs:
        graph.replace_uses(old, value)
        graph.erase(node)
        return True
    if value.producer is None or (value in graph.outputs and value.type != old.type):
        return False
    adopt = value not in graph.outputs
    name, layout = old.name, old.type.layout
    graph.replace_uses(old, value)
    graph.erase(node)
    if adopt:
        graph.rename(value, name)
        value.type = value.type.with_layout(layout)
    return True


def is_no_op(node: Node) -> bool:
    """Whether the node's output is its first input, whatever that holds."""
    if node.has(Trait.IDENTITY) or isinstance(node.op, Contiguous):
        return True
    if len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    if node.inputs[0].type.logical() != node.output.type.logical():
        return False
    if isinstance(node.op, Permute):
        # Moving only dimensions of size 1 past each other changes nothing.
        sized = [d for d in node.op.order if node.inputs[0].type.shape[d] != 1]
        return sized == sorted(sized)
    return node.has(Trait.INJECTIVE) or isinstance(node.op, Cast | Expand | Pad)


def remove_dead(graph: Graph) -> list[Node]:
    """Erase the nodes no output depends on, and constants nobody reads; returns the nodes."""
    live = live_nodes(graph)
    dead = [node for node in graph.nodes if node not in live]
    for node in reversed(dead):
        graph.erase(node)
    graph.drop_unused_constants()
    return dead


def only_reader(graph: Graph, value: Value) -> Node | None:
    """The one node that reads `value`, or None if there are several or it is a graph output."""
    users = value.users
    return users[0] if len(users) == 1 and value not in graph.outputs else None


def readers(value: Value) -> Iterator[Node]:
    """Those who read a value, itself or through views: the views too."""
    for user in value.users:
        yield user
        if user.has(Trait.VIEW):
            yield from readers(user.output)
