"""A network's first convolution and the max pool after it, without the image between them.

Formula: y[n, p, q, k] = f(max over window taps of (sum over (r, s, c) of x * w)), f everything elementwise around the
pool: a bias and an activation that never fall keep a maximum the maximum, so they run once, after it. Fires for at most
4 input channels, dense, and windows of at most 3 rows that overlap by at most one column. Saves the write and read of
the larger image: at batch 128 four times what the rest moves. Floor: (x + y) bytes / bandwidth, and the arithmetic of
the convolution, with 16 to 20 % more at the edges of tiles.

As in `stem`, a first launch writes the input as padded NHWC with four channels, so that a window's row of taps is one
aligned run; rows are taken `STRIDE[0]` at a time, so that the reductions of neighbouring output rows share their tiles.
A program owns BLOCK_M lanes, a lane being a row of pooled pixels of an image, and walks along them. At every column of
the convolution it makes the two or three rows of each lane's windows out of the same tiles of x, in as many
accumulators, and keeps their maximum: a column that two windows share is carried in registers to the second, and no
two lanes ever exchange anything. Only the row that two lanes' windows share is computed by both.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton
import triton.language as tl

from jitrt.codegen.target import Target
from jitrt.graph.graph import Graph
from jitrt.graph.op import Array
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, Workspace
from jitrt.kernels.stem import pad_call
from jitrt.kernels.stem_pool_shape import CHANNELS, StemPool, describe, refuse

_KEEP = 24


@triton.jit
def stem_pool(
    y,
    x,
    w,
    aux,
    LANES: tl.constexpr,
    FILTERS: tl.constexpr,
    OUT: tl.constexpr,  # pooled rows and columns
    SIZE: tl.constexpr,  # rows and columns of the convolution
    WINDOW: tl.constexpr,  # of the pool, as the next two
    STEP: tl.constexpr,
    PADDING: tl.constexpr,
    STRIDE: tl.constexpr,  # of the convolution
    GROUPS: tl.constexpr,  # of STRIDE[0] filter rows
    RUN: tl.constexpr,  # elements of a filter row
    X_STRIDES: tl.constexpr,  # image, row, column
    SEGMENT: tl.constexpr,  # pooled columns of one program
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    block_k: tl.constexpr = STRIDE[0] * RUN
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    segments: tl.constexpr = (OUT[1] + SEGMENT - 1) // SEGMENT
    jump: tl.constexpr = STRIDE[1] * X_STRIDES[2]  # between columns of the convolution
    carried: tl.constexpr = WINDOW[1] > STEP[1]
    pid = tl.program_id(0)
    lane = (pid // (tiles_n * segments)) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = (pid // tiles_n % segments) * SEGMENT
    rn = (pid % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    rk = tl.arange(0, block_k)
    m_mask = (lane < LANES)[:, None]
    n = rn[None, :]
    n_mask = n < FILTERS

    inside = tl.minimum(lane, LANES - 1)
    row = inside % OUT[0]
    top = (row * STEP[0] - PADDING[0])[:, None]  # row of the convolution that the window begins at
    x_lane = inside // OUT[0] * X_STRIDES[0] + row * (STEP[0] * STRIDE[0] * X_STRIDES[1])
    x_tile = x + (x_lane[:, None] + (rk // RUN * X_STRIDES[1] + rk % RUN)[None, :])
    w_tile = w + (n * (GROUPS * block_k) + rk[:, None])
    # Weights are loaded before the loop, under names, to stay in shared memory while it runs.
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    w_0 = tl.load(w_tile, mask=n_mask, other=0.0)
    w_1 = tl.load(w_tile + block_k, mask=n_mask, other=0.0) if GROUPS > 1 else w_0
    w_2 = tl.load(w_tile + 2 * block_k, mask=n_mask, other=0.0) if GROUPS > 2 else w_0
    w_3 = tl.load(w_tile + 3 * block_k, mask=n_mask, other=0.0) if GROUPS > 3 else w_0

    lowest: tl.constexpr = float("-inf")
    best = tl.full((BLOCK_M, BLOCK_N), lowest, tl.float32)
    end = (tl.minimum(first + SEGMENT, OUT[1]) - 1) * STEP[1] + WINDOW[1]
    for column in range(first * STEP[1], end):
        made = _column(
            x_tile + column * jump,
            column - PADDING[1],
            top,
            (w_0, w_1, w_2, w_3),
            SIZE,
            WINDOW[0],
            GROUPS,
            STRIDE[0] * X_STRIDES[1],
            BLOCK_M,
            BLOCK_N,
            PRECISION,
        )
        best = tl.maximum(best, made, tl.PropagateNan.ALL)
        # A window may end here. No branch: the loads of a loop without one can run ahead of it.
        q = (column - (WINDOW[1] - 1)) // STEP[1]
        ends = (column - (WINDOW[1] - 1) == q * STEP[1]) & (q >= first)
        m = (lane * OUT[1] + q)[:, None]
        STORE(y, APPLY(best, aux, m, n, m_mask & ends, n_mask), m, n, m_mask & ends, n_mask)
        best = tl.where(ends, made if carried else lowest, best)


@triton.jit
def _column(
    x_tile,
    column,
    top,
    weights,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,  # elements from one group of rows to the next
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The maximum of the convolution over the rows of each lane's window in one column; -inf outside its image."""
    acc_0 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc_1 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc_2 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for group in tl.static_range(GROUPS + ROWS - 1):
        a = tl.load(x_tile + group * GROUP)
        if group < GROUPS:
            acc_0 = tl.dot(a, weights[group], acc_0, input_precision=PRECISION)
        if ROWS > 1 and group >= 1 and group - 1 < GROUPS:
            acc_1 = tl.dot(a, weights[group - 1], acc_1, input_precision=PRECISION)
        if ROWS > 2 and group >= 2:
            acc_2 = tl.dot(a, weights[group - 2], acc_2, input_precision=PRECISION)
    lowest: tl.constexpr = float("-inf")
    inside = (column >= 0) & (column < SIZE[1])
    best = tl.where(inside & (top >= 0) & (top < SIZE[0]), acc_0, lowest)
    if ROWS > 1:
        acc_1 = tl.where(inside & (top >= -1) & (top < SIZE[0] - 1), acc_1, lowest)
        best = tl.maximum(best, acc_1, tl.PropagateNan.ALL)
    if ROWS > 2:
        acc_2 = tl.where(inside & (top >= -2) & (top < SIZE[0] - 2), acc_2, lowest)
        best = tl.maximum(best, acc_2, tl.PropagateNan.ALL)
    return best


def pack_stem_pool(w: Array, rows: int, taps: int) -> Array:
    """(k, c, r, s) weights as (k, rows * taps * 4), zeros for the channels, rows and taps there are not."""
    k, c, r, s = w.shape
    packed = np.zeros((k, rows, taps, CHANNELS), w.dtype)
    packed[:, :r, :s, :c] = w.transpose(0, 2, 3, 1)
    return packed.reshape(k, -1)


class StemPoolTemplate(Template):
    """Convolutions of at most four channels and the max pool after them."""

    name = "stem_pool"
    priority = 2  # so that its reason is the one given
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        return refuse(body)

    def supports(self, problem: Problem, target: Target) -> str | None:
        shape = describe(problem)
        if not problem.weights[shape.w_index]:
            return "a stem needs constant weights, which are packed when the plan is built"
        if math.prod(shape.padded) * CHANNELS >= 2**31:
            return "the padded input is too large for 32-bit offsets"
        if not _configs(shape, problem.anchors[0].output.type.dtype.itemsize, target):
            return f"no tile of a stem with so large a filter fits into the registers and shared memory of {target}"
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return True  # zero weights for rows and columns beside the window

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape = describe(problem)
        conv_node = problem.anchors[0]
        dtype = conv_node.output.type.dtype
        configs = _configs(shape, dtype.itemsize, target)
        ranked = sorted(configs, key=lambda config: cost(config, shape, dtype.itemsize, target))
        # The model tells segments apart better than tiles, warps and stages: two of each of those.
        seen: Counter[tuple[Any, ...]] = Counter()
        kept = []
        for config in ranked:
            tile = tuple(value for name, value in config.items() if name != "SEGMENT")
            seen[tile] += 1
            if seen[tile] <= 2:
                kept.append(config)
        return kept[:_KEEP]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape = describe(problem)
        conv_node = problem.anchors[0]
        dtype = conv_node.output.type.dtype
        first = pad_call(shape.x_index, shape.conv, dtype, shape.padded, shape.before, target)
        line = shape.padded[3] * CHANNELS
        constexprs: dict[str, Any] = {
            "LANES": shape.lanes,
            "FILTERS": shape.conv.filters,
            "OUT": shape.out[2:],
            "SIZE": shape.conv.out[1:],
            "WINDOW": shape.window,
            "STEP": shape.step,
            "PADDING": shape.padding,
            "STRIDE": shape.conv.stride[1:],
            "GROUPS": shape.groups,
            "RUN": shape.taps * CHANNELS,
            "X_STRIDES": (shape.padded[2] * line, line, CHANNELS),
            "SEGMENT": config["SEGMENT"],
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_N": config["BLOCK_N"],
            "PRECISION": "tf32" if conv_node.op.tf32 else "ieee",  # type: ignore[attr-defined]
            "DEPENDENT": target.arch >= 90,
            "APPLY": shape.epilogue.apply,
            "STORE": shape.epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x": Workspace(0, dtype.value),
            "w": Operand(shape.w_index),
            "aux": tuple(Operand(i) for i in shape.epilogue.operands),
        }
        grid = (_programs(config, shape), 1, 1)
        second = KernelCall(stem_pool, arguments, constexprs, grid, config["num_warps"], config["num_stages"])
        rows = shape.groups * shape.conv.stride[1]

        def pack(weights: Array) -> Array:
            return pack_stem_pool(weights, rows, shape.taps)

        size = math.prod(shape.padded) * CHANNELS * dtype.itemsize
        return Lowered((first, second), size, pack={shape.w_index: pack})


def _programs(config: Config, shape: StemPool) -> int:
    lanes, columns = -(-shape.lanes // config["BLOCK_M"]), -(-shape.out[3] // config["SEGMENT"])
    return lanes * columns * -(-shape.conv.filters // config["BLOCK_N"])


def _registers(config: Config, shape: StemPool) -> int:
    """Registers a thread: the accumulators, the carried and the best column, and a tile of x on its way."""
    tile = config["BLOCK_M"] * config["BLOCK_N"] // (32 * config["num_warps"])
    return tile * (shape.window[0] + 2) + config["BLOCK_M"] * shape.depth // (32 * config["num_warps"]) + 40


def _shared(config: Config, shape: StemPool, itemsize: int) -> int:
    """Bytes: all weights of the tile, and a column's tiles of x, each as often as the loop has stages."""
    stages = config["num_stages"]
    tiles = (shape.groups + shape.window[0] - 1) * stages if stages > 1 else 1
    return (shape.groups * config["BLOCK_N"] + tiles * config["BLOCK_M"]) * shape.depth * itemsize


def _configs(shape: StemPool, itemsize: int, target: Target) -> list[Config]:
    configs: list[Config] = []
    columns = shape.out[3]
    choices = itertools.product((16, 32, 64, 128), (16, 32, 64), (2, 4, 8), (1, 2))
    for block_m, block_n, warps, stages in choices:
        config = {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps, "num_stages": stages}
        tile = block_m * block_n // (32 * warps)
        if block_n >= max(32, 2 * shape.conv.filters) or block_m >= max(32, 2 * shape.lanes):
            continue
        if tile < 4 or tile > 32 or _registers(config, shape) > 250:
            continue
        if block_m >= 64 and warps != (4 if block_m == 64 else 8):
            continue  # the wide tensor-core instruction takes 64 rows for each group of four warps
        if _shared(config, shape, itemsize) > 0.95 * target.shared:
            continue
        for segment in sorted({1, 2, 4, *(-(-columns // parts) for parts in (1, 2, 4, 8, 16))}):
            if segment <= columns:
                configs.append({**config, "SEGMENT": segment})
    return configs


def cost(config: Config, shape: StemPool, itemsize: int, target: Target) -> float:
    """Rough seconds of the second launch: columns one after the other, each bound by arithmetic, loads or latency."""
    block_m, block_n, depth = config["BLOCK_M"], config["BLOCK_N"], shape.depth
    clock = 1.7e9
    groups = shape.groups + shape.window[0] - 1
    columns = config["SEGMENT"] * shape.step[1] + (shape.window[1] > shape.step[1])
    rate = target.flops16 / target.sms / clock * (0.6 if block_m >= 64 and config["num_warps"] >= 4 else 0.4)
    arithmetic = 2 * block_m * block_n * depth * shape.groups * shape.window[0] / rate
    loads = groups * block_m * depth * itemsize / (64 if config["num_stages"] == 1 else 42)
    programs = _programs(config, shape)
    threads = 32 * config["num_warps"]
    resident = min(
        65536 // (min(255, _registers(config, shape)) * threads),
        2048 // threads,
        target.shared // (_shared(config, shape, itemsize) + 1024),
    )
    together = max(1, min(resident, -(-programs // target.sms)))
    waves = -(-programs // (target.sms * together))
    # What a program waits for: unstaged, for every tile of x in turn.
    latency = groups * 350 if config["num_stages"] == 1 else 300 + groups * 60
    column = max(together * arithmetic, together * loads, latency)
    return waves * (columns * column + 2500) / clock
