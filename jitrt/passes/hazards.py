"""Which launch must wait for which: those that touch the same bytes, if one of them writes.

The slices that the branches of a concat write interleave in memory, channel by channel, and share no byte, so a byte
range is not enough to tell: a footprint is a comb, equal windows at equal distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class Footprint:
    """Bytes of `space` (any hashable name): from `first` to before `end`, and of these only windows of `width` bytes
    that begin every `pitch` bytes. With pitch 0 there is one window."""

    space: object
    first: int
    end: int
    pitch: int
    width: int

    @classmethod
    def block(cls, space: object, first: int, nbytes: int) -> Footprint:
        """All of `nbytes` bytes from `first` on."""
        return cls(space, first, first + nbytes, 0, nbytes)

    @classmethod
    def of(cls, space: object, first: int, type: TensorType) -> Footprint:
        """What a tensor covers whose first element is at byte `first`; the window is its innermost run of memory."""
        size = type.dtype.itemsize
        dims = sorted((stride, extent) for stride, extent in zip(type.strides, type.shape) if extent > 1)
        run = 1
        while dims and dims[0][0] <= run:
            stride, extent = dims.pop(0)
            run += (extent - 1) * stride
        pitch = math.gcd(*(stride for stride, _ in dims))
        return cls(space, first, first + type.span * size, pitch * size, run * size)

    def overlaps(self, other: Footprint) -> bool:
        """Whether both may have a byte in common; False is certain."""
        if self.space != other.space or self.end <= other.first or other.end <= self.first:
            return False
        period = math.gcd(self.pitch, other.pitch)
        if period == 0:
            return True
        ahead = (other.first - self.first) % period
        return ahead < self.width or period - ahead < other.width


@dataclass
class Hazards:
    """The launches so far, in order: read after write, write after read and write after write make one wait."""

    _touched: list[tuple[int, bool, Footprint]] = field(default_factory=list)
    _before: list[set[int]] = field(default_factory=list)

    def add(self, reads: Sequence[Footprint], writes: Sequence[Footprint]) -> tuple[int, ...]:
        """The earlier launches that the next one must wait for, less those that one of them waits for already."""
        index = len(self._before)
        direct: set[int] = set()
        for earlier, wrote, there in self._touched:
            here = [*reads, *writes] if wrote else writes  # two reads may overlap
            if earlier not in direct and any(there.overlaps(footprint) for footprint in here):
                direct.add(earlier)
        implied = set().union(*(self._before[earlier] for earlier in direct))
        self._before.append(direct | implied)
        self._touched += [(index, False, footprint) for footprint in reads]
        self._touched += [(index, True, footprint) for footprint in writes]
        return tuple(sorted(direct - implied))
