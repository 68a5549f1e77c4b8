"""Write a region's elementwise part as `@triton.jit` functions that an anchor's kernel calls.

The kernel hands its float32 tile and the tile's indices to `APPLY(acc, aux, m, k, m_mask, k_mask)`, which loads what
other operands it needs, computes and returns the tile, and then to `STORE(y, value, m, k, m_mask, k_mask)`. Both arrive
as `tl.constexpr` arguments, so one kernel serves every chain of elementwise ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jitrt.codegen.pointwise import EXPRESSIONS, expression, literal, register_type
from jitrt.codegen.source import define
from jitrt.codegen.tile import TileSpace
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Cast
from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class Epilogue:
    """`operands` are the indices of the region's operands that APPLY reads, in the order of its `aux` tuple."""

    operands: tuple[int, ...]
    apply_source: str
    store_source: str

    @property
    def apply(self) -> Any:
        return _function(self.apply_source, "apply")

    @property
    def store(self) -> Any:
        return _function(self.store_source, "store")


@lru_cache(maxsize=4096)
def _function(source: str, name: str) -> Any:
    return define(source, name)


def prologue_nodes(body: Graph, anchor: Node) -> list[Node]:
    """The body's nodes the anchor depends on."""
    needed: set[Node] = set()
    stack = [v.producer for v in anchor.inputs if v.producer]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(v.producer for v in node.inputs if v.producer)
    return [node for node in body.nodes if node in needed]


def refuse_epilogue(body: Graph, anchor: Node | None) -> str | None:
    """None if everything in `body` after `anchor` is elementwise on the output's shape; else the reason."""
    if len(body.outputs) != 1:
        return f"a region has one output, this one {len(body.outputs)}"
    before = set(prologue_nodes(body, anchor)) if anchor else set()
    out = body.outputs[0].type.shape
    for node in body.nodes:
        if node is anchor or node in before:
            continue
        if not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS:
            return f"{node.op.name} is not elementwise"
    if anchor is not None and anchor.output.type.shape != out:
        return f"the epilogue changes the shape from {list(anchor.output.type.shape)} to {list(out)}"
    return None


def make_epilogue(
    body: Graph, start: Value | None, space: TileSpace, *, given: dict[Value, TensorType] | None = None
) -> Epilogue:
    """The functions for everything in `body` that follows `start` (the anchor's output, in registers as `acc`).

    With `start=None` the whole body is elementwise and `acc` is ignored. `given` overrides operand types.
    """
    operands: list[int] = []
    lines: list[str] = []
    names: dict[Value, str] = {}
    if start is not None:
        names[start] = "acc"

    def read(value: Value) -> str:
        if value in names:
            return names[value]
        if value.is_constant:
            assert value.data is not None
            names[value] = literal(value.data.item() if value.type.dtype.numpy.kind != "V" else float(value.data))
            return names[value]
        index = body.inputs.index(value)
        address = space.address((given or {}).get(value, value.type))
        mask = f", mask={address.mask}, other=0" if address.mask else ""
        name = f"x{len(operands)}"
        lines.append(
            f"    {name} = tl.load(aux[{len(operands)}] + {address.offset}{mask})"
            f".to({register_type(value.type.dtype)})"
        )
        operands.append(index)
        names[value] = name
        return name

    for node in _after(body, start):
        arguments = [read(v) for v in node.inputs]
        name = f"v{len(names)}"
        text = expression(node.op, *(a if a.isidentifier() else f"({a})" for a in arguments))
        if not any(a.isidentifier() for a in arguments):
            text = f"tl.full([1, 1], {text}, {register_type(node.output.type.dtype)})"
        source_type, result_type = (register_type(v.type.dtype) for v in (node.inputs[-1], node.output))
        cast = f".to({result_type})" if source_type != result_type or isinstance(node.op, Cast) else ""
        lines.append(f"    {name} = ({text}){cast}")
        names[node.output] = name
    result = read(body.outputs[0])
    apply = ["@triton.jit", "def apply(acc, aux, m, k, m_mask, k_mask):", *lines, f"    return {result}", ""]
    output = body.outputs[0]
    address = space.address((given or {}).get(output, output.type))
    store = [
        "@triton.jit",
        "def store(y, value, m, k, m_mask, k_mask):",
        f"    tl.store(y + ({address.offset}), value.to(y.dtype.element_ty), mask=m_mask & k_mask)",
        "",
    ]
    return Epilogue(tuple(operands), "\n".join(apply), "\n".join(store))


def _after(body: Graph, start: Value | None) -> list[Node]:
    if start is None:
        return list(body.nodes)
    assert start.producer is not None
    before = set(prologue_nodes(body, start.producer)) | {start.producer}
    return [node for node in body.nodes if node not in before]
