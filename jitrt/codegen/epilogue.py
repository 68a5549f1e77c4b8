"""Write a region's elementwise part as `@triton.jit` functions that an anchor's kernel calls.

The kernel hands its float32 tile and the tile's indices to `APPLY(acc, aux, m, k, m_mask, k_mask)`, which loads what
other operands it needs, computes and returns the tile, and then to `STORE(y, value, m, k, m_mask, k_mask)`. Both arrive
as `tl.constexpr` arguments, so one kernel serves every chain of elementwise ops. A kernel that wants a residual under
way while it still multiplies calls APPLY in its two halves: `held = FETCH(aux, m, k, ...)` before its loop and
`FINISH(acc, held)` after it.

An epilogue may end in a pair: a second tensor, read like a residual, is stored beside the result, element by element
(a channel shuffle of two groups). The tile then has a third dimension of two, and whole runs of memory are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jitrt.codegen.pointwise import EXPRESSIONS
from jitrt.codegen.source import function
from jitrt.codegen.tile import Space
from jitrt.codegen.writer import Writer
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import Concat, Reshape
from jitrt.graph.types import Layout, TensorType


@dataclass(frozen=True)
class Epilogue:
    """`operands` are the indices of the region's operands that APPLY reads, in the order of its `aux` tuple."""

    operands: tuple[int, ...]
    apply_source: str
    fetch_source: str
    finish_source: str
    store_source: str

    @property
    def apply(self) -> Any:
        return function(self.apply_source, "apply")

    @property
    def fetch(self) -> Any:
        return function(self.fetch_source, "fetch")

    @property
    def finish(self) -> Any:
        return function(self.finish_source, "finish")

    @property
    def store(self) -> Any:
        return function(self.store_source, "store")


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


@dataclass(frozen=True)
class Pair:
    """The end of a body that stores two tensors side by side: `parts`, both of one shape. `type` is the first's place
    in the result, the second's begins `step` elements further. `nodes` are those that do so."""

    parts: tuple[Value, Value]
    type: TensorType
    step: int
    nodes: tuple[Node, ...]


def pair_of(body: Graph) -> Pair | None:
    """The pair that a body ends in: a concat of two tensors along a dimension that is 1 in both."""
    node = body.outputs[0].producer
    if node is None or not isinstance(node.op, Concat) or len(node.inputs) != 2:
        return None
    axis, out = node.op.axis, body.outputs[0].type
    if out.shape[axis] != 2:
        return None
    type = _without(out, axis)
    parts: list[Value] = []
    nodes = [node]
    for value in node.inputs:
        before = value.producer
        if before is not None and isinstance(before.op, Reshape) and before.inputs[0].type.shape == type.shape:
            parts.append(before.inputs[0])
            nodes.append(before)
        elif before is None and not value.is_constant:
            parts.append(value)
        else:
            return None
    return Pair((parts[0], parts[1]), type, out.strides[axis], tuple(nodes))


def _without(type: TensorType, axis: int) -> TensorType:
    """The type without one of its dimensions."""
    kept = [d for d in range(type.rank) if d != axis]
    return TensorType(type.dtype, tuple(type.shape[d] for d in kept), Layout(tuple(type.strides[d] for d in kept)))


def refuse_epilogue(body: Graph, anchor: Node | None, *, pairs: bool = False) -> str | None:
    """None if everything in `body` after `anchor` is elementwise on the output's shape; else the reason. With `pairs`
    it may end in a pair of such tensors."""
    if len(body.outputs) != 1:
        return f"a region has one output, this one {len(body.outputs)}"
    before = set(prologue_nodes(body, anchor)) if anchor else set()
    pair = pair_of(body) if pairs else None
    out = body.outputs[0].type.shape if pair is None else pair.type.shape
    for node in body.nodes:
        if node is anchor or node in before or (pair is not None and node in pair.nodes):
            continue
        if not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS:
            return f"{node.op.name} is not elementwise"
    if anchor is not None and anchor.output.type.shape != out:
        return f"the epilogue changes the shape from {list(anchor.output.type.shape)} to {list(out)}"
    return None


def make_epilogue(
    body: Graph,
    start: Value | None,
    space: Space,
    *,
    given: Mapping[Value, TensorType] | None = None,
    written: Mapping[Node, str] | None = None,
    handed: Value | None = None,
) -> Epilogue:
    """The functions for everything in `body` that follows `start` (the anchor's output, in registers as `acc`).

    With `start=None` the whole body is elementwise and `acc` is ignored. `given` overrides the types of operands and of
    the output, to address them in another shape; `written` are expressions of nodes that are not elementwise, with {0},
    {1}, ... for their operands. The operand `handed` is no load of theirs: APPLY and FINISH take its tile, converted to
    the type it has in registers, as a second parameter.
    """
    output, pair = body.outputs[0], pair_of(body)
    types = dict(given or {})
    if pair is not None:
        axis = output.producer.op.axis  # type: ignore[union-attr]
        types |= {part: _without(part.type, axis) for part in pair.parts if part.type.rank == output.type.rank}
        types[output] = pair.type
    names = {} if start is None else {start: "acc"}
    tiles = "acc" if handed is None else "acc, handed"
    if handed is not None:
        names[handed] = "handed"
    writer = Writer(body, space, types, names=names, written=written or {})
    if pair is None:
        result = writer.read(output)
    else:
        result = f"tl.join({', '.join(writer.read(part) for part in pair.parts)})"
    head = ["@triton.jit", f"def apply({tiles}, aux, {space.parameters}):"]
    apply = [*head, *writer.lines, f"    return {result}", ""]
    held = [f"r{i}" for i in range(len(writer.operands))]
    loaded = f"({', '.join(held)},)" if held else "0"  # Triton has no empty tuple to return
    fetch = ["@triton.jit", f"def fetch(aux, {space.parameters}):", *writer.loads, f"    return {loaded}", ""]
    taken = [f"    {name} = held[{i}]" for i, name in enumerate(held)]
    finish = ["@triton.jit", f"def finish({tiles}, held):", *taken, *writer.steps, f"    return {result}", ""]
    address = writer.address(output)
    masks = " & ".join(f"{name}_mask" for name in space.axes)
    # The pointers must have the tile's shape also along an index that does not move them.
    offset = " + ".join([address.offset, *(f"{name} * 0" for name in space.axes if name not in address.axes)])
    if pair is not None:
        offset = f"({offset})[:, :, None] + tl.arange(0, 2)[None, None, :] * {pair.step}"
        masks = f"({masks})[:, :, None]"
    store = [
        "@triton.jit",
        f"def store(y, value, {space.parameters}):",
        f"    tl.store(y + ({offset}), value.to(y.dtype.element_ty), mask={masks})",
        "",
    ]
    sources = ("\n".join(text) for text in (apply, fetch, finish, store))
    return Epilogue(tuple(writer.operands), *sources)
