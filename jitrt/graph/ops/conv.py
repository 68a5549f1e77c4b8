"""Convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType


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
        dims = x.ndim - 2
        padded = np.pad(x, [(0, 0), (0, 0), *self.padding])
        out = [
            (padded.shape[2 + d] - self.dilation[d] * (w.shape[2 + d] - 1) - 1) // self.stride[d] + 1
            for d in range(dims)
        ]
        n, k, g = x.shape[0], w.shape[0], self.groups
        channels = w.shape[1]
        taps = list(np.ndindex(*w.shape[2:]))
        # One matmul over the gathered patches: (g, k/g, c*taps) @ (n, g, c*taps, pixels).
        patches = np.empty((n, g, channels, len(taps), *out), x.dtype)
        for t, tap in enumerate(taps):
            window = tuple(
                slice(
                    tap[d] * self.dilation[d],
                    tap[d] * self.dilation[d] + (out[d] - 1) * self.stride[d] + 1,
                    self.stride[d],
                )
                for d in range(dims)
            )
            patches[:, :, :, t] = padded[(slice(None), slice(None), *window)].reshape(n, g, channels, *out)
        rows = patches.reshape(n, g, channels * len(taps), math.prod(out))
        filters = w.reshape(1, g, k // g, channels * len(taps))
        return (np.matmul(filters, rows).reshape(n, k, *out),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].numel * math.prod(inputs[1].shape[1:])
