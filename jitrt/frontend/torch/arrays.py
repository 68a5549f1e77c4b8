"""Between torch tensors and numpy arrays, bit by bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from jitrt.errors import ImportFailure, InputError
from jitrt.graph.dtype import DType
from jitrt.graph.op import Array

DTYPES: dict[torch.dtype, DType] = {getattr(torch, dtype.numpy.name): dtype for dtype in DType}


def dtype_of(dtype: torch.dtype) -> DType:
    """The graph's name for a torch dtype. Raises ImportFailure for one it has none for."""
    if dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        advice = (
            "Give torch.view_as_real(x), and view it as complex inside."
            if dtype.is_complex
            else "Cast the tensor first."
        )
        raise ImportFailure(f"jitrt has no dtype for {dtype}; it knows {names}. {advice}")
    return DTYPES[dtype]


def to_numpy(tensor: torch.Tensor) -> Array:
    """The elements on the host. Shares memory with a tensor on the CPU; bfloat16 goes through its 16-bit pattern."""
    host = tensor.detach().resolve_conj().resolve_neg().cpu()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return host.numpy()


def from_numpy(array: Array, device: torch.device | str = "cpu") -> torch.Tensor:
    """A tensor of the same elements and dtype; shares memory with a writable array when `device` is the CPU."""
    dense = np.require(array, requirements=["C", "W", "A"])
    if dense.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(dense.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(dense).to(device)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor in one of the kinds jitrt takes: torch, numpy, or anything with DLPack."""
    known = isinstance(value, torch.Tensor | np.ndarray)
    return known or (hasattr(value, "__dlpack__") and not isinstance(value, type))


def as_tensor(value: Any) -> torch.Tensor:
    """A torch tensor over a tensor of any kind, without a copy where DLPack allows it. Raises InputError for what is no
    dense array of numbers."""
    if isinstance(value, torch.Tensor):
        if value.is_nested or value.layout is not torch.strided:
            raise InputError(
                f"an input is a {_layout(value)} tensor, and jitrt takes dense ones; {_DENSE[value.is_nested]}"
            )
        return value
    try:
        return from_numpy(value) if isinstance(value, np.ndarray) else torch.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"an input, a {type(value).__name__}, cannot become a tensor: {error}") from error


_DENSE = {False: "pass x.to_dense()", True: "pass torch.nested.to_padded_tensor(x, 0.0)"}


def _layout(tensor: torch.Tensor) -> str:
    return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
