"""The caller's arrays as addresses, and outputs in the caller's kind: what every kind does and checks.

The runtime imports no array library but numpy: PyTorch is found among the loaded modules when it hands over a tensor.
An array that the plan cannot use as it is (strides, alignment) is laid out anew, by its own library where that can.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from jitrt.errors import InputError
from jitrt.plan.schema import Binding
from jitrt.runtime.seam import Driver

ALIGNMENT = 16
"""Bytes that kernels may take the address of an input on the GPU to be a multiple of."""


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
        raise complaint(binding, f"{dtype} {shape}")


def complaint(binding: Binding, got: str) -> InputError:
    """The error for an input that is something else than its binding says."""
    return InputError(
        f"input {binding.name!r}: expected {binding.dtype} {binding.shape}, got {got}; "
        "convert it, or compile an engine for this input"
    )
