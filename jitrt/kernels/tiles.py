"""What kernels that write one tile of the output a program have in common: the tiles worth trying, the launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton

from jitrt.codegen.epilogue import Epilogue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import Space, TileSpace
from jitrt.kernels.base import Argument, Config, KernelCall, Lowered, Operand, Problem, Result

_FEW_WARPS = {1: 1.3, 2: 1.1}  # what a program of so many costs


def rank_tiles(rows: int, columns: int, target: Target, *, widest: int = 4096) -> list[tuple[float, Config]]:
    """Tiles BLOCK_M x BLOCK_K of at most `widest` columns, and num_warps, for one pass over rows x columns elements,
    best guess first, with their relative cost: little waste at the edges, four warps or more, and some programs for
    every fourth SM. More programs are no reason for small ones: on the H200 33 to 92 of 1024 elements took 0.76 to
    0.95 us, those of 128 elements for one warp 0.87 to 1.32."""
    found: list[tuple[float, Config]] = []
    for elements, warps in ((1024, 4), (2048, 4), (512, 2), (4096, 8), (512, 4), (256, 2), (128, 1)):
        block_k = min(triton.next_power_of_2(columns), widest, elements)
        block_m = min(triton.next_power_of_2(rows), elements // block_k)
        tiles = -(-rows // block_m) * -(-columns // block_k)
        waste = tiles * block_m * block_k / (rows * columns)
        idle = max(1.0, target.sms / (4 * tiles))
        config = {"BLOCK_M": block_m, "BLOCK_K": block_k, "num_warps": warps}
        if all(config != other for _, other in found):
            found.append((waste * idle * _FEW_WARPS.get(warps, 1.0), config))
    return sorted(found, key=lambda pair: pair[0])


def tile_configs(problem: Problem, target: Target) -> Sequence[Config]:
    """The tiles of `rank_tiles` for a problem's output."""
    space = TileSpace.of(problem.output.type)
    return [config for _, config in rank_tiles(space.count("m"), space.count("k"), target)]


def tile_launch(
    function: Any,
    space: Space,
    config: Config,
    target: Target,
    epilogue: Epilogue,
    constexprs: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Argument] | None = None,
) -> Lowered:
    """The launch of a program for every BLOCK_M x BLOCK_K elements of `space`; `constexprs` and `arguments` are those
    of `function` beside its tiles and its epilogue's."""
    rows, columns = space.count("m"), space.count("k")
    given: dict[str, Argument] = {"y": Result(), "aux": tuple(Operand(i) for i in epilogue.operands)}
    known: dict[str, Any] = {
        "ROWS": rows,
        "COLUMNS": columns,
        "BLOCK_M": config["BLOCK_M"],
        "BLOCK_K": config["BLOCK_K"],
        "DEPENDENT": target.arch >= 90,
        "APPLY": epilogue.apply,
        "STORE": epilogue.store,
    }
    tiles = -(-rows // config["BLOCK_M"]) * -(-columns // config["BLOCK_K"])
    given |= arguments or {}
    known |= constexprs or {}
    return Lowered((KernelCall(function, given, known, (tiles, 1, 1), config["num_warps"]),))
