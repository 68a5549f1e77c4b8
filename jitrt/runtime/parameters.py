"""The parameters of one kernel launch, packed as the driver reads them, with a note of which words follow a binding.

A parameter is an 8-byte address, a 4- or 8-byte number, or a 128-byte CUtensorMap. Two hidden addresses end the list of
every Triton kernel (3.6 to 3.9): global scratch and profile scratch.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from jitrt.plan.schema import Argument, Pointer, Scalar, TensorMap
from jitrt.runtime.memory import Addresses
from jitrt.runtime.seam import Driver

_MAP_BYTES = 128  # size and strictest alignment of a CUtensorMap
_FORMAT = {"i32": "<i", "i64": "<q", "f32": "<f"}


class Parameters:
    """Packed once; `rebind` then rewrites in place what depends on the addresses of inputs and outputs.

    These are numbered through: binding i is input i, or output i - `inputs` from there on. `address` is that of the
    array of pointers to the parameters, as the driver wants it.
    """

    def __init__(self, arguments: Sequence[Argument], inputs: int, scratch: int, driver: Driver):
        self._driver = driver
        self._inputs = inputs
        self._bound_words: list[tuple[int, int, int]] = []  # (word, binding, offset)
        self._bound_maps: list[tuple[int, int, TensorMap]] = []  # (first byte, binding, map)
        self._fixed: list[tuple[int, Argument]] = []
        self._encoded: dict[int, int] = {}  # first byte of a map -> the address it is for
        offsets = self._layout(arguments)
        count = len(offsets)
        self._buffer = ctypes.create_string_buffer(self._size + _MAP_BYTES)
        start = -(-ctypes.addressof(self._buffer) // _MAP_BYTES) * _MAP_BYTES
        self._bytes = memoryview((ctypes.c_char * self._size).from_address(start)).cast("B")
        self._words = self._bytes.cast("Q")
        self._words[offsets[-2] // 8] = scratch
        self._pointers = (ctypes.c_void_p * count)(*(start + offset for offset in offsets))
        self.address = ctypes.addressof(self._pointers)

    def _layout(self, arguments: Sequence[Argument]) -> list[int]:
        """Offset of every parameter, hidden ones included; sorts the arguments by what they depend on."""
        offsets: list[int] = []
        end = 0
        for argument in arguments:
            size = _size(argument)
            at = -(-end // size) * size
            offsets.append(at)
            end = at + size
            if isinstance(argument, TensorMap) and (binding := self._binding(argument.pointer)) is not None:
                self._bound_maps.append((at, binding, argument))
            elif isinstance(argument, Pointer) and (binding := self._binding(argument)) is not None:
                self._bound_words.append((at // 8, binding, argument.offset))
            else:
                self._fixed.append((at, argument))
        end = -(-end // 8) * 8
        self._size = -(-(end + 16) // _MAP_BYTES) * _MAP_BYTES
        return [*offsets, end, end + 8]

    def _binding(self, pointer: Pointer) -> int | None:
        return {"input": pointer.index, "output": self._inputs + pointer.index}.get(pointer.space)

    @property
    def bindings(self) -> set[int]:
        """Which bindings these parameters follow."""
        return {binding for _, binding, _ in (*self._bound_words, *self._bound_maps)}

    def bind(self, addresses: Addresses) -> None:
        """Write everything that does not follow inputs and outputs."""
        for at, argument in self._fixed:
            if isinstance(argument, Scalar):
                struct.pack_into(_FORMAT[argument.kind], self._bytes, at, argument.value)
            elif isinstance(argument, TensorMap):
                self._encode(at, argument, addresses.of(argument.pointer))
            else:
                self._words[at // 8] = addresses.of(argument)

    def rebind(self, bound: Sequence[int]) -> None:
        """Write what follows inputs and outputs; binding i is at address `bound[i]`."""
        for word, binding, offset in self._bound_words:
            self._words[word] = bound[binding] + offset
        for at, binding, argument in self._bound_maps:
            self._encode(at, argument, bound[binding] + argument.pointer.offset)

    def _encode(self, at: int, argument: TensorMap, address: int) -> None:
        if self._encoded.get(at) == address:
            return
        self._bytes[at : at + _MAP_BYTES] = self._driver.encode_tensor_map(
            address, argument.dtype, argument.shape, argument.strides, argument.box, argument.swizzle, argument.steps
        )
        self._encoded[at] = address


def sizes(arguments: Sequence[Argument]) -> tuple[int, ...]:
    """Bytes of every parameter these arguments make, hidden ones included."""
    return (*map(_size, arguments), 8, 8)


def _size(argument: Argument) -> int:
    if isinstance(argument, TensorMap):
        return _MAP_BYTES
    if isinstance(argument, Scalar):
        return struct.calcsize(_FORMAT[argument.kind])
    return 8
