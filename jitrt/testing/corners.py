"""Where a kernel reaches at real sizes: the programs at the corners of its grid, run without any memory behind them.

What a small shape in the interpreter cannot show, offsets that overflow 32 bits, shows here: every operand lies in an
address range of its own, far wider than the operand, and what is loaded is zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.kernels.base import Argument, KernelCall, Number, Operand, Problem, Result, Tactic, Workspace, Zeros
from jitrt.testing.interpreter import ask
from jitrt.testing.plan import LayerRequest, Step
from jitrt.testing.storage import torch_dtype
from jitrt.testing.watch import Watch, watching

_ROOM = 1 << 38  # bytes of addresses for each pointer, which is in the middle

Reach = dict[str, tuple[int, int]]
"""The first and the last byte that is touched from each pointer on: of operands "0", "1", ..., of "y", "workspace" and
"zeros"."""


@dataclass(frozen=True)
class CornersRequest:
    """A problem and how to run it."""

    layer: LayerRequest
    target: Target


def corners(problem: Problem, tactic: Tactic, target: Target = TARGETS[90]) -> list[Reach]:
    """For every launch of a tactic, how far the programs at the corners of its grid reach.

    Raises KernelError if one reaches outside an operand, the result, the workspace or the zeros.
    """
    found: list[Reach] = ask(CornersRequest(LayerRequest.of(problem, tactic), target), str(tactic))
    return found


def run_corners(request: CornersRequest) -> list[Reach]:
    """In the interpreter's process: the answer to a request."""
    step = request.layer.step(request.target)
    return [_run(call, step) for call in step.lowered.calls]


def _run(call: KernelCall, step: Step) -> Reach:
    wanted = [part for a in call.arguments.values() for part in (a if isinstance(a, tuple) else (a,))]
    places = list(dict.fromkeys(a for a in wanted if not isinstance(a, Number)))
    x, y, z = ({0, size - 1} for size in call.grid)
    spread = list(itertools.product(x, y, z))
    seen = _Extents(places, spread)

    def value(argument: Argument) -> Any:
        if isinstance(argument, tuple):
            return tuple(value(part) for part in argument)
        if isinstance(argument, Number):
            return argument.value
        return _Pointer(seen.start(argument), step.dtype_of(argument))

    with watching(seen), np.errstate(all="ignore"):
        call.function[(len(spread), 1, 1)](**{n: value(a) for n, a in call.arguments.items()}, **call.constexprs)
    for place, (low, high) in seen.found.items():
        nbytes = _nbytes(place, step)
        if nbytes is not None and (low < 0 or high >= nbytes):
            raise KernelError(f"{call.function.__name__} touches bytes {low} to {high} of {place}, which has {nbytes}")
    return {_name(place): extent for place, extent in seen.found.items()}


class _Pointer:
    """What the interpreter takes for a tensor at an address where nothing is."""

    def __init__(self, address: int, dtype: DType):
        self.dtype = torch_dtype(dtype)
        self._address = address

    def data_ptr(self) -> int:
        return self._address

    def untyped_storage(self) -> _Pointer:
        return self

    def cpu(self) -> _Pointer:
        return self

    def new_empty(self, *_: object, **__: object) -> _Pointer:
        return self

    def set_(self, *_: object) -> None:
        """The interpreter moves tensors to the CPU and back."""

    copy_ = storage_offset = size = stride = set_


class _Extents(Watch):
    """Runs the programs of `spread` and notes the lowest and highest byte touched from each place on."""

    dry = True

    def __init__(self, places: Sequence[Argument], spread: Sequence[tuple[int, int, int]]):
        self._places, self._spread = places, spread
        self.found: dict[Argument, tuple[int, int]] = {}

    def start(self, place: Argument) -> int:
        """The address that stands for a place."""
        return self._places.index(place) * _ROOM + _ROOM // 2

    def begin(self, program: tuple[int, int, int]) -> tuple[int, int, int]:
        return self._spread[program[0]]

    def touch(self, addresses: Array, itemsize: int, *, store: bool) -> None:
        if not addresses.size:
            return
        low, high = int(addresses.min()), int(addresses.max()) + itemsize - 1
        index = low // _ROOM
        if index != high // _ROOM or not 0 <= index < len(self._places):
            raise KernelError(f"the kernel reaches {low} to {high} bytes, which is nowhere")
        place = self._places[index]
        known = self.found.get(place, (1 << 62, -(1 << 62)))
        start = self.start(place)
        self.found[place] = (min(known[0], low - start), max(known[1], high - start))


def _name(place: Argument) -> str:
    if isinstance(place, Operand):
        return str(place.index)
    return "y" if isinstance(place, Result) else type(place).__name__.lower()


def _nbytes(place: Argument, step: Step) -> int | None:
    """Bytes behind a pointer; None for an operand that is packed, whose size packing decides."""
    if isinstance(place, Workspace):
        return step.lowered.workspace_bytes - place.offset
    if isinstance(place, Zeros):
        return step.lowered.zeros_bytes - place.offset
    if isinstance(place, Operand) and place.index in step.lowered.pack:
        return None
    value = step.problem.body.inputs[place.index] if isinstance(place, Operand) else step.problem.output
    return value.type.span * value.type.dtype.itemsize
