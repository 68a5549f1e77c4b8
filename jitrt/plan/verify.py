"""Static checks of a plan: what can be known to be wrong with it without running it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from jitrt.errors import PlanError
from jitrt.plan.dtypes import ITEMSIZE
from jitrt.plan.file import read_plan
from jitrt.plan.schema import Argument, Binding, Kernel, Launch, Plan, PlanFile, Pointer, Scalar, TensorMap

_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_SHARED = 227 << 10  # what sm_90 and sm_100 give a block; sm_80 gives 163 KiB, which the loader checks
_LIMITS = {"i32": (-(2**31), 2**31), "i64": (-(2**63), 2**63)}


def verify_plan(path: str | os.PathLike[str]) -> PlanFile:
    """Check a plan file to the byte and its contents for sense; the plan, if nothing is wrong.

    Raises PlanError with the first thing that is.
    """
    file = read_plan(path)
    try:
        check_plan(file)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error
    return file


def check_plan(file: PlanFile) -> None:
    """Raise PlanError with the first thing that is wrong with a plan's contents."""
    for one in file.every:
        for problem in problems(one):
            raise PlanError(f"plan {one.plan.name!r}: {problem}")


def problems(file: PlanFile) -> Iterator[str]:
    """Everything that is wrong with a plan, one line each."""
    plan = file.plan
    for name in ("arena_bytes", "zeros_bytes", "constants_bytes"):
        if getattr(plan, name) < 0:
            yield f"{name} is {getattr(plan, name)}"
    if len(file.constants) != plan.constants_bytes:
        yield f"constants_bytes is {plan.constants_bytes}, but there are {len(file.constants)} bytes of constants"
    for what, bindings in (("input", plan.inputs), ("output", plan.outputs)):
        yield from _bindings(what, bindings)
    for kernel in plan.kernels:
        yield from _kernel(kernel, file.images)
    for constant in plan.constants:
        if constant.offset < 0 or constant.nbytes < 0 or constant.offset + constant.nbytes > plan.constants_bytes:
            yield f"constant {constant.name!r} lies outside the constants"
    sizes = _Sizes(plan)
    for index, launch in enumerate(plan.launches):
        yield from (f"launch {index}: {problem}" for problem in _launch(index, launch, plan, sizes))
    yield from _structure(plan.structure, len(plan.outputs))


def extent_bytes(binding: Binding) -> int:
    """Bytes from the first element of a binding to the end of the last."""
    return _extent(binding.shape, binding.strides) * ITEMSIZE[binding.dtype]


def _extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides))


class _Sizes:
    """Bytes of every space."""

    def __init__(self, plan: Plan):
        self.whole = {"arena": plan.arena_bytes, "zeros": plan.zeros_bytes, "constants": plan.constants_bytes}
        self.bound = {"input": plan.inputs, "output": plan.outputs}

    def of(self, pointer: Pointer) -> int | None:
        """None for an index there is no tensor for."""
        if pointer.space in self.whole:
            return self.whole[pointer.space] if pointer.index == 0 else None
        bindings = self.bound[pointer.space]
        if not 0 <= pointer.index < len(bindings) or bindings[pointer.index].dtype not in ITEMSIZE:
            return None
        return extent_bytes(bindings[pointer.index])


def _bindings(what: str, bindings: Sequence[Binding]) -> Iterator[str]:
    seen: set[str] = set()
    for binding in bindings:
        where = f"{what} {binding.name!r}"
        if binding.name in seen:
            yield f"{where} is there twice"
        seen.add(binding.name)
        if binding.dtype not in ITEMSIZE:
            yield f"{where} has the unknown dtype {binding.dtype!r}"
        if len(binding.shape) != len(binding.strides):
            yield f"{where} has {len(binding.shape)} dimensions and {len(binding.strides)} strides"
        if any(size < 1 for size in binding.shape) or any(stride < 0 for stride in binding.strides):
            yield f"{where} has shape {binding.shape} and strides {binding.strides}"


def _kernel(kernel: Kernel, images: dict[str, bytes]) -> Iterator[str]:
    where = f"kernel {kernel.entry!r}"
    if kernel.image not in images:
        yield f"{where} is in the cubin {kernel.image!r}, which the plan does not have"
    if not kernel.entry:
        yield "a kernel has no entry point"
    if not 1 <= kernel.num_warps <= 32:
        yield f"{where} has {kernel.num_warps} warps; a block has 1 to 32"
    if not 0 <= kernel.shared_bytes <= _MAX_SHARED:
        yield f"{where} wants {kernel.shared_bytes} bytes of shared memory; a block has at most {_MAX_SHARED}"
    if kernel.scratch_bytes < 0:
        yield f"{where} wants {kernel.scratch_bytes} bytes of scratch"
    if min(kernel.cluster) < 1 or math.prod(kernel.cluster) > 16:
        yield f"{where} has clusters of {kernel.cluster} blocks; they have 1 to 16"


def _launch(index: int, launch: Launch, plan: Plan, sizes: _Sizes) -> Iterator[str]:
    cluster = (1, 1, 1)
    if 0 <= launch.kernel < len(plan.kernels):
        cluster = plan.kernels[launch.kernel].cluster
    else:
        yield f"there is no kernel {launch.kernel}"
    if not 0 <= launch.layer < len(plan.layers):
        yield f"there is no layer {launch.layer}"
    blocks = [size * span for size, span in zip(launch.grid, cluster, strict=True)]
    if any(not 1 <= size <= limit for size, limit in zip(blocks, _MAX_GRID, strict=True)):
        yield f"a grid of {launch.grid} cannot be launched"
    if launch.cooperative and launch.dependent:
        yield "it is cooperative, so it cannot start before its predecessor ends"
    if wrong := [other for other in launch.after if not 0 <= other < index]:
        yield f"it waits for launch {wrong[0]}, which does not come before it"
    if len(set(launch.after)) != len(launch.after):
        yield f"it waits for a launch twice: {launch.after}"
    for position, argument in enumerate(launch.arguments):
        yield from (f"argument {position}: {problem}" for problem in _argument(argument, sizes))


def _argument(argument: Argument, sizes: _Sizes) -> Iterator[str]:
    if isinstance(argument, Scalar):
        if argument.kind == "f32":
            return
        low, high = _LIMITS[argument.kind]
        if not isinstance(argument.value, int) or not low <= argument.value < high:
            yield f"{argument.value} is no {argument.kind}"
        return
    pointer = argument.pointer if isinstance(argument, TensorMap) else argument
    size = sizes.of(pointer)
    if size is None:
        yield f"there is no {pointer.space} {pointer.index}"
    elif not 0 <= pointer.offset < size:
        yield f"byte {pointer.offset} lies outside {_place(pointer)}, which has {size}"
    elif isinstance(argument, TensorMap):
        yield from _tensor_map(argument, size)


def _tensor_map(argument: TensorMap, size: int) -> Iterator[str]:
    """The driver's own rules (cuTensorMapEncodeTiled in the CUDA driver API reference), and that it stays inside."""
    itemsize, rank = ITEMSIZE.get(argument.dtype), len(argument.shape)
    if itemsize is None:
        yield f"a tensor map of the unknown dtype {argument.dtype!r}"
        return
    if not 1 <= rank <= 5 or len(argument.strides) != rank - 1 or len(argument.box) != rank:
        yield "a tensor map has 1 to 5 dimensions, a stride for all but the innermost, and a box of the same rank"
        return
    if argument.swizzle not in (0, 32, 64, 128):
        yield f"a tensor map cannot swizzle by {argument.swizzle} bytes"
    elif argument.swizzle and argument.box[-1] * itemsize > argument.swizzle:
        yield f"a box row of {argument.box[-1] * itemsize} bytes is wider than the swizzle of {argument.swizzle}"
    if any(not 1 <= extent <= 256 for extent in argument.box) or argument.box[-1] * itemsize % 16:
        yield f"a tensor map cannot have the box {argument.box}"
    steps = argument.steps or (1,) * rank
    if len(steps) != rank or steps[-1] != 1 or any(not 1 <= step <= 8 for step in steps):
        yield f"a tensor map cannot take every {steps}-th element: 1 to 8, and 1 along the innermost dimension"
    if argument.pointer.offset % 16 or any(stride % 16 or not 0 < stride < 2**40 for stride in argument.strides):
        yield "a tensor map's address and strides must be multiples of 16 bytes"
    if any(not 1 <= extent < 2**32 for extent in argument.shape):
        yield f"a tensor map cannot have the shape {argument.shape}"
    steps = (*argument.strides, itemsize)
    end = argument.pointer.offset + itemsize + sum((n - 1) * step for n, step in zip(argument.shape, steps))
    if end > size:
        yield f"a tensor map reaches to byte {end} of {_place(argument.pointer)}, which has {size}"


def _place(pointer: Pointer) -> str:
    return f"{pointer.space} {pointer.index}" if pointer.space in ("input", "output") else f"the {pointer.space}"


def _structure(structure: object, outputs: int) -> Iterator[str]:
    if isinstance(structure, dict):
        leaf = structure.get("output")
        if set(structure) == {"output"} and isinstance(leaf, int):
            if not 0 <= leaf < outputs:
                yield f"the structure names output {leaf}, which there is not"
            return
        for part in structure.values():
            yield from _structure(part, outputs)
    elif isinstance(structure, list | tuple):
        for part in structure:
            yield from _structure(part, outputs)


verify = verify_plan  # as users know it: jitrt.verify
