"""A convolution of several taps as TMA sees it: lines, images and columns of pixels, boxes of them, what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

from jitrt.codegen.epilogue import Epilogue
from jitrt.errors import KernelError
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.ops import Conv
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Problem, anchor_of
from jitrt.kernels.conv_shape import output_space, refuse_conv
from jitrt.kernels.gemm_tma_kernel import ANY_VIEW
from jitrt.kernels.gemm_tma_shape import epilogue_of, is_long

_DTYPES = (DType.f16, DType.bf16)
_MOST_STEPS = 8  # of a tensor map
_MOST_TAPS = 7  # along a dimension
_BOXES = 4  # of a size that are worth a look
BLOCK_K = 64  # channels, at most: 128 bytes, by which shared memory is swizzled
_LEAST_CHANNELS = 16  # that wgmma takes
_ROW = 8  # pixels after which shared memory's swizzle begins anew

Box = tuple[int, int, int]
"""Lines, images and columns of the result that are a tile."""


@dataclass(frozen=True)
class Pixels:
    """Where the pixels of a tensor lie: sizes and strides, in elements, of lines, images and columns."""

    sizes: tuple[int, int, int]
    strides: tuple[int, int, int]

    @classmethod
    def of(cls, type: TensorType) -> Pixels:
        """Of an (n, c, h, w) tensor. Along a dimension of one element nothing steps: any stride will do."""
        row = -(-type.shape[1] // 8) * 8
        (n, _, h, w), (image, _, line, column) = type.shape, type.strides
        sizes = (h, n, w)
        pairs = zip(sizes, (line, image, column), strict=True)
        lines, images, columns = (stride if size > 1 else row for size, stride in pairs)
        return cls(sizes, (lines, images, columns))


@dataclass(frozen=True)
class Shape:
    """A problem in the kernel's terms. `handed` is the operand of the epilogue that is as large as the result; the
    others depend on the filter, at most."""

    anchor: Node
    x: Pixels
    y: Pixels
    residual: Pixels | None
    handed: Value | None
    epilogue: Epilogue
    filters: int
    channels: int
    filter: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]  # before
    tap_strides: tuple[int, int]  # of w: from filter to filter, and from tap to tap
    fixed: bool  # w is a constant, and finite as such: what is not would make NaN of padding

    @property
    def rows(self) -> int:
        return math.prod(self.y.sizes)

    @property
    def size(self) -> tuple[int, int]:
        return self.x.sizes[0], self.x.sizes[2]

    @property
    def out(self) -> tuple[int, int]:
        return self.y.sizes[0], self.y.sizes[2]

    @property
    def taps(self) -> int:
        return math.prod(self.filter)

    @property
    def block_k(self) -> int:
        """Channels multiplied at a time: no more zeros among them than a power of two needs."""
        return min(BLOCK_K, max(_LEAST_CHANNELS, 1 << (self.channels - 1).bit_length()))

    @property
    def last(self) -> int:
        """The same of the last block, where it has fewer."""
        rest = self.channels % self.block_k or self.block_k
        return min(self.block_k, max(_LEAST_CHANNELS, 1 << (rest - 1).bit_length()))

    @property
    def long(self) -> bool:
        return is_long(self.epilogue)

    def tiles(self, box: Box) -> tuple[int, int, int]:
        """How many boxes there are along each dimension."""
        lines, images, columns = (-(-size // extent) for size, extent in zip(self.y.sizes, box, strict=True))
        return lines, images, columns

    def boxes(self, pixels: int) -> list[Box]:
        """Boxes of that many pixels, those first whose columns fill a line of memory, of which there are fewest, and
        which share most of x among taps."""
        line = min(BLOCK_K, self.size[1] * self.channels)

        def order(box: Box) -> tuple[object, ...]:
            return box[2] * self.channels < line, math.prod(self.tiles(box)), box[0] + box[2], box

        return sorted(self.fitting(pixels), key=order)[:_BOXES]

    def compact(self, pixels: int) -> list[Box]:
        """The same, those first that touch least of x."""
        fitting = self.fitting(pixels)
        return sorted(fitting, key=lambda box: (math.prod(self.tiles(box)), self._touched(box), box))[:_BOXES]

    def _touched(self, box: Box) -> int:
        """Pixels of x that a tile reads."""
        return box[1] * math.prod((box[2 * i] - 1) * self.stride[i] + self.filter[i] for i in (0, 1))

    def fitting(self, pixels: int) -> list[Box]:
        """Boxes of that many pixels that are not mostly empty."""
        sizes = [1 << i for i in range(pixels.bit_length())]
        found = [(a, pixels // (a * c), c) for a, c in itertools.product(sizes, sizes) if a * c <= pixels]
        return [box for box in found if all(b < 2 * s for b, s in zip(box, self.y.sizes, strict=True))]

    def met(self, box: Box) -> float:
        """Taps that meet some pixel of x, of a tile on average."""
        lines, _, columns = self.tiles(box)
        along = [self._along(axis, box[2 * axis], count) for axis, count in ((0, lines), (1, columns))]
        return along[0] * along[1]

    def _along(self, axis: int, extent: int, count: int) -> float:
        taps, stride, before = self.filter[axis], self.stride[axis], self.padding[axis]
        return _taps_met(taps, stride, before, self.size[axis], self.out[axis], extent, count)

    def refuse_group(self, box: Box) -> str | None:
        """Why the rows of the filter cannot share blocks of x, or None."""
        if self.stride[0] != 1:
            return "lines that are left out are not there for other rows of the filter"
        if not ANY_VIEW:
            return "since Triton 3.8 Gluon lets a kernel see no more lines of a block than it was made of"
        if box[1] * box[2] % _ROW:
            return f"a line of {box[1] * box[2]} pixels ends inside the swizzle of shared memory"
        return None


@cache  # asked for many configurations of few boxes
def _taps_met(taps: int, stride: int, before: int, size: int, out: int, extent: int, count: int) -> float:
    total = 0
    for at in range(0, count * extent, extent):
        last = min(at + extent, out) - 1
        first = min(max(before - last * stride, 0), taps - 1)
        total += max(min(size + before - at * stride, taps) - first, 1)
    return total / count


def refuse_body(body: Graph) -> str | None:
    """Why a region with this body is no problem for the kernel, whatever its layouts, or None."""
    anchor = anchor_of(body)
    reason = refuse_conv(body, anchor, Conv)
    if reason is not None:
        return reason
    assert anchor is not None
    if any(value.producer is not None or value.is_constant for value in anchor.inputs):
        return "an operand that is computed cannot be loaded by TMA"
    if anchor.output.type.dtype not in _DTYPES or body.outputs[0].type.dtype not in _DTYPES:
        return "wgmma with TMA is written for 16-bit floats"
    return refuse_taps(anchor)


def refuse_taps(anchor: Node) -> str | None:
    """Why a convolution's taps are not written, or None."""
    op = anchor.op
    assert isinstance(op, Conv)
    if len(op.stride) != 2:
        return "boxes are of two dimensions"
    filter_ = anchor.inputs[1].type.shape[2:]
    if math.prod(filter_) == 1:
        return "a filter of one pixel is a plain matrix product"
    if op.groups != 1 or op.dilation != (1, 1):
        return "groups or dilation are not written"
    if max(filter_) > _MOST_TAPS or max(op.stride) > _MOST_STEPS:
        return f"a filter of {filter_} with steps of {op.stride} is too large"
    if any(pair[0] >= taps for pair, taps in zip(op.padding, filter_, strict=True)):
        return "the padding is as large as the filter"
    return None


def describe(problem: Problem) -> Shape | str:
    """The shape of a problem that `refuse_body` lets pass; or why the kernel cannot have it."""
    anchor = problem.anchor
    assert anchor is not None
    op = anchor.op
    assert isinstance(op, Conv)
    x, w = anchor.inputs
    end = epilogue_of(problem, output_space(anchor), ((x, "x", 1), (w, "w", 1)))
    if isinstance(end, str):
        return end
    handed, epilogue = end
    filters, channels, *taps = w.type.shape
    tap_strides = tap_strides_of(w.type)
    if tap_strides is None:
        return "the taps of w are not evenly spaced"
    residual = None if handed is None else Pixels.of(handed.type)
    before = (op.padding[0][0], op.padding[1][0])
    y = Pixels.of(problem.output.type)
    return Shape(
        anchor,
        Pixels.of(x.type),
        y,
        residual,
        handed,
        epilogue,
        filters,
        channels,
        (taps[0], taps[1]),
        (op.stride[0], op.stride[1]),
        before,
        tap_strides,
        problem.weights[problem.body.inputs.index(w)],
    )


def shape_of(problem: Problem) -> Shape:
    """The shape of a problem that the template supports. Raises KernelError for another."""
    shape = describe(problem)
    if isinstance(shape, str):
        raise KernelError(f"conv_tma does not run this problem: {shape}; take a tactic of conv2d")
    return shape


def tap_strides_of(w: TensorType) -> tuple[int, int] | None:
    """Strides of filters and of taps, counted through a filter's rows; None if those are not evenly spaced."""
    (_, _, rows, columns), (filter_, _, row, column) = w.shape, w.strides
    if rows > 1 and columns > 1 and row != columns * column:
        return None
    return filter_, column if columns > 1 else row


def lines_of(box: Box, group: int) -> int:
    """Lines of a block of x whose `group` rows of the filter share it."""
    return box[0] + group - 1
