"""PyTorch's tensors, without importing PyTorch: the module is the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from jitrt.errors import GradientError, InputError
from jitrt.plan.schema import Binding
from jitrt.runtime.arrays import ALIGNMENT, Signature, check_count, check_type, complaint, fits

_TORCH_NAMES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
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
            raise complaint(binding, f"a {type(tensor).__name__} (the first input is a torch.Tensor)")
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
