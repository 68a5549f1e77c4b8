"""Pointwise regions: any chain or tree of elementwise ops over broadcast operands, in one pass over memory.

Formula: y[i] = f(x0[i], x1[i], ...), operands broadcast, any strides in and out, so a change of layout is this kernel
with nothing in between. Fires for a region without an anchor. Saves a write and a read for every op but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import Epilogue, make_epilogue, refuse_epilogue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.graph import Graph
from jitrt.graph.op import Trait
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template


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
    STORE(y, tl.broadcast_to(value, (BLOCK_M, BLOCK_K)), m, k, m_mask, k_mask)


class Pointwise(Template):
    """Anchor-less regions."""

    name = "pointwise"

    def accepts(self, body: Graph) -> str | None:
        anchors = [node for node in body.nodes if node.has(Trait.ANCHOR)]
        if anchors:
            return f"anchor {anchors[0].op.name} is not elementwise"
        return refuse_epilogue(body, None)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        rows, columns, _ = plan_tiles(problem)
        crossing = _crossing(problem, TileSpace.of(problem.output.type)) is not None
        return tile_configs(rows, columns, target, widest=64 if crossing else 4096)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        rows, columns, epilogue = plan_tiles(problem)
        tiles = -(-rows // config["BLOCK_M"]) * -(-columns // config["BLOCK_K"])
        constexprs: dict[str, Any] = {
            "ROWS": rows,
            "COLUMNS": columns,
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_K": config["BLOCK_K"],
            "DEPENDENT": target.arch >= 90,
            "APPLY": epilogue.apply,
            "STORE": epilogue.store,
        }
        arguments: dict[str, Any] = {"y": Result(), "aux": tuple(Operand(i) for i in epilogue.operands)}
        return Lowered((KernelCall(pointwise, arguments, constexprs, (tiles, 1, 1), config["num_warps"]),))


def plan_tiles(problem: Problem) -> tuple[int, int, Epilogue]:
    """(rows, columns, epilogue). If every full operand lies exactly as the output does, the whole tensor is one row."""
    body = problem.body
    out = problem.output.type
    same = all(v.type.numel == 1 or (v.type.shape == out.shape and v.type.strides == out.strides) for v in body.inputs)
    if same and out.is_dense and 0 < out.numel < 2**31:
        flat = TensorType(out.dtype, (out.numel,))
        return 1, out.numel, make_flat(body, flat)
    space = TileSpace.of(out)
    crossing = _crossing(problem, space)
    if crossing is not None:
        space = replace(space, rows=(*(d for d in space.rows if d != crossing), crossing))
    return space.row_count, space.column_count, make_epilogue(body, None, space)


def _crossing(problem: Problem, space: TileSpace) -> int | None:
    """The innermost dimension of an operand that lies across the output, as in a change from NHWC to NCHW, or None.
    With that dimension innermost in the rows, a tile reads and writes whole runs of memory."""
    for value in problem.body.inputs:
        innermost = next((d for d in reversed(value.type.memory_order) if value.type.shape[d] > 1), None)
        if value.type.shape != space.shape or innermost is None or innermost == space.column:
            continue
        if value.type.strides[innermost] == 1:
            return innermost
    return None


def make_flat(body: Graph, flat: TensorType) -> Epilogue:
    """The epilogue of a body whose tensors all lie alike, addressed as one long row."""
    scalar = TensorType(flat.dtype, ())
    given = {v: (flat if v.type.numel > 1 else scalar) for v in (*body.inputs, *body.outputs)}
    return make_epilogue(body, None, TileSpace.of(flat), given=given)


def tile_configs(rows: int, columns: int, target: Target, *, widest: int = 4096) -> Sequence[Config]:
    """Tiles BLOCK_M x BLOCK_K of at most `widest` columns, and num_warps, for one pass over rows x columns elements;
    best guess first: enough programs to fill the chip, little waste at the edges, a few elements a thread."""
    found: list[tuple[float, Config]] = []
    for elements, warps in ((1024, 4), (2048, 4), (512, 2), (4096, 8), (512, 4), (256, 2), (128, 1)):
        block_k = min(triton.next_power_of_2(columns), widest, elements)
        block_m = min(triton.next_power_of_2(rows), elements // block_k)
        tiles = -(-rows // block_m) * -(-columns // block_k)
        waste = tiles * block_m * block_k / (rows * columns)
        idle = max(1.0, target.sms * 8 / (tiles * warps))  # the chip wants 8 warps an SM
        config = {"BLOCK_M": block_m, "BLOCK_K": block_k, "num_warps": warps}
        if all(config != other for _, other in found):
            found.append((waste * idle, config))
    return [config for _, config in sorted(found, key=lambda pair: pair[0])]
