"""Tensors in a session's hands: `OrtValue`, on the host or on the GPU."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from jitrt.errors import InputError, OptionError
from jitrt.plan.schema import Binding
from jitrt.runtime.dlpack import CPU, CUDA, DeviceArray, contiguous, import_array
from jitrt.runtime.memory import Resources
from jitrt.runtime.seam import Driver

_HOST = ("cpu", "cuda_pinned")


class DeviceMemory:
    """Dense row-major elements on the GPU: of its own if no `address` is given, else those of `owner`."""

    def __init__(
        self, driver: Driver, shape: Sequence[int], dtype: np.dtype, address: int | None = None, owner: object = None
    ):
        self.driver = driver
        self.shape = tuple(shape)
        self.dtype = dtype
        self._owner = owner
        if address is None:
            with driver.active():
                self._resources = Resources(driver, self)
                address = self._resources.alloc(self.nbytes)
        self.address = address

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def write(self, array: np.ndarray) -> None:
        """Copy from the host; done on return."""
        dense = np.ascontiguousarray(array, self.dtype)
        with self.driver.active():
            self.driver.upload(self.address, dense.ctypes.data, self.nbytes)
            self.driver.synchronize(0)

    def read(self) -> np.ndarray:
        """A copy on the host, of what work on the default stream has made."""
        array = np.empty(self.shape, self.dtype)
        with self.driver.active():
            self.driver.download(array.ctypes.data, self.address, self.nbytes)
            self.driver.synchronize(0)
        return array


class OrtValue:
    """A tensor as `onnxruntime.OrtValue` is one. `held` is a numpy array or device memory.

    >>> value = OrtValue.ortvalue_from_numpy(np.ones((2, 3), np.float32))
    >>> value.shape(), value.data_type(), value.device_name()
    ([2, 3], 'tensor(float)', 'cpu')
    """

    def __init__(self, held: np.ndarray | DeviceMemory):
        self.held = held

    @classmethod
    def ortvalue_from_numpy(
        cls, numpy_obj: np.ndarray, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """The array itself on the CPU, a copy of it on "cuda". Raises NoGpuError, OptionError for another device."""
        if _on_host(device_type):
            return cls(np.asarray(numpy_obj))
        memory = DeviceMemory(driver_of(device_id), numpy_obj.shape, numpy_obj.dtype)
        memory.write(numpy_obj)
        return cls(memory)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """A tensor with undefined contents; `element_type` is a numpy dtype or ONNX's number."""
        dtype = numpy_type(element_type)
        if _on_host(device_type):
            return cls(np.empty(tuple(shape), dtype))
        return cls(DeviceMemory(driver_of(device_id), shape, dtype))

    @classmethod
    def from_dlpack(cls, data: Any, is_bool_tensor: bool = False) -> OrtValue:
        """A tensor of any library, without a copy. Raises InputError unless it is dense and row-major."""
        torch = sys.modules.get("torch")
        on_host = data.__dlpack_device__()[0] == CPU
        if on_host and torch is not None and isinstance(data, torch.Tensor):
            from jitrt.frontend.torch.arrays import to_numpy

            array = to_numpy(data)
            return cls(array.astype(bool) if is_bool_tensor else array)
        if on_host:
            array = np.from_dlpack(data)
            return cls(array.astype(bool) if is_bool_tensor else array)
        found = import_array(data, 0)
        if found.dtype is None or found.strides != contiguous(found.shape):
            raise InputError("the tensor is not dense and row-major, or of a type jitrt does not have; copy it first")
        from jitrt.plan.dtypes import numpy_dtype

        dtype = np.dtype(bool) if is_bool_tensor else numpy_dtype(found.dtype)
        return cls(DeviceMemory(driver_of(found.device[1]), found.shape, dtype, found.address, found.owner))

    def numpy(self) -> np.ndarray:
        """The elements on the host: the array itself, or a copy of device memory."""
        return self.held if isinstance(self.held, np.ndarray) else self.held.read()

    def shape(self) -> list[int]:
        return list(self.held.shape)

    def data_type(self) -> str:
        """Such as "tensor(float)"."""
        return f"tensor({onnx.TensorProto.DataType.Name(self.element_type()).lower()})"

    def element_type(self) -> int:
        """ONNX's number of the element type."""
        return int(helper.np_dtype_to_tensor_dtype(self.held.dtype))

    def device_name(self) -> str:
        """ "cpu" or "cuda"."""
        return "cpu" if isinstance(self.held, np.ndarray) else "cuda"

    def data_ptr(self) -> int:
        """The address of the first element."""
        return int(self.held.ctypes.data) if isinstance(self.held, np.ndarray) else self.held.address

    def tensor_size_in_bytes(self) -> int:
        return int(self.held.nbytes)

    def has_value(self) -> bool:
        return True

    def is_tensor(self) -> bool:
        return True

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return False

    def update_inplace(self, np_arr: np.ndarray) -> None:
        """Overwrite the elements. Raises InputError for another shape or dtype."""
        if np_arr.shape != self.held.shape or np_arr.dtype != self.held.dtype:
            raise InputError(
                f"the value is {self.held.dtype} {self.held.shape}, the array {np_arr.dtype} {np_arr.shape}; make "
                "another value for it"
            )
        if isinstance(self.held, np.ndarray):
            self.held[...] = np_arr
        else:
            self.held.write(np_arr)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CPU, 0) if isinstance(self.held, np.ndarray) else (CUDA, self.held.driver.device.index)

    def __dlpack__(self, **options: Any) -> object:
        if isinstance(self.held, np.ndarray):
            return self.held.__dlpack__(**options)
        from jitrt.graph.dtype import DType

        held, strides = self.held, contiguous(self.held.shape)
        binding = Binding("value", DType.of(held.dtype).value, held.shape, strides)
        return DeviceArray(binding, held.address, held.driver.device.index, held).__dlpack__()

    def __repr__(self) -> str:
        return f"OrtValue({self.data_type()}, {self.shape()}, {self.device_name()})"


def driver_of(device_id: int = 0) -> Driver:
    """The driver of a GPU. Raises NoGpuError."""
    from jitrt.runtime.driver import cuda_driver

    return cuda_driver(max(device_id, 0))  # DLPack's -1: the current one


def device_of(device_type: str, device_id: int) -> str:
    """ "cpu" or "cuda". Raises OptionError for another device, NoGpuError if there is none."""
    if _on_host(device_type):
        return "cpu"
    driver_of(device_id)
    return "cuda"


def numpy_type(element_type: Any) -> np.dtype:
    """The numpy dtype of ONNX's number, or of what numpy takes for one. Raises OptionError."""
    try:
        if isinstance(element_type, int):
            return np.dtype(helper.tensor_dtype_to_np_dtype(element_type))
        return np.dtype(element_type)
    except (KeyError, TypeError) as error:
        raise OptionError(f"element_type is {element_type!r}; give a numpy dtype or ONNX's number of one") from error


def value_at(address: int, device_type: str, device_id: int, element_type: Any, shape: Sequence[int]) -> OrtValue:
    """What lies at an address, dense and row-major; the caller keeps it alive."""
    dtype = numpy_type(element_type)
    if not _on_host(device_type):
        return OrtValue(DeviceMemory(driver_of(device_id), shape, dtype, int(address)))
    nbytes = math.prod(shape) * dtype.itemsize
    memory: Any = (ctypes.c_uint8 * nbytes).from_address(int(address)) if nbytes else b""
    return OrtValue(np.frombuffer(memory, dtype).reshape(tuple(shape)))


def _on_host(device_type: str) -> bool:
    """Raises OptionError for a device jitrt has no memory on."""
    if str(device_type).lower() in _HOST:
        return True
    if str(device_type).lower() not in ("cuda", "gpu"):
        raise OptionError(f"device_type is {device_type!r}; it can be 'cpu' or 'cuda'")
    return False
