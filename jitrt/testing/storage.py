"""Arrays in poisoned storages: what a kernel must not read shows as NaN, what it must not write shows as changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.types import TensorType

_GUARD = 256  # bytes before and after the storage
# Quiet NaNs with a payload no arithmetic makes; other types get bytes no test data repeats.
_POISON = {2: 0x7FAB, 4: 0x7FC0DEAD, 8: 0x7FF80000DEADBEEF}


@dataclass(frozen=True)
class Storage:
    """`raw` bytes with a guard zone on both sides; the first element of a tensor of `type` is at byte `start`."""

    raw: Array
    start: int
    type: TensorType

    @classmethod
    def make(cls, type: TensorType, alignment: int = 16, data: Array | None = None) -> Storage:
        """A poisoned storage, filled with `data` (of the logical shape) if given. The first element is aligned to
        `alignment` bytes and, below 16, to no more."""
        start = _GUARD + (0 if alignment == 16 else alignment)
        raw = poison(type.dtype, 2 * _GUARD + 16 + type.span * type.dtype.itemsize)
        storage = cls(raw, start, type)
        if data is not None:
            storage.view[...] = data
            if not _same_bits(storage.view, data.astype(type.dtype.numpy)):
                raise KernelError(f"the data does not fit {type}: dimensions of stride 0 hold different values")
        return storage

    @property
    def view(self) -> Array:
        """The tensor, as a view of the storage."""
        return _strided(self.raw[self.start :].view(np.uint8), self.type, self.type.dtype.numpy)

    def check_written(self, before: Array) -> None:
        """Raise KernelError unless all that changed since `before` (a copy of `raw`) are the tensor's own elements,
        and, for floats, each of them was written."""
        itemsize = self.type.dtype.itemsize
        own = np.zeros(self.raw.size, np.uint8)
        bytes_type = TensorType(DType.u8, (*self.type.shape, itemsize))
        strides = (*(s * itemsize for s in self.type.strides), 1)
        np.lib.stride_tricks.as_strided(own[self.start :], bytes_type.shape, strides)[...] = 1
        touched = np.flatnonzero((self.raw != before) & (own == 0))
        if touched.size:
            at = (int(touched[0]) - self.start) // itemsize
            raise KernelError(f"the kernel wrote {touched.size} bytes outside its output, the first at element {at}")
        if self.type.dtype.is_float and self.type.numel:
            bits = np.dtype(f"u{itemsize}")
            missed = np.argwhere(_strided(self.raw[self.start :], self.type, bits) == bits.type(_POISON[itemsize]))
            if missed.size:
                raise KernelError(
                    f"{len(missed)} output elements were not written or hold poison read from a gap, "
                    f"the first is {[int(i) for i in missed[0]]}"
                )


def poison(dtype: DType, nbytes: int) -> Array:
    """At least `nbytes` bytes of NaN, or of 0xA5 for types that have none."""
    if not dtype.is_float:
        return np.full(nbytes, 0xA5, np.uint8)
    count = -(-nbytes // dtype.itemsize)
    return np.full(count, _POISON[dtype.itemsize], f"u{dtype.itemsize}").view(np.uint8)


def pointer_to(raw: Array, start: int, dtype: DType) -> Any:
    """A torch tensor over `raw` from byte `start` on: what the interpreter takes for a pointer."""
    import torch

    end = raw.size - (raw.size - start) % dtype.itemsize
    return torch.from_numpy(raw)[start:end].view(torch_dtype(dtype))


def torch_dtype(dtype: DType) -> Any:
    """PyTorch's dtype of that name."""
    import torch

    return getattr(torch, dtype.numpy.name)


def _strided(raw: Array, type: TensorType, dtype: np.dtype) -> Array:
    flat = raw[: raw.size // dtype.itemsize * dtype.itemsize].view(dtype)
    return np.lib.stride_tricks.as_strided(flat, type.shape, tuple(s * dtype.itemsize for s in type.strides))


def _same_bits(a: Array, b: Array) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
