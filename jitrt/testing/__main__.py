"""The interpreter process: answers the requests of `jitrt.testing.interpreter`, in which it is described."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from jitrt.errors import KernelError, PluginError
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.text import parse
from jitrt.graph.types import TensorType
from jitrt.kernels.base import (
    Argument,
    KernelCall,
    Lowered,
    Number,
    Operand,
    Problem,
    Result,
    Template,
    Workspace,
    Zeros,
)
from jitrt.testing import watch
from jitrt.testing.corners import CornersRequest, run_corners
from jitrt.testing.interpreter import Request
from jitrt.testing.machine import Machine, first_cause
from jitrt.testing.plan import PlanRequest
from jitrt.testing.storage import Storage, pointer_to, poison


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    while True:
        try:
            packed: bytes = pickle.load(requests)
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = (True, _answer(pickle.loads(packed)))
        except (KernelError, PluginError) as error:
            answer = (False, str(error))
        except Exception:  # whatever a kernel under test raises is the answer
            answer = (False, traceback.format_exc(limit=-6))
        pickle.dump(answer, answers)
        answers.flush()


def _run(request: Request) -> Array:
    problem = Problem(parse(request.body, request.constants), request.weights, request.alignment)
    offered = request.template
    template = offered if isinstance(offered, Template) else _template(*offered)
    lowered = template.lower(problem, request.config, request.target)
    operands = []
    for index, (value, data) in enumerate(zip(problem.body.inputs, request.arrays, strict=True)):
        type = value.type
        if index in lowered.pack:
            data = np.ascontiguousarray(lowered.pack[index](data))
            type = TensorType(DType.of(data.dtype), data.shape)
        operands.append(Storage.make(type, request.alignment[index], data))
    result = Storage.make(problem.output.type, request.alignment[-1])
    workspace = poison(DType.f32, lowered.workspace_bytes)
    space = _Space(operands, request.weights, result, workspace, np.zeros(lowered.zeros_bytes, np.uint8))
    before = result.raw.copy()
    _launch_all(lowered, space)
    result.check_written(before)
    if space.zeros.any():
        raise KernelError("the kernel left a counter that is not zero")
    return result.view.copy()


def _answer(request: Request | PlanRequest | CornersRequest) -> Any:
    if isinstance(request, PlanRequest):
        steps = [layer.step(request.target) for layer in request.layers]
        return Machine(request.plan, request.constants, steps, request.inputs).run(request.order)
    return run_corners(request) if isinstance(request, CornersRequest) else _run(request)


@dataclass(frozen=True)
class _Space:
    operands: list[Storage]
    weights: tuple[bool, ...]  # which operands are constants
    result: Storage
    workspace: Array
    zeros: Array

    def fence(self, *, must_wait: bool) -> watch.Fence:
        """Guard zones belong to what may be touched: what is written there is found afterwards."""
        own = [self.result.raw, self.workspace, self.zeros]
        loads = [*own, *(operand.raw for operand in self.operands)]
        constants = [operand.raw for operand, fixed in zip(self.operands, self.weights, strict=True) if fixed]
        return watch.Fence(loads, own, self.result.start, constants, must_wait=must_wait)


def _launch_all(lowered: Lowered, space: _Space) -> None:
    for call in lowered.calls:
        if "gluon" in type(call.function).__module__:
            raise KernelError("the interpreter does not run Gluon kernels; check their plain twin")
        with np.errstate(all="ignore"), watch.watching(space.fence(must_wait=call.dependent)):
            try:
                call.function[call.grid](**_arguments(call, space), **call.constexprs)
            except Exception as error:  # whatever a program raises, wrapped by the interpreter
                cause = first_cause(error)
                if isinstance(cause, KernelError):
                    raise cause from None
                raise


def _arguments(call: KernelCall, space: _Space) -> dict[str, Any]:
    return {name: _argument(argument, space) for name, argument in call.arguments.items()}


def _argument(argument: Argument, space: _Space) -> Any:
    if isinstance(argument, tuple):
        return tuple(_argument(part, space) for part in argument)
    if isinstance(argument, Operand):
        return _tensor(space.operands[argument.index])
    if isinstance(argument, Result):
        return _tensor(space.result)
    if isinstance(argument, Workspace):
        return pointer_to(space.workspace, argument.offset, DType(argument.dtype))
    if isinstance(argument, Zeros):
        return pointer_to(space.zeros, argument.offset, DType.i32)
    if isinstance(argument, Number):
        return argument.value
    raise KernelError(f"the interpreter takes no {type(argument).__name__} argument")


def _tensor(storage: Storage) -> Any:
    return pointer_to(storage.raw, storage.start, storage.type.dtype)


@cache
def _template(module: str, name: str, file: str) -> Template:
    """An instance of a template class; one outside jitrt is loaded from its file."""
    if module.startswith("jitrt."):
        return getattr(importlib.import_module(module), name)()
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)()


def _repair_bfloat16() -> None:
    """The interpreter holds bf16 as uint16; it truncates float32 to it and computes with it as with integers. Round and
    widen as the GPU does."""
    import ml_dtypes
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    cast, dot, binary = builder.cast_impl, builder.create_dot, builder.binary_op

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle(handle.data.view(ml_dtypes.bfloat16).astype(np.float32), tl.float32)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        source = widened(source)
        if to.scalar != tl.bfloat16:
            return cast(self, source, to)
        rounded = source.data.astype(ml_dtypes.bfloat16).view(np.uint16)
        return interpreter.TensorHandle(rounded, tl.bfloat16)

    def binary_op(self: Any, a: Any, b: Any, op: Any) -> Any:
        if a.dtype.scalar != tl.bfloat16:
            return binary(self, a, b, op)
        result = binary(self, widened(a), widened(b), op)
        return result if result.data.dtype == bool else cast_impl(self, result, tl.bfloat16)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    builder.cast_impl, builder.create_dot, builder.binary_op = cast_impl, create_dot, binary_op


def _skip_overflow_checks() -> None:
    """Do not watch every sum of indices for overflow: it doubles the time, and small shapes cannot overflow."""
    from triton.runtime import interpreter

    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


def _main() -> None:
    import torch

    torch.set_num_threads(1)
    _repair_bfloat16()
    _skip_overflow_checks()
    watch.install()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a kernel prints must not get between the answers
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
