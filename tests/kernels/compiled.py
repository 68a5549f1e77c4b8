"""What the compiler made of a candidate, run on the PTX machine."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import pytest
import triton

from jitrt.codegen.compile import compile_call
from jitrt.codegen.target import Target
from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.kernels.base import Config, KernelCall, Operand, Problem, Result, Template, Workspace
from jitrt.lowering import Place, plan_arguments
from jitrt.plan.schema import Argument, Pointer, Scalar
from jitrt.testing.ptx import Block, run_ptx
from jitrt.testing.ptx_races import WatchedBlock
from jitrt.testing.storage import Storage

_ALIGN = 256


def run(
    posed: Problem,
    template: Template,
    config: Config,
    arrays: Sequence[Array],
    target: Target,
    machine: type[Block] = WatchedBlock,
    edit: Callable[[str], str] = str,
) -> Array:
    """The result of a candidate's launches, one after the other, their PTX changed by `edit`.
    Raises KernelError if anything else of it is written, if zeros are not zero at the end of a
    launch, or if one warp races another."""
    lowered = template.lower(posed, config, target)
    given = zip(posed.body.inputs, posed.alignment, arrays, strict=False)
    storages = [Storage.make(v.type, alignment, array) for v, alignment, array in given]
    result = Storage.make(posed.output.type, posed.alignment[-1])
    before = result.raw.copy()
    packed = {index: np.ascontiguousarray(pack(arrays[index])).view(np.uint8) for index, pack in lowered.pack.items()}
    poison = np.full(lowered.workspace_bytes, 0xFF, np.uint8)
    zeros = np.zeros(lowered.zeros_bytes, np.uint8)
    pieces = [*(storage.raw for storage in storages), *packed.values(), zeros, poison, result.raw]
    sizes = [-(-piece.size // _ALIGN) * _ALIGN for piece in pieces]
    bases = [sum(sizes[:at]) for at in range(len(sizes))]
    memory = np.zeros(sum(sizes), np.uint8)
    for base, piece in zip(bases, pieces, strict=True):
        memory[base : base + piece.size] = piece.reshape(-1)
    packs = dict(zip(packed, bases[len(storages) :], strict=False))

    def pointer_of(place: Place) -> Pointer:
        if isinstance(place, Operand):
            index = place.index
            at = packs[index] if index in packs else bases[index] + storages[index].start
            return Pointer("constants" if posed.weights[index] else "arena", at)
        if isinstance(place, Result):
            return Pointer("arena", bases[-1] + result.start)
        return Pointer("arena", bases[-2 if isinstance(place, Workspace) else -3] + place.offset)

    for call in lowered.calls:
        arguments = [plain(argument) for argument in plan_arguments(call, pointer_of)]
        built = build(call, posed, target, lowered.pack)
        run_ptx(edit(built.asm["ptx"]), call.grid, arguments, memory, built.metadata.shared, machine)
        if memory[bases[-3] : bases[-3] + zeros.size].any():
            raise KernelError("the zeros of a launch are not zero when it ends")
    result.raw[...] = memory[bases[-1] : bases[-1] + result.raw.size]
    result.check_written(before)
    return result.view.copy()


def plain(argument: Argument) -> Any:
    """What the PTX machine takes for an argument."""
    if isinstance(argument, Pointer):
        return argument.offset
    return int(argument.value) if isinstance(argument, Scalar) else argument


def build(call: KernelCall, posed: Problem, target: Target, packed: Container[int] = ()) -> Any:
    """Triton's compiled kernel of a call, PTX included."""
    kept = []
    compile_once = triton.compile

    def keep(*args: Any, **kwargs: Any) -> Any:
        kept.append(compile_once(*args, **kwargs))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "compile", keep)
        compile_call(call, posed, target, packed=packed)
    return kept[-1]
