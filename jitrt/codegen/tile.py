"""The tile space: how a kernel counts through its output, and where an operand's element lies seen from there.

A kernel's tile has rows `m` and columns `k`. Columns run along one dimension of the output (the channels, when it lies
in memory as NHWC), rows through all others in memory order. Every operand that broadcasts against the output then has
its elements at some expression in `m` and `k` with constants for strides; that expression is what this module writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jitrt.graph.types import TensorType

_INT32 = 2**31


@dataclass(frozen=True)
class TileSpace:
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
    def row_count(self) -> int:
        return math.prod(self.shape[d] for d in self.rows)

    @property
    def column_count(self) -> int:
        return 1 if self.column is None else self.shape[self.column]

    def strides_of(self, operand: TensorType) -> tuple[list[tuple[int, int]], int]:
        """((size, stride) for every row dimension, column stride) of an operand that broadcasts to the output."""
        lead = len(self.shape) - operand.rank

        def stride(d: int) -> int:
            return 0 if d < lead or operand.shape[d - lead] == 1 else operand.strides[d - lead]

        rows = [(self.shape[d], stride(d)) for d in self.rows]
        return rows, 0 if self.column is None or self.shape[self.column] == 1 else stride(self.column)

    def address(self, operand: TensorType, m: str = "m", k: str = "k") -> Address:
        """Where the operand's element for tile position (m, k) lies."""
        rows, column = self.strides_of(operand)
        terms = _row_terms(merge(rows), f"{m}.to(tl.int64)" if operand.span >= _INT32 else m)
        if column:
            terms.append(k if column == 1 else f"{k} * {column}")
        return Address(
            offset=" + ".join(terms) or "0",
            uses_rows=any(stride for _, stride in rows),
            uses_columns=bool(column),
        )


@dataclass(frozen=True)
class Address:
    """An offset expression in elements, and which of the tile's two axes it varies along."""

    offset: str
    uses_rows: bool
    uses_columns: bool

    @property
    def mask(self) -> str | None:
        """The mask a load at this address needs, given `m_mask` and `k_mask`."""
        parts = [name for name, used in (("m_mask", self.uses_rows), ("k_mask", self.uses_columns)) if used]
        return " & ".join(parts) or None


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


def _row_terms(dims: list[tuple[int, int]], m: str) -> list[str]:
    terms = []
    inner = 1
    for position in reversed(range(len(dims))):
        size, stride = dims[position]
        index = m if inner == 1 else f"({m} // {inner})"
        if position > 0:
            index = f"({index} % {size})"
        if stride:
            terms.append(index if stride == 1 else f"{index} * {stride}")
        inner *= size
    return terms[::-1]
