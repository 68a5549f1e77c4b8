"""How a kernel counts through a tensor, and where an operand's element lies seen from there.

A kernel that makes an output tile has rows `m` and columns `k`. Columns run along one dimension of the output (the
channels, when it lies in memory as NHWC), rows through all others in memory order; that is a `TileSpace`. A kernel that
reduces has a third index. Every operand that broadcasts against the shape then has its elements at some expression in
the indices with constants for strides; that expression is what this module writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.errors import CompileError
from jitrt.graph.types import TensorType

_INT32 = 2**31


class Space:
    """The positions a kernel counts through: index variables, each running through some dimensions of a shape.

    In a kernel every index `i` comes with a mask `i_mask`, false beyond its last position; all of them broadcast
    against each other to the kernel's tile.
    """

    shape: tuple[int, ...]

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        """The dimensions of `shape` each index runs through, outermost first."""
        raise NotImplementedError

    @property
    def parameters(self) -> str:
        """The parameters of a generated function that is given a position: all indices, then all masks."""
        return ", ".join([*self.axes, *(f"{name}_mask" for name in self.axes)])

    def count(self, axis: str) -> int:
        """Positions along an index."""
        return math.prod(self.shape[d] for d in self.axes[axis])

    def strides_of(self, operand: TensorType) -> tuple[int, ...]:
        """The stride along every dimension of `shape` of an operand that broadcasts to it."""
        lead = len(self.shape) - operand.rank
        return tuple(
            0 if d < lead or operand.shape[d - lead] == 1 or size == 1 else operand.strides[d - lead]
            for d, size in enumerate(self.shape)
        )

    def address(self, operand: TensorType) -> Address:
        """Where the operand's element for a position lies. Raises CompileError for more positions than an index, which
        has 32 bits, can count."""
        for name in self.axes:
            if self.count(name) >= _INT32:
                raise CompileError(
                    f"{self.count(name)} elements of {list(self.shape)} would be counted by one 32-bit index: "
                    "reshape the tensor so that no run of dimensions has 2^31 elements"
                )
        strides = self.strides_of(operand)
        wide = operand.span >= _INT32
        terms: list[str] = []
        used: list[str] = []
        for name, dims in self.axes.items():
            merged = merge([(self.shape[d], strides[d]) for d in dims])
            found = [_term(index, stride, wide) for index, stride in _indices(merged, name) if stride]
            terms += found
            used += [name] if found else []
        return Address(" + ".join(terms) or "0", tuple(used))

    def coordinate(self, d: int) -> str:
        """The expression for a position's index along dimension `d` of `shape`."""
        for name, dims in self.axes.items():
            if d in dims:
                return _indices([(self.shape[other], int(other == d)) for other in dims], name)[dims.index(d)][0]
        return "0"


@dataclass(frozen=True)
class TileSpace(Space):
    """`shape` is the output's logical shape, `rows` the dimensions `m` runs through (outermost first), `column` the
    dimension of `k`, or None if there is none (rank 0)."""

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    column: int | None

    @classmethod
    def of(cls, type: TensorType, column: int | None = None) -> TileSpace:
        """Rows and columns by the memory order of `type`; `column` overrides which dimension is innermost."""
        order = list(type.memory_order)
        if not order:
            return cls((), (), None)
        # A dimension of size 1 is no use as a column if another has more.
        innermost = column if column is not None else next((d for d in reversed(order) if type.shape[d] > 1), order[-1])
        order.remove(innermost)
        return cls(type.shape, tuple(order), innermost)

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        return {"m": self.rows, "k": () if self.column is None else (self.column,)}

    @property
    def row_count(self) -> int:
        return self.count("m")

    @property
    def column_count(self) -> int:
        return self.count("k")


@dataclass(frozen=True)
class RowSpace(Space):
    """For kernels that see a whole row at once, input and output alike: `rows` are the dimensions of `m`, `columns`
    those a row runs through (outermost first), `k`."""

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def of(cls, type: TensorType, columns: Sequence[int]) -> RowSpace:
        """The dimensions in the memory order of `type`; `columns` says which make a row."""
        order = type.memory_order
        return cls(type.shape, tuple(d for d in order if d not in columns), tuple(d for d in order if d in columns))

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        return {"m": self.rows, "k": self.columns}


@dataclass(frozen=True)
class ReductionSpace(Space):
    """What a reduction reads: `shape` is its input's, `rows` the kept dimensions that `m` runs through, `reduced` those
    of `r` (outermost first), and `column` a kept dimension for `k`, or None."""

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    reduced: tuple[int, ...]
    column: int | None

    @classmethod
    def of(cls, type: TensorType, axes: tuple[int, ...]) -> ReductionSpace:
        """By the memory order of the input: the innermost dimension is a column, unless it is one of the `axes`."""
        order = type.memory_order
        kept = [d for d in order if d not in axes]
        innermost = next((d for d in reversed(order) if type.shape[d] > 1), None)
        column = innermost if innermost in kept else None
        return cls(type.shape, tuple(d for d in kept if d != column), tuple(d for d in order if d in axes), column)

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        return {"m": self.rows, "r": self.reduced, "k": () if self.column is None else (self.column,)}


@dataclass(frozen=True)
class Address:
    """An offset expression in elements, and the indices it varies with."""

    offset: str
    axes: tuple[str, ...]

    @property
    def mask(self) -> str | None:
        """The mask a load at this address needs."""
        return " & ".join(f"{name}_mask" for name in self.axes) or None


def merge(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(size, stride) pairs, outermost first, with neighbours joined wherever one stride steps through both."""
    out: list[tuple[int, int]] = []
    for size, stride in dims:
        if size == 1:
            continue
        if out and out[-1][1] == stride * size:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return out


def _indices(dims: list[tuple[int, int]], name: str) -> list[tuple[str, int]]:
    """(expression of the index along it, stride) for each of `dims`, which `name` runs through."""
    out = []
    inner = 1
    for position in reversed(range(len(dims))):
        size, stride = dims[position]
        index = name if inner == 1 else f"({name} // {inner})"
        if any(outer > 1 for outer, _ in dims[:position]):
            index = f"({index} % {size})"
        out.append(("0" if size == 1 else index, stride))
        inner *= size
    return out[::-1]


def _term(index: str, stride: int, wide: bool) -> str:
    if wide:  # the product may pass 2^31
        index = f"{index}.to(tl.int64)"
    return index if stride == 1 else f"{index} * {stride}"
