"""Element types by their plan names (those of `jitrt.graph.dtype`), for rooms that do not know the graph."""

from __future__ import annotations

import numpy as np

_NAMES = ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "b8")
ITEMSIZE = {name: int(name.lstrip("bfiu")) // 8 for name in _NAMES}

_NUMPY = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u64": "uint64",
    "u32": "uint32",
    "u16": "uint16",
    "u8": "uint8",
    "b8": "bool",
}


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a plan's dtype name; bf16 is that of ml_dtypes, which is imported only then."""
    if name == "bf16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(_NUMPY[name])
