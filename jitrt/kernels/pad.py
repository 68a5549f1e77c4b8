"""Padding that no neighbour could absorb: one masked copy, with what follows it in the epilogue.

Formula: y[i] = f(x[i - before] where that is inside x, else value), x = g(operand). Fires for a region whose one
non-elementwise node is a pad with constant value, any strides. Saves the write and read between pad and epilogue.
Floor: (x + y) bytes / bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.prologue import make_chain, refuse_chain, source_of
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Pad
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Template, anchor_of
from jitrt.kernels.tiles import tile_configs, tile_launch


@triton.jit
def pad(
    y,
    x,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    VALUE: tl.constexpr,
    LOADED: tl.constexpr,  # the dtype elements of x have in registers
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOCATE: tl.constexpr,
    CHAIN: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_k: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    pid = tl.program_id(0)
    m = ((pid // tiles_k) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = ((pid % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    m_mask = m < ROWS
    k_mask = k < COLUMNS
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    offset, inside = LOCATE(m, k, m_mask, k_mask)
    value = CHAIN(tl.load(x + offset, mask=inside, other=0).to(LOADED))
    value = tl.where(inside, value, VALUE)
    STORE(y, APPLY(value, aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


def make_locate(space: TileSpace, node: Node, x: TensorType) -> Any:
    """The function (m, k, m_mask, k_mask) -> (offset in x, whether the position is inside x) for a pad node."""
    assert isinstance(node.op, Pad)
    shifted = TensorType(x.dtype, space.shape, Layout(x.strides))
    start = sum(before * stride for (before, _), stride in zip(node.op.padding, x.strides))
    inside = ["m_mask & k_mask"]
    for d, (before, after) in enumerate(node.op.padding):
        index = space.coordinate(d)
        inside += [f"({index} >= {before})"] if before else []
        inside += [f"({index} < {before + x.shape[d]})"] if after else []
    offset = f"{space.address(shifted).offset} + m * 0 + k * 0 - {start}"
    text = f"@triton.jit\ndef locate(m, k, m_mask, k_mask):\n    return {offset}, {' & '.join(inside)}\n"
    return function(text, "locate")


class PadTemplate(Template):
    """A pad with what is elementwise around it."""

    name = "pad"

    def accepts(self, body: Graph) -> str | None:
        pads = [node for node in body.nodes if isinstance(node.op, Pad)]
        anchor = anchor_of(body)
        if anchor is not None or not pads:
            return "anchor is no pad"
        if len(pads) > 1:
            return f"a region has at most one pad, this one {len(pads)}"
        return refuse_chain(pads[0].inputs[0]) or refuse_epilogue(body, pads[0])

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return tile_configs(problem, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        body, space = problem.body, TileSpace.of(problem.output.type)
        node = next(node for node in body.nodes if isinstance(node.op, Pad))
        assert isinstance(node.op, Pad)
        source = source_of(node.inputs[0])
        assert source is not None
        epilogue = make_epilogue(body, node.output, space)
        constexprs: dict[str, Any] = {
            "VALUE": node.op.value if node.output.type.dtype.is_float else int(node.op.value),
            "LOADED": triton_dtype(source.type.dtype),
            "LOCATE": make_locate(space, node, source.type),
            "CHAIN": make_chain(body, node.inputs[0]),
        }
        arguments = {"x": Operand(body.inputs.index(source))}
        return tile_launch(pad, space, config, target, epilogue, constexprs, arguments)
