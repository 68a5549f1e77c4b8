"""The caller's arrays as addresses, and outputs in the caller's kind: PyTorch, numpy, or anything that speaks DLPack.

The runtime imports no array library but numpy. It finds PyTorch among the loaded modules when it is handed a tensor.
An array that the plan cannot use as it is (strides, alignment) is laid out anew by its own library.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from jitrt.errors import GradientError, InputError
from jitrt.plan.dtypes import ITEMSIZE, numpy_dtype
from jitrt.plan.schema import Binding
from jitrt.plan.verify import extent_bytes
from jitrt.runtime.dlpack import CUDA, DeviceArray, Imported, import_array, is_array
from jitrt.runtime.memory import Resources
from jitrt.runtime.seam import Driver

ALIGNMENT = 16
"""Bytes that kernels may take the address of an input on the GPU to be a multiple of."""

_TORCH_NAMES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "b8": "bool",
}


class Arrays(Protocol):
    """One kind of array as one engine uses it.

    on_host   the arrays are in host memory: the context copies inputs in and outputs out.
    finish    the context waits for the outputs: they are on the host, or their library has no stream to order by.
    """

    on_host: bool
    finish: bool

    def stream(self) -> int | None:
        """The stream the caller works on now; None if there is no such thing."""

    def using(self, stream: int) -> AbstractContextManager[Any]:
        """Makes the library allocate and copy in the order of `stream`."""

    def take(self, inputs: Sequence[Any], stream: int) -> tuple[list[int], object]:
        """Addresses of the inputs, and what must be kept until the launch is enqueued.

        Raises InputError, naming the input, for one that does not fit.
        """

    def make(self) -> tuple[list[Any], list[int]]:
        """Fresh outputs and their addresses."""

    def give(self, outputs: list[Any]) -> list[Any]:
        """Finished outputs as the caller's kind; called only if `finish`."""


class Signature:
    """What an engine expects and returns."""

    def __init__(self, inputs: Sequence[Binding], outputs: Sequence[Binding], driver: Driver):
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.driver = driver
        self.device = driver.device.index


def arrays_of(first: object, signature: Signature) -> Arrays:
    """The kind of an engine's first input; without inputs numpy. Raises InputError if it is no array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(first, torch.Tensor):
        return TorchArrays(signature, torch, on_host=not first.is_cuda)
    if not signature.inputs or isinstance(first, np.ndarray | np.generic):
        return NumpyArrays(signature)
    if is_array(first):
        return OtherArrays(signature, first)
    raise _complaint(signature.inputs[0], f"a {type(first).__name__}")


def fits(shape: Sequence[int], strides: Sequence[int], binding: Binding) -> bool:
    """Whether an array of the binding's shape has its elements where the plan expects them. The stride of a dimension
    of size 1 says nothing."""
    return all(size == 1 or a == b for size, a, b in zip(shape, strides, binding.strides))


def check_count(inputs: Sequence[Any], bindings: Sequence[Binding]) -> None:
    """Raise InputError unless there is one input a binding."""
    if len(inputs) != len(bindings):
        names = ", ".join(binding.name for binding in bindings) or "none"
        raise InputError(f"the engine takes {len(bindings)} input(s) ({names}), got {len(inputs)}")


def check_type(binding: Binding, shape: Sequence[int], dtype: str, dtype_fits: bool) -> None:
    """Raise InputError unless shape and dtype are the binding's."""
    shape = tuple(shape)
    if shape != binding.shape and 0 in shape:
        raise InputError(
            f"input {binding.name!r} is empty (shape {shape}); the engine runs on {binding.shape}: "
            "skip the call for an empty batch"
        )
    if shape != binding.shape or not dtype_fits:
        raise _complaint(binding, f"{dtype} {shape}")


def _complaint(binding: Binding, got: str) -> InputError:
    return InputError(
        f"input {binding.name!r}: expected {binding.dtype} {binding.shape}, got {got}; "
        "convert it, or compile an engine for this input"
    )


# -- PyTorch -----------------------------------------------------------------------------------------------------------


class TorchArrays:
    """`torch.Tensor`, on the engine's GPU or on the CPU."""

    def __init__(self, signature: Signature, torch: Any, *, on_host: bool):
        self.on_host = self.finish = on_host
        self._torch = torch
        self._device = torch.device("cpu") if on_host else torch.device("cuda", signature.device)
        self._index = signature.device
        self._bindings = signature.inputs
        self._inputs = [self._expected(binding) for binding in signature.inputs]
        self._outputs = [self._expected(binding) for binding in signature.outputs]
        # What torch.cuda.current_stream asks, without making a Stream object.
        self._current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)

    def _expected(self, binding: Binding) -> tuple[Any, Any, tuple[int, ...]]:
        dtype = getattr(self._torch, _TORCH_NAMES[binding.dtype])
        return self._torch.Size(binding.shape), dtype, binding.strides

    def stream(self) -> int | None:
        if self.on_host:
            return None
        if self._current_stream is not None:
            return int(self._current_stream(self._index))
        return int(self._torch.cuda.current_stream(self._index).cuda_stream)

    def using(self, stream: int) -> AbstractContextManager[Any]:
        if self.on_host or stream == self.stream():
            return nullcontext()
        cuda = self._torch.cuda
        return cuda.stream(cuda.ExternalStream(stream, device=self._device))

    def take(self, inputs: Sequence[Any], stream: int) -> tuple[list[int], object]:
        check_count(inputs, self._bindings)
        addresses, kept = [], []
        for position, (tensor, (shape, dtype, strides)) in enumerate(zip(inputs, self._inputs)):
            try:
                ready = (
                    tensor.shape == shape
                    and tensor.dtype is dtype
                    and tensor.device == self._device
                    and tensor.stride() == strides
                    and not tensor.requires_grad
                    and tensor.data_ptr() % ALIGNMENT == 0
                )
            except (AttributeError, RuntimeError):  # no tensor, or one without strides
                ready = False
            if not ready:
                tensor = self._prepared(tensor, position)
                kept.append(tensor)
            addresses.append(tensor.data_ptr())
        return addresses, kept

    def _prepared(self, tensor: Any, position: int) -> Any:
        """The tensor, laid out anew if need be. Raises InputError or GradientError."""
        binding, (shape, dtype, strides) = self._bindings[position], self._inputs[position]
        if not isinstance(tensor, self._torch.Tensor):
            raise _complaint(binding, f"a {type(tensor).__name__} (the first input is a torch.Tensor)")
        check_type(binding, tensor.shape, str(tensor.dtype).removeprefix("torch."), tensor.dtype is dtype)
        if tensor.device != self._device:
            raise InputError(
                f"input {binding.name!r} is on {tensor.device}, expected on {self._device}; "
                f"move it with .to({str(self._device)!r})"
            )
        if tensor.requires_grad and self._torch.is_grad_enabled():
            raise GradientError(
                f"input {binding.name!r} requires a gradient, but jitrt compiles for inference only; "
                "call the engine under torch.no_grad(), or detach() the input"
            )
        tensor = tensor.detach()
        aligned = self.on_host or tensor.data_ptr() % ALIGNMENT == 0
        if tensor.layout is self._torch.strided and aligned and fits(shape, tensor.stride(), binding):
            return tensor
        dense = tensor if tensor.layout is self._torch.strided else tensor.to_dense()
        return self._torch.empty_strided(shape, strides, dtype=dtype, device=self._device).copy_(dense)

    def make(self) -> tuple[list[Any], list[int]]:
        make, device = self._torch.empty_strided, self._device
        outputs = [make(shape, strides, dtype=dtype, device=device) for shape, dtype, strides in self._outputs]
        return outputs, [tensor.data_ptr() for tensor in outputs]

    def give(self, outputs: list[Any]) -> list[Any]:
        return outputs


# -- numpy -------------------------------------------------------------------------------------------------------------


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
            raise _complaint(binding, f"a {type(value).__name__} (the first input is a numpy array)")
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


# -- everything else ---------------------------------------------------------------------------------------------------


class OtherArrays:
    """CuPy, JAX and others, through DLPack or `__cuda_array_interface__`.

    Their libraries cannot be told when our stream is done with a tensor, so the context waits for the outputs. These go
    back through `from_dlpack` of the caller's namespace (array API standard), or as DeviceArrays if it has none.
    """

    finish = True

    def __init__(self, signature: Signature, first: Any):
        self._signature = signature
        self._driver = signature.driver
        kind = first.__dlpack_device__()[0] if hasattr(first, "__dlpack_device__") else CUDA
        self.on_host = kind != CUDA
        namespace = first.__array_namespace__() if hasattr(first, "__array_namespace__") else None
        self._from_dlpack = getattr(namespace, "from_dlpack", None)

    def stream(self) -> int | None:
        return None

    def using(self, stream: int) -> AbstractContextManager[Any]:
        return nullcontext()

    def take(self, inputs: Sequence[Any], stream: int) -> tuple[list[int], object]:
        check_count(inputs, self._signature.inputs)
        addresses, kept = [], []
        for value, binding in zip(inputs, self._signature.inputs):
            if not is_array(value):
                raise _complaint(binding, f"a {type(value).__name__}")
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


class _Owner:
    """Device memory lives as long as this does."""
