"""What a front end adds nodes through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Value
from jitrt.graph.op import Array, Op
from jitrt.graph.ops import Cast, Concat, Expand, Permute, Reshape, Slice

Number = bool | int | float


class Builder:
    """A graph under construction, and where what is being added comes from: `loc`, the user's line.

    Movements that change nothing add no node: `reshape`, `permute`, `expand`, `slice` and `concat` then return their
    operand.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.loc = ""
        self._reshaped: dict[tuple[Value, tuple[int, ...]], Value] = {}

    def add(self, op: Op, *operands: Value) -> Value:
        """Append a node and return its output."""
        return self.graph.add(op, *operands, loc=self.loc)

    def claim(self, *shape: int) -> None:
        """Announce that an array of this shape, which the model's numbers give, is about to be made for a constant. A
        front end whose models come from outside refuses those that are too large."""

    def constant(self, data: Array, dtype: DType | None = None) -> Value:
        """A constant, of its own dtype unless given."""
        return self.graph.add_constant(data if dtype is None else np.asarray(data).astype(dtype.numpy))

    def full(self, shape: tuple[int, ...], number: Number, dtype: DType) -> Value:
        """A constant of one number."""
        self.claim(*shape)
        return self.graph.add_constant(np.full(shape, number).astype(dtype.numpy))

    def operand(self, x: Value | Number, dtype: DType) -> Value:
        """`x` in `dtype`: a number becomes a constant of rank 0, a tensor of another dtype is cast."""
        if not isinstance(x, Value):
            return self.graph.scalar(x, dtype)
        return x if x.type.dtype == dtype else self.add(Cast(dtype), x)

    def widened(self, x: Value) -> Value:
        """A tensor of 16-bit floats in float32, others as they are."""
        return self.operand(x, DType.f32) if x.type.dtype.is_float and x.type.dtype.itemsize == 2 else x

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        return x if x.type.shape == shape else self.add(Reshape(shape), x)

    def permute(self, x: Value, order: tuple[int, ...]) -> Value:
        return x if order == tuple(range(x.type.rank)) else self.add(Permute(order), x)

    def expand(self, x: Value, shape: tuple[int, ...]) -> Value:
        return x if x.type.shape == shape else self.add(Expand(shape), x)

    def slice(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """x[start:stop:step] along one axis; bounds already within the dimension."""
        if (start, stop, step) == (0, x.type.shape[axis], 1):
            return x
        return self.add(Slice.along(x.type.shape, axis, start, stop, step), x)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Tensors one after another; empty ones, which change nothing, only if there are no others."""
        full = [part for part in parts if part.type.shape[axis]] or parts[:1]
        return full[0] if len(full) == 1 else self.add(Concat(axis), *full)

    def put(self, base: Value, new: Value, start: Sequence[int], stop: Sequence[int], axis: int = 0) -> Value:
        """`base` with `new` at start:stop of every dimension from `axis` on."""
        if axis == base.type.rank:
            return new
        size, first, last = base.type.shape[axis], start[axis], stop[axis]
        if (first, last) == (0, size):
            return self.put(base, new, start, stop, axis + 1)
        rest_whole = all((start[d], stop[d]) == (0, base.type.shape[d]) for d in range(axis + 1, base.type.rank))
        middle = new if rest_whole else self.put(self.slice(base, axis, first, last), new, start, stop, axis + 1)
        before = [self.slice(base, axis, 0, first)] if first > 0 else []
        after = [self.slice(base, axis, last, size)] if last < size else []
        return self.add(Concat(axis), *before, middle, *after)

    def per_channel(self, parameter: Value, rank: int) -> Value:
        """A vector as (k, 1, ..., 1), to broadcast along dimension 1 of a tensor of `rank` dimensions."""
        shape = (parameter.type.shape[0], *([1] * (rank - 2)))
        if parameter.data is None or rank == 2:
            return self.reshape(parameter, shape)
        key = (parameter, shape)
        if key not in self._reshaped:
            self._reshaped[key] = self.graph.add_constant(parameter.data.reshape(shape), parameter.name)
        return self._reshaped[key]

    def finish(self, among: Iterable[Value] | None = None) -> None:
        """Drop constants nobody reads (of all, or `among` these); a reshaped parameter takes over the name of the one
        it replaced."""
        self.graph.drop_unused_constants(among)
        kept = self.graph.constants
        heirs: dict[str, Value] = {}
        for (parameter, _), value in self._reshaped.items():
            if parameter.name not in kept and value.name in kept:
                heirs.setdefault(parameter.name, value)
        self.graph.rename_all({value: name for name, value in heirs.items()})
        self._reshaped.clear()


def axis_of(axis: int, rank: int) -> int:
    """A dimension counted from the front. A rank of 0 has dimension 0 (and -1), as in PyTorch."""
    return axis % max(rank, 1)


def fixed(value: Value) -> bool:
    """Whether a value is the same in every run: a constant, or made of constants alone."""
    seen, waiting = {value}, [value]
    while waiting:
        current = waiting.pop()
        if current.producer is None and not current.is_constant:
            return False
        for operand in current.producer.inputs if current.producer is not None else ():
            if operand not in seen:
                seen.add(operand)
                waiting.append(operand)
    return True


def spread(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One number a dimension: a single one stands for all."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * dims if len(values) == 1 else values)
