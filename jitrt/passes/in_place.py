"""Results written over an operand that nobody reads any more: a residual and the sum it goes into share their bytes.

Which operands a kernel may overwrite is its template's to say (`kernels/in_place.py`): those it reads at the very
positions that the same program then writes. This file says which of them are free to be overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jitrt.graph.graph import Graph, Node, Value
from jitrt.passes.storage import is_structural, owns_storage, storage_of

Offers = Mapping[str, Mapping[str, str | None]]
"""For a region, by the name of its output: the operands as large as that output, by name, and None if the kernel may
write its result over the operand, or why it may not."""


@dataclass(frozen=True)
class InPlace:
    """`over` maps a storage to the one whose place it takes; `refused` a result that could take no operand's place, by
    name, to the reason."""

    over: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, name: str) -> str:
        """The storage that was first in the place of storage `name`."""
        while name in self.over:
            name = self.over[name]
        return name

    def undone(self) -> InPlace:
        """Every result in a place of its own, which can make a smaller arena: a long-lived place leaves gaps."""
        reasons = dict.fromkeys(self.over, "the arena is smaller without")
        return InPlace({}, {**self.refused, **reasons})


def find_in_place(
    graph: Graph, nbytes: Mapping[str, int], offers: Offers, waits: Mapping[Node, int] | None = None
) -> InPlace:
    """Which results take the place of which operands. `nbytes` are the sizes of the arena's storages by name.

    `waits` has a bit for each launching node that a node waits for, in their order; given, branches may run side by
    side, and an operand dies only where all its other readers have run in every legal order.
    """
    launching = [node for node in graph.nodes if not is_structural(node)]
    users: dict[str, int] = {}  # bits of the launching nodes that touch a storage
    for step, node in enumerate(launching):
        for value in (*node.inputs, *node.outputs):
            users[storage_of(value)] = users.get(storage_of(value), 0) | 1 << step
    over: dict[str, str] = {}
    refused: dict[str, str] = {}
    for step, node in enumerate(launching):
        ran = (1 << step) - 1 if waits is None else waits[node]
        for value in node.outputs:
            for operand in dict.fromkeys(v for v in node.inputs if v.name in offers.get(value.name, {})):
                reason = offers[value.name][operand.name] or _refuse(node, value, operand, nbytes)
                others = users[storage_of(operand)] & ~(1 << step)
                if reason is None and others & ~ran:
                    later = others >> step or waits is None
                    reason = "it is read later" if later else "a branch beside this one may still be reading it"
                if reason is None:
                    over[value.name] = storage_of(operand)
                    refused.pop(value.name, None)
                    break
                refused.setdefault(value.name, reason)
    return InPlace(over, refused)


def _refuse(node: Node, value: Value, operand: Value, nbytes: Mapping[str, int]) -> str | None:
    """Why `value` cannot lie where `operand` does, whoever else reads that."""
    storage = storage_of(operand)
    if storage not in nbytes:
        return "it lies outside the arena: an input, output or constant of the graph"
    if value.name not in nbytes:
        outside = owns_storage(value)
        return "the result is an output of the graph" if outside else "the result has its place in a concat"
    if sum(storage_of(v) == storage for v in node.inputs) > 1:
        return "the kernel reads its storage twice"
    if operand.type.offset or nbytes[storage] != nbytes[value.name]:
        return "it is a part of something larger"
    return None
