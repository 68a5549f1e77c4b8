"""What the graph knows of a value: dtype, shape, and where its elements lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.graph.dtype import DType


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a dense row-major tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a dense tensor whose dimension 1 is innermost: NHWC for a 4-d tensor."""
    order = (0, *range(2, len(shape)), 1) if len(shape) > 2 else tuple(range(len(shape)))
    return strides_in_order(shape, order)


def strides_in_order(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Dense strides of a tensor whose dimensions lie in memory in `order`, outermost first."""
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


@dataclass(frozen=True)
class Layout:
    """Where a value's elements lie.

    Element `(i0, i1, ...)` is at `offset + sum(ik * strides[k])`, in elements, of a storage. `storage` names the value
    whose storage that is; None means the value has its own. A channel slice of a concat's buffer is such a layout, and
    so is a transpose: neither moves a byte.
    """

    strides: tuple[int, ...]
    offset: int = 0
    storage: str | None = None


@dataclass(frozen=True)
class TensorType:
    """dtype, logical shape and layout of a value. The logical shape never changes with the layout: a convolution's
    output is `(n, c, h, w)` whether it lies in memory as NCHW or NHWC. `layout=None` is dense row-major."""

    dtype: DType
    shape: tuple[int, ...]
    layout: Layout | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements themselves, gaps between strided rows not counted."""
        return self.numel * self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in elements."""
        return self.layout.strides if self.layout else row_major(self.shape)

    @property
    def offset(self) -> int:
        """Offset into the storage, in elements."""
        return self.layout.offset if self.layout else 0

    @property
    def span(self) -> int:
        """Elements from the first to one past the last that the layout touches."""
        if self.numel == 0:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def is_dense(self) -> bool:
        """No gaps and no overlaps, in whatever dimension order."""
        if self.numel == 0:
            return True
        dims = sorted((stride, size) for size, stride in zip(self.shape, self.strides, strict=True) if size != 1)
        step = 1
        for stride, size in dims:
            if stride != step:
                return False
            step *= size
        return True

    @property
    def memory_order(self) -> tuple[int, ...]:
        """Dimensions from the outermost to the innermost in memory; ties and size-1 dimensions keep logical order."""
        sized = [d for d in range(self.rank) if self.shape[d] != 1]
        ranked = sorted(sized, key=lambda d: -self.strides[d])
        rest = iter(ranked)
        return tuple(d if self.shape[d] == 1 else next(rest) for d in range(self.rank))

    def with_layout(self, layout: Layout | None) -> TensorType:
        return TensorType(self.dtype, self.shape, layout)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape, self.layout)

    def logical(self) -> TensorType:
        """The same type without its layout: what two values must share to mean the same."""
        return self if self.layout is None else TensorType(self.dtype, self.shape)

    def __str__(self) -> str:
        text = f"{self.dtype.value}[{','.join(map(str, self.shape))}]"
        if self.layout is None:
            return text
        text += "{" + ",".join(map(str, self.layout.strides))
        if self.layout.offset or self.layout.storage:
            text += f"+{self.layout.offset}"
        if self.layout.storage:
            text += f"@%{self.layout.storage}"
        return text + "}"


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...] | None:
    """The common shape under numpy's broadcasting rule, or None if there is none."""
    rank = max((len(s) for s in shapes), default=0)
    out = []
    for position in range(rank):
        sizes = {s[position - rank + len(s)] for s in shapes if position - rank + len(s) >= 0}
        sizes.discard(1)
        if len(sizes) > 1:
            return None
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)
