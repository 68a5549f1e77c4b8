"""Ops that find or follow positions: gather, argmax, top k; and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType, broadcast_shapes


@dataclass(frozen=True)
class Gather(Op):
    """y[i...] = x[i... with the index along `axis` replaced by index[i...]]: numpy's take_along_axis.

    Operands x and index, of one rank; their other dimensions broadcast. A negative index counts from the end. One that
    is out of range even so is taken as the nearest there is: PyTorch raises then, but a kernel cannot.
    """

    name: ClassVar[str] = "gather"
    traits: ClassVar[Trait] = Trait.ANCHOR
    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(len(types) == 2, f"takes x and an index, got {len(types)} operands")
        x, index = types
        self.check(not index.dtype.is_float and index.dtype != DType.b8, f"the index is {index.dtype.value}")
        self.check(x.rank == index.rank, f"x has rank {x.rank}, the index {index.rank}")
        self.check(0 <= self.axis < x.rank, f"axis {self.axis} of {x}")
        rest = broadcast_shapes(_without(x.shape, self.axis), _without(index.shape, self.axis))
        self.check(rest is not None, f"{x} and index {index} do not broadcast beside axis {self.axis}")
        assert rest is not None
        shape = (*rest[: self.axis], index.shape[self.axis], *rest[self.axis :])
        self.check(x.shape[self.axis] > 0 or 0 in shape, f"{x} has nothing to take along axis {self.axis}")
        return (TensorType(x.dtype, shape),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, index = arrays
        size = x.shape[self.axis]
        if size == 0:
            (out,) = self.infer(*(TensorType(DType.of(a.dtype), a.shape) for a in arrays))
            return (np.empty(out.shape, x.dtype),)
        wide_index = index.astype(np.int64)
        inside = np.clip(np.where(wide_index < 0, wide_index + size, wide_index), 0, size - 1)
        return (np.take_along_axis(x, inside, self.axis),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 0


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@dataclass(frozen=True)
class _Along(Op):
    """Works along one axis."""

    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.ANCHOR
    axis: int

    def _check_axis(self, x: TensorType) -> None:
        self.check(0 <= self.axis < x.rank, f"axis {self.axis} of {x}")

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return inputs[0].numel


@dataclass(frozen=True)
class ArgMax(_Along):
    """Where the largest element along `axis` is (i64): the first of equals; a NaN is larger than any number."""

    name: ClassVar[str] = "argmax"
    keepdims: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self._check_axis(x)
        self.check(x.shape[self.axis] > 0, f"axis {self.axis} of {x} has no elements")
        shape = [1 if d == self.axis else s for d, s in enumerate(x.shape) if self.keepdims or d != self.axis]
        return (TensorType(DType.i64, tuple(shape)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        found = self._find(wide(arrays[0]))
        return (np.expand_dims(found, self.axis) if self.keepdims else found,)

    def _find(self, x: Array) -> Array:
        return np.asarray(np.argmax(x, self.axis))


@dataclass(frozen=True)
class ArgMin(ArgMax):
    """Where the smallest element along `axis` is (i64): the first of equals; a NaN is smaller than any number."""

    name: ClassVar[str] = "argmin"

    def _find(self, x: Array) -> Array:
        return np.asarray(np.argmin(x, self.axis))


@dataclass(frozen=True)
class TopK(_Along):
    """Where the `k` largest elements along `axis` are (i64), largest first, or the smallest, smallest first.

    Equal elements in the order they have in x; a NaN is larger than any number. With k the whole length it sorts.
    """

    name: ClassVar[str] = "topk"
    k: int
    largest: bool = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self._check_axis(x)
        self.check(
            0 <= self.k <= x.shape[self.axis], f"{self.k} of {x.shape[self.axis]} elements along axis {self.axis}"
        )
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return (TensorType(DType.i64, shape),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        size = x.shape[self.axis]
        if self.largest:  # upwards from behind, and read backwards, so that equal elements keep their order
            order = size - 1 - np.flip(np.argsort(np.flip(x, self.axis), self.axis, kind="stable"), self.axis)
        else:
            order = np.argsort(x, self.axis, kind="stable")
        return (np.take(order, np.arange(self.k), self.axis),)


@dataclass(frozen=True)
class _Running(_Along):
    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self._check_axis(x)
        self.check(x.dtype != DType.b8, "of booleans: cast them first")
        return (x.logical(),)


@dataclass(frozen=True)
class CumSum(_Running):
    """y[i] = x[0] + ... + x[i] along `axis`."""

    name: ClassVar[str] = "cumsum"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        return (np.cumsum(x, self.axis, dtype=x.dtype),)


@dataclass(frozen=True)
class CumProd(_Running):
    """y[i] = x[0] * ... * x[i] along `axis`."""

    name: ClassVar[str] = "cumprod"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        return (np.cumprod(x, self.axis, dtype=x.dtype),)
