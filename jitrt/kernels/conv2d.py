"""Convolution and linear layers as an implicit matrix product, with everything that follows in the epilogue.

Formula: y[m, k] = f(sum over (r, s, c) of x[pixel(m) + (r, s), c] * w[k, r, s, c]), m = (n, p, q) flattened. A linear
layer is the case of one pixel. Fires on sm_80 and later for any filter, stride, padding, dilation and strides in
memory. Floors: bytes (x + w + y + residual) / bandwidth, and 2 * M * K * C * R * S / the tensor cores' rate.

These choices make it cover the networks:

* `SPLIT_K` programs share a tile where there are too few tiles to fill the chip. Each stores its float32 partial sum;
  the last one to arrive adds them in a fixed order, so the result is deterministic, and leaves the counter zero.
* `FLATTEN` runs the reduction over (r, s, c) as one index where c is too short for a block (a network's first layer).
* `EARLY` puts the loads of a residual under way before the main loop, at the price of registers.
* Groups run in bundles: enough neighbouring groups at a time to fill a tensor-core tile, with the weights of the bundle
  packed block-diagonally. The zeros cost arithmetic that a memory-bound layer has to spare; a NaN or an infinity in one
  group makes the whole bundle NaN (zero times infinity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from jitrt.codegen.epilogue import Epilogue, make_epilogue, prologue_nodes, refuse_epilogue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace, merge
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.op import Array
from jitrt.graph.ops import Cast, Conv, Linear
from jitrt.graph.types import TensorType
from jitrt.kernels.base import (
    Config,
    KernelCall,
    Lowered,
    Operand,
    Problem,
    Result,
    Template,
    Workspace,
    Zeros,
    anchor_of,
)
from jitrt.kernels.gemm_cost import GemmShape, rank_configs

__all__ = ["Conv2d"]


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
    SIZE: tl.constexpr,  # (height, width) of x
    OUT: tl.constexpr,  # (height, width) of y
    FILTER: tl.constexpr,  # (height, width)
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,  # before
    DILATION: tl.constexpr,
    X_STRIDES: tl.constexpr,  # n, c, h, w
    W_STRIDES: tl.constexpr,  # k, c, r, s
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
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    blocks_c: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    taps: tl.constexpr = FILTER[0] * FILTER[1]
    reduction: tl.constexpr = taps * CHANNELS
    steps: tl.constexpr = (reduction + BLOCK_K - 1) // BLOCK_K if FLATTEN else taps * blocks_c

    # Filters run fastest, so that neighbouring programs read the same rows of x from L2.
    tile = tl.program_id(0)
    split = tl.program_id(1)
    n_tile = tile % (tiles_n * BUNDLES)
    bundle = n_tile // tiles_n
    rm = (tile // (tiles_n * BUNDLES)) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (n_tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    rk = tl.arange(0, BLOCK_K)
    m_mask = (rm < ROWS)[:, None]
    n_mask = (rn < FILTERS)[None, :]

    h0 = (rm // OUT[1]) % OUT[0] * STRIDE[0] - PADDING[0]
    w0 = rm % OUT[1] * STRIDE[1] - PADDING[1]
    image = rm // (OUT[0] * OUT[1])
    channel = bundle * CHANNELS
    filters = bundle * FILTERS + rn
    m = rm[:, None]
    k = filters[None, :]
    if WIDE:  # one image alone may be that large
        image, h0, w0 = image.to(tl.int64), h0.to(tl.int64), w0.to(tl.int64)
        channel, filters, rk = channel.to(tl.int64), filters.to(tl.int64), rk.to(tl.int64)
    x_row = image * X_STRIDES[0] + h0 * X_STRIDES[2] + w0 * X_STRIDES[3] + channel * X_STRIDES[1]
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
            s = e // CHANNELS % FILTER[1]
            r = e // (CHANNELS * FILTER[1])
            x_mask = m_mask & (e < reduction)[None, :]
            w_mask = (e < reduction)[:, None] & n_mask
            if MASKED:
                hh = h0[:, None] + (r * DILATION[0])[None, :]
                ww = w0[:, None] + (s * DILATION[1])[None, :]
                x_mask = x_mask & (hh >= 0) & (hh < SIZE[0]) & (ww >= 0) & (ww < SIZE[1])
            x_step = r * (DILATION[0] * X_STRIDES[2]) + s * (DILATION[1] * X_STRIDES[3]) + c * X_STRIDES[1]
            w_step = r * W_STRIDES[2] + s * W_STRIDES[3] + c * W_STRIDES[1]
        else:
            tap = step // blocks_c
            r = tap // FILTER[1]
            s = tap % FILTER[1]
            c = (step % blocks_c) * BLOCK_K + rk
            x_mask = m_mask
            w_mask = n_mask
            if MASKED:
                hh = h0 + r * DILATION[0]
                ww = w0 + s * DILATION[1]
                x_mask = x_mask & ((hh >= 0) & (hh < SIZE[0]) & (ww >= 0) & (ww < SIZE[1]))[:, None]
            if CHANNELS % BLOCK_K != 0:
                x_mask = x_mask & (c < CHANNELS)[None, :]
                w_mask = w_mask & (c < CHANNELS)[:, None]
            x_step = r * (DILATION[0] * X_STRIDES[2]) + s * (DILATION[1] * X_STRIDES[3]) + c * X_STRIDES[1]
            w_step = r * W_STRIDES[2] + s * W_STRIDES[3] + c * W_STRIDES[1]
        a = tl.load(x + (x_row[:, None] + x_step[None, :]), mask=x_mask, other=0.0).to(w.dtype.element_ty)
        b = tl.load(w + (w_row[None, :] + w_step[:, None]), mask=w_mask, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    if SPLIT_K == 1:
        if not EARLY:
            held = FETCH(aux, m, k, m_mask, n_mask)
        STORE(y, FINISH(acc, held), m, k, m_mask, n_mask)
    else:
        spot = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        part = partials + tile * (SPLIT_K * BLOCK_M * BLOCK_N)
        tl.store(part + split * (BLOCK_M * BLOCK_N) + spot, acc)
        tl.debug_barrier()  # every thread's part is stored before one of them announces it
        if tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == SPLIT_K - 1:
            total = tl.load(part + spot, cache_modifier=".cg")
            for other in range(1, SPLIT_K):
                total += tl.load(part + other * (BLOCK_M * BLOCK_N) + spot, cache_modifier=".cg")
            tl.store(counters + tile, 0)
            STORE(y, FINISH(total, FETCH(aux, m, k, m_mask, n_mask)), m, k, m_mask, n_mask)


@dataclass(frozen=True)
class ConvShape:
    """A conv or linear node in the kernel's terms. Channels and filters are those of one bundle of groups."""

    rows: int
    filters: int
    channels: int
    bundles: int
    size: tuple[int, int]
    out: tuple[int, int]
    filter: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    x_strides: tuple[int, int, int, int]
    w_strides: tuple[int, int, int, int]
    masked: bool
    groups_a_bundle: int = 1

    @property
    def weights_span(self) -> int:
        """Elements from the first weight to the end of the last filter."""
        return self.filters * self.bundles * self.w_strides[0]

    @property
    def reduction(self) -> int:
        return self.channels * self.filter[0] * self.filter[1]


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
        row_stride = lead[0][1] if lead else 0
        one = (1, 1)
        x_strides = (row_stride, x.strides[-1], 0, 0)
        across = (w.strides[0], w.strides[1], 0, 0)
        return ConvShape(rows, w.shape[0], w.shape[1], 1, one, one, one, one, (0, 0), one, x_strides, across, False)
    assert isinstance(op, Conv)
    out = anchor.output.type.shape
    per_group, filters = w.shape[1], w.shape[0] // op.groups
    bundle = bundle_of(op.groups, per_group)
    channels = per_group * bundle
    w_strides: tuple[int, ...] = w.strides
    if bundle > 1:
        taps = w.shape[2] * w.shape[3]
        w_strides = (taps * channels, 1, w.shape[3] * channels, channels)
    filter_, size = w.shape[2:], x.shape[2:]
    before = tuple(p[0] for p in op.padding)
    masked = any(
        before[d] > 0 or (out[2 + d] - 1) * op.stride[d] - before[d] + (filter_[d] - 1) * op.dilation[d] >= size[d]
        for d in range(2)
    )
    return ConvShape(
        rows=out[0] * out[2] * out[3],
        filters=filters * bundle,
        channels=channels,
        bundles=op.groups // bundle,
        size=size,  # type: ignore[arg-type]
        out=out[2:],  # type: ignore[arg-type]
        filter=filter_,  # type: ignore[arg-type]
        stride=op.stride,  # type: ignore[arg-type]
        padding=before,  # type: ignore[arg-type]
        dilation=op.dilation,  # type: ignore[arg-type]
        x_strides=x.strides,  # type: ignore[arg-type]
        w_strides=w_strides,  # type: ignore[arg-type]
        masked=masked,
        groups_a_bundle=bundle,
    )


def pack_bundles(w: Array, groups: int, bundle: int) -> Array:
    """(k, c/g, r, s) weights of a grouped convolution as (k, r, s, bundle * c/g), block-diagonal in each bundle."""
    k, per_group, r, s = w.shape
    filters = k // groups
    packed = np.zeros((k, r, s, bundle, per_group), w.dtype)
    place = np.arange(k) // filters % bundle
    packed[np.arange(k), :, :, place] = w.transpose(0, 2, 3, 1)
    return packed.reshape(k, r, s, bundle * per_group)


def refuse_conv(body: Graph, anchor: Node | None) -> str | None:
    """What all convolution templates ask: a 2-d conv or a linear, 16- or 32-bit floats, only casts before it."""
    if anchor is None:
        return "anchor is missing"
    if not isinstance(anchor.op, Conv | Linear):
        return f"anchor {anchor.op.name} is no convolution"
    if isinstance(anchor.op, Conv) and anchor.inputs[0].type.rank != 4:
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
    return refuse_epilogue(body, anchor)


def operands_of(problem: Problem, anchor: Node) -> tuple[int, int]:
    """Indices of the region's operands that are x (before its cast) and w."""
    found = []
    for value in anchor.inputs[:2]:
        while value.producer is not None:
            value = value.producer.inputs[0]
        found.append(problem.body.inputs.index(value))
    return found[0], found[1]


def output_space(problem: Problem, anchor: Node) -> TileSpace:
    """Rows (n, p, q), columns k: whatever the strides of the output are."""
    out = problem.output.type
    column = 1 if isinstance(anchor.op, Conv) else out.rank - 1
    return TileSpace(out.shape, tuple(d for d in range(out.rank) if d != column), column)


class Conv2d(Template):
    """Dense and grouped 2-d convolutions and linear layers in plain `tl`."""

    name = "conv2d"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        reason = refuse_conv(body, anchor)
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
        if grouped and not problem.weights[operands_of(problem, anchor)[1]]:
            return "a grouped convolution needs constant weights, which are packed when the plan is built"
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return _unpack(problem)[0].groups_a_bundle > 1

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape, _, _ = _unpack(problem)
        anchor = problem.anchor
        assert anchor is not None
        dtype = anchor.output.type.dtype
        gemm = GemmShape(
            rows=shape.rows,
            columns=shape.filters,
            batches=shape.bundles,
            channels=shape.channels,
            taps=shape.filter[0] * shape.filter[1],
            itemsize=dtype.itemsize,
            ieee=dtype == DType.f32 and not anchor.op.tf32,  # type: ignore[attr-defined]
            epilogue_reads=sum(v.type.numel >= problem.output.type.numel for v in problem.body.inputs[1:]),
        )
        return rank_configs(gemm, target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape, anchor, epilogue = _unpack(problem)
        x_index, w_index = operands_of(problem, anchor)
        block_m, block_n, split = config["BLOCK_M"], config["BLOCK_N"], config["SPLIT_K"]
        tiles = -(-shape.rows // block_m) * -(-shape.filters // block_n) * shape.bundles
        tf32 = getattr(anchor.op, "tf32", False)
        constexprs: dict[str, Any] = {
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
            "X_STRIDES": shape.x_strides,
            "W_STRIDES": shape.w_strides,
            "MASKED": shape.masked,
            "WIDE": max(problem.body.inputs[x_index].type.span, shape.weights_span) >= 2**31,
            "FLATTEN": config["FLATTEN"],
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": config["BLOCK_K"],
            "SPLIT_K": split,
            "EARLY": config["EARLY"],
            "PRECISION": "tf32" if tf32 else "ieee",
            "DEPENDENT": target.arch >= 90,
            "FETCH": epilogue.fetch,
            "FINISH": epilogue.finish,
            "STORE": epilogue.store,
        }
        arguments: dict[str, Any] = {"y": Result(), "x": Operand(x_index), "w": Operand(w_index)}
        if split > 1:
            arguments |= {"partials": Workspace(), "counters": Zeros()}
        else:
            constexprs |= {"partials": None, "counters": None}
        arguments["aux"] = tuple(Operand(i) for i in epilogue.operands)
        call = KernelCall(conv2d, arguments, constexprs, (tiles, split, 1), config["num_warps"], config["num_stages"])
        pack = {}
        if shape.groups_a_bundle > 1:
            groups, bundle = anchor.op.groups, shape.groups_a_bundle  # type: ignore[attr-defined]
            pack[w_index] = lambda weights: pack_bundles(weights, groups, bundle)
        workspace = tiles * split * block_m * block_n * 4 if split > 1 else 0
        return Lowered((call,), workspace, tiles * 4 if split > 1 else 0, pack)


def _source(anchor: Node) -> TensorType:
    """The type of the anchor's input before a cast."""
    value = anchor.inputs[0]
    while value.producer is not None:
        value = value.producer.inputs[0]
    return value.type


def _unpack(problem: Problem) -> tuple[ConvShape, Node, Epilogue]:
    anchor = problem.anchor
    assert anchor is not None
    x_index, w_index = operands_of(problem, anchor)
    shape = describe(anchor, problem.body.inputs[x_index].type, problem.body.inputs[w_index].type)
    return shape, anchor, make_epilogue(problem.body, anchor.output, output_space(problem, anchor))
