"""Arrays of any other library, through DLPack or `__cuda_array_interface__`."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from jitrt.errors import InputError
from jitrt.plan.dtypes import ITEMSIZE, numpy_dtype
from jitrt.plan.schema import Binding
from jitrt.plan.verify import extent_bytes
from jitrt.runtime.arrays import ALIGNMENT, Signature, check_count, check_type, complaint, fits
from jitrt.runtime.dlpack import CUDA, DeviceArray, Imported, import_array, is_array
from jitrt.runtime.memory import Resources
from jitrt.runtime.numpy_arrays import empty_numpy


class OtherArrays:
    """CuPy, JAX and others, through DLPack or `__cuda_array_interface__`.

    Their libraries cannot be told when our stream is done with a tensor, so the context waits for the outputs. These go
    back through `from_dlpack` of the caller's library, or as DeviceArrays if it has none.
    """

    finish = True

    def __init__(self, signature: Signature, first: Any):
        self._signature = signature
        self._driver = signature.driver
        kind = first.__dlpack_device__()[0] if hasattr(first, "__dlpack_device__") else CUDA
        self.on_host = kind != CUDA
        self._from_dlpack = getattr(_namespace(first), "from_dlpack", None)

    def stream(self) -> int | None:
        return None

    def using(self, stream: int) -> AbstractContextManager[Any]:
        return nullcontext()

    def take(self, inputs: Sequence[Any], stream: int) -> tuple[list[int], object]:
        check_count(inputs, self._signature.inputs)
        addresses, kept = [], []
        for value, binding in zip(inputs, self._signature.inputs):
            if not is_array(value):
                raise complaint(binding, f"a {type(value).__name__}")
            address, owner = self._prepared(import_array(value, stream), binding, stream)
            addresses.append(address)
            kept.append(owner)
        return addresses, kept

    def _prepared(self, array: Imported, binding: Binding, stream: int) -> tuple[int, object]:
        check_type(binding, array.shape, str(array.dtype), array.dtype == binding.dtype)
        kind, index = array.device
        on_host = kind != CUDA
        if on_host != self.on_host or (not on_host and index not in (-1, self._signature.device)):
            where = "the CPU" if on_host else f"GPU {index}"
            expected = "the CPU, like the first input" if self.on_host else f"GPU {self._signature.device}"
            raise InputError(f"input {binding.name!r} is on {where}, expected on {expected}; move it there")
        aligned = on_host or array.address % ALIGNMENT == 0
        if aligned and fits(array.shape, array.strides, binding):
            return array.address, array.owner
        laid_out = empty_numpy(binding)
        laid_out[...] = self._on_host(array, stream)
        address = laid_out.__array_interface__["data"][0]
        if on_host:
            return address, laid_out
        memory = Resources(self._driver, owner := _Owner())
        target = memory.alloc(extent_bytes(binding))
        self._driver.upload(target, address, laid_out.nbytes, stream)
        return target, owner

    def _on_host(self, array: Imported, stream: int) -> np.ndarray:
        """A view of the array, or of a copy of it on the host."""
        assert array.dtype is not None
        size = ITEMSIZE[array.dtype]
        low = sum(min(0, (n - 1) * step) for n, step in zip(array.shape, array.strides)) * size
        high = (1 + sum(max(0, (n - 1) * step) for n, step in zip(array.shape, array.strides))) * size
        memory = np.empty(high - low, np.uint8)
        target = memory.__array_interface__["data"][0]
        if array.device[0] == CUDA:
            self._driver.download(target, array.address + low, high - low, stream)
            self._driver.synchronize(stream)
        else:
            ctypes.memmove(target, array.address + low, high - low)
        steps = [step * size for step in array.strides]
        return np.ndarray(array.shape, numpy_dtype(array.dtype), memory, offset=-low, strides=steps)

    def make(self) -> tuple[list[Any], list[int]]:
        if self.on_host:
            arrays = [empty_numpy(binding) for binding in self._signature.outputs]
            return arrays, [array.__array_interface__["data"][0] for array in arrays]
        outputs, addresses = [], []
        for binding in self._signature.outputs:
            memory = Resources(self._driver, owner := _Owner())
            addresses.append(memory.alloc(extent_bytes(binding)))
            outputs.append(DeviceArray(binding, addresses[-1], self._signature.device, owner))
        return outputs, addresses

    def give(self, outputs: list[Any]) -> list[Any]:
        return [self._from_dlpack(output) for output in outputs] if self._from_dlpack else outputs


def _namespace(array: Any) -> object:
    """The library of an array: as the array API standard asks for it, or, for CuPy before 14 that does not answer, the
    package that the array's type comes from."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    return sys.modules.get(type(array).__module__.partition(".")[0])


class _Owner:
    """Device memory lives as long as this does."""
