"""Elementwise ops beyond the everyday ones: rounding, integer division, accurate exp and log near 0, bits.

What is missing here is made of these at import: sinh is (expm1(x) - expm1(-x)) / 2, arcsine an arctangent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.ops.elementwise import Elementwise
from jitrt.graph.types import TensorType


def _safe(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """An integer division whose result is 0 where the divisor is: PyTorch raises there, a kernel cannot."""

    def divide(a: Array, b: Array) -> Array:
        if np.result_type(a, b).kind == "f":
            return function(a, b)
        return np.where(b == 0, 0, function(a, np.where(b == 0, 1, b))).astype(np.result_type(a, b))

    return divide


def _truncated_quotient(a: Array, b: Array) -> Array:
    if np.result_type(a, b).kind == "f":
        return np.trunc(a / b)
    return np.asarray((a - np.fmod(a, b)) // b)


_remainder, _fmod, _floor_divide = (_safe(f) for f in (np.remainder, np.fmod, np.floor_divide))
_truncated_divide = _safe(_truncated_quotient)


@dataclass(frozen=True)
class Round(Elementwise):
    """The nearest integer, ties to the even one."""

    name: ClassVar[str] = "round"

    def formula(self, *arrays: Array) -> Array:
        return np.rint(arrays[0])


@dataclass(frozen=True)
class Log1p(Elementwise):
    """log(1 + x), accurate for small x."""

    name: ClassVar[str] = "log1p"

    def formula(self, *arrays: Array) -> Array:
        return np.log1p(arrays[0])


@dataclass(frozen=True)
class Expm1(Elementwise):
    """exp(x) - 1, accurate for small x."""

    name: ClassVar[str] = "expm1"

    def formula(self, *arrays: Array) -> Array:
        return np.expm1(arrays[0])


@dataclass(frozen=True)
class Atan(Elementwise):
    """The arctangent, in radians."""

    name: ClassVar[str] = "atan"

    def formula(self, *arrays: Array) -> Array:
        return np.arctan(arrays[0])


@dataclass(frozen=True)
class FloorDiv(Elementwise):
    """floor(a / b). Of integers, 0 where b is 0. A float32 quotient is exact up to 2^24."""

    name: ClassVar[str] = "floor_div"
    arity: ClassVar[int] = 2

    def formula(self, *arrays: Array) -> Array:
        return _floor_divide(*arrays)


@dataclass(frozen=True)
class TruncDiv(Elementwise):
    """a / b without its fraction, as C's / of integers; 0 for integers where b is 0."""

    name: ClassVar[str] = "trunc_div"
    arity: ClassVar[int] = 2

    def formula(self, *arrays: Array) -> Array:
        return _truncated_divide(*arrays)


@dataclass(frozen=True)
class Remainder(Elementwise):
    """a - floor(a / b) * b, with the sign of b, as Python's %. Of integers, 0 where b is 0. In float32 exact for
    quotients up to 2^24."""

    name: ClassVar[str] = "remainder"
    arity: ClassVar[int] = 2

    def formula(self, *arrays: Array) -> Array:
        return _remainder(*arrays)


@dataclass(frozen=True)
class Fmod(Elementwise):
    """a - trunc(a / b) * b, with the sign of a, as C's %. Of integers, 0 where b is 0. In float32 exact for quotients
    up to 2^24."""

    name: ClassVar[str] = "fmod"
    arity: ClassVar[int] = 2

    def formula(self, *arrays: Array) -> Array:
        return _fmod(*arrays)


@dataclass(frozen=True)
class _Bits(Elementwise):
    arity: ClassVar[int] = 2

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (out,) = super().infer(*types)
        self.check(not out.dtype.is_float, f"of {out.dtype.value}, expected integers or booleans")
        return (out,)


@dataclass(frozen=True)
class BitwiseAnd(_Bits):
    """a & b, bit by bit."""

    name: ClassVar[str] = "bitwise_and"

    def formula(self, *arrays: Array) -> Array:
        return np.bitwise_and(*arrays)


@dataclass(frozen=True)
class BitwiseOr(_Bits):
    """a | b, bit by bit."""

    name: ClassVar[str] = "bitwise_or"

    def formula(self, *arrays: Array) -> Array:
        return np.bitwise_or(*arrays)


@dataclass(frozen=True)
class BitwiseXor(_Bits):
    """a ^ b, bit by bit."""

    name: ClassVar[str] = "bitwise_xor"

    def formula(self, *arrays: Array) -> Array:
        return np.bitwise_xor(*arrays)


@dataclass(frozen=True)
class ShiftLeft(_Bits):
    """a << b, 0 where b is as large as there are bits."""

    name: ClassVar[str] = "shift_left"

    def formula(self, *arrays: Array) -> Array:
        return np.left_shift(*arrays)


@dataclass(frozen=True)
class ShiftRight(_Bits):
    """a >> b: what shifts in are zeros, or copies of the sign of a signed a."""

    name: ClassVar[str] = "shift_right"

    def formula(self, *arrays: Array) -> Array:
        return np.right_shift(*arrays)


@dataclass(frozen=True)
class BitCast(Elementwise):
    """The bits of elements of `source` read as `dtype`, which has as many."""

    name: ClassVar[str] = "bit_cast"
    source: DType
    dtype: DType

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (out,) = super().infer(*types)
        self.check(out.dtype == self.source, f"of {out.dtype.value}, expected {self.source.value}")
        self.check(DType.b8 not in (self.source, self.dtype), "booleans have one bit that counts: use cast")
        self.check(
            self.source.itemsize == self.dtype.itemsize,
            f"{self.source.value} has not the bits of {self.dtype.value}",
        )
        return (out.with_dtype(self.dtype),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (arrays[0].astype(self.source.numpy, copy=False).view(self.dtype.numpy),)

    def takes(self, dtype: DType) -> bool:
        return dtype == self.source
