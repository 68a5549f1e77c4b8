"""The numbers in a TensorProto, wherever the model keeps them, once they agree with what it declares."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jitrt.errors import ModelError
from jitrt.frontend.onnx.elements import element_name
from jitrt.frontend.onnx.external import extent_of, read_extent
from jitrt.graph.op import Array

MOST_DIMS = 64  # numpy's own limit
MOST_ELEMENTS = (1 << 63) - 1

_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_T = onnx.TensorProto
_PACKED = {"UINT2": 2, "INT2": 2, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
_BITS: dict[int, int] = {  # of elements smaller than a byte, which lie packed; those that the installed onnx has
    number: _PACKED[name] for name, number in _T.DataType.items() if name in _PACKED
}


def array_of(tensor: onnx.TensorProto, folder: Path | None) -> Array:
    """The elements of a tensor: an array of numpy's (or ml_dtypes') type, of objects for strings. Read-only where it
    shares the model's bytes.

    `folder` is where external data may lie. Raises ModelError, which names the tensor, for a shape or element type
    that cannot be, values in none or several places, or other bytes than dtype and shape need.
    """
    dims, name = tuple(tensor.dims), tensor.name
    count = elements(dims, f"tensor {name!r}")
    element = tensor.data_type
    if element == _T.UNDEFINED or element not in _T.DataType.values():
        raise ModelError(f"tensor {name!r}: unknown element type {element}")
    dtype = helper.tensor_dtype_to_np_dtype(element)
    if tensor.HasField("segment"):
        raise ModelError(f"tensor {name!r} is stored in segments, which the ONNX tools do not read either")
    field = _field_of(tensor)
    if field in ("raw_data", "external_data"):
        if element == _T.STRING:
            raise ModelError(f"tensor {name!r}: strings cannot be kept as raw bytes")
        bits = _BITS.get(element, dtype.itemsize * 8)
        size = -(-count * bits // 8)
        raw = tensor.raw_data if field == "raw_data" else _external(tensor, folder, size)
        if len(raw) != size:
            raise ModelError(f"tensor {name!r}: {element_name(element)}{list(dims)} is {size} bytes, it has {len(raw)}")
        if element not in _BITS:
            return _from_bytes(raw, dtype).reshape(dims)
        packed = _T(data_type=element, dims=dims, raw_data=bytes(raw))
        return numpy_helper.to_array(packed)
    wanted = helper.tensor_dtype_to_field(element)
    stored = len(getattr(tensor, wanted))
    per = 2 if element in (_T.COMPLEX64, _T.COMPLEX128) else 1
    need = -(-count * _BITS[element] // 8) if _BITS.get(element, 8) < 6 else count * per
    if (field or wanted) != wanted:
        raise ModelError(f"tensor {name!r}: {element_name(element)} is kept in {wanted}, it has {field}")
    if stored != need:
        raise ModelError(f"tensor {name!r}: {element_name(element)}{list(dims)} needs {need} values, it has {stored}")
    return numpy_helper.to_array(tensor)


def dense(
    sparse: onnx.SparseTensorProto,
    read: Callable[[onnx.TensorProto], Array],
    claim: Callable[..., None],
) -> Array:
    """A sparse tensor with its zeros. `claim` is told shape and bytes an element before the memory is taken, and may
    refuse. Raises ModelError."""
    name = sparse.values.name
    values, indices, shape = read(sparse.values), read(sparse.indices), tuple(sparse.dims)
    count = elements(shape, f"sparse tensor {name!r}")
    if values.ndim != 1 or values.dtype == object or indices.dtype != np.int64:
        raise ModelError(f"sparse tensor {name!r}: values must be a vector of numbers, indices int64")
    if indices.shape not in ((len(values),), (len(values), len(shape))):
        raise ModelError(f"sparse tensor {name!r}: indices of shape {list(indices.shape)} for {len(values)} values")
    limits = np.asarray(shape if indices.ndim == 2 else count, np.int64)
    if ((indices < 0) | (indices >= limits)).any():
        raise ModelError(f"sparse tensor {name!r}: an index outside its shape {list(shape)}")
    claim(*shape, itemsize=values.dtype.itemsize)
    full = np.zeros(shape, values.dtype)
    places = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, shape)
    full[places] = values
    return full


def elements(dims: Sequence[int], where: str) -> int:
    """How many elements a shape has. Raises ModelError for one that no array can have."""
    if len(dims) > MOST_DIMS:
        raise ModelError(f"{where} has {len(dims)} dimensions, more than {MOST_DIMS}")
    if any(size < 0 for size in dims):
        raise ModelError(f"{where} has a negative dimension: {list(dims)}")
    count = math.prod(dims)
    if count > MOST_ELEMENTS:
        raise ModelError(f"{where} of shape {list(dims)} has more elements than can be counted")
    return count


def _field_of(tensor: onnx.TensorProto) -> str | None:
    """The one place a tensor keeps its values in; None for a tensor that has none in the model."""
    filled = [field for field in _FIELDS if len(getattr(tensor, field))]
    if tensor.HasField("raw_data"):
        filled.append("raw_data")
    if tensor.data_location == _T.EXTERNAL:
        filled.append("external_data")
    if len(filled) > 1:
        raise ModelError(f"tensor {tensor.name!r} has values in {' and in '.join(filled)}")
    return filled[0] if filled else None


def _external(tensor: onnx.TensorProto, folder: Path | None, size: int) -> Array:
    extent = extent_of(tensor)
    if folder is None:
        raise ModelError(
            f"tensor {tensor.name!r} lies in file {extent.location!r} beside the model: give the model's path, "
            "not its bytes"
        )
    if extent.length is not None and extent.length != size:
        raise ModelError(
            f"tensor {tensor.name!r}: {element_name(tensor.data_type)}{list(tensor.dims)} is {size} bytes, "
            f"its external data says {extent.length}"
        )
    return read_extent(folder, extent, size, tensor.name)


def _from_bytes(raw: bytes | Array, dtype: np.dtype) -> Array:
    """Little-endian elements as an array."""
    if dtype == np.bool_:
        return np.frombuffer(raw, np.uint8) != 0  # a byte other than 0 and 1 is no boolean numpy knows
    array = np.frombuffer(raw, dtype)
    return array.byteswap() if sys.byteorder == "big" else array
