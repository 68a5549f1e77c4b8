"""Element types, and the numpy type that stands for each one."""

from __future__ import annotations

import enum

import ml_dtypes
import numpy as np


class DType(enum.Enum):
    """An element type. The value is its name in the graph's text form."""

    f64 = "f64"
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    i64 = "i64"
    i32 = "i32"
    i16 = "i16"
    i8 = "i8"
    u64 = "u64"
    u32 = "u32"
    u16 = "u16"
    u8 = "u8"
    b8 = "b8"  # a boolean held in one byte

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype with the same bits."""
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self in (DType.f64, DType.f32, DType.f16, DType.bf16)

    @property
    def is_unsigned(self) -> bool:
        """Whether it is an integer type without negative numbers (booleans are no integers)."""
        return self in (DType.u64, DType.u32, DType.u16, DType.u8)

    @classmethod
    def of(cls, dtype: np.dtype | type) -> DType:
        """The DType of a numpy dtype. Raises KeyError for one jitrt has no name for."""
        return _FROM_NUMPY[np.dtype(dtype)]

    @classmethod
    def knows(cls, dtype: np.dtype | type) -> bool:
        """Whether a numpy dtype has a DType."""
        return np.dtype(dtype) in _FROM_NUMPY

    def __repr__(self) -> str:
        return repr(self.value)  # a literal, so that op attributes parse back


_NUMPY = {
    DType.f64: np.dtype(np.float64),
    DType.f32: np.dtype(np.float32),
    DType.f16: np.dtype(np.float16),
    DType.bf16: np.dtype(ml_dtypes.bfloat16),
    DType.i64: np.dtype(np.int64),
    DType.i32: np.dtype(np.int32),
    DType.i16: np.dtype(np.int16),
    DType.i8: np.dtype(np.int8),
    DType.u64: np.dtype(np.uint64),
    DType.u32: np.dtype(np.uint32),
    DType.u16: np.dtype(np.uint16),
    DType.u8: np.dtype(np.uint8),
    DType.b8: np.dtype(np.bool_),
}
_FROM_NUMPY = {v: k for k, v in _NUMPY.items()}

f64, f32, f16, bf16 = DType.f64, DType.f32, DType.f16, DType.bf16
i64, i32, i16, i8, b8 = DType.i64, DType.i32, DType.i16, DType.i8, DType.b8
u64, u32, u16, u8 = DType.u64, DType.u32, DType.u16, DType.u8
_ORDER = [bf16, f16, f32, f64]


def promote(a: DType, b: DType) -> DType:
    """The dtype of an elementwise op over `a` and `b`, by PyTorch's rule for two tensors (f16 with bf16 gives f32).

    Two integers give the smallest that holds both, by numpy's rule (PyTorch has none for most unsigned ones); f64 for
    u64 with a signed one.
    """
    if {a, b} == {f16, bf16}:
        return f32
    if a.is_float or b.is_float:
        return max((dtype for dtype in (a, b) if dtype.is_float), key=_ORDER.index)
    return DType.of(np.promote_types(a.numpy, b.numpy))
