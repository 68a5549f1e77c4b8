"""The mean over an image and the linear layer (or 1x1 convolution) that follows it: a classifier's head, a squeeze.

Formula: y[m, k] = f(sum over c of mean over r of g(x[m, r, c]) * w[k, c]), g the elementwise ops before the mean, f
those after the product. Fires for channels innermost in memory and a mean over everything between them and the batch.
Saves a launch, and the trip of the means through memory. Floor: (x + w + y) bytes / bandwidth.

Every program makes BLOCK_N outputs of BLOCK_M images and computes the means it needs itself, so x is read from L2 once
for each of the N / BLOCK_N blocks: nothing at batch 1, where the launch saved counts, and too much at batch 128. Both
sums are linear, so `SPLIT_K` slices of the channels and `SPLIT_R` slices of the image may be different programs: each
stores its float32 partial product, the last one to arrive adds them in a fixed order and leaves the counter zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import Epilogue, make_epilogue, refuse_epilogue
from jitrt.codegen.prologue import Prologue, layout_of, make_prologue, refuse_prologue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import ReductionSpace, TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, anchors_of
from jitrt.graph.ops import Conv, Linear, ReduceMean
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Result, Template
from jitrt.kernels.split_k import split_launch

_KEEP = 24
_SM_BYTES = 45e9  # bytes/s that one SM gets from L2
_LATENCY = 0.8e-6  # seconds from a load to its data, with some arithmetic


@triton.jit
def mean_linear(
    y,
    w,
    partials,
    counters,
    x_aux,
    aux,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    FILTERS: tl.constexpr,
    W_STRIDES: tl.constexpr,  # k, c
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LINES: tl.constexpr,  # rows of the product: those of a tensor core at least, the BLOCK_M images repeated
    SPLIT_K: tl.constexpr,
    SPLIT_R: tl.constexpr,
    SLICE: tl.constexpr,  # positions of an image that one program sums
    AT_ONCE: tl.constexpr,  # partial products that the last program loads together
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    LOAD: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    steps: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    share: tl.constexpr = (steps + SPLIT_K - 1) // SPLIT_K
    turns: tl.constexpr = (SLICE + BLOCK_R - 1) // BLOCK_R
    unroll: tl.constexpr = turns if turns < 8 else 8
    tile = tl.program_id(0)
    split = tl.program_id(1)
    m_start = (tile // tiles_n) * BLOCK_M
    m = (m_start + tl.arange(0, BLOCK_M))[:, None, None]
    rn = (tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = (rn < FILTERS)[None, :]
    r_start = (split % SPLIT_R) * SLICE
    r_end = tl.minimum(r_start + SLICE, LENGTH)
    first = (split // SPLIT_R) * share
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    acc = tl.zeros((LINES, BLOCK_N), tl.float32)
    for step in range(first, tl.minimum(first + share, steps)):
        rk = step * BLOCK_K + tl.arange(0, BLOCK_K)
        # Under way while the means are summed.
        w_tile = w + (rn[None, :] * W_STRIDES[0] + rk[:, None] * W_STRIDES[1])
        b = tl.load(w_tile, mask=n_mask & (rk < CHANNELS)[:, None], other=0.0)
        k = rk[None, None, :]
        total = tl.zeros((BLOCK_M, BLOCK_R, BLOCK_K), tl.float32)
        for turn in tl.range(0, turns, loop_unroll_factor=unroll):
            r = (r_start + turn * BLOCK_R + tl.arange(0, BLOCK_R))[None, :, None]
            value = LOAD(x_aux, m, r, k, m < ROWS, r < r_end, k < CHANNELS).to(tl.float32)
            total += tl.where((r < r_end) & (k < CHANNELS), value, 0.0)
        mean = (tl.sum(total, 1) / SLICE).to(w.dtype.element_ty)
        a = tl.reshape(tl.broadcast_to(mean[None, :, :], (LINES // BLOCK_M, BLOCK_M, BLOCK_K)), (LINES, BLOCK_K))
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    if SLICE != LENGTH:
        acc = acc * (SLICE / LENGTH)

    line = tl.arange(0, LINES)[:, None]
    m_out = m_start + line
    m_mask = (line < BLOCK_M) & (m_out < ROWS)
    n = rn[None, :]
    splits: tl.constexpr = SPLIT_K * SPLIT_R
    if splits == 1:
        out = APPLY(acc, aux, m_out, n, m_mask, n_mask)
        if DEPENDENT:
            tl.extra.cuda.gdc_launch_dependents()
        STORE(y, out, m_out, n, m_mask, n_mask)
    else:
        spot = line * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        part = partials + tile * (splits * BLOCK_M * BLOCK_N)
        tl.store(part + split * (BLOCK_M * BLOCK_N) + spot, acc, mask=m_mask)
        tl.debug_barrier()  # every thread's part is stored before one of them announces it
        if tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == splits - 1:
            image = tl.arange(0, BLOCK_M)[:, None]
            m_last = m_start + image
            m_valid = m_last < ROWS
            place = image * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
            whole = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for start in range(0, splits, AT_ONCE):  # many at once: each load takes as long as all of them
                other = (start + tl.arange(0, AT_ONCE))[:, None, None]
                parts = part + other * (BLOCK_M * BLOCK_N) + place[None, :, :]
                whole += tl.sum(tl.load(parts, mask=m_valid[None, :, :], other=0.0, cache_modifier=".cg"), 0)
            tl.store(counters + tile, 0)
            out = APPLY(whole, aux, m_last, n, m_valid, n_mask)
            if DEPENDENT:
                tl.extra.cuda.gdc_launch_dependents()
            STORE(y, out, m_last, n, m_valid, n_mask)


@dataclass(frozen=True)
class Head:
    """A problem in the kernel's terms: the mean of `length` positions for each of `rows` images and `channels`, and
    `filters` products of them; whether the weights are `constant`."""

    rows: int
    length: int
    channels: int
    filters: int
    itemsize: int
    w_index: int
    constant: bool
    w_strides: tuple[int, int]
    prologue: Prologue
    epilogue: Epilogue


def describe(problem: Problem) -> Head:
    """How the kernel counts through a problem."""
    body, (mean, product) = problem.body, problem.anchors
    space = _space(mean)
    w, out = product.inputs[1], problem.output.type
    rows = tuple(d for d in range(out.rank) if d != 1)
    return Head(
        rows=space.count("m"),
        length=space.count("r"),
        channels=space.count("k"),
        filters=w.type.shape[0],
        itemsize=mean.inputs[0].type.dtype.itemsize,
        w_index=body.inputs.index(w),
        constant=problem.weights[body.inputs.index(w)],
        w_strides=(w.type.strides[0], w.type.strides[1]),
        prologue=make_prologue(body, mean.inputs[0], space),
        epilogue=make_epilogue(body, product.output, TileSpace(out.shape, rows, 1)),
    )


def _space(mean: Node) -> ReductionSpace:
    assert isinstance(mean.op, ReduceMean)
    return ReductionSpace.of(layout_of(mean.inputs[0]), mean.op.axes)


def is_product_of_means(mean: Node, product: Node) -> bool:
    """Whether `product` is a linear layer on the (n, c) that `mean` makes, or a 1x1 convolution on (n, c, 1, 1)."""
    if not isinstance(mean.op, ReduceMean) or product.inputs[0] is not mean.output:
        return False
    if isinstance(product.op, Linear):
        return mean.output.type.rank == 2
    if not isinstance(product.op, Conv) or product.op.groups != 1 or mean.output.type.shape[2:] != (1, 1):
        return False
    return product.inputs[1].type.shape[2:] == (1, 1) and product.output.type.shape[2:] == (1, 1)


class MeanLinear(Template):
    """A mean, then a linear layer or 1x1 convolution of what it makes."""

    name = "mean_linear"
    priority = 2  # so that its reason is the one given
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchors = anchors_of(body)
        if len(anchors) != 2 or not is_product_of_means(*anchors):
            return "anchor is no linear layer of means"
        mean, product = anchors
        if product.output.type.dtype not in (DType.f32, DType.f16, DType.bf16):
            return f"a linear layer of {product.output.type.dtype.value} means has no kernel"
        if len(mean.output.users) > 1:
            return "the means are read elsewhere too"
        w = product.inputs[1]
        if w.producer is not None or len(w.users) > 1:
            return "the weights are computed, or read elsewhere too"
        assert isinstance(mean.op, ReduceMean)
        kept = [d for d in range(mean.inputs[0].type.rank) if d not in mean.op.axes]
        if len(kept) != 2 or kept[0] != 0 or _space(mean).column != kept[1]:
            return "means of whole images whose channels are innermost in memory are needed"
        return refuse_prologue(mean.inputs[0]) or refuse_epilogue(body, product)

    def supports(self, problem: Problem, target: Target) -> str | None:
        if problem.anchor is not None and problem.anchor.inputs[1].type.span >= 2**31:
            return "the weights are too large for 32-bit offsets"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        head = describe(problem)
        return sorted(_configs(head), key=lambda config: cost(config, head, target))[:_KEEP]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        head, product = describe(problem), problem.anchor
        assert product is not None
        splits = config["SPLIT_K"] * config["SPLIT_R"]
        slice_ = -(-head.length // config["SPLIT_R"])
        constexprs: dict[str, Any] = {
            "ROWS": head.rows,
            "LENGTH": head.length,
            "CHANNELS": head.channels,
            "FILTERS": head.filters,
            "W_STRIDES": head.w_strides,
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_R": config["BLOCK_R"],
            "BLOCK_K": config["BLOCK_K"],
            "BLOCK_N": config["BLOCK_N"],
            "LINES": max(16, config["BLOCK_M"]),
            "SPLIT_K": config["SPLIT_K"],
            "SPLIT_R": config["SPLIT_R"],
            "SLICE": slice_,
            "AT_ONCE": max(1, min(splits, 1024 * config["num_warps"] // (config["BLOCK_M"] * config["BLOCK_N"]))),
            "PRECISION": "tf32" if product.op.tf32 else "ieee",  # type: ignore[attr-defined]
            "DEPENDENT": target.arch >= 90,
            "LOAD": head.prologue.load,
            "APPLY": head.epilogue.apply,
            "STORE": head.epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "w": Operand(head.w_index),
            "x_aux": tuple(Operand(i) for i in head.prologue.operands),
            "aux": tuple(Operand(i) for i in head.epilogue.operands),
        }
        tiles = -(-head.rows // config["BLOCK_M"]) * -(-head.filters // config["BLOCK_N"])
        part = config["BLOCK_M"] * config["BLOCK_N"]
        return split_launch(mean_linear, arguments, constexprs, config, tiles=tiles, splits=splits, part=part)


def _configs(head: Head) -> list[Config]:
    images = triton.next_power_of_2(head.rows)
    channels, filters = (max(16, triton.next_power_of_2(n)) for n in (head.channels, head.filters))
    configs: list[Config] = []
    for block_m, block_n, block_k, warps in itertools.product(
        sorted({min(images, 16), min(images, 4)}),
        [b for b in (16, 32, 64, 128, 256) if b <= filters],
        [b for b in (16, 32, 64, 128, 256) if b <= channels and (b >= 64 or b == channels)],
        (4, 8),
    ):
        threads = 32 * warps
        block_r = max(1, min(triton.next_power_of_2(head.length), 16 * threads // (block_m * block_k)))
        registers = (max(16, block_m) * block_n + block_k * block_n * head.itemsize // 4) // threads
        registers += block_m * block_r * block_k * 2 // threads
        if registers > 140 or block_k * block_n * head.itemsize > 128 * 1024:
            continue
        steps = -(-head.channels // block_k)
        # An infinite weight would make infinities of both signs of slices whose means differ in sign.
        slices = (1, 2, 4, 8, 16, 32) if head.constant else (1,)
        for split_k, split_r in itertools.product((1, 2, 4, 8, 16, 32), slices):
            if split_k <= steps and (split_r == 1 or split_r * block_r * 2 <= head.length):
                configs.append(
                    {
                        "BLOCK_M": block_m,
                        "BLOCK_R": block_r,
                        "BLOCK_K": block_k,
                        "BLOCK_N": block_n,
                        "SPLIT_K": split_k,
                        "SPLIT_R": split_r,
                        "num_warps": warps,
                    }
                )
    return configs


def cost(config: Config, head: Head, target: Target) -> float:
    """Rough seconds: how long one program waits for its loads, or an SM for the bytes of all of its programs."""
    block_m, block_n, block_k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    splits = config["SPLIT_K"] * config["SPLIT_R"]
    programs = -(-head.rows // block_m) * -(-head.filters // block_n) * splits
    steps = math.ceil(head.channels / (block_k * config["SPLIT_K"]))
    length = -(-head.length // config["SPLIT_R"])
    turns = -(-length // config["BLOCK_R"])
    waves = math.ceil(programs * config["num_warps"] / (target.sms * 32))
    alone = _LATENCY * steps * (1 + turns / 16) * waves
    each = steps * block_k * head.itemsize * (min(block_m, head.rows) * length + block_n)
    streaming = -(-programs // target.sms) * each / _SM_BYTES
    joined = 1.0e-6 + splits * min(block_m, head.rows) * block_n * 4 / 60e9 if splits > 1 else 0.0
    return max(alone, streaming) + joined + 0.02e-6 * config["num_warps"]
