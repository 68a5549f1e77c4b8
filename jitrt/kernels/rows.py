"""What kernels that work on whole rows (softmax, layer norm) have in common: the tiles worth trying, the launch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import triton

from jitrt.codegen.epilogue import Epilogue
from jitrt.codegen.prologue import Prologue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import RowSpace
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Argument, Config, KernelCall, Lowered, Operand, Result

_LONGEST = 16384  # elements of a row that fit into a program's registers
_BEGIN = 75e-9  # seconds from program to program on an SM: layer norms of 96 to 768 channels on an H200
_SHORTEST = 1e-6  # seconds of a launch


def row_configs(space: RowSpace, type: TensorType, target: Target) -> Sequence[Config]:
    """Configurations BLOCK_M (rows a program), BLOCK_K (elements of a row at a time) and num_warps, best guess first,
    for rows of a tensor of `type`.

    A row that fits into registers is read once; a longer one is walked through in blocks, twice."""
    innermost = next((d for d in reversed(type.memory_order) if type.shape[d] > 1), None)
    across = innermost in space.rows  # neighbours in memory belong to neighbouring rows
    rows, length = space.count("m"), space.count("k")
    whole = triton.next_power_of_2(length)
    block_k = whole if whole <= _LONGEST else 4096
    found: dict[tuple[int, int], float] = {}
    for warps in (1, 2, 4, 8, 16):
        for per_thread in (4, 8, 16, 32):
            elements = warps * 32 * per_thread
            block_m = min(elements // block_k, triton.next_power_of_2(rows))
            if block_m == 0:
                continue
            key = (block_m, warps)
            apart = max(1.0, 16 / block_m) if across else 1.0  # memory is read in runs of 32 bytes
            cost = _cost(block_m, block_k, warps, rows, target) * apart
            found[key] = min(cost, found.get(key, float("inf")))
    ranked = sorted(found, key=lambda key: found[key])
    return [{"BLOCK_M": block_m, "BLOCK_K": block_k, "num_warps": warps} for block_m, warps in ranked[:10]]


def _cost(block_m: int, block_k: int, warps: int, rows: int, target: Target) -> float:
    programs = -(-rows // block_m)
    idle = max(1.0, target.sms / (programs * warps))
    waste = programs * block_m / rows
    per_thread = block_m * block_k / (warps * 32)
    fit = 1 + abs(per_thread - 8) / 32  # 8 elements a thread are one wide load; more are registers, fewer are requests
    spread = warps > 1 and block_m < warps  # a row spread over warps is summed through shared memory
    exchange = 1.05 + 0.04 * math.log2(warps) if spread else 1.0
    sparse = 1.15 if warps == 1 and programs > target.sms * 32 else 1.0  # an SM holds 32 programs, but 64 warps
    work = _SHORTEST + 4 * rows * block_k / target.bandwidth
    many = 1 + _BEGIN * max(0.0, programs / target.sms - 1) / work
    return idle * waste * fit * exchange * sparse * many


def row_launch(
    function: Any,
    space: RowSpace,
    config: Config,
    target: Target,
    prologue: Prologue,
    epilogue: Epilogue,
    constexprs: Mapping[str, Any],
    arguments: Mapping[str, Argument] | None = None,
) -> Lowered:
    """The launch of a program for every BLOCK_M rows of `space`; `constexprs` and `arguments` are those of `function`
    beside its rows, its prologue's and its epilogue's."""
    given: dict[str, Argument] = {
        "y": Result(),
        "x_aux": tuple(Operand(i) for i in prologue.operands),
        "aux": tuple(Operand(i) for i in epilogue.operands),
    }
    known: dict[str, Any] = {
        "ROWS": space.count("m"),
        "COLUMNS": space.count("k"),
        "BLOCK_M": config["BLOCK_M"],
        "BLOCK_K": config["BLOCK_K"],
        "DEPENDENT": target.arch >= 90,
        "LOAD": prologue.load,
        "APPLY": epilogue.apply,
        "STORE": epilogue.store,
    }
    programs = -(-space.count("m") // config["BLOCK_M"])
    given |= arguments or {}
    known |= constexprs
    return Lowered((KernelCall(function, given, known, (programs, 1, 1), config["num_warps"]),))
