"""From a kernel call's arguments to a plan's: the one place that knows the order of a cubin's parameters.

Triton (3.6 to 3.9) makes a cubin's parameter list so: the function's parameters in order, constexprs dropped, a tuple
flattened to its members (an empty one to nothing), a host TMA descriptor expanded to the 128-byte CUtensorMap followed
by its shape (i32 each) and its strides in elements (i64 each, the innermost included), and last two hidden pointers,
which a plan leaves to the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jitrt.errors import CompileError
from jitrt.graph.dtype import DType
from jitrt.kernels.base import (
    Argument,
    Descriptor,
    KernelCall,
    Number,
    Operand,
    Result,
    Workspace,
    Zeros,
)
from jitrt.plan import schema

Place = Operand | Result | Workspace | Zeros
"""What a template may point at; the caller knows where each one lies."""


def plan_arguments(call: KernelCall, pointer_of: Callable[[Place], schema.Pointer]) -> tuple[schema.Argument, ...]:
    """The arguments of `call` in the order of its cubin's parameters, hidden ones left out.

    `pointer_of` says where an operand, the result, the workspace or the zeros begin, `offset` of the place included.
    Raises CompileError for a parameter that has neither an argument nor a constexpr.
    """
    out: list[schema.Argument] = []
    for name in call.function.arg_names:
        if name in call.constexprs:
            continue
        if name not in call.arguments:
            raise CompileError(f"{call.function.__name__}: no argument for parameter {name!r}")
        out.extend(_flatten(call.arguments[name], pointer_of))
    return tuple(out)


def _flatten(argument: Argument, pointer_of: Callable[[Place], schema.Pointer]) -> Iterator[schema.Argument]:
    if isinstance(argument, tuple):
        for part in argument:
            yield from _flatten(part, pointer_of)
    elif isinstance(argument, Number):
        yield schema.Scalar(argument.kind, argument.value)
    elif isinstance(argument, Descriptor):
        yield from _descriptor(argument, pointer_of(argument.base))
    else:
        yield pointer_of(argument)


def _descriptor(argument: Descriptor, base: schema.Pointer) -> Iterator[schema.Argument]:
    itemsize = DType(argument.dtype).itemsize
    strides = tuple(stride * itemsize for stride in argument.strides)
    box = argument.box or argument.block
    yield schema.TensorMap(base, argument.dtype, argument.shape, strides, box, argument.swizzle, argument.steps)
    yield from (schema.Scalar("i32", size) for size in argument.shape)
    yield from (schema.Scalar("i64", stride) for stride in (*argument.strides, 1))
