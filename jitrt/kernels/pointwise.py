"""Pointwise regions: any chain or tree of elementwise ops over broadcast operands, in one pass over memory.

Formula: y[i] = f(x0[i], x1[i], ...), operands broadcast, any strides in and out, so a change of layout is this kernel
with nothing in between. Fires for a region without an anchor. Saves a write and a read for every op but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_k: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    pid = tl.program_id(0)
    m = ((pid // tiles_k) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = ((pid % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    m_mask = m < ROWS
    k_mask = k < COLUMNS
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
        out = []
        for elements, warps in ((1024, 4), (2048, 4), (512, 4), (4096, 8), (256, 2)):
            block_k = min(_power_of_two(columns), elements)
            block_m = max(1, min(_power_of_two(rows), elements // block_k))
            config = {"BLOCK_M": block_m, "BLOCK_K": block_k, "num_warps": warps}
            if config not in out:
                out.append(config)
        return out

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        rows, columns, epilogue = plan_tiles(problem)
        tiles = -(-rows // config["BLOCK_M"]) * -(-columns // config["BLOCK_K"])
        constexprs: dict[str, Any] = {
            "ROWS": rows,
            "COLUMNS": columns,
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_K": config["BLOCK_K"],
            "APPLY": epilogue.apply,
            "STORE": epilogue.store,
        }
        arguments = {"y": Result(), "aux": tuple(Operand(i) for i in epilogue.operands)}
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
    return space.row_count, space.column_count, make_epilogue(body, None, space)


def make_flat(body: Graph, flat: TensorType) -> Epilogue:
    """The epilogue of a body whose tensors all lie alike, addressed as one long row."""
    scalar = TensorType(flat.dtype, ())
    given = {v: (flat if v.type.numel > 1 else scalar) for v in (*body.inputs, *body.outputs)}
    return make_epilogue(body, None, TileSpace.of(flat), given=given)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
