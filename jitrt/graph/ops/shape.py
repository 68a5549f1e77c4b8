"""Ops that move elements and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait
from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class _OneInput(Op):
    def flops(self, inputs: object, outputs: object) -> int:
        return 0


@dataclass(frozen=True)
class Identity(_OneInput):
    """y = x."""

    name: ClassVar[str] = "identity"
    traits: ClassVar[Trait] = Trait.IDENTITY | Trait.VIEW | Trait.INJECTIVE

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (types[0].logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (arrays[0],)


@dataclass(frozen=True)
class Dropout(Identity):
    """Dropout at inference: y = x."""

    name: ClassVar[str] = "dropout"


@dataclass(frozen=True)
class Contiguous(_OneInput):
    """y = x in another layout: a copy, given the output type's strides."""

    name: ClassVar[str] = "contiguous"
    traits: ClassVar[Trait] = Trait.INJECTIVE | Trait.ELEMENTWISE

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (types[0].logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (arrays[0],)


@dataclass(frozen=True)
class Reshape(_OneInput):
    """The same elements in row-major order under another shape (all sizes explicit)."""

    name: ClassVar[str] = "reshape"
    traits: ClassVar[Trait] = Trait.VIEW | Trait.INJECTIVE
    shape: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(math.prod(self.shape) == types[0].numel, f"{types[0]} has not the elements of {list(self.shape)}")
        return (TensorType(types[0].dtype, self.shape),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (arrays[0].reshape(self.shape),)


@dataclass(frozen=True)
class Permute(_OneInput):
    """Output dimension d is input dimension `order[d]`."""

    name: ClassVar[str] = "permute"
    traits: ClassVar[Trait] = Trait.VIEW | Trait.INJECTIVE
    order: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = types[0]
        self.check(sorted(self.order) == list(range(x.rank)), f"{self.order} is no permutation of {x.rank} dimensions")
        return (TensorType(x.dtype, tuple(x.shape[d] for d in self.order)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (arrays[0].transpose(self.order),)


@dataclass(frozen=True)
class Expand(_OneInput):
    """Broadcast to `shape`: a view with stride 0."""

    name: ClassVar[str] = "expand"
    traits: ClassVar[Trait] = Trait.VIEW | Trait.INJECTIVE
    shape: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = types[0]
        lead = len(self.shape) - x.rank
        fits = lead >= 0 and all(a in (1, b) for a, b in zip(x.shape, self.shape[lead:], strict=True))
        self.check(fits, f"{x} does not broadcast to {list(self.shape)}")
        return (TensorType(x.dtype, self.shape),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.broadcast_to(arrays[0], self.shape),)


@dataclass(frozen=True)
class Slice(_OneInput):
    """x[start:stop:step] in every dimension; bounds already clipped, steps positive."""

    name: ClassVar[str] = "slice"
    traits: ClassVar[Trait] = Trait.VIEW | Trait.INJECTIVE
    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]

    @classmethod
    def along(cls, shape: Sequence[int], axis: int, start: int, stop: int, step: int = 1) -> Slice:
        """x[start:stop:step] along one axis of an x of `shape`, and all of the others."""
        starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
        starts[axis], stops[axis], steps[axis] = start, stop, step
        return cls(tuple(starts), tuple(stops), tuple(steps))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = types[0]
        self.check(len(self.start) == len(self.stop) == len(self.step) == x.rank, f"bounds do not fit {x}")
        for size, a, b, s in zip(x.shape, self.start, self.stop, self.step, strict=True):
            self.check(0 <= a <= size and 0 <= b <= size and s > 0, f"bounds {a}:{b}:{s} of a dimension of {size}")
        shape = (max(0, -(-(b - a) // s)) for a, b, s in zip(self.start, self.stop, self.step, strict=True))
        return (TensorType(x.dtype, tuple(shape)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (arrays[0][tuple(map(slice, self.start, self.stop, self.step))],)


@dataclass(frozen=True)
class Concat(Op):
    """Operands one after another along `axis`."""

    name: ClassVar[str] = "concat"
    traits: ClassVar[Trait] = Trait.INJECTIVE
    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        first = types[0]
        self.check(0 <= self.axis < first.rank, f"axis {self.axis} of {first}")
        for type in types:
            self.check(type.dtype == first.dtype, f"operands are {first.dtype.value} and {type.dtype.value}")
            rest = [s for d, s in enumerate(type.shape) if d != self.axis]
            want = [s for d, s in enumerate(first.shape) if d != self.axis]
            self.check(type.rank == first.rank and rest == want, f"{type} does not fit {first} along axis {self.axis}")
        shape = list(first.shape)
        shape[self.axis] = sum(t.shape[self.axis] for t in types)
        return (TensorType(first.dtype, tuple(shape)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.concatenate(arrays, self.axis),)

    def flops(self, inputs: object, outputs: object) -> int:
        return 0


@dataclass(frozen=True)
class Pad(_OneInput):
    """`value` before and after each dimension; `padding` is a pair (before, after) a dimension."""

    name: ClassVar[str] = "pad"
    traits: ClassVar[Trait] = Trait.INJECTIVE
    padding: tuple[tuple[int, int], ...]
    value: float = 0.0

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x = types[0]
        self.check(len(self.padding) == x.rank, f"{len(self.padding)} pairs for {x}")
        self.check(all(a >= 0 and b >= 0 for a, b in self.padding), "negative padding is a slice")
        return (TensorType(x.dtype, tuple(s + a + b for s, (a, b) in zip(x.shape, self.padding, strict=True))),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.pad(arrays[0], self.padding, constant_values=self.value),)
