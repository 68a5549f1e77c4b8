"""A machine that runs a plan's launches in Triton's interpreter: one flat memory, and an eye on every access to it.

The plan's spaces lie in one poisoned buffer with guard zones between them. For every launch it is noted which bytes its
programs loaded and stored, so that more can be said than that the numbers are right:

* nothing is stored but the launch's result, workspace and counters, nothing loaded but its operands and these;
* what is loaded was stored before;
* where the result lies on an operand, each element is loaded by no program but the one that overwrites it, and before;
* two launches that may run at the same time, as the plan's `after` has it, touch no byte that one of them stores;
* a kernel that may start before its predecessor ends waits for it before it loads or stores anything.

Runs in the interpreter's process: see `jitrt.testing.plan`, its other end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Argument, KernelCall, Number, Operand, Result, Workspace, Zeros
from jitrt.plan import schema
from jitrt.plan.schema import Binding, Launch, Plan, Pointer
from jitrt.testing.plan import Step
from jitrt.testing.storage import pointer_to
from jitrt.testing.watch import Patience, watching

_GUARD = 256
_LOOSE = 16  # what the runtime promises of a caller's tensors: spaces of inputs and outputs are aligned to no more
_POISON = 0x7FFF  # repeated, a NaN as f16, bf16, f32 and f64


class _Accesses(Patience):
    """Which bytes of the memory the programs of a launch load and store. `common` marks those of the result that belong
    to an operand too."""

    def __init__(self, memory: Array, constants: Array, *, must_wait: bool, common: Array):
        self._base = memory.__array_interface__["data"][0]
        self._size = memory.size
        super().__init__([constants], must_wait=must_wait)
        self.loaded = np.zeros(memory.size, bool)
        self.stored = np.zeros(memory.size, bool)
        self._common = common if common.any() else None
        self._program = 0
        self._reader = np.zeros(memory.size if common.any() else 0, np.int32)  # the program that loaded each byte last

    def begin(self, program: tuple[int, int, int]) -> tuple[int, int, int]:
        self._program += 1
        return super().begin(program)

    def touch(self, addresses: Array, itemsize: int, *, store: bool) -> None:
        """Mark the bytes. Raises KernelError for one outside the memory, before anything happens there."""
        super().touch(addresses, itemsize, store=store)
        at = addresses - self._base
        if at.size and (at.min() < 0 or at.max() + itemsize > self._size):
            wrong = at[(at < 0) | (at + itemsize > self._size)][0]
            raise KernelError(f"the kernel reaches byte {wrong} of {self._size} bytes of memory")
        if (at % itemsize).any():
            raise KernelError(f"the kernel's pointers to {itemsize}-byte elements are not aligned to that")
        if self._common is not None:
            self._check_common(at[self._common[at]], store)
        for byte in range(itemsize):
            (self.stored if store else self.loaded)[at + byte] = True

    def _check_common(self, at: Array, store: bool) -> None:
        """Raise KernelError if a program loads what was overwritten, or overwrites what another one loads."""
        if not store:
            if self.stored[at].any():
                raise KernelError("a program loads an operand's element that the result has overwritten")
            self._reader[at] = self._program
        elif not np.isin(self._reader[at], (0, self._program)).all():
            raise KernelError("a program overwrites an operand's element that another program has loaded")


class Machine:
    """The memory of one run of a plan."""

    def __init__(self, plan: Plan, constants: bytes, steps: Sequence[Step], inputs: Sequence[Array]):
        self.plan, self.steps = plan, steps
        self._calls = list(_calls_of(plan, steps))
        sizes = {("arena", 0): plan.arena_bytes, ("zeros", 0): plan.zeros_bytes, ("constants", 0): len(constants)}
        bindings = {("input", i): b for i, b in enumerate(plan.inputs)}
        bindings |= {("output", i): b for i, b in enumerate(plan.outputs)}
        sizes |= {space: _type(b).span * _type(b).dtype.itemsize for space, b in bindings.items()}
        self._sizes = sizes
        self._starts: dict[tuple[str, int], int] = {}
        end = 0
        for space, size in sizes.items():
            loose = _LOOSE if space in bindings else 0
            self._starts[space] = -(-(end + _GUARD) // _GUARD) * _GUARD + loose
            end = self._starts[space] + size
        self.memory = _aligned(end + _GUARD)
        self.defined = np.zeros(self.memory.size, bool)
        self._fill("zeros", np.zeros(plan.zeros_bytes, np.uint8))
        self._fill("constants", np.frombuffer(constants, np.uint8))
        for index, (binding, array) in enumerate(zip(plan.inputs, inputs, strict=True)):
            self._elements(self.memory, Pointer("input", 0, index), _type(binding))[...] = array
            self._bytes(self.defined, Pointer("input", 0, index), _type(binding))[...] = True

    def _fill(self, space: str, data: Array) -> None:
        start = self._starts[space, 0]
        self.memory[start : start + data.size] = data
        self.defined[start : start + data.size] = True

    def run(self, order: Sequence[int]) -> list[Array]:
        """The outputs, the launches run in this order. Raises KernelError for the first thing that is wrong."""
        loaded, stored = {}, {}
        for index in order:
            try:
                loaded[index], stored[index] = self._launch(index)
            except KernelError as error:
                call, _ = self._calls[index]
                layer = self.plan.layers[self.plan.launches[index].layer]
                what = f"launch {index} ({call.function.__name__} of %{layer.name}, {layer.tactic})"
                raise KernelError(f"{what}: {error}") from error
        self._check_concurrent(loaded, stored)
        start = self._starts["zeros", 0]
        if self.memory[start : start + self.plan.zeros_bytes].any():
            raise KernelError("a counter was left that is not zero")
        for index, binding in enumerate(self.plan.outputs):
            if not self._bytes(self.defined, Pointer("output", 0, index), _type(binding)).all():
                raise KernelError(f"output {binding.name!r} was not written whole")
        outputs = enumerate(self.plan.outputs)
        return [self._elements(self.memory, Pointer("output", 0, i), _type(b)).copy() for i, b in outputs]

    def _launch(self, index: int) -> tuple[Array, Array]:
        launch = self.plan.launches[index]
        call, step = self._calls[index]
        if "gluon" in type(call.function).__module__:
            raise KernelError("the interpreter does not run Gluon kernels; leave them out")
        if launch.dependent and (not call.dependent or len(launch.after) != 1):
            raise KernelError(f"it may start early, but waits for nothing itself, or for several: {launch.after}")
        bound = dict(_bound(call, launch))
        may_load, may_store, common = self._allowed(bound, step)
        constants = self.memory[self._starts["constants", 0] :][: self._sizes["constants", 0]]
        seen = _Accesses(self.memory, constants, must_wait=call.dependent, common=common)
        arguments = {name: self._argument(argument, step, bound) for name, argument in call.arguments.items()}
        with np.errstate(all="ignore"), watching(seen):
            try:
                call.function[call.grid](**arguments, **call.constexprs)
            except Exception as error:  # whatever a program raises, wrapped by the interpreter
                raise KernelError(str(first_cause(error))) from error
        self._complain("stores", seen.stored & ~may_store, bound)
        self._complain("loads", seen.loaded & ~may_load, bound)
        self._complain("loads what nobody stored,", seen.loaded & ~(self.defined | seen.stored), bound)
        self.defined |= seen.stored
        return np.packbits(seen.loaded), np.packbits(seen.stored)

    def _allowed(self, bound: dict[Argument, Pointer], step: Step) -> tuple[Array, Array, Array]:
        """Which bytes a launch may load, which it may store, and which belong to an operand and to the result."""
        load, store, operands, result = (np.zeros(self.memory.size, bool) for _ in range(4))
        sizes = {constant.offset: constant.nbytes for constant in self.plan.constants}
        types = {i: value.type for i, value in enumerate(step.problem.body.inputs)}
        for argument, pointer in bound.items():
            start = self._address(pointer)
            if isinstance(argument, Workspace):
                end = start + step.lowered.workspace_bytes - argument.offset
                load[start:end] = store[start:end] = True
            elif isinstance(argument, Zeros):
                end = start + step.lowered.zeros_bytes - argument.offset
                load[start:end] = store[start:end] = True
            elif isinstance(argument, Result):
                self._bytes(result, pointer, step.problem.output.type)[...] = True
                _check_alignment(pointer, step.problem.alignment[-1])
            elif isinstance(argument, Operand):
                _check_alignment(pointer, step.problem.alignment[argument.index])
                if pointer.space == "constants":
                    load[start : start + sizes[pointer.offset]] = True
                else:
                    self._bytes(operands, pointer, types[argument.index])[...] = True
        return load | operands | result, store | result, operands & result

    def _argument(self, argument: Argument, step: Step, bound: dict[Argument, Pointer]) -> Any:
        if isinstance(argument, tuple):
            return tuple(self._argument(part, step, bound) for part in argument)
        if isinstance(argument, Number):
            return argument.value
        return pointer_to(self.memory, self._address(bound[argument]), step.dtype_of(argument))

    def _complain(self, what: str, wrong: Array, bound: dict[Argument, Pointer]) -> None:
        at = np.flatnonzero(wrong)
        if not at.size:
            return
        begins = [item for item in self._starts.items() if item[1] <= at[0]]
        (space, index), start = max(begins, key=lambda item: item[1])
        given = ", ".join(f"{argument} at {pointer}" for argument, pointer in bound.items())
        raise KernelError(
            f"it {what} {at.size} bytes it must not, first byte {at[0] - start} of {space} {index}; {given}"
        )

    def _check_concurrent(self, loaded: dict[int, Array], stored: dict[int, Array]) -> None:
        """Raise KernelError if two launches neither of which waits for the other touch a byte that one stores."""
        before: list[set[int]] = []
        for index, launch in enumerate(self.plan.launches):
            before.append(set(launch.after).union(*(before[other] for other in launch.after)))
            for other in set(range(index)) - before[index]:
                clash = stored[index] & (stored[other] | loaded[other]) | loaded[index] & stored[other]
                if clash.any():
                    raise KernelError(f"launches {other} and {index} may run side by side, but share memory")

    # -- addresses -------------------------------------------------------------------------------------------------

    def _address(self, pointer: Pointer) -> int:
        return self._starts[pointer.space, pointer.index] + pointer.offset

    def _elements(self, memory: Array, pointer: Pointer, type: TensorType) -> Array:
        """The elements of a tensor at `pointer`. Raises KernelError if they do not fit into the space."""
        self._check_inside(pointer, type)
        strides = [stride * type.dtype.itemsize for stride in type.strides]
        return np.ndarray(type.shape, type.dtype.numpy, memory, self._address(pointer), strides)

    def _bytes(self, flags: Array, pointer: Pointer, type: TensorType) -> Array:
        """The flags of all bytes of a tensor at `pointer`. Raises KernelError if they do not fit into the space."""
        self._check_inside(pointer, type)
        size = type.dtype.itemsize
        strides = [*(stride * size for stride in type.strides), 1]
        return np.ndarray((*type.shape, size), bool, flags, self._address(pointer), strides)

    def _check_inside(self, pointer: Pointer, type: TensorType) -> None:
        size = self._sizes[pointer.space, pointer.index]
        if pointer.offset < 0 or pointer.offset + type.span * type.dtype.itemsize > size:
            raise KernelError(f"{type} at {pointer} reaches outside its space of {size} bytes")


def _calls_of(plan: Plan, steps: Sequence[Step]) -> Iterator[tuple[KernelCall, Step]]:
    """The kernel call behind every launch: those of a layer stand in order."""
    made = [0] * len(steps)
    for launch in plan.launches:
        step = steps[launch.layer]
        if made[launch.layer] < len(step.lowered.calls):
            yield step.lowered.calls[made[launch.layer]], step
        made[launch.layer] += 1
    if made != [len(step.lowered.calls) for step in steps]:
        raise KernelError("a layer of the plan has not the launches of its tactic")


def _bound(call: KernelCall, launch: Launch) -> Iterator[tuple[Argument, Pointer]]:
    """Where the plan has each thing that the call points at."""
    given = iter(launch.arguments)
    wanted: list[Argument] = []
    for name in call.function.arg_names:
        if name in call.constexprs:
            continue
        argument = call.arguments[name]
        wanted += argument if isinstance(argument, tuple) else [argument]
    for argument in wanted:
        value = next(given, None)
        if isinstance(argument, Number):
            if value != schema.Scalar(argument.kind, argument.value):
                raise KernelError(f"the plan has {value} where the kernel takes {argument}")
        elif isinstance(value, Pointer):
            yield argument, value
        else:
            raise KernelError(f"the plan has {value} where the kernel takes {argument}")
    if next(given, None) is not None:
        raise KernelError("the plan has more arguments than the kernel takes")


def first_cause(error: BaseException) -> BaseException:
    """What the interpreter wrapped."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_alignment(pointer: Pointer, alignment: int) -> None:
    if pointer.offset % alignment:
        raise KernelError(f"the kernel was promised an alignment of {alignment} bytes, but is given {pointer}")


def _type(binding: Binding) -> TensorType:
    return TensorType(DType(binding.dtype), binding.shape, Layout(binding.strides))


def _aligned(nbytes: int) -> Array:
    """Poisoned memory that begins at a multiple of 256 bytes."""
    raw = np.full((nbytes + 2 * _GUARD) // 2 + 1, _POISON, np.uint16).view(np.uint8)
    start = -raw.__array_interface__["data"][0] % _GUARD
    return raw[start : start + nbytes]
