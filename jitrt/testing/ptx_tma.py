"""What tensor maps of the PTX machine stand for: the bytes of memory that a box is, and where they go in shared memory.

A box is laid out row by row, its 16-byte pieces swapped inside of rows of the swizzle's width, by the address. What is
outside the tensor is loaded as zero and not stored.

Semantics: cuTensorMapEncodeTiled of the CUDA driver API, and "Tensors", PTX ISA 8.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.plan.dtypes import ITEMSIZE
from jitrt.plan.schema import TensorMap

MIXED = {32: 1, 64: 3, 128: 7}
"""By the width of a swizzle: the bits of an address, from bit 7 on, that are mixed into those from bit 4 on."""


@dataclass(frozen=True)
class Box:
    """The elements of a box in its order: where they are in memory, in bytes, and which of them are in the tensor; and
    where they go, in bytes from the start of shared memory."""

    places: Array
    inside: Array
    shared: Array
    itemsize: int

    @property
    def nbytes(self) -> int:
        return int(self.places.size) * self.itemsize

    def load(self, memory: Array) -> Array:
        """Its bytes, (elements, itemsize)."""
        elements = np.zeros((self.places.size, self.itemsize), np.uint8)
        elements[self.inside] = memory[self.places[self.inside, None] + np.arange(self.itemsize)]
        return elements

    def store(self, memory: Array, elements: Array) -> None:
        memory[self.places[self.inside, None] + np.arange(self.itemsize)] = elements[self.inside]


def box_at(map: TensorMap, coordinates: Sequence[int], shared: int, memory_bytes: int, shared_bytes: int) -> Box:
    """The box that begins at `coordinates`, outermost first, and at byte `shared`. `map.pointer.offset` is its address.

    Raises KernelError for one outside the memory or shared memory, for an address that is not aligned, and for boxes
    whose rows are narrower than the swizzle.
    """
    size = ITEMSIZE[map.dtype]
    steps = map.steps or (1,) * len(map.box)
    if len(coordinates) != len(map.box):
        raise KernelError(f"{len(coordinates)} coordinates for a box of {len(map.box)} dimensions")
    if map.swizzle and map.box[-1] * size != map.swizzle:
        raise KernelError(f"rows of {map.box[-1] * size} bytes swizzled by {map.swizzle}")
    if shared % (map.swizzle * 8 or 128) or shared < 0:
        raise KernelError(f"a box at byte {shared} of shared memory, whose swizzle begins elsewhere")
    places, inside = np.array([map.pointer.offset]), np.ones(1, bool)
    for at, extent, step, length, stride in zip(
        coordinates, map.box, steps, map.shape, (*map.strides, size), strict=True
    ):
        along = at + np.arange(-(-extent // step)) * step
        places = (places[:, None] + along * stride).reshape(-1)
        inside = (inside[:, None] & (along >= 0) & (along < length)).reshape(-1)
    end = shared + places.size * size
    if end > shared_bytes:
        raise KernelError(f"a box ends at byte {end} of {shared_bytes} of shared memory")
    reached = places[inside]
    if reached.size and (reached.min() < 0 or reached.max() + size > memory_bytes):
        raise KernelError(f"a box reaches outside its memory, from {reached.min()} to {reached.max()}")
    to: Any = shared + np.arange(places.size) * size
    if map.swizzle:
        to = to ^ (to >> 7 & MIXED[map.swizzle]) << 4
    return Box(places, inside, to, size)
