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
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue
from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.op import Array
from jitrt.graph.ops import Conv
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, Workspace, anchor_of
from jitrt.kernels.conv2d import conv2d, operands_of, output_space, refuse_conv
from jitrt.kernels.gemm_cost import GemmShape, rank_configs

_CHANNELS = 4


@triton.jit
def pad_channels(
    out,
    x,
    SIZE: tl.constexpr,  # channels, height, width of x
    PADDED: tl.constexpr,  # images, height, width of out
    PADDING: tl.constexpr,
    X_STRIDES: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    BLOCK: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, 4)[None, :]
    h = (pixel // PADDED[2] % PADDED[1] - PADDING[0])[:, None]
    w = (pixel % PADDED[2] - PADDING[1])[:, None]
    n = (pixel // (PADDED[1] * PADDED[2]))[:, None]
    inside = (h >= 0) & (h < SIZE[1]) & (w >= 0) & (w < SIZE[2]) & (c < SIZE[0]) & (n < PADDED[0])
    offset = n * X_STRIDES[0] + c * X_STRIDES[1] + h * X_STRIDES[2] + w * X_STRIDES[3]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    value = tl.load(x + offset, mask=inside, other=0.0)
    tl.store(out + pixel[:, None] * 4 + c, value.to(out.dtype.element_ty), mask=n < PADDED[0])


@dataclass(frozen=True)
class StemShape:
    """The filter is `height` x `taps`, its width rounded up to a power of two so that the run of a row's taps is one
    and is loaded 16 bytes at a time; `padded` is (images, height, width) of the padded input."""

    filters: int
    height: int
    taps: int
    rows: int
    padded: tuple[int, int, int]

    @property
    def run(self) -> int:
        return self.taps * _CHANNELS


def _describe(problem: Problem) -> StemShape:
    anchor = problem.anchor
    assert anchor is not None and isinstance(anchor.op, Conv)
    w = anchor.inputs[1].type
    out = anchor.output.type.shape
    taps = 1 << (w.shape[3] - 1).bit_length()
    padded_height = (out[2] - 1) * anchor.op.stride[0] + (w.shape[2] - 1) * anchor.op.dilation[0] + 1
    padded_width = (out[3] - 1) * anchor.op.stride[1] + taps
    padded = (out[0], padded_height, padded_width)
    return StemShape(w.shape[0], w.shape[2], taps, out[0] * out[2] * out[3], padded)


def pack_stem(w: Array, taps: int) -> Array:
    """(k, c, r, s) weights as (k, r, taps * 4), zeros for the channels and taps there are not."""
    k, c, r, s = w.shape
    packed = np.zeros((k, r, taps, _CHANNELS), w.dtype)
    packed[:, :, :s, :c] = w.transpose(0, 2, 3, 1)
    return packed.reshape(k, r, taps * _CHANNELS)


class Stem(Template):
    """Convolutions of at most four channels, through a padded copy of the input."""

    name = "stem"

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
        if not problem.weights[operands_of(problem, anchor)[1]]:
            return "a stem needs constant weights, which are packed when the plan is built"
        if math.prod(_describe(problem).padded) * _CHANNELS >= 2**31:
            return "the padded input is too large for 32-bit offsets"
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        anchor = problem.anchor
        assert anchor is not None
        return _describe(problem).taps != anchor.inputs[1].type.shape[3]  # zero weights for pixels beside the window

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape, anchor = _describe(problem), problem.anchor
        assert anchor is not None and isinstance(anchor.op, Conv)
        dtype = anchor.output.type.dtype
        ieee = dtype == DType.f32 and not anchor.op.tf32
        # The reduction over rows of taps is flat, as if all of it were channels.
        gemm = GemmShape(shape.rows, shape.filters, 1, shape.run * shape.height, 1, dtype.itemsize, ieee, 0)
        ranked = [c for c in rank_configs(gemm, target) if c["SPLIT_K"] == 1]
        # Few steps or none wasted: the model does not know which counts for more.
        shallow = [{**c, "BLOCK_K": 32} for c in ranked[:4]]
        deep = [{**c, "BLOCK_K": 256, "num_stages": 2} for c in ranked[:4] if c["BLOCK_M"] <= 128]
        return [*ranked[:6], *(shallow + deep if shape.run * shape.height > 128 else []), *ranked[6:]]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, Conv)
        shape = _describe(problem)
        x_index, w_index = operands_of(problem, anchor)
        x = problem.body.inputs[x_index].type
        dtype = anchor.output.type.dtype
        pixels = math.prod(shape.padded)
        first = KernelCall(
            pad_channels,
            {"out": Workspace(0, dtype.value), "x": Operand(x_index)},
            {
                "SIZE": x.shape[1:],
                "PADDED": shape.padded,
                "PADDING": tuple(p[0] for p in anchor.op.padding),
                "X_STRIDES": x.strides,
                "DEPENDENT": target.arch >= 90,
                "BLOCK": 256,
            },
            (-(-pixels // 256), 1, 1),
            num_warps=4,
        )
        epilogue = make_epilogue(problem.body, anchor.output, output_space(problem, anchor))
        line = shape.padded[2] * _CHANNELS
        constexprs: dict[str, Any] = {
            "partials": None,
            "counters": None,
            "ROWS": shape.rows,
            "FILTERS": shape.filters,
            "CHANNELS": shape.run,
            "BUNDLES": 1,
            "SIZE": shape.padded[1:],
            "OUT": anchor.output.type.shape[2:],
            "FILTER": (shape.height, 1),
            "STRIDE": anchor.op.stride,
            "PADDING": (0, 0),
            "DILATION": (anchor.op.dilation[0], 1),
            "X_STRIDES": (shape.padded[1] * line, 1, line, _CHANNELS),
            "W_STRIDES": (shape.height * shape.run, 1, shape.run, 0),
            "MASKED": False,
            "WIDE": False,
            "FLATTEN": True,
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_N": config["BLOCK_N"],
            "BLOCK_K": config["BLOCK_K"],
            "SPLIT_K": 1,
            "EARLY": False,
            "PRECISION": "tf32" if anchor.op.tf32 else "ieee",
            "DEPENDENT": target.arch >= 90,
            "FETCH": epilogue.fetch,
            "FINISH": epilogue.finish,
            "STORE": epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x": Workspace(0, dtype.value),
            "w": Operand(w_index),
            "aux": tuple(Operand(i) for i in epilogue.operands),
        }
        tiles = -(-shape.rows // config["BLOCK_M"]) * -(-shape.filters // config["BLOCK_N"])
        second = KernelCall(conv2d, arguments, constexprs, (tiles, 1, 1), config["num_warps"], config["num_stages"])

        def pack(weights: Array) -> Array:
            return pack_stem(weights, shape.taps)

        return Lowered((first, second), pixels * _CHANNELS * dtype.itemsize, pack={w_index: pack})
