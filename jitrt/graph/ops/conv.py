"""Convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np

from jitrt.graph.dtype import DType
from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType

_PATCHES = 1 << 24  # numbers gathered at a time


@dataclass(frozen=True)
class Conv(Op):
    """n-d cross-correlation, as torch.nn.functional.conv2d without its bias (the importer adds that as an Add).

    y[n, k, p...] = sum over c, r... of x[n, g(k) + c, p * stride - padding_before + r * dilation] * w[k, c, r...]

    x is (n, c, spatial...), w is (k, c / groups, filter...). `padding` is a pair (before, after) a spatial dim.
    `tf32` lets float32 operands be rounded to tf32 for the matrix units.
    """

    name: ClassVar[str] = "conv"
    traits: ClassVar[Trait] = Trait.ANCHOR
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    tf32: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        dims = x.rank - 2
        self.check(dims >= 1 and w.rank == x.rank, f"x has rank {x.rank}, w has rank {w.rank}")
        self.check(len(self.stride) == len(self.padding) == len(self.dilation) == dims, f"attributes are not {dims}-d")
        self.check(x.dtype == w.dtype, f"x is {x.dtype.value}, w is {w.dtype.value}")
        self.check(
            x.shape[1] == w.shape[1] * self.groups and w.shape[0] % self.groups == 0,
            f"x has {x.shape[1]} channels, w wants {w.shape[1]} x {self.groups} groups and has {w.shape[0]} filters",
        )
        self.check(all(size > 0 for size in w.shape[2:]), f"a filter of {list(w.shape[2:])} has no taps")
        spatial = []
        for d in range(dims):
            reach = self.dilation[d] * (w.shape[2 + d] - 1) + 1
            size = (x.shape[2 + d] + sum(self.padding[d]) - reach) // self.stride[d] + 1
            self.check(
                size >= 0 and x.shape[2 + d] + sum(self.padding[d]) >= reach, "the filter is larger than the input"
            )
            spatial.append(size)
        return (TensorType(x.dtype, (x.shape[0], w.shape[0], *spatial)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = (wide(a) for a in arrays)
        n, k = x.shape[0], w.shape[0]
        # Channels last, as activations lie in memory: patches are then copied in runs, and the product is one.
        padded = np.moveaxis(x, 1, -1)
        if any(map(any, self.padding)):
            padded = np.pad(padded, [(0, 0), *self.padding, (0, 0)])
        windows = [self._window(padded, w.shape[2:], tap) for tap in np.ndindex(*w.shape[2:])]
        filters = np.moveaxis(w, 1, -1).reshape(self.groups, k // self.groups, len(windows), w.shape[1])
        if w.shape[1] == 1 < self.groups:
            parts = (window[..., None] * filters[:, :, tap, 0] for tap, window in enumerate(windows))
            return (np.moveaxis(reduce(np.add, parts).reshape(n, *windows[0].shape[1:-1], k), -1, 1),)
        out = np.empty((n, *windows[0].shape[1:-1], k), x.dtype)
        step = max(1, _PATCHES // max(1, windows[0][:1].size * len(windows)))
        for first in range(0, n, step):
            some = [window[first : first + step] for window in windows]
            patches = np.stack(some, -2) if len(some) > 1 else some[0][..., None, :]
            out[first : first + step] = _products(patches, filters)
        return (np.moveaxis(out, -1, 1),)

    def _window(self, padded: Array, filter: tuple[int, ...], tap: tuple[int, ...]) -> Array:
        """What one tap of the filter meets, (n, out..., c)."""
        slices = []
        for size, reach, at, stride, dilation in zip(
            padded.shape[1:-1], filter, tap, self.stride, self.dilation, strict=True
        ):
            first, last = at * dilation, size - (reach - 1 - at) * dilation
            slices.append(slice(first, max(first, last), stride))
        return padded[(slice(None), *slices)]

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].numel * math.prod(inputs[1].shape[1:])


def _products(patches: Array, filters: Array) -> Array:
    """(n, out..., taps, groups * c) by (groups, filters of one, taps, c), summed over taps and c."""
    groups, count, taps, channels = filters.shape
    split = patches.reshape(*patches.shape[:-1], groups, channels)
    out = np.empty((*patches.shape[:-2], groups, count), patches.dtype)
    for group in range(groups):
        rows = split[..., group, :].reshape(-1, taps * channels)
        out[..., group, :] = (rows @ filters[group].reshape(count, -1).T).reshape(*patches.shape[:-2], count)
    return out.reshape(*patches.shape[:-2], groups * count)


@dataclass(frozen=True)
class ExactConv(Conv):
    """A `conv` of whole numbers held as float32, so small that every sum is exact: it stays in float32 in a graph that
    changes to 16-bit floats, which could not hold the sums."""

    name: ClassVar[str] = "exact_conv"

    def takes(self, dtype: DType) -> bool:
        return dtype.itemsize >= 4


@dataclass(frozen=True)
class ConvTranspose(Op):
    """n-d transposed convolution ("deconvolution"), as torch.nn.functional.conv_transpose2d without its bias: every
    input pixel adds its multiple of the filter to the output, `stride` apart.

    y[n, g(k), i * stride - padding_before + r * dilation] += x[n, c, i] * w[c, k, r...], summed over c of group g, i, r

    x is (n, c, spatial...), w is (c, k / groups, filter...). `padding` is a pair (before, after) a spatial dim that is
    cut off the result; `output_padding` positions are added after it, to which filters may reach too.
    `tf32` as for `conv`.
    """

    name: ClassVar[str] = "conv_transpose"
    traits: ClassVar[Trait] = Trait.ANCHOR
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    tf32: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        dims = x.rank - 2
        self.check(dims >= 1 and w.rank == x.rank, f"x has rank {x.rank}, w has rank {w.rank}")
        attributes = (self.stride, self.padding, self.output_padding, self.dilation)
        self.check(all(len(a) == dims for a in attributes), f"attributes are not {dims}-d")
        self.check(x.dtype == w.dtype, f"x is {x.dtype.value}, w is {w.dtype.value}")
        self.check(self.groups >= 1 and x.shape[1] % self.groups == 0, f"{x.shape[1]} channels in {self.groups} groups")
        self.check(x.shape[1] == w.shape[0], f"x has {x.shape[1]} channels, w has filters for {w.shape[0]}")
        for extra, stride, dilation in zip(self.output_padding, self.stride, self.dilation, strict=True):
            self.check(
                0 <= extra < max(stride, dilation),
                f"output_padding {extra} must be smaller than stride {stride} or dilation {dilation}",
            )
        self.check(all(cut >= 0 for pair in self.padding for cut in pair), f"padding {self.padding} is negative")
        self.check(all(size > 0 for size in x.shape[2:]), f"x has no pixels: {x}")
        spatial = tuple(
            full + extra - sum(cut)
            for full, extra, cut in zip(self._full(x.shape, w.shape), self.output_padding, self.padding, strict=True)
        )
        self.check(all(size > 0 for size in spatial), f"the padding leaves an output of {list(spatial)}")
        return (TensorType(x.dtype, (x.shape[0], w.shape[1] * self.groups, *spatial)),)

    def _full(self, x: Sequence[int], w: Sequence[int]) -> list[int]:
        """The spatial sizes that all filters together reach."""
        steps = zip(x[2:], w[2:], self.stride, self.dilation, strict=True)
        return [(size - 1) * stride + dilation * (taps - 1) + 1 for size, taps, stride, dilation in steps]

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = (wide(a) for a in arrays)
        n, g, size = x.shape[0], self.groups, x.shape[2:]
        per_group = x.shape[1] // g
        full = self._full(x.shape, w.shape)
        y = np.zeros((n, g, w.shape[1], *(f + extra for f, extra in zip(full, self.output_padding))), x.dtype)
        rows = x.reshape(n, g, per_group, math.prod(size))
        filters = w.reshape(g, per_group, *w.shape[1:])
        for tap in np.ndindex(*w.shape[2:]):
            weights = filters[(slice(None), slice(None), slice(None), *tap)].transpose(0, 2, 1)
            window = tuple(
                slice(t * dilation, t * dilation + (s - 1) * stride + 1, stride)
                for t, dilation, s, stride in zip(tap, self.dilation, size, self.stride, strict=True)
            )
            y[(slice(None),) * 3 + window] += np.matmul(weights, rows).reshape(n, g, w.shape[1], *size)
        kept = (slice(before, y.shape[3 + d] - after) for d, (before, after) in enumerate(self.padding))
        return (y.reshape(n, g * w.shape[1], *y.shape[3:])[(slice(None), slice(None), *kept)],)

    def as_filters(self, w: Array) -> Array:
        """The weights (c, k / groups, filter...) as those of a `conv` of as many groups: (k, c / groups, filter...)."""
        split = w.reshape(self.groups, w.shape[0] // self.groups, *w.shape[1:])
        return split.swapaxes(1, 2).reshape(self.groups * w.shape[1], -1, *w.shape[2:])

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 2 * inputs[0].numel * math.prod(inputs[1].shape[1:])
