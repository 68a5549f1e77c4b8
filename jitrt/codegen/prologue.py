"""Write what stands before an anchor as a `@triton.jit` function: the anchor's operand, computed where it is loaded.

A kernel calls `LOAD(aux, *indices, *masks)` for a tile of its operand: loads, casts and any other elementwise ops of
the region happen on the way in. Elements outside the masks are whatever the ops make of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jitrt.codegen.pointwise import EXPRESSIONS
from jitrt.codegen.source import function
from jitrt.codegen.tile import Space, TileSpace
from jitrt.codegen.writer import Writer
from jitrt.graph.graph import Graph, Value
from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class Prologue:
    """`operands` are the indices of the region's operands that LOAD reads, in the order of its `aux` tuple."""

    operands: tuple[int, ...]
    source: str

    @property
    def load(self) -> Any:
        return function(self.source, "load")


def refuse_prologue(value: Value) -> str | None:
    """None if `value`, an anchor's operand, is an operand of the region or elementwise ops of its own shape on some."""
    stack = [value]
    while stack:
        producer = stack.pop().producer
        if producer is None:
            continue
        if type(producer.op) not in EXPRESSIONS:
            return f"{producer.op.name} before it is not elementwise"
        stack.extend(producer.inputs)
    return None


def make_prologue(
    body: Graph, value: Value, space: Space, *, given: Mapping[Value, TensorType] | None = None
) -> Prologue:
    """The function that computes `value` at a position of `space`. `given` overrides operand types."""
    writer = Writer(body, space, given or {})
    result = writer.read(value)
    head = ["@triton.jit", f"def load(aux, {space.parameters}):"]
    return Prologue(tuple(writer.operands), "\n".join([*head, *writer.lines, f"    return {result}", ""]))


def sources_of(value: Value) -> list[Value]:
    """The operands that `value` is computed from."""
    sources: dict[Value, None] = {}
    stack = [value]
    while stack:
        top = stack.pop()
        if top.producer is not None:
            stack.extend(top.producer.inputs)
        elif not top.is_constant:
            sources[top] = None
    return list(sources)


def source_of(value: Value) -> Value | None:
    """The one operand that `value` is computed from, if there is just one."""
    sources = sources_of(value)
    return sources[0] if len(sources) == 1 else None


def layout_of(value: Value) -> TensorType:
    """The layout by which `value` is best computed: that of the widest operand of its shape behind it, else its own."""
    alike = [source.type for source in sources_of(value) if source.type.shape == value.type.shape]
    return max(alike, key=lambda type: type.dtype.itemsize, default=value.type)


def refuse_chain(value: Value) -> str | None:
    """None if `value`, an anchor's operand, is elementwise ops on one operand of the region and scalars."""
    reason = refuse_prologue(value)
    if reason is None and source_of(value) is None:
        return "what is computed before it reads more than one tensor"
    return reason


def make_chain(body: Graph, value: Value) -> Any:
    """The function `chain(x)` from an element of the one operand behind `value` to `value`, for anchors that load the
    operand themselves."""
    source = source_of(value)
    assert source is not None
    writer = Writer(body, TileSpace((), (), None), {}, names={source: "x"})
    result = writer.read(value)
    return function("\n".join(["@triton.jit", "def chain(x):", *writer.lines, f"    return {result}", ""]), "chain")
