"""Depthwise convolution: one filter a channel, so there is no matrix product and memory sets the pace.

Formula: y[n, p, q, k] = f(sum over (r, s) of x[n, p * stride + r, q * stride + s, k / mult] * w[k, r, s]), and the like
in one and three dimensions. Fires for `groups == channels`. Floor: (x + w + y) bytes / bandwidth. Each program makes
BLOCK_M pixels of BLOCK_C channels; the taps of neighbouring pixels overlap and hit L1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue
from jitrt.codegen.target import Target
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Conv
from jitrt.graph.types import row_major
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.kernels.conv_shape import ConvShape, Triple, describe, operands_of, output_space, refuse_conv, three

_UNROLL = 9  # taps of a 1-d filter written out one by one


@triton.jit
def depthwise(
    y,
    x,
    w,
    aux,
    ROWS: tl.constexpr,
    FILTERS: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SIZE: tl.constexpr,  # (depth, height, width) of x
    OUT: tl.constexpr,  # the same of y
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,  # before
    DILATION: tl.constexpr,
    X_STRIDES: tl.constexpr,  # n, c, d, h, w
    W_STRIDES: tl.constexpr,  # k, c, t, r, s
    DEEP: tl.constexpr,  # there is a depth
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_c: tl.constexpr = (FILTERS + BLOCK_C - 1) // BLOCK_C
    rm = (tl.program_id(0) // tiles_c) * BLOCK_M + tl.arange(0, BLOCK_M)
    rc = (tl.program_id(0) % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_mask = (rm < ROWS)[:, None]
    c_mask = (rc < FILTERS)[None, :]
    h0 = (rm // OUT[2]) % OUT[1] * STRIDE[1] - PADDING[1]
    w0 = rm % OUT[2] * STRIDE[2] - PADDING[2]
    image = rm // (OUT[0] * OUT[1] * OUT[2])
    # A multiplier of 1 must not divide: the compiler would no longer see that neighbouring channels are adjacent.
    channel = rc if MULTIPLIER == 1 else rc // MULTIPLIER
    if WIDE:  # one image alone may be that large
        image, h0, w0, channel = image.to(tl.int64), h0.to(tl.int64), w0.to(tl.int64), channel.to(tl.int64)
    x_row = image * X_STRIDES[0] + h0 * X_STRIDES[3] + w0 * X_STRIDES[4]
    if DEEP:
        d0 = rm // (OUT[1] * OUT[2]) % OUT[0] * STRIDE[0] - PADDING[0]
        d0 = d0.to(tl.int64) if WIDE else d0
        x_row += d0 * X_STRIDES[2]
    x_tile = x + (x_row[:, None] + (channel * X_STRIDES[1])[None, :])
    w_tile = w + (rc * W_STRIDES[0])[None, :]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    rows: tl.constexpr = FILTER[0] * FILTER[1]
    width: tl.constexpr = FILTER[2]
    for row in range(rows):  # not unrolled: a 7x7 window's 49 loads at once would spill
        r = row % FILTER[1] if DEEP else row
        h_in = (h0 + r * DILATION[1] >= 0) & (h0 + r * DILATION[1] < SIZE[1])
        if DEEP:
            t = row // FILTER[1]
            h_in = h_in & (d0 + t * DILATION[0] >= 0) & (d0 + t * DILATION[0] < SIZE[0])
            t = t.to(tl.int64) if WIDE else t
        for s in tl.static_range(width):
            inside = h_in & (w0 + s * DILATION[2] >= 0) & (w0 + s * DILATION[2] < SIZE[2])
            x_step = r * DILATION[1] * X_STRIDES[3] + s * DILATION[2] * X_STRIDES[4]
            w_step = r * W_STRIDES[3] + s * W_STRIDES[4]
            if DEEP:
                x_step += t * (DILATION[0] * X_STRIDES[2])
                w_step += t * W_STRIDES[2]
            a = tl.load(x_tile + x_step, mask=inside[:, None] & m_mask & c_mask, other=0.0).to(w.dtype.element_ty)
            b = tl.load(w_tile + w_step, mask=c_mask, other=0.0)
            acc += a.to(tl.float32) * b.to(tl.float32)
    m = rm[:, None]
    k = rc[None, :]
    value = APPLY(acc, aux, m, k, m_mask, c_mask)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    STORE(y, value, m, k, m_mask, c_mask)


class Depthwise(Template):
    """Convolutions with one input channel a group."""

    name = "depthwise"
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, Conv):
            return "anchor is no convolution"
        if anchor.op.groups == 1 or anchor.op.groups != anchor.inputs[0].type.shape[1]:
            return "anchor is not depthwise"
        return refuse_conv(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        out = problem.output.type
        rows, filters = out.numel // out.shape[1], out.shape[1]
        configs: list[tuple[float, Config]] = []
        for block_c in (16, 32, 64, 128):
            for elements, warps in ((256, 1), (512, 2), (512, 4), (1024, 4), (2048, 4), (2048, 8)):
                block_m = elements // block_c
                if block_m < 1 or block_c > max(16, 2 * filters):
                    continue
                programs = -(-rows // block_m) * -(-filters // block_c)
                waste = programs * elements / out.numel
                # Enough warps to fill the chip first, then large tiles.
                idle = max(1.0, target.sms * 8 / (programs * warps))
                configs.append((waste * idle + 64 / elements, _config(block_m, block_c, warps)))
        configs.sort(key=lambda pair: pair[0])
        return [config for _, config in configs[:16]]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        anchor = problem.anchor
        assert anchor is not None and isinstance(anchor.op, Conv)
        x_index, w_index = operands_of(problem, anchor)
        x, filters = problem.body.inputs[x_index].type, anchor.output.type.shape[1]
        shape = _describe(problem, anchor)
        epilogue = make_epilogue(problem.body, anchor.output, output_space(anchor))
        tiles = -(-shape.rows // config["BLOCK_M"]) * -(-filters // config["BLOCK_C"])
        constexprs: dict[str, Any] = {
            "ROWS": shape.rows,
            "FILTERS": filters,
            "MULTIPLIER": filters // anchor.op.groups,
            "SIZE": shape.size,
            "OUT": shape.out,
            "FILTER": shape.filter,
            "STRIDE": shape.stride,
            "PADDING": shape.padding,
            "DILATION": shape.dilation,
            "X_STRIDES": shape.x_strides,
            "W_STRIDES": shape.w_strides,
            "DEEP": shape.deep,
            "WIDE": x.span >= 2**31,
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_C": config["BLOCK_C"],
            "DEPENDENT": target.arch >= 90,
            "APPLY": epilogue.apply,
            "STORE": epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x": Operand(x_index),
            "w": Operand(w_index),
            "aux": tuple(Operand(i) for i in epilogue.operands),
        }
        pack = {w_index: lambda weights: np.moveaxis(weights[:, 0], 0, -1)} if problem.weights[w_index] else {}
        return Lowered((KernelCall(depthwise, arguments, constexprs, (tiles, 1, 1), config["num_warps"]),), pack=pack)


def _describe(problem: Problem, anchor: Node) -> ConvShape:
    """The shape with the strides of the packed weights, (taps, k): the channels of one tap side by side. The taps of a
    long 1-d filter count as rows, which the kernel does not unroll."""
    x, w = (problem.body.inputs[index] for index in operands_of(problem, anchor))
    shape = describe(anchor, x.type, w.type)
    taps, step = three(w.type.strides[2:], 0), w.type.strides[0]
    if problem.weights[problem.body.inputs.index(w)]:
        taps, step = tuple(s * w.type.shape[0] for s in row_major(shape.filter)), 1
    shape = replace(shape, w_strides=(step, 1, *taps))
    if x.type.rank > 3 or shape.filter[2] <= _UNROLL:
        return shape
    return replace(
        shape,
        size=_turned(shape.size),
        out=_turned(shape.out),
        filter=_turned(shape.filter),
        stride=_turned(shape.stride),
        padding=_turned(shape.padding),
        dilation=_turned(shape.dilation),
        x_strides=(*shape.x_strides[:2], *_turned(shape.x_strides[2:])),
        w_strides=(*shape.w_strides[:2], *_turned(shape.w_strides[2:])),
    )


def _turned(sizes: Sequence[int]) -> Triple:
    depth, height, width = sizes
    return depth, width, height


def _config(block_m: int, block_c: int, warps: int) -> Config:
    return {"BLOCK_M": block_m, "BLOCK_C": block_c, "num_warps": warps}
