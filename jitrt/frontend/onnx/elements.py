"""ONNX's numbers for element types, and jitrt's names for them."""

from __future__ import annotations

import onnx

from jitrt.errors import ImportFailure
from jitrt.graph.dtype import DType

_ELEMENTS: dict[DType, int] = {
    DType.f64: onnx.TensorProto.DOUBLE,
    DType.f32: onnx.TensorProto.FLOAT,
    DType.f16: onnx.TensorProto.FLOAT16,
    DType.bf16: onnx.TensorProto.BFLOAT16,
    DType.i64: onnx.TensorProto.INT64,
    DType.i32: onnx.TensorProto.INT32,
    DType.i16: onnx.TensorProto.INT16,
    DType.i8: onnx.TensorProto.INT8,
    DType.u64: onnx.TensorProto.UINT64,
    DType.u32: onnx.TensorProto.UINT32,
    DType.u16: onnx.TensorProto.UINT16,
    DType.u8: onnx.TensorProto.UINT8,
    DType.b8: onnx.TensorProto.BOOL,
}
_DTYPES = {element: dtype for dtype, element in _ELEMENTS.items()}


def element_of(dtype: DType) -> int:
    """ONNX's number for an element type."""
    return _ELEMENTS[dtype]


def dtype_of(element: int) -> DType:
    """The element type of ONNX's number. Raises ImportFailure for one jitrt has none for."""
    if element not in _DTYPES:
        raise ImportFailure(f"jitrt has no element type {element_name(element)}")
    return _DTYPES[element]


def element_name(element: int) -> str:
    """What ONNX calls an element type: "float16"."""
    names = onnx.TensorProto.DataType
    return str(names.Name(element)).lower() if element in names.values() else f"number {element}"
