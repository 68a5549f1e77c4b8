"""Argmax and argmin along any dimension.

Formula: y[m] = f(the first k at which g(x[m, k]) is largest), f and g elementwise; NaN is larger than any number, for
argmin smaller. Fires for any strides. One pass over x with a maximum of keys (see `kernels.order`), so ties need no
second look. Floor: x bytes / bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.prologue import layout_of, make_prologue, refuse_prologue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import RowSpace, TileSpace
from jitrt.graph.graph import Graph
from jitrt.graph.ops import ArgMax, ArgMin
from jitrt.kernels.base import Config, Lowered, Problem, Template, anchor_of
from jitrt.kernels.order import LONGEST, keys, positions, refuse_order
from jitrt.kernels.rows import row_configs, row_launch


@triton.jit
def argmax(
    y,
    x_aux,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SMALLEST: tl.constexpr,
    FLOAT: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    m_mask = m < ROWS
    columns = tl.arange(0, BLOCK_K)[None, :]
    lowest: tl.constexpr = -0x8000000000000000
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    best = tl.full((BLOCK_M, 1), lowest, tl.int64)
    for start in range(0, COLUMNS, BLOCK_K):
        k = start + columns
        k_mask = k < COLUMNS
        x = tl.broadcast_to(LOAD(x_aux, m, k, m_mask, k_mask), (BLOCK_M, BLOCK_K))
        key = tl.where(k_mask, keys(x, k, SMALLEST, FLOAT, True), lowest)
        best = tl.maximum(best, tl.max(key, 1, keep_dims=True))
    k = tl.zeros((1, 1), tl.int32)
    STORE(y, APPLY(positions(best), aux, m, k, m_mask, k < 1), m, k, m_mask, k < 1)


class ArgMaxTemplate(Template):
    """Argmax and argmin."""

    name = "argmax"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, ArgMax):
            return "anchor is no argmax"
        x = anchor.inputs[0]
        if x.type.shape[anchor.op.axis] > LONGEST:
            return f"a row of {x.type.shape[anchor.op.axis]} elements is longer than positions are counted"
        return refuse_order(x.type.dtype, anchor.op.name) or refuse_prologue(x) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, ArgMax)
        layout = layout_of(anchor.inputs[0])
        return row_configs(RowSpace.of(layout, (anchor.op.axis,)), layout, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor, body = problem.anchor, problem.body
        assert anchor is not None and isinstance(anchor.op, ArgMax)
        x, axis = anchor.inputs[0], anchor.op.axis
        space = RowSpace.of(layout_of(x), (axis,))
        kept = [d for d in range(x.type.rank) if anchor.op.keepdims or d != axis]
        found = TileSpace(problem.output.type.shape, tuple(kept.index(d) for d in space.rows), None)
        prologue = make_prologue(body, x, space)
        epilogue = make_epilogue(body, anchor.output, found)
        constexprs = {"SMALLEST": isinstance(anchor.op, ArgMin), "FLOAT": x.type.dtype.is_float}
        return row_launch(argmax, space, config, target, prologue, epilogue, constexprs)
