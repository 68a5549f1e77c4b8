"""Ops whose elements are elements of the input at other places, or means of a few: resize, pad by mirror, roll."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType

EXTENSIONS = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # and numpy's names for them
_TAPS = {"nearest": 1, "nearest_exact": 1, "linear": 2, "cubic": 4}
CUBIC = -0.75  # PyTorch's (and Keys' 1981 paper's) free parameter
GRAIN = 2.0**32
"""Source positions between elements are whole multiples of 1 / GRAIN. A multiply and an add that a compiler makes one
(an FMA) round once less: without this a position that numpy puts on an element could lie just before it in a kernel,
which then weighs the one before, and that may be a NaN."""


def snapped(place: Array) -> Array:
    """The nearest multiple of 1 / GRAIN."""
    return np.asarray(np.floor(place * GRAIN + 0.5) / GRAIN)


@dataclass(frozen=True)
class Extend(Op):
    """x continued beyond its borders by its own elements; `padding` is a pair (before, after) a dimension.

    `mode` is "reflect" (mirrored, the border itself not repeated), "replicate" (the border over and over) or "circular"
    (from the other side).
    """

    name: ClassVar[str] = "extend"
    traits: ClassVar[Trait] = Trait.ANCHOR
    padding: tuple[tuple[int, int], ...]
    mode: str

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self.check(self.mode in EXTENSIONS, f"mode {self.mode!r}, expected one of {', '.join(EXTENSIONS)}")
        self.check(len(self.padding) == x.rank, f"{len(self.padding)} pairs for {x}")
        for size, pair in zip(x.shape, self.padding, strict=True):
            self.check(min(pair) >= 0, "negative padding is a slice")
            most = {"reflect": size - 1, "circular": size}.get(self.mode, max(pair) if size else 0)
            self.check(
                max(pair) <= max(most, 0), f"{self.mode} padding {pair} of a dimension of {size}: at most {most}"
            )
        return (TensorType(x.dtype, tuple(s + a + b for s, (a, b) in zip(x.shape, self.padding, strict=True))),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.pad(arrays[0], self.padding, mode=EXTENSIONS[self.mode]),)  # type: ignore[call-overload]

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 0


@dataclass(frozen=True)
class Roll(Op):
    """y[i] = x[(i - shift) mod size], a shift from 0 to the size a dimension."""

    name: ClassVar[str] = "roll"
    traits: ClassVar[Trait] = Trait.ANCHOR
    shifts: tuple[int, ...]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        fits = len(self.shifts) == x.rank and all(0 <= by <= n for by, n in zip(self.shifts, x.shape, strict=True))
        self.check(fits, f"shifts {self.shifts} of {x}")
        return (x.logical(),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.roll(arrays[0], self.shifts, tuple(range(arrays[0].ndim))),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 0


@dataclass(frozen=True)
class Resize(Op):
    """x (n, c, spatial...) interpolated to the spatial `size`, as torch.nn.functional.interpolate.

    `mode` is "nearest", "nearest_exact", "linear" or "cubic" (in every spatial dimension). Output position o lies at
    (o + 0.5) * step - 0.5 in x, or at o * step with `align_corners`, which puts the first and last elements of both on
    each other; "nearest" takes x[floor(o * step)], "nearest_exact" x[floor((o + 0.5) * step)]. `steps` are input
    elements an output element, a dimension each; none given means the ratio of the sizes. What would lie outside x is
    its border.
    """

    name: ClassVar[str] = "resize"
    traits: ClassVar[Trait] = Trait.ANCHOR
    size: tuple[int, ...]
    mode: str
    align_corners: bool = False
    steps: tuple[float, ...] = ()

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        self.check(self.mode in _TAPS, f"mode {self.mode!r}, expected one of {', '.join(_TAPS)}")
        self.check(x.rank == 2 + len(self.size) and len(self.size) > 0, f"size {list(self.size)} for {x}")
        self.check(not self.steps or len(self.steps) == len(self.size), f"{len(self.steps)} steps for {x}")
        self.check(0 not in x.shape[2:], f"{x} has nothing to interpolate")
        self.check(self.taps == 1 or x.dtype.is_float, f"{self.mode} of {x.dtype.value}: cast it first")
        return (TensorType(x.dtype, (*x.shape[:2], *self.size)),)

    @property
    def taps(self) -> int:
        """Elements of x along each dimension that make one of the output."""
        return _TAPS[self.mode]

    def step(self, d: int, size: int) -> float:
        """Elements of x, which has `size`, for one of the output along spatial dimension d."""
        if self.align_corners:
            return (size - 1) / (self.size[d] - 1) if self.size[d] > 1 else 0.0
        return self.steps[d] if self.steps else size / self.size[d]

    def sources(self, d: int, size: int) -> list[tuple[Array, Array]]:
        """For every tap along spatial dimension d, the position in x and the weight of every output position."""
        out = np.arange(self.size[d])
        if self.taps == 1:  # as PyTorch, in float32: a rounding decides which element it is
            start = np.float32(0.5 if self.mode == "nearest_exact" else 0)
            at = np.floor((out.astype(np.float32) + start) * np.float32(self.step(d, size)))
            return [(np.minimum(at.astype(np.int64), size - 1), np.ones(len(out)))]
        place = snapped(out * self.step(d, size) if self.align_corners else (out + 0.5) * self.step(d, size) - 0.5)
        if self.mode == "linear":
            place = np.maximum(place, 0)
        first = np.floor(place)
        weights = _linear(place - first) if self.mode == "linear" else _cubic(place - first)
        begin = first.astype(np.int64) - (self.mode == "cubic")
        return [(np.clip(begin + tap, 0, size - 1), weight) for tap, weight in enumerate(weights)]

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x = wide(arrays[0]) if self.taps > 1 else arrays[0]
        for d in range(len(self.size)):
            found = self.sources(d, x.shape[2 + d])
            column = (-1, *[1] * (len(self.size) - 1 - d))
            parts = [x.take(at, 2 + d) * weight.reshape(column).astype(x.dtype) for at, weight in found]
            x = np.sum(parts, 0) if self.taps > 1 else x.take(found[0][0], 2 + d)
        return (x,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].numel * math.prod([self.taps] * len(self.size)) if self.taps > 1 else 0


def _linear(t: Array) -> list[Array]:
    return [1 - t, t]


def _cubic(t: Array) -> list[Array]:
    """Weights of the elements at -1, 0, 1 and 2 from a place t after 0."""

    def near(u: Array) -> Array:
        return ((CUBIC + 2) * u - (CUBIC + 3)) * u * u + 1

    def far(u: Array) -> Array:
        return ((CUBIC * u - 5 * CUBIC) * u + 8 * CUBIC) * u - 4 * CUBIC

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]
