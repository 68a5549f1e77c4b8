"""Softmax and log-softmax along any dimension.

Formula: e = exp(x - max(x)), y = f(e / sum(e)), or y = f(x - max(x) - log(sum(e))), with x = g(operands): the scale and
mask of an attention score, for instance. Fires for any axis and strides. A row that fits into registers is read once; a
longer one twice, the first time for its maximum and sum together (the sum is rescaled whenever the maximum grows:
Milakov and Gimelshein, arXiv:1805.02867). Floor: (x + y) bytes / bandwidth.
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
from jitrt.graph.ops import LogSoftmax, Softmax
from jitrt.kernels.base import Config, Lowered, Problem, Template, anchor_of
from jitrt.kernels.rows import row_configs, row_launch


@triton.jit
def softmax(
    y,
    x_aux,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LOG: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    m_mask = m < ROWS
    columns = tl.arange(0, BLOCK_K)[None, :]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if COLUMNS <= BLOCK_K:
        k_mask = columns < COLUMNS
        x = _load(x_aux, m, columns, m_mask, k_mask, BLOCK_M, BLOCK_K, LOAD)
        x = x - tl.max(x, 1, keep_dims=True)
        e = tl.exp(x)
        total = tl.sum(e, 1, keep_dims=True)
        value = x - tl.log(total) if LOG else e / total
        STORE(y, APPLY(value, aux, m, columns, m_mask, k_mask), m, columns, m_mask, k_mask)
    else:
        top = tl.full((BLOCK_M, 1), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M, 1), tl.float32)
        for start in range(0, COLUMNS, BLOCK_K):
            k = start + columns
            x = _load(x_aux, m, k, m_mask, k < COLUMNS, BLOCK_M, BLOCK_K, LOAD)
            higher = tl.maximum(top, tl.max(x, 1, keep_dims=True))
            shift = tl.where(higher == float("-inf"), 0.0, higher)  # nothing yet but -inf: -inf - -inf would be NaN
            total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), 1, keep_dims=True)
            top = higher
        for start in range(0, COLUMNS, BLOCK_K):
            k = start + columns
            k_mask = k < COLUMNS
            x = _load(x_aux, m, k, m_mask, k_mask, BLOCK_M, BLOCK_K, LOAD) - top
            value = x - tl.log(total) if LOG else tl.exp(x) / total
            STORE(y, APPLY(value, aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


@triton.jit
def _load(x_aux, m, k, m_mask, k_mask, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, LOAD: tl.constexpr):
    x = LOAD(x_aux, m, k, m_mask, k_mask).to(tl.float32)
    return tl.where(k_mask, tl.broadcast_to(x, (BLOCK_M, BLOCK_K)), float("-inf"))


class SoftmaxTemplate(Template):
    """Softmax and log-softmax of 16- and 32-bit floats."""

    name = "softmax"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Softmax | LogSoftmax):
            return "anchor is no softmax"
        dtype = anchor.output.type.dtype
        if not dtype.is_float or dtype.itemsize > 4:
            return f"a softmax of {dtype.value} has no kernel"
        return refuse_prologue(anchor.inputs[0]) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        anchor = problem.anchor
        assert anchor is not None
        return row_configs(_space(problem), layout_of(anchor.inputs[0]), target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor, space = problem.anchor, _space(problem)
        assert anchor is not None
        prologue = make_prologue(problem.body, anchor.inputs[0], space)
        epilogue = make_epilogue(problem.body, anchor.output, space)
        constexprs = {"LOG": isinstance(anchor.op, LogSoftmax)}
        return row_launch(softmax, space, config, target, prologue, epilogue, constexprs)


def _space(problem: Problem) -> RowSpace:
    anchor = problem.anchor
    assert anchor is not None and isinstance(anchor.op, Softmax | LogSoftmax)
    return RowSpace.of(layout_of(anchor.inputs[0]), (anchor.op.axis,))
