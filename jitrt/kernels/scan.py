"""Running sums and products along any dimension.

Formula: y[m, k] = f(sum, or product, over j <= k of g(x[m, j])), f and g elementwise. Fires for any strides. A row
longer than a block is walked through with what came before carried along. Sums are in float32 (float64 stays), of
integers in the result's own type. Floor: (x + y) bytes / bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.prologue import layout_of, make_prologue, refuse_prologue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import RowSpace
from jitrt.graph.graph import Graph
from jitrt.graph.ops import CumProd, CumSum
from jitrt.kernels.base import Config, Lowered, Problem, Template, anchor_of
from jitrt.kernels.rows import row_configs, row_launch


@triton.jit
def _product(a, b):
    return a * b


@triton.jit
def scan(
    y,
    x_aux,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    m_mask = m < ROWS
    columns = tl.arange(0, BLOCK_K)[None, :]
    neutral: tl.constexpr = 1 if PRODUCT else 0
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    before = tl.full((BLOCK_M, 1), neutral, ACC)
    for start in range(0, COLUMNS, BLOCK_K):
        k = start + columns
        k_mask = k < COLUMNS
        x = tl.broadcast_to(LOAD(x_aux, m, k, m_mask, k_mask).to(ACC), (BLOCK_M, BLOCK_K))
        x = tl.where(k_mask, x, neutral)
        if PRODUCT:
            value = before * tl.cumprod(x, 1)
            before = before * tl.reduce(x, 1, _product, keep_dims=True)
        else:
            value = before + tl.cumsum(x, 1)
            before = before + tl.sum(x, 1, keep_dims=True)
        STORE(y, APPLY(value.to(ACC), aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


class Scan(Template):
    """Running sums and products."""

    name = "scan"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, CumSum | CumProd):
            return "anchor is no running sum"
        return refuse_prologue(anchor.inputs[0]) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = problem.anchor
        assert anchor is not None
        configs = row_configs(_space(problem), layout_of(anchor.inputs[0]), target)
        return [config for config in configs if config["BLOCK_K"] <= 4096] or [
            {"BLOCK_M": 1, "BLOCK_K": 4096, "num_warps": warps} for warps in (8, 4, 16)
        ]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor, space = problem.anchor, _space(problem)
        assert anchor is not None
        prologue = make_prologue(problem.body, anchor.inputs[0], space)
        epilogue = make_epilogue(problem.body, anchor.output, space)
        constexprs = {"PRODUCT": isinstance(anchor.op, CumProd), "ACC": triton_dtype(anchor.output.type.dtype)}
        return row_launch(scan, space, config, target, prologue, epilogue, constexprs)


def _space(problem: Problem) -> RowSpace:
    anchor = problem.anchor
    assert anchor is not None and isinstance(anchor.op, CumSum | CumProd)
    return RowSpace.of(layout_of(anchor.inputs[0]), (anchor.op.axis,))
