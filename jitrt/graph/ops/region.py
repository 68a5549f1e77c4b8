"""The region: a fused node that keeps the graph it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jitrt.graph.graph import Graph
from jitrt.graph.interpret import interpret
from jitrt.graph.op import Array, Op, Trait
from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class Region(Op):
    """Nodes that run as one kernel. `body` is the graph they were: meaning, reference and fallback come for free.

    The body's inputs are the region's operands, in order. Scalars live in the body as constants; weights are operands.
    """

    name: ClassVar[str] = "region"
    traits: ClassVar[Trait] = Trait.OPAQUE
    body: Graph

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(len(types) == len(self.body.inputs), f"takes {len(self.body.inputs)} operands, got {len(types)}")
        for type, value in zip(types, self.body.inputs, strict=True):
            self.check(
                type.logical() == value.type.logical(), f"operand is {type}, the body's %{value.name} is {value.type}"
            )
        return tuple(v.type.logical() for v in self.body.outputs)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        # Run as a kernel does: no rounding between the ops, one at the end (done by the caller).
        return interpret(self.body, arrays, exact=True)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return sum(
            node.op.flops([v.type for v in node.inputs], [v.type for v in node.outputs]) for node in self.body.nodes
        )
