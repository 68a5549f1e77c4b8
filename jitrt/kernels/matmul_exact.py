"""Batched matrix products of integers and float64, which the matrix units have no use for here.

Formula: y[b, m, n] = f(sum over k of a[b, m, k] * b[b, k, n]) in the result's own type, so that integers are exact
(and wrap round as numpy's). Batch dimensions broadcast, any strides. Fires for whatever `matmul` leaves. Floor:
2 * M * N * K * batch / the rate of plain multiply-adds of that type.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from jitrt.codegen.epilogue import refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.ops import Matmul
from jitrt.kernels.base import Config, KernelCall, Lowered, Problem, Template, anchor_of
from jitrt.kernels.matmul import describe, launch, refuse_operands


@triton.jit
def matmul_exact(
    y,
    a,
    b,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    REDUCTION: tl.constexpr,
    A_STRIDES: tl.constexpr,  # row, k
    B_STRIDES: tl.constexpr,  # k, column
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BATCH: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_m: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    tiles_n: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    tile = tl.program_id(0) % (tiles_m * tiles_n)
    batch = tl.program_id(0) // (tiles_m * tiles_n)
    rm = (tile // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    a_start, b_start = BATCH(batch)
    a_rows = a + a_start + rm.to(tl.int64)[:, None] * A_STRIDES[0]
    b_columns = b + b_start + rn.to(tl.int64)[None, :] * B_STRIDES[1]
    m_mask = (rm < ROWS)[:, None]
    n_mask = (rn < COLUMNS)[None, :]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for start in range(0, REDUCTION, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)
        k_mask = k < REDUCTION
        left = tl.load(a_rows + k[None, :] * A_STRIDES[1], mask=m_mask & k_mask[None, :], other=0).to(ACC)
        right = tl.load(b_columns + k[:, None] * B_STRIDES[0], mask=n_mask & k_mask[:, None], other=0).to(ACC)
        acc += tl.sum(left[:, :, None] * right[None, :, :], 1).to(ACC)
    m = (batch * ROWS + rm)[:, None]
    n = rn[None, :]
    STORE(y, APPLY(acc, aux, m, n, m_mask, n_mask), m, n, m_mask, n_mask)


class MatmulExact(Template):
    """Products of integers and float64."""

    name = "matmul_exact"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Matmul):
            return "anchor is no matrix product"
        if anchor.output.type.dtype in (DType.f32, DType.f16, DType.bf16, DType.b8):
            return f"a matrix product of {anchor.output.type.dtype.value} is not done in its own type"
        return refuse_operands(anchor) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = problem.anchor
        assert anchor is not None
        product = describe(anchor)
        sizes = [triton.next_power_of_2(size) for size in (product.rows, product.columns, product.reduction)]
        configs: list[Config] = []
        for m, n, k, warps in ((16, 16, 16, 4), (32, 32, 8, 4), (8, 64, 8, 4), (16, 16, 8, 2), (64, 64, 4, 8)):
            blocks = [max(1, min(block, size)) for block, size in zip((m, n, k), sizes, strict=True)]
            config = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), blocks)) | {"num_warps": warps}
            if config not in configs:
                configs.append(config)
        return configs

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor = problem.anchor
        assert anchor is not None
        arguments, constexprs, grid = launch(problem, describe(anchor), config, target)
        constexprs["ACC"] = triton_dtype(anchor.output.type.dtype)
        return Lowered((KernelCall(matmul_exact, arguments, constexprs, grid, config["num_warps"]),))
