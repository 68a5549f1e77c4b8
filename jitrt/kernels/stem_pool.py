"""A network's first convolution and the max pool after it, without the image between them.

Formula: y[n, p, q, k] = f(max over window taps of (sum over (r, s, c) of x * w)), f everything elementwise around the
pool: a bias and an activation that never fall keep a maximum the maximum, so they run once, after it. Fires for at most
4 input channels, dense, and windows that overlap by at most one row and column. Saves the write and read of the larger
image: at batch 128 four times what the rest moves. Floor: (x + 2 * folded + y) bytes / bandwidth, and the arithmetic of
the convolution, with 5 to 25 % more at the edges of tiles.

A first launch folds the input: `STRIDE` rows and columns of pixels become one cell of adjacent numbers, and what a
filter sees of a row of cells is one run of memory. The convolution then moves by one cell.

A program owns a row of neighbouring columns of the convolution and walks down its rows. A row of cells is part of
`GROUPS` windows, one above the other: it is loaded once and multiplied by all the filter's rows of cells in one
product, whose blocks are the sums of the windows that it is part of. One of them is complete then, and each of the
others moves on to the next block. The maximum over the rows of a pool's window is kept in registers. Its columns are
dealt out so that a thread of the tensor cores holds neighbours; only at the edge of its share does it ask another one.
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
from jitrt.kernels.fold import fold_call
from jitrt.kernels.stem_pool_shape import StemPool, describe, refuse

_KEEP = 24
_FILTERS = 64  # of a program: rows of the wide tensor-core instruction


@triton.jit
def stem_pool(
    y,
    x,
    w,
    aux,
    SLOTS: tl.constexpr,  # windows of a row of all images, as next to each other
    ACROSS: tl.constexpr,  # windows of a row of an image, the first PHANTOMS of them no pixels
    PHANTOMS: tl.constexpr,
    FILTERS: tl.constexpr,
    OUT: tl.constexpr,  # pooled rows and columns
    SIZE: tl.constexpr,  # rows and columns of the convolution
    FIRST: tl.constexpr,  # those that x begins with
    WINDOW: tl.constexpr,  # of the pool, as the next
    STEP: tl.constexpr,
    GROUPS: tl.constexpr,  # rows of cells of a filter
    DEPTH: tl.constexpr,  # numbers of a row of cells that are multiplied, in two parts; the second may be none
    X_STRIDES: tl.constexpr,  # image, row, cell
    ROWS: tl.constexpr,  # of cells
    SEGMENT: tl.constexpr,  # pooled rows of one program
    BLOCK_N: tl.constexpr,  # filters
    BLOCK_M: tl.constexpr,  # columns of the convolution
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    segments: tl.constexpr = (OUT[0] + SEGMENT - 1) // SEGMENT
    shared: tl.constexpr = WINDOW[1] - STEP[1]
    block: tl.constexpr = BLOCK_M // STEP[1]  # windows, the first for what it shares with the second
    lowest: tl.constexpr = float("-inf")
    pid = tl.program_id(0)
    n_tile = pid % tiles_n
    first = pid // tiles_n % segments * SEGMENT
    base = pid // (tiles_n * segments) * (block - shared) - shared

    # Columns of the accumulator 2t and 2t + 1 of every eight lie in the t-th of four threads: it gets neighbours.
    lane = tl.arange(0, BLOCK_M)
    even = lane // 2 % 4 * (BLOCK_M // 4) + lane // 8 * 2
    if STEP[1] == 2:
        slot = tl.minimum(tl.maximum(base + even // 2, 0), SLOTS - 1)
        column = slot % ACROSS * (2 * X_STRIDES[2]) + (lane & 1) * X_STRIDES[2]
    else:
        slot = tl.minimum(tl.maximum(base + even + (lane & 1), 0), SLOTS - 1)
        column = slot % ACROSS * X_STRIDES[2]
    x_column = x + (slot // ACROSS * X_STRIDES[0] + column)
    rk = tl.arange(0, DEPTH[0])
    x_tile = x_column[None, :] + rk[:, None]
    # Packed: of each tile of filters, for each row of cells, all filters.
    rw = n_tile * (GROUPS * BLOCK_N) + tl.arange(0, GROUPS * BLOCK_N)
    w_tile = w + rw[:, None] * (DEPTH[0] + DEPTH[1])
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    w_0 = tl.load(w_tile + rk[None, :])
    if DEPTH[1] > 0:
        rest = tl.arange(0, DEPTH[1])
        x_rest = x_column[None, :] + (DEPTH[0] + rest)[:, None]
        w_1 = tl.load(w_tile + (DEPTH[0] + rest)[None, :])

    n = (n_tile * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    n_mask = n < FILTERS
    window = base + tl.arange(0, block)
    q = window % ACROSS - PHANTOMS
    line = window // ACROSS * OUT[0]
    m_mask = ((tl.arange(0, block) >= shared) & (window < SLOTS) & (q >= 0))[None, :]

    acc = tl.zeros((GROUPS * BLOCK_N, BLOCK_M), tl.float32)
    best = tl.full((BLOCK_N, BLOCK_M), lowest, tl.float32)
    for step in range(SEGMENT * STEP[0] + (WINDOW[0] - STEP[0]) + GROUPS - 1):
        row = tl.minimum(first * STEP[0] + step, ROWS - 1) * X_STRIDES[1]
        acc = tl.dot(w_0, tl.load(x_tile + row), acc, input_precision=PRECISION)
        if DEPTH[1] > 0:
            acc = tl.dot(w_1, tl.load(x_rest + row), acc, input_precision=PRECISION)
        made, acc = _advance(acc, GROUPS, BLOCK_N, BLOCK_M)
        done = step - (GROUPS - 1)  # rows of the convolution before this one
        at = first * STEP[0] + done + FIRST[0]
        inside = (done >= 0) & (at >= 0) & (at < SIZE[0])
        best = tl.where(inside, tl.maximum(best, made, tl.PropagateNan.ALL), best)
        ends = done - (WINDOW[0] - 1)
        if ends % STEP[0] == 0:
            p = first + ends // STEP[0]
            value = _across(best, slot % ACROSS, window % ACROSS, SIZE, FIRST, WINDOW, STEP, BLOCK_N, BLOCK_M)
            m = ((line + p) * OUT[1] + q)[None, :]
            mask = m_mask & (ends >= 0) & (p < OUT[0])
            STORE(y, APPLY(value, aux, m, n, mask, n_mask), m, n, mask, n_mask)
            best = tl.where(inside & (WINDOW[0] > STEP[0]), made, lowest)


@triton.jit
def _advance(acc, GROUPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    """(the last block of BLOCK_N rows, the blocks moved on by one with zeros in the first)."""
    zero = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if GROUPS == 1:
        return acc, zero
    elif GROUPS == 2:
        first, last = tl.split(tl.permute(tl.reshape(acc, (2, BLOCK_N, BLOCK_M)), (1, 2, 0)))
        moved = tl.permute(tl.join(zero, first), (2, 0, 1))
        return last, tl.reshape(moved, (2 * BLOCK_N, BLOCK_M))
    else:
        blocks = tl.permute(tl.reshape(acc, (2, 2, BLOCK_N, BLOCK_M)), (2, 3, 0, 1))
        even, odd = tl.split(blocks)
        acc_0, acc_2 = tl.split(even)
        acc_1, acc_3 = tl.split(odd)
        moved = tl.permute(tl.join(tl.join(zero, acc_1), tl.join(acc_0, acc_2)), (2, 3, 0, 1))
        return acc_3, tl.reshape(moved, (4 * BLOCK_N, BLOCK_M))


@triton.jit
def _across(
    best,
    slot,
    window,
    SIZE: tl.constexpr,
    FIRST: tl.constexpr,
    WINDOW: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """The maximum over each window's columns, (filters, windows). The first window of a program lacks a shared one."""
    lowest: tl.constexpr = float("-inf")
    each: tl.constexpr = BLOCK_M // 4  # columns of a thread
    column = slot * STEP[1] + FIRST[1]
    if STEP[1] == 2:
        column += tl.arange(0, BLOCK_M) & 1
    best = tl.where(((column >= 0) & (column < SIZE[1]))[None, :], best, lowest)
    columns = tl.permute(tl.reshape(best, (BLOCK_N, BLOCK_M // 8, 4, 2)), (0, 2, 1, 3))
    if STEP[1] == 2:
        left, right = tl.split(columns)
        value = tl.maximum(left, right, tl.PropagateNan.ALL)
    else:
        right = tl.reshape(columns, (BLOCK_N, 4, each))
        value = right
    value = tl.reshape(value, (BLOCK_N, BLOCK_M // STEP[1]))
    if WINDOW[1] > STEP[1]:
        before = tl.reshape(_before(right, BLOCK_N, each // STEP[1]), (BLOCK_N, BLOCK_M // STEP[1]))
        # A shared column left of the image, or the last of the one before.
        before = tl.where((window > 0)[None, :], before, lowest)
        value = tl.maximum(value, before, tl.PropagateNan.ALL)
    return value


@triton.jit
def _before(x, N: tl.constexpr, EACH: tl.constexpr):
    """The element before each in x: (N, 4, EACH), in the order of its last two dimensions; any for the first."""
    if EACH == 1:
        index = tl.maximum(tl.arange(0, 4)[None, :] - 1, 0) + tl.zeros((N, 4), tl.int32)
        return tl.reshape(tl.gather(tl.reshape(x, (N, 4)), index, 1), (N, 4, 1))
    else:
        first, second = tl.split(tl.reshape(x, (N, 4, EACH // 2, 2)))
        return tl.reshape(tl.join(_before(second, N, EACH // 2), first), (N, 4, EACH))


def pack_stem_pool(w: Array, shape: StemPool, cell: int, depth: int) -> Array:
    """(k, c, r, s) weights as (tiles of filters, rows of cells, 64 filters, depth), zeros where nothing is."""
    k, c, r, s = w.shape
    rows, columns = shape.conv.stride[1:]
    tiles = -(-k // _FILTERS)
    whole = np.zeros((tiles * _FILTERS, c, shape.groups * rows, shape.reach * columns), w.dtype)
    whole[:k, :, :r, :s] = w
    whole = whole.reshape(tiles, _FILTERS, c, shape.groups, rows, shape.reach, columns)
    cells = np.zeros((tiles, shape.groups, _FILTERS, shape.reach, cell), w.dtype)
    cells[..., : shape.pixels] = whole.transpose(0, 3, 1, 5, 4, 6, 2).reshape(*cells.shape[:-1], shape.pixels)
    packed = np.zeros((*cells.shape[:3], depth), w.dtype)
    packed[..., : shape.reach * cell] = cells.reshape(*cells.shape[:3], -1)
    return packed


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
        if shape.out[0] * shape.folded[0] * _width(shape, cells_of(shape)[-1]) * cells_of(shape)[-1] >= 2**31:
            return "the folded input is too large for 32-bit offsets"
        if not _configs(shape, problem.anchors[0].output.type.dtype.itemsize, target):
            return f"no tile of a stem with so large a filter fits into the registers and shared memory of {target}"
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return True  # zero weights for rows and columns beside the window

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape = describe(problem)
        itemsize = problem.anchors[0].output.type.dtype.itemsize
        configs = _configs(shape, itemsize, target)
        ranked = sorted(configs, key=lambda config: cost(config, shape, itemsize, target))
        # The model tells segments apart better than tiles and stages: a few of each of those.
        seen: Counter[tuple[Any, ...]] = Counter()
        kept = []
        for config in ranked:
            tile = tuple(value for name, value in config.items() if name != "SEGMENT")
            seen[tile] += 1
            if seen[tile] <= 4:
                kept.append(config)
        return kept[:_KEEP]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape = describe(problem)
        conv_node = problem.anchors[0]
        dtype = conv_node.output.type.dtype
        cell = config["CELL"]
        depth = depth_of(shape, cell, config["PARTS"])
        width = _width(shape, cell)
        folded = (shape.out[0], shape.folded[0], width)
        first = fold_call(shape.x_index, shape.conv, dtype, folded, cell, shape.before, target)
        constexprs: dict[str, Any] = {
            "SLOTS": shape.out[0] * shape.slots,
            "ACROSS": shape.slots,
            "PHANTOMS": shape.phantoms,
            "FILTERS": shape.conv.filters,
            "OUT": shape.out[2:],
            "SIZE": shape.conv.out[1:],
            "FIRST": shape.first,
            "WINDOW": shape.window,
            "STEP": shape.step,
            "GROUPS": shape.groups,
            "DEPTH": depth,
            "X_STRIDES": (folded[1] * width * cell, width * cell, cell),
            "ROWS": folded[1],
            "SEGMENT": config["SEGMENT"],
            "BLOCK_N": _FILTERS,
            "BLOCK_M": config["BLOCK_M"],
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

        def pack(weights: Array) -> Array:
            return pack_stem_pool(weights, shape, cell, sum(depth))

        size = math.prod(folded) * cell * dtype.itemsize
        return Lowered((first, second), size, pack={shape.w_index: pack})


def cells_of(shape: StemPool) -> tuple[int, ...]:
    """Numbers of a cell: as few as runs of eight bytes allow, or a power of two, which makes one product of two."""
    return tuple(sorted({-(-shape.pixels // 4) * 4, 1 << max(2, (shape.pixels - 1).bit_length())}))


def depth_of(shape: StemPool, cell: int, parts: int) -> tuple[int, int]:
    """The run of a filter's row of cells as two powers of two of at least 16, or as one and 0."""
    run = max(16, shape.reach * cell)
    first = 1 << (run.bit_length() - 1)
    if run == first or parts == 1:
        return first << (run > first), 0
    second = max(16, 1 << (run - first - 1).bit_length())
    return (2 * first, 0) if second >= first else (first, second)


def _width(shape: StemPool, cell: int) -> int:
    """Cells of a row: even, so that rows begin on 16 bytes."""
    width = shape.folded[1] + -(-depth_of(shape, cell, 1)[0] // cell)
    return width + width % 2


def _programs(config: Config, shape: StemPool) -> int:
    useful = config["BLOCK_M"] // shape.step[1] - shape.overlap[1]
    columns = -(-shape.out[0] * shape.slots // useful)
    return columns * -(-shape.out[2] // config["SEGMENT"]) * -(-shape.conv.filters // _FILTERS)


def _registers(config: Config, shape: StemPool) -> int:
    """Registers a thread: all accumulators, the best column, half a tile on its way out, and what else there is."""
    tile = config["BLOCK_M"] * _FILTERS // (32 * config["num_warps"])
    return tile * (shape.groups + 1) + tile // 2 + 46


def _shared(config: Config, shape: StemPool, itemsize: int) -> int:
    """Bytes: all weights, and a row of cells as often as the loop has stages."""
    rows = shape.groups * _FILTERS + config["num_stages"] * config["BLOCK_M"]
    return rows * sum(depth_of(shape, config["CELL"], config["PARTS"])) * itemsize


def _configs(shape: StemPool, itemsize: int, target: Target) -> list[Config]:
    configs: list[Config] = []
    rows = shape.out[2]
    for cell, parts in [(cell, parts) for cell in cells_of(shape) for parts in (1, 2)]:
        if parts == 2 and depth_of(shape, cell, 2)[1] == 0:
            continue
        for block_m, stages in itertools.product((16, 32, 64), (2, 3)):
            config = {"BLOCK_M": block_m, "CELL": cell, "PARTS": parts, "num_warps": 4, "num_stages": stages}
            if _registers(config, shape) > 255 or _shared(config, shape, itemsize) > 0.95 * target.shared:
                continue
            for segment in sorted({1, 2, 4, *(-(-rows // parts) for parts in (1, 2, 3, 4, 6, 8))}):
                if segment <= rows:
                    configs.append({**config, "SEGMENT": segment})
    return configs


def cost(config: Config, shape: StemPool, itemsize: int, target: Target) -> float:
    """Rough seconds of the second launch: rows one after the other, each bound by arithmetic or latency."""
    clock = 1.7e9
    depth = sum(depth_of(shape, config["CELL"], config["PARTS"]))
    steps = config["SEGMENT"] * shape.step[0] + shape.overlap[0] + shape.groups - 1
    flops = 2 * config["BLOCK_M"] * _FILTERS * shape.groups * depth
    rate = target.flops16 * 2 / itemsize / target.sms / clock
    arithmetic = flops / rate / min(0.85, 0.013 * config["BLOCK_M"] + 0.05)
    programs = _programs(config, shape)
    threads = 32 * config["num_warps"]
    registers = min(255, _registers(config, shape))
    resident = min(65536 // (registers * threads), target.shared // (_shared(config, shape, itemsize) + 4096))
    together = max(1, min(resident, -(-programs // target.sms)))
    latency = arithmetic + 350
    step = max(together * arithmetic, latency)
    waves = -(-programs // (target.sms * together))
    return waves * (steps * step + 2500) / clock
