"""Top k, and sorting: where the best elements of a row are, best first.

Formula: y[m, j] = f(position of the j-th largest, or smallest, g(x[m, k])), f and g elementwise; equals in their order,
NaN as the largest. Fires for rows of up to 4096 elements (`frontend.layers.index.topk` cuts longer ones). Two ways, to
be chosen by measurement: a bitonic sort of the row's keys in registers, or, for few, the maximum taken k times.
Floor: (x + y) bytes / bandwidth; the sort is bound by its exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.prologue import layout_of, make_prologue, refuse_prologue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import RowSpace
from jitrt.graph.graph import Graph
from jitrt.graph.ops import TopK
from jitrt.kernels.base import Config, Lowered, Problem, Template, anchor_of
from jitrt.kernels.order import keys, positions, refuse_order
from jitrt.kernels.rows import row_launch

LONGEST = 4096  # elements of a row
_FEW = 16  # picked one by one at most


@triton.jit
def topk(
    y,
    x_aux,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    SORT: tl.constexpr,
    SMALLEST: tl.constexpr,
    FLOAT: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    m_mask = m < ROWS
    k = tl.arange(0, BLOCK_K)[None, :]
    k_mask = k < COLUMNS
    lowest: tl.constexpr = -0x8000000000000000
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    x = tl.broadcast_to(LOAD(x_aux, m, k, m_mask, k_mask), (BLOCK_M, BLOCK_K))
    key = keys(x, k, SMALLEST, FLOAT, not SMALLEST)
    key = tl.where(k_mask, key, lowest)
    if SORT:
        key = tl.sort(key, descending=True)
        STORE(y, APPLY(positions(key), aux, m, k, m_mask, k < COUNT), m, k, m_mask, k < COUNT)
    else:
        j = tl.arange(0, BLOCK_Y)[None, :]
        found = tl.zeros((BLOCK_M, BLOCK_Y), tl.int64)
        for turn in range(COUNT):
            best = tl.max(key, 1, keep_dims=True)
            found = tl.where(j == turn, positions(best), found)
            key = tl.where(key == best, lowest, key)
        STORE(y, APPLY(found, aux, m, j, m_mask, j < COUNT), m, j, m_mask, j < COUNT)


class TopKTemplate(Template):
    """Top k of rows that fit into registers."""

    name = "topk"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, TopK):
            return "anchor is no topk"
        x = anchor.inputs[0]
        length = x.type.shape[anchor.op.axis]
        if length > LONGEST:
            return f"a row of {length} elements does not fit into registers: topk sorts up to {LONGEST}"
        return refuse_order(x.type.dtype, "topk") or refuse_prologue(x) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, TopK)
        shape, axis = anchor.inputs[0].type.shape, anchor.op.axis
        rows, columns = anchor.inputs[0].type.numel // shape[axis], max(2, triton.next_power_of_2(shape[axis]))
        configs: list[Config] = []
        for per_thread in (8, 4, 16):
            for warps in (1, 2, 4, 8, 16):
                block_m = min(warps * 32 * per_thread // columns, triton.next_power_of_2(rows))
                if block_m < 1 or (block_m > 1 and warps > 4):
                    continue
                config = {"BLOCK_M": block_m, "BLOCK_K": columns, "num_warps": warps}
                ways = (False, True) if anchor.op.k <= _FEW else (True,)
                configs += [{**config, "SORT": way} for way in ways if {**config, "SORT": way} not in configs]
        return configs[:10] or [{"BLOCK_M": 1, "BLOCK_K": columns, "num_warps": 16, "SORT": True}]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor, body = problem.anchor, problem.body
        assert anchor is not None and isinstance(anchor.op, TopK)
        x, axis = anchor.inputs[0], anchor.op.axis
        space = RowSpace.of(layout_of(x), (axis,))
        found = RowSpace(anchor.output.type.shape, space.rows, space.columns)
        prologue = make_prologue(body, x, space)
        epilogue = make_epilogue(body, anchor.output, found)
        constexprs = {
            "COUNT": anchor.op.k,
            "BLOCK_Y": triton.next_power_of_2(anchor.op.k),
            "SORT": config["SORT"],
            "SMALLEST": not anchor.op.largest,
            "FLOAT": x.type.dtype.is_float,
        }
        return row_launch(topk, space, config, target, prologue, epilogue, constexprs)
