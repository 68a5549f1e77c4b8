"""Device memory with guard zones, so that a write past the end of anything is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.op import Array
from jitrt.graph.types import TensorType
from jitrt.runtime.memory import Resources
from jitrt.runtime.seam import Driver

GUARD = 256 << 10  # bytes before and after each buffer
NAN_BYTE = 0xFF  # repeated, a NaN in every float format


@dataclass(frozen=True)
class Buffer:
    """`nbytes` of device memory from `address` on, with GUARD bytes that are ours before and after."""

    address: int
    nbytes: int

    @property
    def start(self) -> int:
        return self.address - GUARD

    @property
    def whole(self) -> int:
        return self.nbytes + 2 * GUARD

    def fill(self, driver: Driver, value: int, stream: int) -> None:
        """Set every byte, guards included."""
        driver.fill(self.start, value, self.whole, stream)

    def upload(self, driver: Driver, data: Array, stream: int) -> None:
        """Copy a contiguous array to the buffer's start."""
        if data.nbytes:
            driver.upload(self.address, data.ctypes.data, data.nbytes, stream)

    def download(self, driver: Driver, stream: int) -> Array:
        """Every byte, guards included; waits for the stream."""
        out = np.empty(self.whole, np.uint8)
        driver.download(out.ctypes.data, self.start, out.nbytes, stream)
        driver.synchronize(stream)
        return out

    def download_guards(self, driver: Driver, stream: int) -> Array:
        """The bytes of both guards; waits for the stream."""
        out = np.empty((2, GUARD), np.uint8)
        driver.download(out.ctypes.data, self.start, GUARD, stream)
        driver.download(out.ctypes.data + GUARD, self.address + self.nbytes, GUARD, stream)
        driver.synchronize(stream)
        return out


def allocate(resources: Resources, sizes: list[tuple[int, int]]) -> list[Buffer]:
    """One buffer for each (bytes, alignment). An alignment under 16 is kept to exactly, so that a kernel that counts on
    more is found out."""
    places, end = [], 0
    for nbytes, alignment in sizes:
        end = -(-end // 256) * 256 + GUARD + (0 if alignment >= 16 else alignment)
        places.append(end)
        end += nbytes + GUARD
    base = resources.alloc(end)
    return [Buffer(base + place, nbytes) for place, (nbytes, _) in zip(places, sizes, strict=True)]


def footprint(sizes: list[tuple[int, int]]) -> int:
    """Bytes `allocate` takes for some buffers, at most."""
    return sum(nbytes + 2 * GUARD + 512 for nbytes, _ in sizes)


def physical(data: Array, type: TensorType) -> Array:
    """The flat array that holds `data` in the layout of `type`; gaps are NaN bytes."""
    flat = np.empty(max(1, type.span), data.dtype)
    if not type.is_dense:
        flat.view(np.uint8)[:] = NAN_BYTE
    strided(flat, type)[...] = data
    return flat


def strided(flat: Array, type: TensorType) -> Array:
    """`flat` seen in the logical shape of `type`."""
    strides = [stride * flat.itemsize for stride in type.strides]
    return np.lib.stride_tricks.as_strided(flat, type.shape, strides)


def split_output(raw: Array, type: TensorType, poison: int) -> tuple[Array, str | None]:
    """(the output in its logical shape, None or what was written beside it) of a downloaded buffer that was filled with
    `poison` before. Booleans come as uint8, so that a byte that is neither 0 nor 1 shows."""
    inside = raw[GUARD : len(raw) - GUARD]
    dtype = type.dtype.numpy if type.dtype != DType.b8 else np.dtype(np.uint8)
    logical = strided(inside.view(dtype), type)
    reason = guard_damage(np.concatenate([raw[:GUARD], raw[len(raw) - GUARD :]]), poison, "the output")
    if reason is None and not type.is_dense and not _gaps_are(inside, type, poison):
        rest = inside.copy()
        bits = np.dtype(f"u{dtype.itemsize}")
        strided(rest.view(bits), type)[...] = int.from_bytes(bytes([poison] * dtype.itemsize), "little")
        wrong = int((rest != poison).sum())
        reason = f"writes {wrong} bytes between the rows of its output" if wrong else None
    return logical, reason


def _gaps_are(inside: Array, type: TensorType, poison: int) -> bool:
    """Whether all that lies between the elements is `poison`; False also where elements lie in no plain order. Of a
    branch of a concat this is as much as its elements: they are looked at where they lie, and not copied."""
    size = type.dtype.itemsize
    flat = inside.view(f"u{size}")
    dims = sorted(((n, step) for n, step in zip(type.shape, type.strides, strict=True) if n > 1), key=lambda d: -d[1])
    spans = [1]  # of what lies inside of each dimension, the innermost first
    for n, step in reversed(dims):
        if step < spans[-1]:
            return False
        spans.append((n - 1) * step + spans[-1])
    wanted = int.from_bytes(bytes([poison] * size), "little")
    for level, ((n, step), span) in enumerate(zip(dims, reversed(spans[:-1]), strict=True)):
        outer = dims[:level]
        shape = [m for m, _ in outer] + [n - 1, step - span]
        steps = [size * s for _, s in outer] + [size * step, size]
        gap = np.lib.stride_tricks.as_strided(flat[min(span, flat.size) :], shape, steps)
        if gap.size and not (gap == wanted).all():
            return False
    return True


def guard_damage(guards: Array, poison: int, what: str) -> str | None:
    """None if guard bytes are as they were filled."""
    wrong = int((guards != poison).sum())
    return f"writes {wrong} bytes outside {what}" if wrong else None


def bytes_of(type: TensorType) -> int:
    """Bytes from a tensor's first element to its last."""
    return type.span * type.dtype.itemsize


def sets_for(set_bytes: int, l2_bytes: int, free_bytes: int) -> int:
    """How many copies of all buffers to rotate among: enough to overflow L2 twice over where that takes few, at least
    two so that nothing is timed on one address only, at most four and what fits half of the free memory."""
    wanted = min(4, max(2, math.ceil(2 * l2_bytes / max(1, set_bytes))))
    return max(1, min(wanted, free_bytes // 2 // max(1, set_bytes)))
