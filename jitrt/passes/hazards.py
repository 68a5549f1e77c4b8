"""Which launch must wait for which: those that touch the same bytes, if one of them writes.

The slices that the branches of a concat write interleave in memory, channel by channel, and share no byte, so a byte
range is not enough to tell. A footprint is a box of bytes in strides, and whether two boxes meet is answered exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from jitrt.graph.types import TensorType

_PATIENCE = 1000  # partial answers tried before two footprints count as overlapping, exact or not


@dataclass(frozen=True)
class Footprint:
    """Bytes of `space` (any hashable name): `first + sum(i[k] * stride[k])` for all `0 <= i[k] < extent[k]`. `dims` are
    the pairs (stride, extent), the largest stride first, the last stride 1."""

    space: object
    first: int
    dims: tuple[tuple[int, int], ...]

    @classmethod
    def block(cls, space: object, first: int, nbytes: int) -> Footprint:
        """All of `nbytes` bytes from `first` on; at least one."""
        return cls(space, first, ((1, nbytes),))

    @classmethod
    def of(cls, space: object, first: int, type: TensorType) -> Footprint:
        """What a tensor covers whose first element is at byte `first`."""
        size = type.dtype.itemsize
        dims = [(stride * size, extent) for stride, extent in zip(type.strides, type.shape) if extent > 1 and stride]
        merged: list[tuple[int, int]] = [(1, size)]
        for stride, extent in sorted(dims):
            inner, length = merged[-1]
            if stride == inner * length:  # steps on evenly
                merged[-1] = (inner, length * extent)
            else:
                merged.append((stride, extent))
        return cls(space, first, tuple(reversed(merged)))

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.first + 1 + sum((extent - 1) * stride for stride, extent in self.dims)

    def overlaps(self, other: Footprint) -> bool:
        """Whether both may have a byte in common; False is certain."""
        if self.space != other.space or self.end <= other.first or other.end <= self.first:
            return False
        steps: dict[int, tuple[int, int]] = {}  # how far a stride's two indices may be apart: least, most
        for stride, extent in self.dims:
            low, high = steps.get(stride, (0, 0))
            steps[stride] = (low, high + extent - 1)
        for stride, extent in other.dims:
            low, high = steps.get(stride, (0, 0))
            steps[stride] = (low - extent + 1, high)
        return _reaches(other.first - self.first, sorted(steps.items(), reverse=True))


def _reaches(distance: int, steps: Sequence[tuple[int, tuple[int, int]]]) -> bool:
    """Whether `distance` is `sum(t[k] * stride[k])` for some `low[k] <= t[k] <= high[k]`; True also if that takes long
    to find out. Of a stride, only those multiples are tried from which smaller strides can still reach."""
    least = [0, *accumulate(stride * low for stride, (low, _) in reversed(steps))][::-1]
    most = [0, *accumulate(stride * high for stride, (_, high) in reversed(steps))][::-1]
    stack, tried = [(distance, 0)], 0
    while stack:
        left, k = stack.pop()
        if k == len(steps):
            return True  # nothing is left: the last stride, 1, leaves no remainder
        stride, (low, high) = steps[k]
        multiples = range(max(low, -(-(left - most[k + 1]) // stride)), min(high, (left - least[k + 1]) // stride) + 1)
        tried += len(multiples)
        if tried > _PATIENCE:
            return True
        stack += [(left - t * stride, k + 1) for t in multiples]
    return False


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
