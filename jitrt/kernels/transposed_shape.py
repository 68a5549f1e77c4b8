"""Transposed convolutions in a kernel's terms: by phases of the output.

Along one dimension output position o gets x[i] * w[t] where o = i * stride - padding + t * dilation. So the positions
o = q * stride + f of phase f are reached by the taps t with t * dilation = f + padding (mod stride) alone: t = first,
first + step, and so on, each from x a `jump` further back. That is an ordinary convolution of stride 1 with some of the
taps.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.codegen.tile import RowSpace
from jitrt.graph.graph import Node
from jitrt.graph.op import Array
from jitrt.graph.ops import ConvTranspose
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.conv_shape import ConvShape, Triple, bundle_of, packed_strides, steps, three


@dataclass(frozen=True)
class Axis:
    """One spatial dimension of a transposed convolution. `padding` is cut off before the output."""

    size: int
    out: int
    filter: int
    stride: int
    padding: int
    dilation: int

    @classmethod
    def of(cls, size: int, out: int, filter: int, stride: int, padding: int, dilation: int) -> Axis:
        if size == 1:  # then the stride has no meaning, and one that parts all taps makes each phase a single tap
            stride = max(dilation * (filter - 1) + 1, out + padding)
        return cls(size, out, filter, stride, padding, dilation)

    @property
    def phases(self) -> int:
        return min(self.stride, self.out)

    @property
    def steps(self) -> int:
        """Positions of a phase, at most."""
        return -(-self.out // self.stride)

    @property
    def common(self) -> int:
        """Only every `common`-th phase has taps."""
        return math.gcd(self.stride, self.dilation)

    @property
    def step(self) -> int:
        """From one tap of a phase to its next."""
        return self.stride // self.common

    @property
    def tap_counts(self) -> set[int]:
        """How many taps there are in a phase; two numbers beside 0 at most."""
        return {len(self.taps(phase)) for phase in range(self.phases)}

    @property
    def jump(self) -> int:
        """How much earlier in x each further tap of a phase reads."""
        return self.dilation // self.common

    @property
    def inverse(self) -> int:
        """`jump` * `inverse` = 1 (mod `step`)."""
        return pow(self.jump, -1, self.step)

    def taps(self, phase: int) -> list[tuple[int, int]]:
        """(tap, x's position less the step) of every tap of a phase."""
        reach = phase + self.padding
        if reach % self.common:
            return []
        first = reach // self.common * self.inverse % self.step
        start = (reach - first * self.dilation) // self.stride
        return [(tap, start - n * self.jump) for n, tap in enumerate(range(first, self.filter, self.step))]

    @property
    def window(self) -> tuple[int, int]:
        """(first, end) of the positions in x, less the step, that any phase reads; one at least."""
        found = [at for phase in range(self.phases) for _, at in self.taps(phase)]
        return (min(found), max(found) + 1) if found else (0, 1)

    @property
    def masked(self) -> bool:
        """Whether some tap can fall outside x."""
        first, end = self.window
        return first < 0 or end - 1 + self.steps > self.size


@dataclass(frozen=True)
class TransposedShape:
    """A transposed convolution along depth, height and width. Channels and filters are those of one bundle of groups,
    strides (n, c, depth, height, width) of x and (k, c, depth, height, width) of w."""

    images: int
    filters: int
    channels: int
    bundles: int
    axes: tuple[Axis, Axis, Axis]
    dims: int
    x_strides: tuple[int, ...]
    w_strides: tuple[int, ...]
    groups_a_bundle: int

    def along(self, name: str) -> Triple:
        """A field of each axis."""
        depth, height, width = (getattr(axis, name) for axis in self.axes)
        return depth, height, width

    @property
    def rows(self) -> int:
        """Positions of one phase, of all images."""
        return self.images * math.prod(axis.steps for axis in self.axes)

    @property
    def phases(self) -> int:
        return math.prod(axis.phases for axis in self.axes)

    @property
    def taps(self) -> int:
        """Of all phases together."""
        return math.prod(sum(len(axis.taps(f)) for f in range(axis.phases)) for axis in self.axes)

    @property
    def even(self) -> bool:
        """Whether all phases have as many taps along each axis."""
        return all(len(axis.tap_counts) == 1 for axis in self.axes)

    @property
    def tap_counts(self) -> tuple[Triple, ...]:
        """How many taps along each axis the phases that have some have: every combination, the largest first."""
        depth, height, width = (sorted(axis.tap_counts - {0}, reverse=True) or [1] for axis in self.axes)
        return tuple(itertools.product(depth, height, width))

    @property
    def masked(self) -> bool:
        """Whether some tap can fall outside x."""
        return any(axis.masked for axis in self.axes)

    @property
    def window(self) -> int:
        """Taps of the smallest window in x that holds those of every phase."""
        return math.prod(end - first for first, end in (axis.window for axis in self.axes))

    @property
    def merged_weights(self) -> int:
        """Elements of the weights of `merged`."""
        return self.phases * self.filters * self.window * self.channels

    @property
    def mergeable(self) -> bool:
        """Whether all phases can be columns of one ordinary convolution."""
        whole = all(axis.out == axis.phases * axis.steps for axis in self.axes)
        return whole and self.bundles * self.groups_a_bundle == 1

    def merged(self) -> ConvShape:
        """That convolution: its filters are (phases..., k), and windows those of all phases together."""
        first, end = zip(*(axis.window for axis in self.axes), strict=True)
        window = tuple(b - a for a, b in zip(first, end, strict=True))
        return ConvShape(
            rows=self.rows,
            filters=self.phases * self.filters,
            channels=self.channels,
            bundles=1,
            size=self.along("size"),
            out=self.along("steps"),
            filter=window,
            stride=(1, 1, 1),
            padding=tuple(-a for a in first),
            dilation=(1, 1, 1),
            x_strides=self.x_strides,
            w_strides=packed_strides(window, self.channels),
            masked=self.masked,
        )

    def pack_merged(self, filters: Array) -> Array:
        """(k, c, filter...) weights as (phases..., k, window..., c), zeros where a phase has no tap."""
        filters = filters.reshape(*filters.shape[:2], *self.along("filter"))
        window = [axis.window for axis in self.axes]
        packed = np.zeros(
            (*self.along("phases"), self.filters, *(b - a for a, b in window), self.channels), filters.dtype
        )
        every = slice(None)
        for phase in np.ndindex(*self.along("phases")):
            for taps in itertools.product(*(axis.taps(f) for axis, f in zip(self.axes, phase, strict=True))):
                source: Any = (every, every, *(tap for tap, _ in taps))
                place: Any = (*phase, every, *(at - first for (_, at), (first, _) in zip(taps, window, strict=True)))
                packed[place] = filters[source]
        return packed

    def merged_space(self, output: TensorType) -> RowSpace:
        """What the merged convolution counts through: rows (image, steps...), columns (phases..., k)."""
        steps, phases = range(2, 2 + 2 * self.dims, 2), range(3, 3 + 2 * self.dims, 2)
        return RowSpace(self.parted(output).shape, (0, *steps), (*phases, 1))

    def parted(self, type: TensorType) -> TensorType:
        """The type of an operand that broadcasts to the output, its spatial dimensions parted into (step, phase)."""
        spatial = min(type.rank, self.dims)
        lead = type.rank - spatial
        shape, strides = list(type.shape[:lead]), list(type.strides[:lead])
        for d, axis in zip(range(lead, type.rank), self.axes[3 - spatial :], strict=True):
            one = type.shape[d] == 1
            shape += [1, 1] if one else [axis.steps, axis.phases]
            strides += [type.strides[d] * axis.phases, type.strides[d]]
        return TensorType(type.dtype, tuple(shape), Layout(tuple(strides)))


def describe_transposed(anchor: Node, x: TensorType, w: TensorType) -> TransposedShape:
    """The shape of a transposed convolution, given the types its operands really have. Weights of groups are packed."""
    op = anchor.op
    assert isinstance(op, ConvTranspose)
    bundle = bundle_of(op.groups, x.shape[1] // op.groups)
    channels = x.shape[1] // op.groups * bundle
    before = [pair[0] for pair in op.padding]
    sizes = zip(x.shape[2:], anchor.output.type.shape[2:], w.shape[2:], op.stride, before, op.dilation, strict=True)
    return TransposedShape(
        images=x.shape[0],
        filters=w.shape[1] * bundle,
        channels=channels,
        bundles=op.groups // bundle,
        axes=three([Axis.of(*each) for each in sizes], Axis.of(1, 1, 1, 1, 0, 1)),
        dims=x.rank - 2,
        x_strides=(*steps(x)[:2], *three(steps(x)[2:], 0)),
        w_strides=packed_strides(w.shape[2:], channels)
        if op.groups > 1
        else (w.strides[1], w.strides[0], *three(steps(w)[2:], 0)),
        groups_a_bundle=bundle,
    )
