"""A network's first convolution and the max pool after it, without the image between them.

Formula: y[n, p, q, k] = f(max over window taps of (sum over (r, s, c) of x * w)), f everything elementwise around the
pool: a bias and an activation that never fall keep a maximum the maximum, so they run once, after it. Fires for at most
4 input channels, dense, and windows that overlap by at most one row and column. Saves the write and read of the larger
image: at batch 128 four times what the rest moves. Floor: (x + 2 * folded + y) bytes / bandwidth, and the arithmetic of
the convolution on whole cells: 1.7 times the filter's own for a 7x7 by 2.

A first launch folds the input: `STRIDE` rows and columns of pixels become one cell of adjacent numbers, and what a
filter sees of a row of cells is one run of memory. The convolution then moves by one cell.

A program owns a row of neighbouring columns of the convolution and walks down its rows. A row of cells is part of
`GROUPS` windows, one above the other: it is loaded once and multiplied by all the filter's rows of cells in one
product, whose blocks are the sums of the windows that it is part of. One of them is complete then, and each of the
others moves on to the next block; after `GROUPS` rows, which the loop takes at a time, all are where they were, and
hardly a register moves. Of a complete row the maximum over each window's columns is taken at once, and the maximum over
a window's rows is kept in registers. Columns and filters are dealt out so that a thread of the tensor cores holds
neighbouring columns, and so that Triton's own layouts are those of the product: nothing passes through shared memory
but the result, and only at the edge of its share does a thread ask another one.

For ResNet-50's stem in float16 that is 216 instructions a row, the product's 16 among them, 235 registers and 102,400
bytes of shared memory: two programs share an SM of an H200. The kernel before this one moved its sums by instructions
and passed maxima through shared memory (370 a row, twelve barriers every second one): 172 us at batch 128, of which
the first launch, then element by element, took 37; convolution and pool apart take 299. 17.8 and 21.9 at batch 8.
"""

from __future__ import annotations

import math
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

_SEGMENTS = 4  # of a tile that are offered
_FILTERS = 64  # of a program: rows of the wide tensor-core instruction
_ROW, _PROGRAM = 500, 2500  # cycles of a row beside its product, and of a program beside its rows


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
    DEPTH: tl.constexpr,  # numbers of a row of cells that are multiplied
    X_STRIDES: tl.constexpr,  # image, row, cell
    SEGMENT: tl.constexpr,  # pooled rows of one program
    TURN: tl.constexpr,  # rows the loop takes at a time
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
    column += slot // ACROSS * X_STRIDES[0] + first * (STEP[0] * X_STRIDES[1])
    rk = tl.arange(0, DEPTH)
    x_tile = (x + column)[None, :] + rk[:, None]
    # Packed: of each tile of filters, for each row of cells, all filters.
    rw = n_tile * (GROUPS * BLOCK_N) + tl.arange(0, GROUPS * BLOCK_N)
    w_tile = tl.load(w + rw[:, None] * DEPTH + rk[None, :])
    if DEPENDENT:  # the weights are constants
        tl.extra.cuda.gdc_wait()

    n = (n_tile * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    n_mask = n < FILTERS
    window = base + tl.arange(0, block)
    q = window % ACROSS - PHANTOMS
    line = window // ACROSS * OUT[0]
    m_mask = ((tl.arange(0, block) >= shared) & (window < SLOTS) & (q >= 0))[None, :]

    acc = tl.zeros((GROUPS * BLOCK_N, BLOCK_M), tl.float32)
    best = tl.full((BLOCK_N, block), lowest, tl.float32)
    for begin in range(0, SEGMENT * STEP[0] + (WINDOW[0] - STEP[0]) + GROUPS - 1, TURN):
        for step in tl.static_range(TURN):
            x_row = tl.load(x_tile + (begin + step) * X_STRIDES[1])
            made, acc = _advance(tl.dot(w_tile, x_row, acc, input_precision=PRECISION), GROUPS, BLOCK_N, BLOCK_M)
            row = _across(made, window % ACROSS, SIZE, FIRST, WINDOW, STEP, BLOCK_N, BLOCK_M)
            done = begin + (step - (GROUPS - 1))  # rows of the convolution before this one
            at = first * STEP[0] + done + FIRST[0]
            inside = (done >= 0) & (at >= 0) & (at < SIZE[0])
            best = tl.where(inside, tl.maximum(best, row, tl.PropagateNan.ALL), best)
            if (step + 2 - GROUPS - WINDOW[0]) % STEP[0] == 0:  # a window ends here
                ends = done - (WINDOW[0] - 1)
                p = first + ends // STEP[0]
                m = ((line + p) * OUT[1] + q)[None, :]
                mask = m_mask & (ends >= 0) & (p < tl.minimum(first + SEGMENT, OUT[0]))
                STORE(y, APPLY(best, aux, m, n, mask, n_mask), m, n, mask, n_mask)
                best = tl.where(inside & (WINDOW[0] > STEP[0]), row, lowest)


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
    made,
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
    # Rows 8 apart lie in one thread, rows 16 apart in the next warp: in the order that follows, the layouts that Triton
    # gives what is joined below are the one that is here. With any other it passes through shared memory, twelve
    # barriers long.
    made = tl.permute(tl.reshape(made, (4, 2, BLOCK_N // 8, BLOCK_M)), (1, 0, 2, 3))
    columns = tl.permute(tl.reshape(made, (BLOCK_N, BLOCK_M // 8, 4, 2)), (0, 2, 1, 3))
    if STEP[1] == 2:
        left, right = tl.split(columns)
        value = tl.maximum(left, right, tl.PropagateNan.ALL)
    else:
        right = tl.reshape(columns, (BLOCK_N, 4, each))
        value = right
    # Columns beside the image; only the first window begins there. (With a choice made between the sums themselves,
    # ptxas often waits for each instruction of the product.)
    column = window * STEP[1] + FIRST[1]
    value = tl.reshape(value, (BLOCK_N, BLOCK_M // STEP[1]))
    if STEP[1] == 2:
        value = tl.where((column + 1 < SIZE[1])[None, :], value, tl.reshape(left, (BLOCK_N, BLOCK_M // 2)))
        if WINDOW[1] == STEP[1]:
            value = tl.where((column >= 0)[None, :], value, tl.reshape(right, (BLOCK_N, BLOCK_M // 2)))
        value = tl.where((column < SIZE[1])[None, :], value, lowest)
    else:
        value = tl.where(((column >= 0) & (column < SIZE[1]))[None, :], value, lowest)
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


def pack_stem_pool(w: Array, shape: StemPool) -> Array:
    """(k, c, r, s) weights as (tiles of filters, rows of cells, 64 filters, depth), zeros where nothing is. Filters are
    in the order that `_across` undoes: (4 warps, 2 rows of a thread, 8)."""
    k, c, r, s = w.shape
    rows, columns = shape.conv.stride[1:]
    tiles = -(-k // _FILTERS)
    whole = np.zeros((tiles * _FILTERS, c, shape.groups * rows, shape.reach * columns), w.dtype)
    whole[:k, :, :r, :s] = w
    whole = whole.reshape(tiles, 2, 4, 8, c, shape.groups, rows, shape.reach, columns)
    cells = np.zeros((tiles, shape.groups, 4, 2, 8, shape.reach, shape.cell), w.dtype)
    cells[..., : shape.pixels] = whole.transpose(0, 5, 2, 1, 3, 7, 6, 8, 4).reshape(*cells.shape[:-1], shape.pixels)
    packed = np.zeros((tiles, shape.groups, _FILTERS, shape.depth), w.dtype)
    packed[..., : shape.reach * shape.cell] = cells.reshape(*packed.shape[:-1], -1)
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
        if (shape.out[0] + 2) * shape.folded[1] * shape.folded[2] * shape.cell >= 2**31:
            return "the folded input is too large for 32-bit offsets"
        if not _tiles(shape, target):
            return f"no tile of a stem with so large a filter fits into the registers and shared memory of {target}"
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return True  # zero weights for rows and columns beside the window

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape = describe(problem)
        whole = _turn(shape) // shape.step[0]  # rows that end with a turn of the loop
        wanted = (1, 2, 4, *(-(-shape.out[2] // parts) for parts in (1, 2, 3, 4, 6, 8)))
        segments = sorted({-(-segment // whole) * whole for segment in wanted}, reverse=True)
        kept: list[Config] = []
        for tile in _tiles(shape, target):
            configs = [{**tile, "SEGMENT": segment} for segment in segments]
            kept += sorted(configs, key=lambda config: cost(config, shape, target))[:_SEGMENTS]
        return sorted(kept, key=lambda config: cost(config, shape, target))

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape = describe(problem)
        conv_node = problem.anchors[0]
        line = shape.folded[2] * shape.cell
        # The last program's last turn may go past the last image; what it makes of that is not stored.
        begin = (-(-shape.out[2] // config["SEGMENT"]) - 1) * config["SEGMENT"] * shape.step[0]
        beyond = max(0, begin + _rows(config, shape) - shape.folded[1])
        first = fold_call(shape, beyond, target)
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
            "DEPTH": shape.depth,
            "X_STRIDES": (shape.folded[1] * line, line, shape.cell),
            "SEGMENT": config["SEGMENT"],
            "TURN": _turn(shape),
            "BLOCK_N": _FILTERS,
            "BLOCK_M": config["BLOCK_M"],
            "PRECISION": "tf32" if conv_node.op.tf32 else "ieee",  # type: ignore[attr-defined]
            "DEPENDENT": target.arch >= 90,
            "APPLY": shape.epilogue.apply,
            "STORE": shape.epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x": Workspace(0, shape.dtype.value),
            "w": Operand(shape.w_index),
            "aux": tuple(Operand(i) for i in shape.epilogue.operands),
        }
        grid = (_programs(config, shape), 1, 1)
        second = KernelCall(stem_pool, arguments, constexprs, grid, config["num_warps"], config["num_stages"])
        size = (shape.out[0] * shape.folded[1] + beyond) * line * shape.dtype.itemsize
        return Lowered((first, second), size, pack={shape.w_index: lambda w: pack_stem_pool(w, shape)})


def _turn(shape: StemPool) -> int:
    return max(shape.groups, shape.step[0])


def _rows(config: Config, shape: StemPool) -> int:
    """Rows of cells that a program reads."""
    rows = config["SEGMENT"] * shape.step[0] + shape.overlap[0] + shape.groups - 1
    return -(-rows // _turn(shape)) * _turn(shape)


def _programs(config: Config, shape: StemPool) -> int:
    useful = config["BLOCK_M"] // shape.step[1] - shape.overlap[1]
    columns = -(-shape.out[0] * shape.slots // useful)
    return columns * -(-shape.out[2] // config["SEGMENT"]) * -(-shape.conv.filters // _FILTERS)


def _registers(config: Config, shape: StemPool) -> int:
    """Registers a thread: the accumulators, with those of a row that is complete while the next one is multiplied, its
    windows and the best of each so far, and what else there is."""
    tile = config["BLOCK_M"] * _FILTERS // (32 * config["num_warps"])
    return tile * (shape.groups + 1) + 2 * tile // shape.step[1] + 44


def _shared(config: Config, shape: StemPool) -> int:
    """Bytes: all weights, and the rows of cells of a turn as often as the loop has stages."""
    rows = shape.groups * _FILTERS + _turn(shape) * config["num_stages"] * config["BLOCK_M"]
    return rows * shape.depth * shape.dtype.itemsize


def _tiles(shape: StemPool, target: Target) -> list[Config]:
    """All but the segment of the configurations that fit. A third stage would leave the large tile alone on its SM."""
    tiles = [{"BLOCK_M": m, "num_warps": 4, "num_stages": stages} for m, stages in ((64, 2), (32, 3), (32, 2))]
    return [t for t in tiles if _registers(t, shape) <= 255 and _shared(t, shape) <= 0.95 * target.shared]


def cost(config: Config, shape: StemPool, target: Target) -> float:
    """Seconds of both launches: a program's rows come one after the other, and those of all programs on an SM are bound
    by the tensor cores, or by the shared memory that both operands are read from, 128 bytes a cycle."""
    clock = 1.7e9
    block_m, groups = config["BLOCK_M"], shape.groups * _FILTERS
    flops = 2 * groups * block_m * shape.depth
    rate = target.flops16 * 2 / shape.dtype.itemsize / target.sms / clock
    read = groups * shape.depth * (1 + block_m / 64) * shape.dtype.itemsize / 128
    row = max(flops / rate, read)
    each = -(-_programs(config, shape) // target.sms)
    threads = 32 * config["num_warps"]
    resident = min(65536 // (_registers(config, shape) * threads), target.shared // _shared(config, shape))
    rounds = -(-each // max(1, resident))
    walk = _rows(config, shape) * max(each * row, rounds * (row + _ROW)) + rounds * _PROGRAM
    moved = math.prod(shape.folded) * (shape.cell + shape.pixels) * shape.dtype.itemsize
    return walk / clock + moved / target.bandwidth
