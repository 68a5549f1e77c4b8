"""The op: a frozen dataclass whose fields are its attributes.

`infer` gives the output types, `eval` the meaning. `eval` is constant folding, reference executor, CPU target and
test oracle in one, so it is written for obviousness first.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jitrt.errors import ShapeError
from jitrt.graph.dtype import DType
from jitrt.graph.types import TensorType

Array = np.ndarray[Any, Any]


class Trait(enum.Flag):
    """What a pass needs to know of an op; passes look at these and never at names.

    ELEMENTWISE  one output element from the elements at the same (broadcast) index: may join an epilogue or prologue.
    INJECTIVE    every output element is one input element (slice, pad, concat, copy).
    VIEW         an INJECTIVE op whose output can lie in its input's storage: a layout, no bytes.
    REDUCTION    an output element needs a whole row of the input (sum, softmax, layer norm): may anchor a region.
    ANCHOR       does real work and starts a region (conv, matmul, pool).
    IDENTITY     the output equals the input at inference (dropout, stochastic depth).
    OPAQUE       never fused.
    ROW_MAJOR    its kernels write a dense row-major result and nothing else.
    """

    NONE = 0
    ELEMENTWISE = enum.auto()
    INJECTIVE = enum.auto()
    VIEW = enum.auto()
    REDUCTION = enum.auto()
    ANCHOR = enum.auto()
    IDENTITY = enum.auto()
    OPAQUE = enum.auto()
    ROW_MAJOR = enum.auto()


OPS: dict[str, type[Op]] = {}


@dataclass(frozen=True)
class Op:
    """Base of all ops. A subclass sets `name` and `traits` and is registered under its name.

    `infer(*types)` returns the output types and raises ShapeError for operands that do not fit.
    `eval(*arrays)` returns the outputs as numpy arrays. 16-bit floats are computed in float32; the interpreter rounds
    the result to the declared dtype.
    """

    name: ClassVar[str]
    traits: ClassVar[Trait] = Trait.NONE

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            if cls.name in OPS:
                raise ValueError(f"op name {cls.name!r} is taken by {OPS[cls.name]}")
            OPS[cls.name] = cls

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        raise NotImplementedError(f"{type(self).__name__}.infer")

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        raise NotImplementedError(f"{type(self).__name__}.eval")

    def takes(self, dtype: DType) -> bool:
        """Whether operands may be floats of `dtype`: if not, it stays as it is in a graph that changes to that."""
        return True

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Floating-point operations, for reports and the cost model: one an output element unless told otherwise."""
        return sum(t.numel for t in outputs)

    def check(self, condition: bool, message: str) -> None:
        """Raise ShapeError naming this op unless `condition`."""
        if not condition:
            raise ShapeError(f"{self.name}: {message}")


def wide(array: Array) -> Array:
    """`array` with 16-bit floats widened to float32, the precision every kernel accumulates in."""
    if array.dtype.itemsize == 2 and array.dtype.kind in "fV":
        return array.astype(np.float32)
    return array
