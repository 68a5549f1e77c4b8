"""Pointwise regions: any chain or tree of elementwise ops over broadcast operands, in one pass over memory.

Formula: y[i] = f(x0[i], x1[i], ...), operands broadcast, any strides in and out, so a change of layout is this kernel
with nothing in between. Fires for a region without an anchor. Saves a write and a read for every op but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import RowSpace, Space, TileSpace
from jitrt.graph.graph import Graph, anchors_of
from jitrt.kernels.base import Config, Lowered, Problem, Template
from jitrt.kernels.tiles import rank_tiles, tile_launch


@triton.jit
def pointwise(
    y,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
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
    value = APPLY(0.0, aux, m, k, m_mask, k_mask)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    STORE(y, tl.broadcast_to(value, (BLOCK_M, BLOCK_K)), m, k, m_mask, k_mask)


class Pointwise(Template):
    """Anchor-less regions."""

    name = "pointwise"
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchors = anchors_of(body)
        if anchors:
            return f"anchor {anchors[0].op.name} is not elementwise"
        return refuse_epilogue(body, None)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        ranked: list[tuple[float, Config]] = []
        for flat in _spaces(problem):
            space = space_of(problem, flat=flat)
            crosses = not flat and _crossing(problem, space) is not None
            tiles = rank_tiles(space.count("m"), space.count("k"), target, widest=64 if crosses else 4096)
            exchange = 1.0 if flat else 1.05  # a row of per-channel operands is passed around between the threads
            ranked += [(cost * exchange, {**config, "FLAT": flat}) for cost, config in tiles]
        return [config for _, config in sorted(ranked, key=lambda pair: pair[0])[:8]]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        space = space_of(problem, flat=config["FLAT"])
        epilogue = make_epilogue(problem.body, None, space)
        return tile_launch(pointwise, space, config, target, epilogue)


def space_of(problem: Problem, *, flat: bool) -> Space:
    """How the output is counted through: rows and columns, or all of it as one row, in memory order."""
    out = problem.output.type
    if flat:
        return RowSpace(out.shape, (), out.memory_order)
    space = TileSpace.of(out)
    crossing = _crossing(problem, space)
    if crossing is not None:
        space = replace(space, rows=(*(d for d in space.rows if d != crossing), crossing))
    return space


def _spaces(problem: Problem) -> tuple[bool, ...]:
    """Which values of `flat` are worth trying. One row wastes nothing at the edges, and the compiler sees runs of
    memory through its divisions; only a change of layout needs a tile with two sides."""
    out = problem.output.type
    if out.numel >= 2**31 or _crossing(problem, TileSpace.of(out)) is not None:
        return (False,)  # the index along one row would overflow, or its reads would be scattered
    place = (out.shape, out.strides)
    alike = all(v.type.numel == 1 or (v.type.shape, v.type.strides) == place for v in problem.body.inputs)
    return (True,) if alike and out.is_dense else (True, False)


def _crossing(problem: Problem, space: Space) -> int | None:
    """The innermost dimension of an operand that lies across the output, as in a change from NHWC to NCHW, or None.
    With that dimension innermost in the rows, a tile reads and writes whole runs of memory."""
    for value in problem.body.inputs:
        innermost = next((d for d in reversed(value.type.memory_order) if value.type.shape[d] > 1), None)
        if value.type.shape != space.shape or innermost is None or innermost in space.axes["k"]:
            continue
        if value.type.strides[innermost] == 1:
            return innermost
    return None
