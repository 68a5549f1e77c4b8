"""Layer norm, group norm and RMS norm.

Formula: y = f((x - mean) / sqrt(var + eps) * weight + bias), mean and variance over a row: the last dimensions of x
(layer norm), or one group of channels of one image (group norm); x = g(operands), a residual sum for instance. The RMS
norm takes 0 for the mean, which makes var the mean of x * x, and has no bias. Fires for any strides. A row that fits
into registers is read once. A longer one is read twice; the first time, mean and squared deviations of its blocks are
combined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
(1979), which does not cancel as a sum of squares would. Floor: (x + y) bytes / bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.prologue import layout_of, make_prologue, refuse_prologue, sources_of
from jitrt.codegen.target import Target
from jitrt.codegen.tile import RowSpace
from jitrt.graph.graph import Graph, Value
from jitrt.graph.ops import GroupNorm, LayerNorm, RmsNorm
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Template, anchor_of
from jitrt.kernels.rows import row_configs, row_launch


@triton.jit
def norm(
    y,
    x_aux,
    weight_aux,
    bias_aux,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CENTRED: tl.constexpr,  # or the mean is taken as 0
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,  # or None
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
        x = LOAD(x_aux, m, columns, m_mask, k_mask).to(tl.float32)
        weight = WEIGHT(weight_aux, m, columns, m_mask, k_mask)  # under way while the row is summed
        bias = BIAS(bias_aux, m, columns, m_mask, k_mask) if BIAS is not None else 0.0
        mean, deviation = _moments(x, k_mask, COLUMNS, BLOCK_M, BLOCK_K, CENTRED)
        value = (x - mean) * (1 / tl.sqrt(deviation / COLUMNS + EPS)) * weight + bias
        STORE(y, APPLY(value, aux, m, columns, m_mask, k_mask), m, columns, m_mask, k_mask)
    else:
        mean = tl.zeros((BLOCK_M, 1), tl.float32)
        deviation = tl.zeros((BLOCK_M, 1), tl.float32)
        for start in range(0, COLUMNS, BLOCK_K):
            k = start + columns
            count = tl.minimum(COLUMNS - start, BLOCK_K)
            x = LOAD(x_aux, m, k, m_mask, k < COLUMNS).to(tl.float32)
            block_mean, block_deviation = _moments(x, k < COLUMNS, count, BLOCK_M, BLOCK_K, CENTRED)
            share = count / (start + count)
            delta = block_mean - mean
            mean += delta * share
            deviation += block_deviation + delta * delta * (start * share)
        scale = 1 / tl.sqrt(deviation / COLUMNS + EPS)
        for start in range(0, COLUMNS, BLOCK_K):
            k = start + columns
            k_mask = k < COLUMNS
            x = LOAD(x_aux, m, k, m_mask, k_mask).to(tl.float32)
            value = (x - mean) * scale * WEIGHT(weight_aux, m, k, m_mask, k_mask)
            if BIAS is not None:
                value += BIAS(bias_aux, m, k, m_mask, k_mask)
            STORE(y, APPLY(value, aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


@triton.jit
def _moments(x, k_mask, count, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, CENTRED: tl.constexpr):
    """(mean, sum of squared deviations from it) of the `count` elements of each row that the mask leaves."""
    x = tl.broadcast_to(x, (BLOCK_M, BLOCK_K))
    if CENTRED:
        mean = tl.sum(tl.where(k_mask, x, 0.0), 1, keep_dims=True) / count
    else:
        mean = tl.zeros((BLOCK_M, 1), tl.float32)
    centred = tl.where(k_mask, x - mean, 0.0)
    return mean, tl.sum(centred * centred, 1, keep_dims=True)


@dataclass(frozen=True)
class Rows:
    """How a problem's rows are counted. `given` and `given_parameters` are the types by which the space addresses the
    region's tensors, and those behind weight and bias."""

    space: RowSpace
    layout: TensorType
    given: Mapping[Value, TensorType]
    given_parameters: Mapping[Value, TensorType]


def describe(problem: Problem) -> Rows:
    """The rows of a layer or group norm. Group norm sees (n, c, ...) as (n, groups, c / groups, ...)."""
    anchor, body = problem.anchor, problem.body
    assert anchor is not None
    x, *parameters = anchor.inputs
    layout = layout_of(x)
    if isinstance(anchor.op, LayerNorm | RmsNorm):
        last = range(x.type.rank - anchor.op.dims, x.type.rank)
        return Rows(RowSpace.of(layout, last), layout, {}, {})
    assert isinstance(anchor.op, GroupNorm)
    rank, groups = x.type.rank, anchor.op.groups
    split = split_channels(layout, rank, groups)
    given = {v: split_channels(v.type, rank, groups) for v in (*body.inputs, *body.outputs)}
    per_channel = {v: _per_channel(v.type, rank, groups) for p in parameters for v in sources_of(p)}
    return Rows(RowSpace.of(split, range(2, rank + 1)), split, given, per_channel)


def split_channels(type: TensorType, rank: int, groups: int) -> TensorType:
    """An operand that broadcasts against (n, c, ...) as one that broadcasts against (n, groups, c / groups, ...)."""
    missing = rank - type.rank
    shape, strides = (1,) * missing + type.shape, (0,) * missing + type.strides
    n, c, *rest = shape
    step, channel, *steps = strides
    parts = (1, 1) if c == 1 else (groups, c // groups)
    return TensorType(type.dtype, (n, *parts, *rest), Layout((step, channel * parts[1], channel, *steps)))


def _per_channel(type: TensorType, rank: int, groups: int) -> TensorType:
    """A parameter (c) as an operand that broadcasts against (n, c, ...), split in groups."""
    if type.rank == 0:
        return split_channels(type, rank, groups)
    tail = (1,) * (rank - 2)
    return split_channels(TensorType(type.dtype, (*type.shape, *tail), Layout((*type.strides, *tail))), rank, groups)


class Norm(Template):
    """Layer, group and RMS norm of 16- and 32-bit floats."""

    name = "norm"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, LayerNorm | GroupNorm | RmsNorm):
            return "anchor is no layer norm or group norm"
        dtype = anchor.output.type.dtype
        if not dtype.is_float or dtype.itemsize > 4:
            return f"a norm of {dtype.value} has no kernel"
        reasons = (refuse_prologue(value) for value in anchor.inputs)
        return next((r for r in reasons if r is not None), None) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        rows = describe(problem)
        return row_configs(rows.space, rows.layout, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor, body, rows = problem.anchor, problem.body, describe(problem)
        assert anchor is not None
        x = make_prologue(body, anchor.inputs[0], rows.space, given=rows.given)
        weight, *bias = (
            make_prologue(body, value, rows.space, given=rows.given_parameters) for value in anchor.inputs[1:]
        )
        epilogue = make_epilogue(body, anchor.output, rows.space, given=rows.given)
        constexprs = {
            "EPS": anchor.op.eps,  # type: ignore[attr-defined]
            "CENTRED": not isinstance(anchor.op, RmsNorm),
            "WEIGHT": weight.load,
            "BIAS": bias[0].load if bias else None,
        }
        arguments = {
            "weight_aux": tuple(Operand(i) for i in weight.operands),
            "bias_aux": tuple(Operand(i) for parameter in bias for i in parameter.operands),
        }
        return row_launch(norm, rows.space, config, target, x, epilogue, constexprs, arguments)
