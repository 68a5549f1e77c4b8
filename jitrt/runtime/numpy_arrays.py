"""Numpy's arrays: host memory, copied to the device and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from jitrt.errors import InputError
from jitrt.plan.dtypes import numpy_dtype
from jitrt.plan.schema import Binding
from jitrt.plan.verify import extent_bytes
from jitrt.runtime.arrays import Signature, check_count, check_type, complaint, fits


def empty_numpy(binding: Binding) -> np.ndarray:
    """An array of a binding's shape and strides. Raises InputError for bf16 without ml_dtypes."""
    try:
        dtype = numpy_dtype(binding.dtype)
    except ImportError as error:
        raise InputError(
            f"{binding.name!r} is bfloat16, which numpy lacks; install ml_dtypes, or pass torch tensors"
        ) from error
    memory = np.empty(extent_bytes(binding), np.uint8)
    return np.ndarray(binding.shape, dtype, memory, strides=[step * dtype.itemsize for step in binding.strides])


class NumpyArrays:
    """`numpy.ndarray`; bfloat16 is that of ml_dtypes."""

    on_host = True
    finish = True

    def __init__(self, signature: Signature):
        self._bindings = signature.inputs
        self._outputs = signature.outputs

    def stream(self) -> int | None:
        return None

    def using(self, stream: int) -> AbstractContextManager[Any]:
        return nullcontext()

    def take(self, inputs: Sequence[Any], stream: int) -> tuple[list[int], object]:
        check_count(inputs, self._bindings)
        kept = [self._prepared(array, binding) for array, binding in zip(inputs, self._bindings)]
        return [array.__array_interface__["data"][0] for array in kept], kept

    def _prepared(self, value: Any, binding: Binding) -> np.ndarray:
        if not isinstance(value, np.ndarray | np.generic):
            raise complaint(binding, f"a {type(value).__name__} (the first input is a numpy array)")
        array = np.asarray(value)
        # By name, so that asking does not load ml_dtypes.
        wanted = "bfloat16" if binding.dtype == "bf16" else numpy_dtype(binding.dtype)
        check_type(binding, array.shape, array.dtype.name, array.dtype.name == str(wanted) and array.dtype.isnative)
        if fits(array.shape, [step // array.itemsize for step in array.strides], binding):
            return array
        laid_out = empty_numpy(binding)
        laid_out[...] = array
        return laid_out

    def make(self) -> tuple[list[Any], list[int]]:
        outputs = [empty_numpy(binding) for binding in self._outputs]
        return outputs, [array.__array_interface__["data"][0] for array in outputs]

    def give(self, outputs: list[Any]) -> list[Any]:
        return outputs
