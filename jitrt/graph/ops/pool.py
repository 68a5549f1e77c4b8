"""Pooling over windows of the spatial dimensions of (n, c, spatial...)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType


@dataclass(frozen=True)
class _Window(Op):
    """A sliding window with PyTorch's output size, ceil mode included."""

    traits: ClassVar[Trait] = Trait.ANCHOR
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False

    def _steps(self) -> tuple[int, ...]:
        return (1,) * len(self.kernel)

    def out_sizes(self, shape: Sequence[int]) -> list[int]:
        """Spatial output sizes for an input of `shape` (n, c, spatial...)."""
        sizes = []
        for d, size in enumerate(shape[2:]):
            reach = self._steps()[d] * (self.kernel[d] - 1) + 1
            room = size + 2 * self.padding[d] - reach
            self.check(room >= 0, f"the window {self.kernel} is larger than the input {list(shape)}")
            out = (room + (self.stride[d] - 1 if self.ceil_mode else 0)) // self.stride[d] + 1
            # PyTorch: the last window must start inside the input or its left padding.
            if self.ceil_mode and (out - 1) * self.stride[d] >= size + self.padding[d]:
                out -= 1
            sizes.append(out)
        return sizes

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        dims = x.rank - 2
        self.check(
            dims >= 1 and len(self.kernel) == len(self.stride) == len(self.padding) == dims,
            f"attributes are {len(self.kernel)}-d, x is {x}",
        )
        self.check(
            all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True)), "padding exceeds half the window"
        )
        return (TensorType(x.dtype, (*x.shape[:2], *self.out_sizes(x.shape))),)

    def windows(self, x: Array, fill: float) -> Array:
        """(n, c, out..., taps): the elements under each window, `fill` outside the input."""
        return np.stack(self.taps(x, fill), -1)

    def taps(self, x: Array, fill: float) -> list[Array]:
        """(n, c, out...) for each tap: the element of each window there, `fill` outside the input."""
        out = self.out_sizes(x.shape)
        steps = self._steps()
        pads = []
        for d, size in enumerate(x.shape[2:]):
            need = (out[d] - 1) * self.stride[d] + steps[d] * (self.kernel[d] - 1) + 1
            pads.append((self.padding[d], max(0, need - size - self.padding[d])))
        # Channels last, as activations lie in memory: to pad them in another order takes ten times as long.
        padded = np.moveaxis(np.pad(np.moveaxis(x, 1, -1), [(0, 0), *pads, (0, 0)], constant_values=fill), -1, 1)
        taps = []
        for tap in np.ndindex(*self.kernel):
            index = tuple(
                slice(tap[d] * steps[d], tap[d] * steps[d] + (out[d] - 1) * self.stride[d] + 1, self.stride[d])
                for d in range(len(out))
            )
            taps.append(padded[(slice(None), slice(None), *index)])
        return taps

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return outputs[0].numel * math.prod(self.kernel)


@dataclass(frozen=True)
class MaxPool(_Window):
    """The maximum under each window; padding never wins; a NaN under the window does."""

    name: ClassVar[str] = "max_pool"
    dilation: tuple[int, ...] = (1, 1)

    def _steps(self) -> tuple[int, ...]:
        return self.dilation

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        return (reduce(np.maximum, self.taps(x, lowest)),)


@dataclass(frozen=True)
class AvgPool(_Window):
    """The mean under each window. The divisor is the taps within the padded input, or, without `count_include_pad`,
    within the input itself. No `dilation` is 1 everywhere."""

    name: ClassVar[str] = "avg_pool"
    count_include_pad: bool = True
    dilation: tuple[int, ...] = ()

    def _steps(self) -> tuple[int, ...]:
        return self.dilation or super()._steps()

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(len(self.dilation) in (0, len(self.kernel)), f"dilation {self.dilation} of windows {self.kernel}")
        return super().infer(*types)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        return (self.windows(x, 0).sum(-1) / self.counts(x.shape).astype(x.dtype),)

    def counts(self, shape: Sequence[int]) -> Array:
        """(out...): the divisor of every window of an input of `shape`."""
        total = np.ones((), np.int64)
        for d, (size, out) in enumerate(zip(shape[2:], self.out_sizes(shape), strict=True)):
            margin = self.padding[d] if self.count_include_pad else 0
            taps = (
                np.arange(out)[:, None] * self.stride[d]
                - self.padding[d]
                + np.arange(self.kernel[d]) * self._steps()[d]
            )
            total = total[..., None] * ((taps >= -margin) & (taps < size + margin)).sum(1)
        return total


@dataclass(frozen=True)
class _Adaptive(Op):
    """Window i of size `out` covers [floor(i * in / out), ceil((i + 1) * in / out))."""

    traits: ClassVar[Trait] = Trait.ANCHOR
    size: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self.check(x.rank == 2 + len(self.size), f"{len(self.size)}-d output sizes on {x}")
        return (TensorType(x.dtype, (*x.shape[:2], *self.size)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0])
        out = np.empty((*x.shape[:2], *self.size), x.dtype)
        for index in np.ndindex(*self.size):
            window = tuple(
                slice(i * n // o, -(-(i + 1) * n // o)) for i, n, o in zip(index, x.shape[2:], self.size, strict=True)
            )
            out[(slice(None), slice(None), *index)] = self._reduce(x[(slice(None), slice(None), *window)])
        return (out,)

    def _reduce(self, window: Array) -> Array:
        raise NotImplementedError

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return inputs[0].numel


@dataclass(frozen=True)
class AdaptiveAvgPool(_Adaptive):
    """The mean of each adaptive window."""

    name: ClassVar[str] = "adaptive_avg_pool"

    def _reduce(self, window: Array) -> Array:
        return window.mean(tuple(range(2, window.ndim)))


@dataclass(frozen=True)
class AdaptiveMaxPool(_Adaptive):
    """The maximum of each adaptive window."""

    name: ClassVar[str] = "adaptive_max_pool"

    def _reduce(self, window: Array) -> Array:
        return window.max(tuple(range(2, window.ndim)))
