"""Reductions: sum, mean, maximum, minimum or product over any dimensions, the global pools among them.

Formula: y[m, k] = f(reduce over r of g(x[m, r, k])), where k is the innermost dimension of x in memory if that is
kept (the channels of a global average pool in NHWC), r runs through all reduced dimensions and m through the other kept
ones; g are the elementwise ops before the reduction and f those after it. Fires for any axes and strides. Saves the
write and read before and after it. Floor: x bytes / bandwidth.

Where the outputs are too few to fill the chip, `SPLIT` programs share them: each stores its partial result, the last
one to arrive combines them in a fixed order, so the result is deterministic, and leaves the counter zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from jitrt.codegen.epilogue import Epilogue, make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.prologue import Prologue, layout_of, make_prologue, refuse_prologue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import ReductionSpace, TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import AdaptiveAvgPool, AdaptiveMaxPool, ReduceMax, ReduceMean, ReduceMin, ReduceProd, ReduceSum
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.kernels.split_k import split_launch

_SUM, _MAX, _MIN, _PROD = 0, 1, 2, 3
_KINDS = {
    ReduceSum: _SUM,
    ReduceMean: _SUM,
    AdaptiveAvgPool: _SUM,
    ReduceMax: _MAX,
    AdaptiveMaxPool: _MAX,
    ReduceMin: _MIN,
    ReduceProd: _PROD,
}


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b, tl.PropagateNan.ALL)


@triton.jit
def _minimum(a, b):
    return tl.minimum(a, b, tl.PropagateNan.ALL)


@triton.jit
def _product(a, b):
    return a * b


@triton.jit
def _combine(a, b, KIND: tl.constexpr):
    if KIND == 0:
        return a + b
    elif KIND == 1:
        return _maximum(a, b)
    elif KIND == 2:
        return _minimum(a, b)
    else:
        return a * b


@triton.jit
def reduce(
    y,
    partials,
    counters,
    x_aux,
    aux,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    KIND: tl.constexpr,  # 0 sum, 1 maximum, 2 minimum, 3 product
    IDENTITY: tl.constexpr,  # what combines with anything to that thing
    DIVISOR: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_k: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    steps: tl.constexpr = (LENGTH + BLOCK_R - 1) // BLOCK_R
    share: tl.constexpr = (steps + SPLIT - 1) // SPLIT
    unroll: tl.constexpr = share if share < 4 else 4
    tile = tl.program_id(0)
    split = tl.program_id(1)
    rm = (tile // tiles_k) * BLOCK_M + tl.arange(0, BLOCK_M)
    rk = (tile % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K)
    m = rm[:, None, None]
    k = rk[None, None, :]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    acc = tl.full((BLOCK_M, BLOCK_R, BLOCK_K), IDENTITY, ACC)
    for step in tl.range(0, share, loop_unroll_factor=unroll):
        r = ((split * share + step) * BLOCK_R + tl.arange(0, BLOCK_R))[None, :, None]
        value = LOAD(x_aux, m, r, k, m < ROWS, r < LENGTH, k < COLUMNS).to(ACC)
        if LENGTH % (BLOCK_R * SPLIT) != 0:
            value = tl.where(r < LENGTH, value, IDENTITY)
        acc = _combine(acc, tl.broadcast_to(value, (BLOCK_M, BLOCK_R, BLOCK_K)), KIND)
    if KIND == 0:
        total = tl.sum(acc, 1)
    elif KIND == 1:
        total = tl.reduce(acc, 1, _maximum)
    elif KIND == 2:
        total = tl.reduce(acc, 1, _minimum)
    else:
        total = tl.reduce(acc, 1, _product)

    m_out = rm[:, None]
    k_out = rk[None, :]
    m_mask = m_out < ROWS
    k_mask = k_out < COLUMNS
    if SPLIT == 1:
        total = total / DIVISOR if DIVISOR != 1 else total
        out = APPLY(total, aux, m_out, k_out, m_mask, k_mask)
        if DEPENDENT:
            tl.extra.cuda.gdc_launch_dependents()
        STORE(y, out, m_out, k_out, m_mask, k_mask)
    else:
        spot = tl.arange(0, BLOCK_M)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
        part = partials + tile * (SPLIT * BLOCK_M * BLOCK_K)
        tl.store(part + split * (BLOCK_M * BLOCK_K) + spot, total)
        tl.debug_barrier()  # every thread's part is stored before one of them announces it
        if tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1:
            total = tl.load(part + spot, cache_modifier=".cg")
            for other in range(1, SPLIT):
                total = _combine(total, tl.load(part + other * (BLOCK_M * BLOCK_K) + spot, cache_modifier=".cg"), KIND)
            tl.store(counters + tile, 0)
            total = total / DIVISOR if DIVISOR != 1 else total
            out = APPLY(total, aux, m_out, k_out, m_mask, k_mask)
            if DEPENDENT:
                tl.extra.cuda.gdc_launch_dependents()
            STORE(y, out, m_out, k_out, m_mask, k_mask)


@dataclass(frozen=True)
class Reduction:
    """A problem in the kernel's terms."""

    rows: int
    length: int
    columns: int
    itemsize: int
    prologue: Prologue
    epilogue: Epilogue


def axes_of(anchor: Node) -> tuple[tuple[int, ...], bool] | None:
    """(dimensions reduced, whether they stay with size 1) of a reduction or global pool; None for another node."""
    op, rank = anchor.op, anchor.inputs[0].type.rank
    if isinstance(op, AdaptiveAvgPool | AdaptiveMaxPool):
        return (tuple(range(2, rank)), True) if set(op.size) == {1} else None
    if type(op) in _KINDS:
        return op.axes, op.keepdims  # type: ignore[attr-defined]
    return None


def describe(problem: Problem) -> Reduction:
    """How the kernel counts through a problem."""
    anchor = problem.anchor
    assert anchor is not None
    found = axes_of(anchor)
    assert found is not None
    axes, keepdims = found
    body, value = problem.body, anchor.inputs[0]
    laid_out = layout_of(value)
    space = ReductionSpace.of(laid_out, axes)
    kept = [d for d in range(value.type.rank) if keepdims or d not in axes]
    rows = tuple(kept.index(d) for d in space.rows)
    column = None if space.column is None else kept.index(space.column)
    return Reduction(
        rows=space.count("m"),
        length=space.count("r"),
        columns=space.count("k"),
        itemsize=laid_out.dtype.itemsize,
        prologue=make_prologue(body, value, space),
        epilogue=make_epilogue(body, anchor.output, TileSpace(problem.output.type.shape, rows, column)),
    )


class Reduce(Template):
    """Sums, means, maxima, minima and products over any axes, and pools down to one element."""

    name = "reduce"
    priority = 1  # before `pool`, whose taps of a global pool are one long chain

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or axes_of(anchor) is None:
            return "anchor is no reduction"
        dtype = anchor.inputs[0].type.dtype
        if dtype == DType.b8:
            return "a reduction of booleans has no kernel: cast them first"
        if isinstance(anchor.op, ReduceMean) and not dtype.is_float:
            return "the mean of integers has no kernel: cast them first"
        return refuse_prologue(anchor.inputs[0]) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape = describe(problem)
        configs = list(_space(shape))
        configs.sort(key=lambda config: cost(config, shape, target))
        return configs[:10]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape, anchor = describe(problem), problem.anchor
        assert anchor is not None
        dtype, split = anchor.output.type.dtype, config["SPLIT"]
        acc = dtype if dtype.itemsize > 2 or not dtype.is_float else DType.f32
        tile = config["BLOCK_M"] * config["BLOCK_K"]
        tiles = -(-shape.rows // config["BLOCK_M"]) * -(-shape.columns // config["BLOCK_K"])
        kind = _KINDS[type(anchor.op)]
        mean = isinstance(anchor.op, ReduceMean | AdaptiveAvgPool)
        constexprs: dict[str, Any] = {
            "ROWS": shape.rows,
            "LENGTH": shape.length,
            "COLUMNS": shape.columns,
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_R": config["BLOCK_R"],
            "BLOCK_K": config["BLOCK_K"],
            "SPLIT": split,
            "KIND": kind,
            "IDENTITY": _identity(kind, acc),
            "DIVISOR": shape.length if mean else 1,
            "ACC": triton_dtype(acc),
            "DEPENDENT": target.arch >= 90,
            "LOAD": shape.prologue.load,
            "APPLY": shape.epilogue.apply,
            "STORE": shape.epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x_aux": tuple(Operand(i) for i in shape.prologue.operands),
            "aux": tuple(Operand(i) for i in shape.epilogue.operands),
        }
        return split_launch(reduce, arguments, constexprs, config, tiles=tiles, splits=split, part=tile, acc=acc)


def _identity(kind: int, dtype: DType) -> float | int:
    if kind in (_SUM, _PROD):
        return int(kind == _PROD)
    if dtype.is_float:
        return -math.inf if kind == _MAX else math.inf
    limits = np.iinfo(dtype.numpy)
    return int(limits.min if kind == _MAX else limits.max)


def _space(shape: Reduction) -> Sequence[Config]:
    """Every tile of a few sizes that is not much larger than the problem, with every useful split."""
    configs = []
    rows, length, columns = (triton.next_power_of_2(n) for n in (shape.rows, shape.length, shape.columns))
    for (elements, warps), widest in itertools.product(((512, 2), (1024, 4), (2048, 4), (4096, 8)), (16, 32, 64, 128)):
        block_k = min(columns, widest)
        block_r = min(length, elements // block_k)
        block_m = min(rows, max(1, elements // (block_k * block_r)))
        for split in (1, 2, 4, 8, 16, 32, 64, 256):
            steps = -(-shape.length // block_r)
            config = {"BLOCK_M": block_m, "BLOCK_R": block_r, "BLOCK_K": block_k, "SPLIT": split, "num_warps": warps}
            if split <= steps and config not in configs:
                configs.append(config)
    return configs


def cost(config: Config, shape: Reduction, target: Target) -> float:
    """Rough seconds: how long one program streams its share, times the waves of programs."""
    tiles = -(-shape.rows // config["BLOCK_M"]) * -(-shape.columns // config["BLOCK_K"])
    steps = -(-shape.length // (config["BLOCK_R"] * config["SPLIT"]))
    elements = config["BLOCK_M"] * config["BLOCK_R"] * config["BLOCK_K"]
    programs = tiles * config["SPLIT"]
    latency = 0.7e-6  # of a load; four of a program's steps are under way at a time
    alone = latency * (1 + steps / 4)
    waves = math.ceil(programs * config["num_warps"] / (target.sms * 32))
    streaming = programs * steps * elements * shape.itemsize / target.bandwidth
    runs = min(config["BLOCK_K"] if shape.columns > 1 else config["BLOCK_R"], 32 // shape.itemsize)
    sectors = 32 / (runs * shape.itemsize)  # memory is read 32 bytes at a time
    joined = 1.2e-6 + 0.02e-6 * config["SPLIT"] if config["SPLIT"] > 1 else 0.0
    return max(alone * waves, streaming * sectors) + joined
