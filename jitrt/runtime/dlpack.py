"""Device arrays of any library, in and out: DLPack (by its C structs) and `__cuda_array_interface__`.

Sources: https://dmlc.github.io/dlpack/latest/c_api.html, https://data-apis.org/array-api/latest/design_topics/
data_interchange.html, https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

from jitrt.plan.dtypes import ITEMSIZE
from jitrt.plan.schema import Binding

CPU, CUDA = 1, 2  # DLDeviceType

_CODES = {"i": 0, "u": 1, "f": 2, "bf": 4, "b": 6}  # DLDataTypeCode, by the letters of our dtype names
_TO_DLPACK = {name: (_CODES[name.rstrip("0123456789")], 8 * size) for name, size in ITEMSIZE.items()}
_FROM_DLPACK = {code: name for name, code in _TO_DLPACK.items()}
_FROM_TYPESTR = {f"{name[0]}{size}": name for name, size in ITEMSIZE.items() if name != "bf16"}


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("rank", ctypes.c_int32),
        ("dtype", _DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_python = ctypes.pythonapi
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _CapsuleDestructor]

# A capsule that is being destroyed is borrowed as a plain pointer, without counting a reference.
_dying_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))

_NAME = b"dltensor"


@dataclass(frozen=True)
class Imported:
    """An array of another library: strides in elements; `dtype` is None if jitrt has no name for it. The memory is
    sure to stay while `owner` does."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None
    device: tuple[int, int]  # (CPU or CUDA, index)
    owner: object


def is_array(value: object) -> bool:
    """Whether `import_array` can read it."""
    return hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__")


def import_array(value: Any, stream: int) -> Imported:
    """Where an array's elements are; they are ready for work on `stream`."""
    if not hasattr(value, "__dlpack__"):
        return _from_cuda_array_interface(value)
    kind, _ = value.__dlpack_device__()
    # The legacy default stream is 1 in the protocol; 0 is not allowed.
    capsule = value.__dlpack__(stream=stream or 1) if kind == CUDA else value.__dlpack__()
    managed = _Managed.from_address(_python.PyCapsule_GetPointer(capsule, _NAME))
    tensor = managed.tensor
    shape = tuple(tensor.shape[: tensor.rank])
    dtype = (tensor.dtype.code, tensor.dtype.bits) if tensor.dtype.lanes == 1 else None
    return Imported(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        strides=tuple(tensor.strides[: tensor.rank]) if tensor.strides else contiguous(shape),
        dtype=_FROM_DLPACK.get(dtype) if dtype else None,
        device=(tensor.device.kind, tensor.device.index),
        owner=(value, capsule),  # an unused capsule gives the array back when it is collected
    )


def _from_cuda_array_interface(value: Any) -> Imported:
    face = value.__cuda_array_interface__
    dtype = _FROM_TYPESTR.get(face["typestr"][1:])
    shape = tuple(face["shape"])
    strides = face.get("strides")
    if strides is not None and dtype is not None:
        strides = tuple(step // ITEMSIZE[dtype] for step in strides)
    return Imported(face["data"][0], shape, strides or contiguous(shape), dtype, (CUDA, -1), value)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class DeviceArray:
    """An output on the GPU for a caller whose library cannot be asked for memory. Any library that speaks DLPack or
    `__cuda_array_interface__` can take it over without a copy. Its contents are complete.

    `memory` keeps the device memory at `address` alive; `index` is the GPU's number.
    """

    def __init__(self, binding: Binding, address: int, index: int, memory: object):
        self.shape = binding.shape
        self.strides = binding.strides
        self.dtype = binding.dtype
        self._address = address
        self._index = index
        self._memory = memory

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self._index

    def __dlpack__(self, **_options: object) -> object:
        """A capsule; whatever stream the consumer names, the elements are ready."""
        return _export(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype == "bf16":
            raise AttributeError("__cuda_array_interface__ has no bfloat16; use __dlpack__")
        size = ITEMSIZE[self.dtype]
        return {
            "shape": self.shape,
            "typestr": f"{'|' if size == 1 else '<'}{self.dtype[0]}{size}",
            "data": (self._address, False),
            "strides": tuple(step * size for step in self.strides),
            "version": 3,
        }

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, cuda:{self._index})"


_exported: dict[int, tuple[object, ...]] = {}
"""What consumers of our capsules hold, by the address of the managed tensor."""


def _export(array: DeviceArray) -> object:
    rank = len(array.shape)
    shape = (ctypes.c_int64 * max(1, rank))(*array.shape)
    strides = (ctypes.c_int64 * max(1, rank))(*array.strides)
    code, bits = _TO_DLPACK[array.dtype]
    tensor = _Tensor(
        array._address,
        _Device(CUDA, array._index),
        rank,
        _DType(code, bits, 1),
        ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)),
        ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)),
        0,
    )
    managed = _Managed(tensor, None, _forget)
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, strides, array)
    return _python.PyCapsule_New(address, _NAME, _capsule_gone)


@_Deleter
def _forget(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


@_CapsuleDestructor
def _capsule_gone(capsule: int) -> None:
    """A capsule that nobody consumed still owns its tensor; a consumed one has another name."""
    if _dying_is_valid(capsule, _NAME):
        _exported.pop(_dying_pointer(capsule, _NAME), None)
