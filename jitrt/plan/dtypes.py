"""Element types by their plan names (those of `jitrt.graph.dtype`), for rooms that do not know the graph."""

from __future__ import annotations

import numpy as np

ITEMSIZE = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "b8": 1}

_NUMPY = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "b8": "bool",
}


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a plan's dtype name; bf16 is that of ml_dtypes, which is imported only then."""
    if name == "bf16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(_NUMPY[name])
