"""Scatter: elements put, or reduced, where another tensor says, each element of the result by one program.

Formula: y[i] = f(r(g(x[i]), u(updates[.. n ..]) for every n with h(index[.. n ..]) = i along the axis)), r a
replacement, sum, product, minimum or maximum in the order of n; f, g, u and h elementwise. An element looks for its
updates, instead of updates for their element: so there are no races and no atomics, and the result is the same every
time. Fires for any strides. Floor: (x + y + updates) bytes / bandwidth; comparing every element of a line with every
index is the price, and small beside that for up to some hundred updates a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.prologue import Prologue, make_prologue, refuse_prologue, sources_of
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.codegen.tile import Space, TileSpace
from jitrt.graph.graph import Graph, Value
from jitrt.graph.ops import Scatter
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Template, anchor_of
from jitrt.kernels.tiles import tile_configs, tile_launch


@triton.jit
def scatter(
    y,
    x_aux,
    index_aux,
    update_aux,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIZE: tl.constexpr,  # of the axis of x
    COUNT: tl.constexpr,  # of the axis of the index
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    COUNTED: tl.constexpr,  # the dtype positions are computed in
    ACC: tl.constexpr,
    REDUCTION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    COORDINATE: tl.constexpr,
    LOAD: tl.constexpr,
    INDEX: tl.constexpr,
    UPDATE: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_k: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    pid = tl.program_id(0)
    m = ((pid // tiles_k) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = ((pid % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    m_mask = m < ROWS
    k_mask = k < COLUMNS
    here = COORDINATE(m, k)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    value = tl.broadcast_to(LOAD(x_aux, m, k, m_mask, k_mask).to(ACC), (BLOCK_M, BLOCK_K))
    for number in range(COUNT):
        n = tl.full((1, 1), number, tl.int32)
        n_mask = n < COUNT
        at = INDEX(index_aux, m, k, n, m_mask, k_mask, n_mask).to(COUNTED)
        hit = tl.where(at < 0, at + SIZE, at) == here
        new = UPDATE(update_aux, m, k, n, m_mask, k_mask, n_mask).to(ACC)
        if REDUCTION == "add":
            new = value + new
        elif REDUCTION == "mul":
            new = value * new
        elif REDUCTION == "min":
            new = tl.minimum(value, new, propagate_nan=tl.PropagateNan.ALL)
        elif REDUCTION == "max":
            new = tl.maximum(value, new, propagate_nan=tl.PropagateNan.ALL)
        value = tl.where(hit, new, value).to(ACC)
    STORE(y, APPLY(value, aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


@dataclass(frozen=True)
class ScatterSpace(Space):
    """The positions of `tiles` and, for each, those along the axis of an index, `n`: the last dimension of `shape`."""

    tiles: TileSpace
    count_n: int

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.tiles.shape, self.count_n)

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        return {**self.tiles.axes, "n": (len(self.tiles.shape),)}


class ScatterTemplate(Template):
    """A scatter with what is elementwise around it."""

    name = "scatter"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Scatter):
            return "anchor is no scatter"
        return next(filter(None, map(refuse_prologue, anchor.inputs)), None) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return tile_configs(problem, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        body, anchor = problem.body, problem.anchor
        assert anchor is not None and isinstance(anchor.op, Scatter)
        axis, (x, index, updates) = anchor.op.axis, anchor.inputs
        space = TileSpace.of(problem.output.type)
        along = ScatterSpace(space, index.type.shape[axis])
        loaded = make_prologue(body, x, space)
        positions, new = (_along(body, value, along, axis) for value in (index, updates))
        epilogue = make_epilogue(body, anchor.output, space)
        constexprs: dict[str, Any] = {
            "SIZE": x.type.shape[axis],
            "COUNT": along.count_n,
            "COUNTED": tl.int32 if np.can_cast(index.type.dtype.numpy, np.int32) else tl.int64,
            "ACC": triton_dtype(x.type.dtype),
            "REDUCTION": anchor.op.reduction,
            "COORDINATE": _coordinate(space, axis),
            "LOAD": loaded.load,
            "INDEX": positions.load,
            "UPDATE": new.load,
        }
        arguments: dict[str, Any] = {
            name: tuple(Operand(i) for i in prologue.operands)
            for name, prologue in (("x_aux", loaded), ("index_aux", positions), ("update_aux", new))
        }
        return tile_launch(scatter, space, config, target, epilogue, constexprs, arguments)


def _along(body: Graph, value: Value, space: ScatterSpace, axis: int) -> Prologue:
    """The function that computes `value`, an index or updates, at a position of `space`."""
    rank = value.type.rank
    return make_prologue(
        body, value, space, given={source: _turned(source.type, axis, rank) for source in sources_of(value)}
    )


def _turned(type: TensorType, axis: int, rank: int) -> TensorType:
    """A type that broadcasts to one of `rank`, with the dimension `axis` of that made the last, and 1 in its place."""
    lead = rank - type.rank
    shape, strides = [1] * lead + list(type.shape), [0] * lead + list(type.strides)
    size, stride = shape[axis], strides[axis]
    shape[axis], strides[axis] = 1, 0
    return TensorType(type.dtype, (*shape, size), Layout((*strides, stride)))


def _coordinate(space: TileSpace, axis: int) -> Any:
    """The function (m, k) -> a position's index along `axis`."""
    text = f"@triton.jit\ndef coordinate(m, k):\n    return {space.coordinate(axis)} + m * 0 + k * 0\n"
    return function(text, "coordinate")
