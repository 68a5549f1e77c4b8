"""Weights and dtypes as a caller may write them: numpy, torch, DLPack, plain lists; "f32", "float32", np.float32."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from jitrt.errors import NetworkError
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array


def is_array(given: Any) -> bool:
    """Whether `given` is a tensor of some library, or a list of numbers."""
    return isinstance(given, np.ndarray | np.generic | list | tuple) or hasattr(given, "__dlpack__")


def as_array(given: Any) -> Array:
    """A dense copy, which later changes to `given` do not reach. Python's own numbers become float32, int64 or bool.

    Raises NetworkError for what holds no numbers, or numbers of a dtype that jitrt does not know.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.Tensor):
        from jitrt.frontend.torch.arrays import to_numpy

        array = to_numpy(given)
    elif isinstance(given, np.ndarray | np.generic) or not hasattr(given, "__dlpack__"):
        array = _from_numbers(given)
    else:
        array = np.from_dlpack(given)
    try:
        DType.of(array.dtype)
    except KeyError:
        known = ", ".join(str(dtype.numpy) for dtype in DType)
        raise NetworkError(
            f"an array of {array.dtype} is no tensor jitrt knows; convert it to one of {known}"
        ) from None
    return np.array(array, order="C")


def _from_numbers(given: Any) -> Array:
    if isinstance(given, np.ndarray | np.generic):
        return np.asarray(given)
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise NetworkError(f"a {type(given).__name__} that is no rectangle of numbers: {error}") from None
    return array.astype(np.float32) if array.dtype == np.float64 else array


def dtype_of(given: Any) -> DType:
    """The DType of "f16", "float16", np.float16, torch.float16... Raises NetworkError for what names none."""
    if isinstance(given, DType):
        return given
    text = getattr(given, "name", None) or getattr(given, "__name__", None) or str(given).removeprefix("torch.")
    names = {str(dtype.numpy): dtype for dtype in DType}
    if (found := names.get(text) or {dtype.value: dtype for dtype in DType}.get(text)) is None:
        raise NetworkError(f"unknown dtype {given!r}; there are {', '.join(names)}")
    return found
