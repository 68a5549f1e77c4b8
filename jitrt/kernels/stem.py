"""A network's first convolution: few input channels, usually NCHW from outside.

Formula: that of `conv2d`. With three channels a pixel is no aligned run of memory, so the direct kernel gathers single
elements. Here a first launch writes the input once as padded NHWC with four channels (converting dtype and layout on
the way), and then a window's row of S taps is one run of 4 * S adjacent elements. The convolution over that is `conv2d`
again: 4 * S "channels", R x 1 taps, one flat reduction over both, overlapping windows expressed by strides, and no
window outside the input. S is rounded up to a power of two with weights of zero, so a NaN or an infinity also reaches
the pixels whose windows end beside it. Fires for at most 4 input channels, dense, no dilation along the width. Floor:
(x + 2 * padded + y) bytes / bandwidth. Loses to `conv2d` where two launches cost more than the gather, which the tuner
finds out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue
from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.op import Array
from jitrt.graph.ops import Conv
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Template, Workspace, anchor_of
from jitrt.kernels.conv2d import lower_conv
from jitrt.kernels.conv_shape import (
    ConvShape,
    describe,
    operands_of,
    output_space,
    packed_strides,
    refuse_conv,
    refuse_weights,
)
from jitrt.kernels.gemm_cost import GemmShape, rank_configs

_CHANNELS = 4


@triton.jit
def pad_channels(
    out,
    x,
    SIZE: tl.constexpr,  # channels, depth, height, width of x
    PADDED: tl.constexpr,  # images, depth, height, width of out
    BEFORE: tl.constexpr,  # planes before x in out, rows above it, columns left of it
    X_STRIDES: tl.constexpr,  # n, c, d, h, w
    WIDE: tl.constexpr,  # offsets in x pass 2^31
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    # The rows are few and divided, the columns many and not: a division of every pixel cost more than its memory.
    row = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    h = (row % PADDED[2] - BEFORE[1])[:, None, None]
    d = (row // PADDED[2] % PADDED[1] - BEFORE[0])[:, None, None]
    n = (row // (PADDED[2] * PADDED[1]))[:, None, None]
    row = row[:, None, None]
    column = (tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W))[None, :, None]
    w = column - BEFORE[2]
    c = tl.arange(0, 4)[None, None, :]
    valid = (n < PADDED[0]) & (column < PADDED[3])
    inside = valid & (h >= 0) & (h < SIZE[2]) & (w >= 0) & (w < SIZE[3]) & (c < SIZE[0]) & (d >= 0) & (d < SIZE[1])
    if WIDE:
        n, d, h, w, c = n.to(tl.int64), d.to(tl.int64), h.to(tl.int64), w.to(tl.int64), c.to(tl.int64)
    offset = n * X_STRIDES[0] + d * X_STRIDES[2] + h * X_STRIDES[3] + c * X_STRIDES[1] + w * X_STRIDES[4]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    value = tl.load(x + offset, mask=inside, other=0.0)
    tl.store(out + ((row * PADDED[3] + column) * 4 + c), value.to(out.dtype.element_ty), mask=valid)


def pad_call(
    x_index: int,
    conv: ConvShape,
    dtype: DType,
    padded: tuple[int, int, int, int],
    before: tuple[int, int, int],
    target: Target,
) -> KernelCall:
    """The launch that writes operand `x_index`, the input of `conv`, to the workspace as NHWC of `dtype` and four
    channels: `padded` images, planes, rows and columns of it, with `before` of zeros (no images) before the first."""
    rows = math.prod(padded[:-1])
    block_w = min(256, triton.next_power_of_2(padded[-1]))
    block_h = 4 if rows * padded[-1] >= 1 << 19 else 1
    shape = (padded[0], conv.channels, *conv.size)
    constexprs = {
        "SIZE": shape[1:],
        "PADDED": padded,
        "BEFORE": before,
        "X_STRIDES": conv.x_strides,
        "WIDE": sum(s * (n - 1) for s, n in zip(conv.x_strides, shape, strict=True)) >= 2**31,
        "DEPENDENT": target.arch >= 90,
        "BLOCK_H": block_h,
        "BLOCK_W": block_w,
    }
    grid = (-(-rows // block_h), -(-padded[-1] // block_w), 1)
    return KernelCall(pad_channels, {"out": Workspace(0, dtype.value), "x": Operand(x_index)}, constexprs, grid)


@dataclass(frozen=True)
class StemShape:
    """A convolution whose windows' rows are runs of `taps` pixels: the width of the filter rounded up to a power of
    two, so that a run is loaded 16 bytes at a time. `lines` is how many rows a window has, `padded` the (images, depth,
    height, width) of the padded input."""

    conv: ConvShape
    taps: int
    padded: tuple[int, int, int, int]

    @property
    def run(self) -> int:
        return self.taps * _CHANNELS

    @property
    def lines(self) -> int:
        return self.conv.filter[0] * self.conv.filter[1]


def _describe(problem: Problem) -> StemShape:
    anchor = problem.anchor
    assert anchor is not None
    x, w = (problem.body.inputs[index].type for index in operands_of(problem, anchor))
    conv = describe(anchor, x, w)
    taps = 1 << (conv.filter[2] - 1).bit_length()
    reach = [d * (f - 1) + 1 for d, f in zip(conv.dilation, (*conv.filter[:2], taps), strict=True)]
    depth, height, width = ((o - 1) * s + r for o, s, r in zip(conv.out, conv.stride, reach, strict=True))
    return StemShape(conv, taps, (x.shape[0], depth, height, width))


def pack_stem(w: Array, taps: int) -> Array:
    """(k, c, lines..., s) weights as (k, lines..., taps * 4), zeros for the channels and taps there are not."""
    k, c, *lines, s = w.shape
    packed = np.zeros((k, *lines, taps, _CHANNELS), w.dtype)
    packed[..., :s, :c] = np.moveaxis(w, 1, -1)
    return packed.reshape(k, *lines, taps * _CHANNELS)


class Stem(Template):
    """Convolutions of at most four channels, through a padded copy of the input."""

    name = "stem"
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Conv):
            return "anchor is no convolution"
        if anchor.inputs[1].type.shape[1] > _CHANNELS or anchor.op.groups > 1:
            return "anchor has too many channels for a stem"
        if anchor.op.dilation[-1] != 1:
            return "anchor is dilated along the width"
        return refuse_conv(body, anchor)

    def supports(self, problem: Problem, target: Target) -> str | None:
        anchor = problem.anchor
        assert anchor is not None
        reason = refuse_weights(problem, anchor, "a stem")
        if reason is not None:
            return reason
        if math.prod(_describe(problem).padded) * _CHANNELS >= 2**31:
            return "the padded input is too large for 32-bit offsets"
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        shape = _describe(problem)
        return shape.taps != shape.conv.filter[2]  # zero weights for pixels beside the window

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape, anchor = _describe(problem), problem.anchor
        assert anchor is not None and isinstance(anchor.op, Conv)
        dtype = anchor.output.type.dtype
        ieee = dtype == DType.f32 and not anchor.op.tf32
        # The reduction over rows of taps is flat, as if all of it were channels.
        length = shape.run * shape.lines
        gemm = GemmShape(shape.conv.rows, shape.conv.filters, 1, length, 1, dtype.itemsize, ieee, 0)
        ranked = [c for c in rank_configs(gemm, target) if c["SPLIT_K"] == 1]
        # Few steps or none wasted: the model does not know which counts for more.
        shallow = [{**c, "BLOCK_K": 32} for c in ranked[:4]]
        # Unstaged loads go through L1, where neighbouring windows find what they share; asynchronous copies do not.
        shallow += [{**c, "num_stages": 1} for c in ranked[:4]]
        deep = [{**c, "BLOCK_K": 256, "num_stages": 2} for c in ranked[:4] if c["BLOCK_M"] <= 128]
        ordered = [*ranked[:6], *(shallow + deep if length > 128 else []), *ranked[6:]]
        return list({tuple(sorted(c.items())): c for c in ordered}.values())

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, Conv)
        shape, (x_index, w_index) = _describe(problem), operands_of(problem, anchor)
        conv = shape.conv
        dtype = anchor.output.type.dtype
        pixels = math.prod(shape.padded)
        first = pad_call(x_index, conv, dtype, shape.padded, conv.padding, target)
        epilogue = make_epilogue(problem.body, anchor.output, output_space(anchor))
        lines = (*conv.filter[:2], 1)
        over_lines = replace(
            conv,
            channels=shape.run,
            size=shape.padded[1:],
            filter=lines,
            padding=(0, 0, 0),
            dilation=(*conv.dilation[:2], 1),
            x_strides=packed_strides(shape.padded[1:], _CHANNELS),
            w_strides=packed_strides(lines, shape.run),
            masked=False,
        )
        x, w = Workspace(0, dtype.value), Operand(w_index)
        flat = {**config, "FLATTEN": True, "EARLY": False}
        second = lower_conv(over_lines, flat, epilogue, x, w, tf32=anchor.op.tf32, wide=False, target=target)

        def pack(weights: Array) -> Array:
            return pack_stem(weights, shape.taps)

        return Lowered((first, *second.calls), pixels * _CHANNELS * dtype.itemsize, pack={w_index: pack})
