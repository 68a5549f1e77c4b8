"""Reductions and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class _Reduce(Op):
    """Over `axes` (non-negative, sorted), which stay as size 1 with `keepdims`."""

    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.ANCHOR
    axes: tuple[int, ...]
    keepdims: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self.check(all(0 <= a < x.rank for a in self.axes), f"axes {self.axes} of {x}")
        self.check(len(set(self.axes)) == len(self.axes), f"axes {self.axes} repeat")
        shape = [1 if d in self.axes else s for d, s in enumerate(x.shape) if self.keepdims or d not in self.axes]
        return (TensorType(x.dtype, tuple(shape)),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return inputs[0].numel


@dataclass(frozen=True)
class ReduceSum(_Reduce):
    """Sum over axes."""

    name: ClassVar[str] = "reduce_sum"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.sum(wide(arrays[0]), self.axes, keepdims=self.keepdims),)


@dataclass(frozen=True)
class ReduceMean(_Reduce):
    """Mean over axes."""

    name: ClassVar[str] = "reduce_mean"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.mean(wide(arrays[0]), self.axes, keepdims=self.keepdims),)


@dataclass(frozen=True)
class ReduceMax(_Reduce):
    """Maximum over axes; NaN wins."""

    name: ClassVar[str] = "reduce_max"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.max(wide(arrays[0]), self.axes, keepdims=self.keepdims),)


@dataclass(frozen=True)
class ReduceMin(_Reduce):
    """Minimum over axes; NaN wins."""

    name: ClassVar[str] = "reduce_min"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.min(wide(arrays[0]), self.axes, keepdims=self.keepdims),)


@dataclass(frozen=True)
class ReduceProd(_Reduce):
    """Product over axes."""

    name: ClassVar[str] = "reduce_prod"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        return (np.prod(x, self.axes, dtype=x.dtype, keepdims=self.keepdims),)


@dataclass(frozen=True)
class _Softmax(Op):
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.ANCHOR
    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self.check(0 <= self.axis < x.rank, f"axis {self.axis} of {x}")
        return (x.logical(),)


@dataclass(frozen=True)
class Softmax(_Softmax):
    """exp(x - max) / sum of the same, along `axis`."""

    name: ClassVar[str] = "softmax"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        e = np.exp(x - x.max(self.axis, keepdims=True))
        return (e / e.sum(self.axis, keepdims=True),)


@dataclass(frozen=True)
class LogSoftmax(_Softmax):
    """x - max - log(sum(exp(x - max))), along `axis`."""

    name: ClassVar[str] = "log_softmax"

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        shifted = x - x.max(self.axis, keepdims=True)
        return (shifted - np.log(np.exp(shifted).sum(self.axis, keepdims=True)),)
