"""Convolutions and linear layers in a kernel's terms: always three spatial dimensions, those there are not of size 1.

What the templates for convolutions share: which regions they take, which operands are x and w, and how many groups run
as one dense block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitrt.codegen.epilogue import prologue_nodes, refuse_epilogue
from jitrt.codegen.tile import TileSpace, merge
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Array, Op
from jitrt.graph.ops import Cast, Conv, Linear
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Problem

Triple = tuple[int, int, int]  # along depth, height, width
_ONE: Triple = (1, 1, 1)


def three(values: Sequence[Any], fill: Any) -> Any:
    """`values` along one to three spatial dimensions as (depth, height, width), `fill` where there is none."""
    return (*[fill] * (3 - len(values)), *values)


@dataclass(frozen=True)
class ConvShape:
    """A conv or linear node in the kernel's terms. Channels and filters are those of one bundle of groups. Strides are
    (n, c, depth, height, width) of x and (k, c, depth, height, width) of w. `masked`: some tap can fall outside x.

    Where a pool ends it, `out` is the pool's, `window` the pixels of the convolution in one of its windows, and `rows`
    counts `positions` for each."""

    rows: int
    filters: int
    channels: int
    bundles: int
    size: Triple
    out: Triple
    filter: Triple
    stride: Triple
    padding: Triple  # before
    dilation: Triple
    x_strides: tuple[int, ...]
    w_strides: tuple[int, ...]
    masked: bool
    groups_a_bundle: int = 1
    window: Triple = _ONE

    @property
    def positions(self) -> int:
        """Rows of a window: a power of two, so that no tile ends inside one."""
        return 1 << (math.prod(self.window) - 1).bit_length()

    @property
    def deep(self) -> bool:
        """Whether there is a depth to count through."""
        return (self.size[0], self.out[0], self.filter[0], self.padding[0], self.window[0]) != (1, 1, 1, 0, 1)

    @property
    def taps(self) -> int:
        return math.prod(self.filter)

    @property
    def weights_span(self) -> int:
        """Elements from the first weight to the end of the last filter."""
        return self.filters * self.bundles * self.w_strides[0]

    @property
    def reduction(self) -> int:
        return self.channels * self.taps


def bundle_of(groups: int, channels: int) -> int:
    """How many groups of `channels` channels run as one dense block: the least divisor that gives 32 or more."""
    if groups == 1:
        return 1
    return next((b for b in range(1, groups + 1) if groups % b == 0 and b * channels >= 32), groups)


def describe(anchor: Node, x: TensorType, w: TensorType) -> ConvShape:
    """The shape of a conv or linear node, given the types its operands really have."""
    op = anchor.op
    if isinstance(op, Linear):
        rows = x.numel // x.shape[-1]
        lead = merge(list(zip(x.shape[:-1], x.strides[:-1], strict=True)))
        x_strides = (lead[0][1] if lead else 0, x.strides[-1], 0, 0, 0)
        w_strides = (*steps(w), 0, 0, 0)
        none = (0, 0, 0)
        return ConvShape(
            rows, w.shape[0], w.shape[1], 1, _ONE, _ONE, _ONE, _ONE, none, _ONE, x_strides, w_strides, False
        )
    assert isinstance(op, Conv)
    image, *out = (s for d, s in enumerate(anchor.output.type.shape) if d != 1)
    per_group, filters = w.shape[1], w.shape[0] // op.groups
    bundle = bundle_of(op.groups, per_group)
    filter_, size = w.shape[2:], x.shape[2:]
    before = tuple(p[0] for p in op.padding)
    masked = any(
        before[d] > 0 or (out[d] - 1) * op.stride[d] - before[d] + (filter_[d] - 1) * op.dilation[d] >= size[d]
        for d in range(len(out))
    )
    return ConvShape(
        rows=image * math.prod(out),
        filters=filters * bundle,
        channels=per_group * bundle,
        bundles=op.groups // bundle,
        size=three(size, 1),
        out=three(out, 1),
        filter=three(filter_, 1),
        stride=three(op.stride, 1),
        padding=three(before, 0),
        dilation=three(op.dilation, 1),
        x_strides=(*steps(x)[:2], *three(steps(x)[2:], 0)),
        w_strides=packed_strides(filter_, per_group * bundle)
        if bundle > 1
        else (*steps(w)[:2], *three(steps(w)[2:], 0)),
        masked=masked,
        groups_a_bundle=bundle,
    )


def steps(type: TensorType) -> tuple[int, ...]:
    """Strides, 0 along dimensions of one element: nothing steps along those, and a stride of 1 there would keep the
    compiler from seeing that channels lie 16 bytes at a time (3 times as slow on an H200)."""
    return tuple(stride if size > 1 else 0 for size, stride in zip(type.shape, type.strides, strict=True))


def packed_strides(filter_: Sequence[int], channels: int) -> tuple[int, ...]:
    """(k, c, depth, height, width) strides of dense weights that lie as (k, filter..., c)."""
    depth, height, width = three(filter_, 1)
    return (depth * height * width * channels, 1, height * width * channels, width * channels, channels)


def pack_bundles(w: Array, groups: int, bundle: int) -> Array:
    """(k, c/g, filter...) weights of a grouped convolution as (k, filter..., bundle * c/g), block-diagonal in each
    bundle."""
    k, per_group, *filter_ = w.shape
    packed = np.zeros((k, bundle, *filter_, per_group), w.dtype)
    packed[np.arange(k), np.arange(k) // (k // groups) % bundle] = np.moveaxis(w, 1, -1)
    return np.moveaxis(packed, 1, -2).reshape(k, *filter_, bundle * per_group)


def refuse_conv(body: Graph, anchor: Node | None, *kinds: type[Op], pairs: bool = False) -> str | None:
    """What all convolution templates with nothing but an epilogue ask: `refuse_anchor`, and elementwise ops after it.
    With `pairs` they may end in one."""
    return refuse_anchor(body, anchor, *kinds) or refuse_epilogue(body, anchor, pairs=pairs)


def refuse_anchor(body: Graph, anchor: Node | None, *kinds: type[Op]) -> str | None:
    """What all convolution templates ask: an anchor of one of `kinds` (a conv or a linear), one to three spatial
    dimensions, 16- or 32-bit floats, only casts before it."""
    if anchor is None:
        return "anchor is missing"
    if not isinstance(anchor.op, kinds or (Conv, Linear)):
        return f"anchor {anchor.op.name} is no convolution"
    if not isinstance(anchor.op, Linear) and anchor.inputs[0].type.rank > 5:
        return f"a {anchor.inputs[0].type.rank - 2}-d convolution has no kernel"
    if anchor.output.type.dtype not in (DType.f32, DType.f16, DType.bf16):
        return f"{anchor.output.type.dtype.value} convolutions have no kernel"
    for node in prologue_nodes(body, anchor):
        if not isinstance(node.op, Cast):
            return f"{node.op.name} cannot run inside a convolution's loop"
        if node.output is not anchor.inputs[0]:
            return "only the input of a convolution can be cast on the way in"
    if any(reader is not anchor for reader in anchor.inputs[1].users):
        return "the weights are read elsewhere too, but may be packed for the convolution"
    return None


def operands_of(problem: Problem, anchor: Node) -> tuple[int, int]:
    """Indices of the region's operands that are x (before its cast) and w."""
    found = []
    for value in anchor.inputs[:2]:
        while value.producer is not None:
            value = value.producer.inputs[0]
        found.append(problem.body.inputs.index(value))
    return found[0], found[1]


def refuse_weights(problem: Problem, anchor: Node, what: str) -> str | None:
    """Why the anchor's weights cannot be packed, or None: `what` needs them so."""
    if problem.weights[operands_of(problem, anchor)[1]]:
        return None
    return f"{what} needs constant weights, which are packed when the plan is built"


def output_space(anchor: Node) -> TileSpace:
    """Rows (n, spatial...), columns k: whatever the strides of the output are."""
    out = anchor.output.type  # of the same shape, or a half of it
    column = out.rank - 1 if isinstance(anchor.op, Linear) else 1
    return TileSpace(out.shape, tuple(d for d in range(out.rank) if d != column), column)
