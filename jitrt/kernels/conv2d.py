"""Convolution and linear layers as an implicit matrix product, with everything that follows in the epilogue.

Formula: y[m, k] = f(sum over taps t and channels c of x[pixel(m) + t, c] * w[k, t, c]), m counting all positions.
A 1-d convolution is the case of one row, a linear layer that of one pixel; a third dimension costs a few more
instructions where there is one. Fires on sm_80 and later for any filter, stride, padding, dilation and strides in
memory. Floors: bytes (x + w + y + residual) / bandwidth, and 2 * M * K * C * taps / the tensor cores' rate.

These choices make it cover the networks:

* `SPLIT_K` programs share a tile where there are too few tiles to fill the chip.
* `FLATTEN` runs the reduction over (taps, c) as one index where c is too short for a block (a network's first layer).
* `EARLY` puts the loads of a residual under way before the main loop, at the price of registers.
* Groups run in bundles: enough neighbouring groups at a time to fill a tensor-core tile, with the weights of the bundle
  packed block-diagonally. The zeros cost arithmetic that a memory-bound layer has to spare; a NaN or an infinity in one
  group makes the whole bundle NaN (zero times infinity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import Epilogue, make_epilogue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import merge
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import Conv, Linear
from jitrt.graph.types import TensorType
from jitrt.kernels.base import Argument, Config, Lowered, Operand, Problem, Result, Template, anchor_of
from jitrt.kernels.conv_shape import (
    ConvShape,
    describe,
    operands_of,
    output_space,
    pack_bundles,
    refuse_conv,
    refuse_weights,
)
from jitrt.kernels.gemm_cost import GemmShape, rank_configs
from jitrt.kernels.split_k import split_launch, store_sum

__all__ = ["Conv2d", "constexprs_of", "conv2d_tile", "gemm_shape", "lower_anchor", "product_of", "tiles_of", "unpack"]


@triton.jit
def conv2d_tile(
    y,
    x,
    w,
    partials,
    counters,
    aux,
    tile,
    split,
    ROWS: tl.constexpr,
    FILTERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BUNDLES: tl.constexpr,
    SIZE: tl.constexpr,  # (depth, height, width) of x
    OUT: tl.constexpr,  # the same of y
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,  # before
    DILATION: tl.constexpr,
    WINDOW: tl.constexpr,  # of a pool that FINISH ends in: (depth, height, width)
    POSITIONS: tl.constexpr,  # neighbouring rows that are the pixels of one window, 1 where there is no pool
    X_STRIDES: tl.constexpr,  # n, c, d, h, w
    W_STRIDES: tl.constexpr,  # k, c, t, r, s
    DEEP: tl.constexpr,  # there is a depth
    MASKED: tl.constexpr,  # some tap can fall outside x
    WIDE: tl.constexpr,  # offsets of x or w pass 2^31
    FLATTEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EARLY: tl.constexpr,  # load the epilogue's operands before the loop
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    """Part `split` of the reduction of output tile number `tile`."""
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    blocks_c: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    taps: tl.constexpr = FILTER[0] * FILTER[1] * FILTER[2]
    reduction: tl.constexpr = taps * CHANNELS
    steps: tl.constexpr = (reduction + BLOCK_K - 1) // BLOCK_K if FLATTEN else taps * blocks_c

    # Filters run fastest, so that neighbouring programs read the same rows of x from L2.
    n_tile = tile % (tiles_n * BUNDLES)
    bundle = n_tile // tiles_n
    rm = (tile // (tiles_n * BUNDLES)) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (n_tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    rk = tl.arange(0, BLOCK_K)
    row_mask = (rm < ROWS)[:, None]
    n_mask = (rn < FILTERS)[None, :]

    pixel = rm if POSITIONS == 1 else rm // POSITIONS
    h0 = (pixel // OUT[2]) % OUT[1] * (STRIDE[1] * WINDOW[1]) - PADDING[1]
    w0 = pixel % OUT[2] * (STRIDE[2] * WINDOW[2]) - PADDING[2]
    image = pixel // (OUT[0] * OUT[1] * OUT[2])
    channel = bundle * CHANNELS
    filters = bundle * FILTERS + rn
    if POSITIONS == 1:
        m = rm[:, None]
        m_mask = row_mask
    else:
        position = rm % POSITIONS  # those beyond the window are once more some inside it
        h0 += position // WINDOW[2] % WINDOW[1] * STRIDE[1]
        w0 += position % WINDOW[2] * STRIDE[2]
        pooled = (tile // (tiles_n * BUNDLES)) * (BLOCK_M // POSITIONS) + tl.arange(0, BLOCK_M // POSITIONS)
        m = pooled[:, None]
        m_mask = m < ROWS // POSITIONS
    k = filters[None, :]
    if WIDE:  # one image alone may be that large
        image, h0, w0 = image.to(tl.int64), h0.to(tl.int64), w0.to(tl.int64)
        channel, filters, rk = channel.to(tl.int64), filters.to(tl.int64), rk.to(tl.int64)
    x_row = image * X_STRIDES[0] + h0 * X_STRIDES[3] + w0 * X_STRIDES[4] + channel * X_STRIDES[1]
    if DEEP:
        d0 = pixel // (OUT[1] * OUT[2]) % OUT[0] * (STRIDE[0] * WINDOW[0]) - PADDING[0]
        if POSITIONS > 1:
            d0 += position // (WINDOW[1] * WINDOW[2]) % WINDOW[0] * STRIDE[0]
        d0 = d0.to(tl.int64) if WIDE else d0
        x_row += d0 * X_STRIDES[2]
    w_row = filters * W_STRIDES[0]

    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if EARLY:
        held = FETCH(aux, m, k, m_mask, n_mask)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    share: tl.constexpr = (steps + SPLIT_K - 1) // SPLIT_K
    first = split * share
    last = tl.minimum(first + share, steps)
    for step in range(first, last):
        if FLATTEN:
            e = step * BLOCK_K + rk
            c = e % CHANNELS
            s = e // CHANNELS % FILTER[2]
            r = e // (CHANNELS * FILTER[2])
            if DEEP:
                t = r // FILTER[1]
                r = r % FILTER[1]
            x_mask = row_mask & (e < reduction)[None, :]
            w_mask = (e < reduction)[:, None] & n_mask
            if MASKED:
                hh = h0[:, None] + (r * DILATION[1])[None, :]
                ww = w0[:, None] + (s * DILATION[2])[None, :]
                x_mask = x_mask & (hh >= 0) & (hh < SIZE[1]) & (ww >= 0) & (ww < SIZE[2])
                if DEEP:
                    dd = d0[:, None] + (t * DILATION[0])[None, :]
                    x_mask = x_mask & (dd >= 0) & (dd < SIZE[0])
        else:
            tap = step // blocks_c
            r = tap // FILTER[2]
            s = tap % FILTER[2]
            if DEEP:
                t = r // FILTER[1]
                r = r % FILTER[1]
            c = (step % blocks_c) * BLOCK_K + rk
            x_mask = row_mask
            w_mask = n_mask
            if MASKED:
                hh = h0 + r * DILATION[1]
                ww = w0 + s * DILATION[2]
                inside = (hh >= 0) & (hh < SIZE[1]) & (ww >= 0) & (ww < SIZE[2])
                if DEEP:
                    inside = inside & (d0 + t * DILATION[0] >= 0) & (d0 + t * DILATION[0] < SIZE[0])
                x_mask = x_mask & inside[:, None]
            if CHANNELS % BLOCK_K != 0:
                x_mask = x_mask & (c < CHANNELS)[None, :]
                w_mask = w_mask & (c < CHANNELS)[:, None]
        x_step = r * (DILATION[1] * X_STRIDES[3]) + s * (DILATION[2] * X_STRIDES[4]) + c * X_STRIDES[1]
        w_step = r * W_STRIDES[3] + s * W_STRIDES[4] + c * W_STRIDES[1]
        if DEEP:
            t = t.to(tl.int64) if WIDE else t
            x_step += t * (DILATION[0] * X_STRIDES[2])
            w_step += t * W_STRIDES[2]
        a = tl.load(x + (x_row[:, None] + x_step[None, :]), mask=x_mask, other=0.0).to(w.dtype.element_ty)
        b = tl.load(w + (w_row[None, :] + w_step[:, None]), mask=w_mask, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    if SPLIT_K == 1:
        if not EARLY:
            held = FETCH(aux, m, k, m_mask, n_mask)
        value = FINISH(acc, held)
        if DEPENDENT:
            tl.extra.cuda.gdc_launch_dependents()
        STORE(y, value, m, k, m_mask, n_mask)
    else:
        store_sum(
            y, acc, partials, counters, aux, tile, split, m, k, m_mask, n_mask, SPLIT_K, DEPENDENT, FETCH, FINISH, STORE
        )


@triton.jit
def conv2d(
    y,
    x,
    w,
    partials,
    counters,
    aux,
    ROWS: tl.constexpr,
    FILTERS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BUNDLES: tl.constexpr,
    SIZE: tl.constexpr,  # (depth, height, width) of x
    OUT: tl.constexpr,  # the same of y
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,  # before
    DILATION: tl.constexpr,
    WINDOW: tl.constexpr,  # of a pool that FINISH ends in: (depth, height, width)
    POSITIONS: tl.constexpr,  # neighbouring rows that are the pixels of one window, 1 where there is no pool
    X_STRIDES: tl.constexpr,  # n, c, d, h, w
    W_STRIDES: tl.constexpr,  # k, c, t, r, s
    DEEP: tl.constexpr,  # there is a depth
    MASKED: tl.constexpr,  # some tap can fall outside x
    WIDE: tl.constexpr,  # offsets of x or w pass 2^31
    FLATTEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EARLY: tl.constexpr,  # load the epilogue's operands before the loop
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    conv2d_tile(
        y, x, w, partials, counters, aux, tl.program_id(0), tl.program_id(1),
        ROWS, FILTERS, CHANNELS, BUNDLES, SIZE, OUT, FILTER, STRIDE, PADDING, DILATION, WINDOW, POSITIONS,
        X_STRIDES, W_STRIDES, DEEP, MASKED, WIDE, FLATTEN, BLOCK_M, BLOCK_N, BLOCK_K, SPLIT_K, EARLY, PRECISION,
        DEPENDENT, FETCH, FINISH, STORE,
    )  # fmt: skip


class Conv2d(Template):
    """Dense and grouped convolutions and linear layers in plain `tl`."""

    name = "conv2d"
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        reason = refuse_conv(body, anchor, pairs=True)
        if reason is not None:
            return reason
        assert anchor is not None
        if isinstance(anchor.op, Linear):
            x = _source(anchor)
            if len(merge(list(zip(x.shape[:-1], x.strides[:-1], strict=True)))) > 1:
                return "the rows of this linear layer's input are not evenly spaced"
        groups = anchor.op.groups if isinstance(anchor.op, Conv) else 1
        if groups > 1 and groups == anchor.inputs[0].type.shape[1]:
            return "anchor is depthwise: its own kernel is faster"
        return None

    def supports(self, problem: Problem, target: Target) -> str | None:
        anchor = problem.anchor
        assert anchor is not None
        grouped = isinstance(anchor.op, Conv) and anchor.op.groups > 1
        return refuse_weights(problem, anchor, "a grouped convolution") if grouped else None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return unpack(problem)[0].groups_a_bundle > 1

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return rank_configs(product_of(problem), target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape, anchor, epilogue = unpack(problem)
        return lower_anchor(problem, anchor, shape, epilogue, config, target)


def product_of(problem: Problem) -> GemmShape:
    """The matrix product that a problem of `Conv2d` is to the cost model."""
    shape, anchor, epilogue = unpack(problem)
    sizes = [problem.body.inputs[index].type.numel for index in epilogue.operands]
    full = problem.output.type.numel
    gemm = gemm_shape(shape, anchor, sum(size >= full for size in sizes))
    return replace(gemm, epilogue_vectors=any(size < full for size in sizes))


def gemm_shape(shape: ConvShape, anchor: Node, epilogue_reads: int) -> GemmShape:
    """The matrix product that a convolution is to the cost model."""
    dtype = anchor.output.type.dtype
    return GemmShape(
        rows=shape.rows,
        columns=shape.filters,
        batches=shape.bundles,
        channels=shape.channels,
        taps=shape.taps,
        itemsize=dtype.itemsize,
        ieee=dtype == DType.f32 and not anchor.op.tf32,  # type: ignore[attr-defined]
        epilogue_reads=epilogue_reads,
    )


def lower_anchor(
    problem: Problem, anchor: Node, shape: ConvShape, epilogue: Epilogue, config: Config, target: Target
) -> Lowered:
    """The launch of the kernel for a region around `anchor`, its weights packed where groups are bundled."""
    x, w = operands_of(problem, anchor)
    wide = max(problem.body.inputs[x].type.span, shape.weights_span) >= 2**31
    tf32 = getattr(anchor.op, "tf32", False)
    lowered = lower_conv(shape, config, epilogue, Operand(x), Operand(w), tf32=tf32, wide=wide, target=target)
    if shape.groups_a_bundle == 1:
        return lowered
    groups, bundle = anchor.op.groups, shape.groups_a_bundle  # type: ignore[attr-defined]
    return replace(lowered, pack={w: lambda weights: pack_bundles(weights, groups, bundle)})


def lower_conv(
    shape: ConvShape,
    config: Config,
    epilogue: Epilogue,
    x: Argument,
    w: Argument,
    *,
    tf32: bool,
    wide: bool,
    target: Target,
) -> Lowered:
    """The launch of the kernel for a shape, with one of `rank_configs`; nothing is packed yet."""
    constexprs = constexprs_of(shape, config, epilogue, tf32=tf32, wide=wide, target=target)
    arguments: dict[str, Any] = {"y": Result(), "x": x, "w": w, "aux": tuple(Operand(i) for i in epilogue.operands)}
    part = config["BLOCK_M"] * config["BLOCK_N"]
    return split_launch(
        conv2d, arguments, constexprs, config, tiles=tiles_of(shape, config), splits=config["SPLIT_K"], part=part
    )


def tiles_of(shape: ConvShape, config: Config) -> int:
    """How many output tiles there are."""
    return -(-shape.rows // config["BLOCK_M"]) * -(-shape.filters // config["BLOCK_N"]) * shape.bundles


def constexprs_of(
    shape: ConvShape, config: Config, epilogue: Epilogue, *, tf32: bool, wide: bool, target: Target
) -> dict[str, Any]:
    """What `conv2d_tile` is compiled for."""
    return {
        "ROWS": shape.rows,
        "FILTERS": shape.filters,
        "CHANNELS": shape.channels,
        "BUNDLES": shape.bundles,
        "SIZE": shape.size,
        "OUT": shape.out,
        "FILTER": shape.filter,
        "STRIDE": shape.stride,
        "PADDING": shape.padding,
        "DILATION": shape.dilation,
        "WINDOW": shape.window,
        "POSITIONS": shape.positions,
        "X_STRIDES": shape.x_strides,
        "W_STRIDES": shape.w_strides,
        "DEEP": shape.deep,
        "MASKED": shape.masked,
        "WIDE": wide,
        "FLATTEN": config["FLATTEN"],
        "BLOCK_M": config["BLOCK_M"],
        "BLOCK_N": config["BLOCK_N"],
        "BLOCK_K": config["BLOCK_K"],
        "SPLIT_K": config["SPLIT_K"],
        "EARLY": config["EARLY"],
        "PRECISION": "tf32" if tf32 else "ieee",
        "DEPENDENT": target.arch >= 90,
        "FETCH": epilogue.fetch,
        "FINISH": epilogue.finish,
        "STORE": epilogue.store,
    }


def _source(anchor: Node) -> TensorType:
    """The type of the anchor's input before a cast."""
    value = anchor.inputs[0]
    while value.producer is not None:
        value = value.producer.inputs[0]
    return value.type


def unpack(problem: Problem) -> tuple[ConvShape, Node, Epilogue]:
    """The shape, the anchor and the epilogue of a problem that `Conv2d` accepts."""
    anchor = problem.anchor
    assert anchor is not None
    x_index, w_index = operands_of(problem, anchor)
    shape = describe(anchor, problem.body.inputs[x_index].type, problem.body.inputs[w_index].type)
    return shape, anchor, make_epilogue(problem.body, anchor.output, output_space(anchor))
