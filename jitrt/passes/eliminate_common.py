"""Common subexpression elimination: equal constants and equal nodes on equal operands are kept once."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from jitrt.graph.graph import Graph, Value
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass

_SAMPLE = 16  # elements that tell most constants apart without hashing megabytes


def eliminate_common(graph: Graph, context: PassContext) -> None:
    """Merge equal constants, then nodes with the same op, attributes and operands."""
    _merge_constants(graph)
    first: dict[Hashable, Value] = {}
    for node in list(graph.nodes):
        if len(node.outputs) != 1:
            continue
        key = (type(node.op), node.op, tuple(id(value) for value in node.inputs))
        kept = first.setdefault(key, node.output)
        if kept is not node.output and bypass(graph, node, kept):
            assert kept.producer is not None
            context.applied(kept.producer, f"{kept.producer.op.name} computed once instead of twice")


def _merge_constants(graph: Graph) -> None:
    alike: dict[Hashable, list[Value]] = {}
    for value in graph.constants.values():
        alike.setdefault((value.type, _sample(value)), []).append(value)
    for group in alike.values():
        if len(group) == 1:
            continue
        first: dict[str, Value] = {}
        for value in group:
            kept = first.setdefault(value.digest, value)
            if kept is not value and value not in graph.outputs:
                graph.replace_uses(value, kept)
    graph.drop_unused_constants()


def _sample(value: Value) -> bytes:
    assert value.data is not None
    flat = value.data.reshape(-1) if value.data.flags.c_contiguous else value.data.flat
    return np.asarray(flat[:_SAMPLE]).tobytes() + np.asarray(flat[-_SAMPLE:]).tobytes()
