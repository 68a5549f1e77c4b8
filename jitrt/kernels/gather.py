"""Gather: elements at positions that another tensor holds; an embedding, for one.

Formula: y[i] = f(g(x[i with the index along one axis replaced by h(index)[i]])), f, g and h elementwise: g on one
tensor, h on any. Negative positions count from the end; whatever is out of range even so is taken as the nearest
position there is, so no element outside x is ever read. Fires for any strides. Saves the trips between index, gather
and what follows it. Floor: (y twice + index) bytes / bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.prologue import make_chain, make_prologue, refuse_chain, refuse_prologue, source_of
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.ops import Gather
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Template, anchor_of
from jitrt.kernels.tiles import tile_configs, tile_launch


@triton.jit
def gather(
    y,
    x,
    index_aux,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIZE: tl.constexpr,  # of the axis of x
    STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    COUNTED: tl.constexpr,  # the dtype positions are computed in
    WIDE: tl.constexpr,  # offsets into x pass 2^31
    LOADED: tl.constexpr,  # the dtype elements of x have in registers
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    INDEX: tl.constexpr,
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
    at = INDEX(index_aux, m, k, m_mask, k_mask).to(COUNTED)
    at = tl.where(at < 0, at + SIZE, at)
    at = tl.minimum(tl.maximum(at, 0), SIZE - 1)
    at = at.to(tl.int64) if WIDE else at.to(tl.int32)
    offset = tl.broadcast_to(LOCATE(m, k) + at * STRIDE, (BLOCK_M, BLOCK_K))
    value = CHAIN(tl.load(x + offset, mask=m_mask & k_mask, other=0).to(LOADED))
    STORE(y, APPLY(value, aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


class GatherTemplate(Template):
    """A gather with what is elementwise around it."""

    name = "gather"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Gather):
            return "anchor is no gather"
        x, index = anchor.inputs
        return refuse_chain(x) or refuse_prologue(index) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return tile_configs(problem, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        body, anchor = problem.body, problem.anchor
        assert anchor is not None and isinstance(anchor.op, Gather)
        value, index = anchor.inputs
        source = source_of(value)
        assert source is not None
        x, axis = source.type, anchor.op.axis
        space = TileSpace.of(problem.output.type)
        positions = make_prologue(body, index, space)
        epilogue = make_epilogue(body, anchor.output, space)
        size = x.shape[axis]
        constexprs: dict[str, Any] = {
            "SIZE": size,
            "STRIDE": x.strides[axis] if size > 1 else 0,
            "COUNTED": tl.int64 if index.type.dtype == DType.i64 else tl.int32,
            "WIDE": x.span >= 2**31,
            "LOADED": triton_dtype(x.dtype),
            "INDEX": positions.load,
            "LOCATE": make_locate(space, x, axis),
            "CHAIN": make_chain(body, value),
        }
        arguments: dict[str, Any] = {
            "x": Operand(body.inputs.index(source)),
            "index_aux": tuple(Operand(i) for i in positions.operands),
        }
        return tile_launch(gather, space, config, target, epilogue, constexprs, arguments)


def make_locate(space: TileSpace, x: TensorType, axis: int) -> Any:
    """The function (m, k) -> offset in x of the element with index 0 along `axis` and the position's others."""
    shape = tuple(1 if d == axis else size for d, size in enumerate(x.shape))
    fixed = TensorType(x.dtype, shape, Layout(x.strides))
    text = f"@triton.jit\ndef locate(m, k):\n    return {space.address(fixed).offset} + m * 0 + k * 0\n"
    return function(text, "locate")
