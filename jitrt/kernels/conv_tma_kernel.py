"""The kernel of `conv_tma`, in Gluon: y = f(sum over taps of x w^T), two warps loading, one or two groups multiplying.

A tile is a box of x's pixels, BOX = (lines, images, columns) of the result in this order, and BLOCK_N filters. What is
outside x is read as zero by TMA, so that padding costs nothing. One warp loads x, another w (once, if it is RESIDENT),
each into a ring of its own; CONSUMERS groups of warps take turns on the tiles, so that one multiplies while the other
runs its epilogue.

SPLIT units share the blocks of a tile: conv_tma_sum. All of them load the residual, as any may be the last to come,
which adds the sums and stores.

GROUP rows of the filter share a block of x, which then has GROUP - 1 lines more: the block of filter row g begins g
lines further on. That is why lines are the outermost dimension of a box.

Barriers of a slot are told apart by one bit, the parity of its round, so a consumer may wait for a block only once the
block before it in that slot has come: `turn` makes two consumers wait in order.
"""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from jitrt.kernels.conv_tma_load import load_w, load_x
from jitrt.kernels.conv_tma_multiply import sum_over_taps
from jitrt.kernels.conv_tma_sum import hand_in, sum_of
from jitrt.kernels.conv_tma_walk import unit_of
from jitrt.kernels.gemm_tma_kernel import LACKING
from jitrt.kernels.x_ring import ring_of

if LACKING is None:
    from jitrt.kernels.gemm_tma_kernel import (
        copy_out,
        fence_async_shared,
        mbarrier,
        specialize,
        tma,
    )


@gluon.jit
def _store(
    value, held, y, into, line, image, column, k,
    BUFFERS: gl.constexpr, HANDED: gl.constexpr, FINISH: gl.constexpr,
):  # fmt: skip
    """Finish a tile and start storing it, over the tile that was handed to it."""
    result = into.reshape(value.shape)
    if HANDED:
        value = FINISH(value, result.load(value.type.layout).to(gl.float32), held)
    else:
        tma.store_wait(BUFFERS - 1)
        value = FINISH(value, held)
    result.store(value.to(y.dtype))
    fence_async_shared()
    copy_out(y, [line, image, column, k], into)


@gluon.jit
def _consume(
    xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y, partials, counters,
    UNITS: gl.constexpr, SLICES: gl.constexpr, FILTERS: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr,
    SIZE: gl.constexpr, OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr, PADDING: gl.constexpr,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, LAST: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr,
    SKIP: gl.constexpr, SPLIT: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, W_STAGES: gl.constexpr,
    BUFFERS: gl.constexpr, RESIDENT: gl.constexpr, HANDED: gl.constexpr, DEPENDENT: gl.constexpr,
    FETCH: gl.constexpr, FINISH: gl.constexpr, WHICH: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Every tile whose turn it is for consumer WHICH: multiply, finish, store."""
    mma: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, BLOCK_N, 16]
    )
    columns = gl.expand_dims(gl.arange(0, BLOCK_N, gl.SliceLayout(0, mma)), 0)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if RESIDENT:
        mbarrier.wait(w_full.index(0), 0)
    block = 0
    step = gl.num_programs(0)
    if WHICH == 1:
        line, image, column, part, first, end = unit_of(
            gl.program_id(0), SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP, SPLIT
        )
        block += end - first
    count = 0
    for unit in range(gl.program_id(0) + WHICH * step, UNITS, step * CONSUMERS):
        line, image, column, part, first, end = unit_of(
            unit, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP, SPLIT
        )
        blocks = end - first
        if CONSUMERS == 2:
            mbarrier.wait(turn.index(WHICH), (count & 1) ^ (1 - WHICH))
        k = part * BLOCK_N + columns
        held = FETCH(aux, 0, k, True, k < FILTERS)
        value = sum_over_taps(
            xs, ws, full, free, w_full, w_free, turn, block, blocks,
            BOX, BLOCK_N, BLOCK_K, LAST, STEPS, GROUP, CONSUMERS, STAGES, W_STAGES, RESIDENT, WHICH, WARPS,
        )  # fmt: skip
        block += blocks
        slot = WHICH * BUFFERS + count % BUFFERS
        if HANDED:
            mbarrier.wait(handed_full.index(slot), count // BUFFERS & 1)
        if SPLIT == 1:
            _store(value, held, y, ys.index(slot), line, image, column, part * BLOCK_N, BUFFERS, HANDED, FINISH)
            if HANDED:
                tma.store_wait(1)
                before = ys_free.index(WHICH * BUFFERS + (count + BUFFERS - 1) % BUFFERS)
                mbarrier.arrive(before, count=1, pred=count > 0)
        else:
            if hand_in(value, partials, counters, unit, SPLIT, WARPS):
                total = sum_of(value, partials, counters, unit, SPLIT, WARPS)
                _store(total, held, y, ys.index(slot), line, image, column, part * BLOCK_N, BUFFERS, HANDED, FINISH)
            tma.store_wait(0)  # not all units store, so counting them would say nothing
            if HANDED:
                mbarrier.arrive(ys_free.index(slot), count=1)
        count += 1  # noqa: SIM113
        if CONSUMERS == 2:
            # The other consumer's tile in between; past the end it does not matter.
            line, image, column, part, first, end = unit_of(
                unit + step, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP, SPLIT
            )
            block += end - first
    if SPLIT == 1:
        tma.store_wait(0)


@gluon.jit
def conv_tma(
    x, w, handed, y, aux,
    partials, counters,  # where SPLIT > 1: see conv_tma_sum
    UNITS: gl.constexpr,  # tiles of pixels times slices times SPLIT
    SLICES: gl.constexpr,  # of BLOCK_N filters
    FILTERS: gl.constexpr,
    BOX: gl.constexpr,  # (lines, images, columns) of a tile
    TILES: gl.constexpr,  # along these
    SIZE: gl.constexpr,  # (height, width) of x
    OUT: gl.constexpr,  # the same of y
    FILTER: gl.constexpr,
    STRIDE: gl.constexpr,
    PADDING: gl.constexpr,  # before
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    LAST: gl.constexpr,  # channels multiplied of the last block
    STEPS: gl.constexpr,  # blocks of the channels
    GROUP: gl.constexpr,  # rows of the filter that share a block of x: 1 or all
    SKIP: gl.constexpr,  # taps of a tile that meet nothing but padding
    SPLIT: gl.constexpr,  # units that share the blocks of a tile and slice, of which there are as many or more
    CONSUMERS: gl.constexpr,  # 1 or 2
    STAGES: gl.constexpr,  # blocks of x
    W_STAGES: gl.constexpr,  # blocks of w
    BUFFERS: gl.constexpr,  # tiles of results of a consumer
    RESIDENT: gl.constexpr,  # w stays; there is one slice
    HANDED: gl.constexpr,  # FINISH takes a tile of `handed`
    FIXED: gl.constexpr,  # w is a constant
    WARPS: gl.constexpr,  # of a consumer
    DEPENDENT: gl.constexpr,  # may start before the launch it depends on ends
    FETCH: gl.constexpr,
    FINISH: gl.constexpr,
):  # fmt: skip
    right: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, BLOCK_K], w.dtype)
    HELD: gl.constexpr = FILTER[0] * FILTER[1] * STEPS if RESIDENT else W_STAGES
    xs = ring_of(x, STAGES, BOX, GROUP)
    ws = gl.allocate_shared_memory(w.dtype, [HELD, BLOCK_N, BLOCK_K], right)
    ys = gl.allocate_shared_memory(y.dtype, [CONSUMERS * BUFFERS] + y.block_type.shape, y.layout)  # noqa: RUF005
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    w_full = gl.allocate_shared_memory(gl.int64, [W_STAGES, 1], mbarrier.MBarrierLayout())
    w_free = gl.allocate_shared_memory(gl.int64, [W_STAGES, 1], mbarrier.MBarrierLayout())
    handed_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS * BUFFERS, 1], mbarrier.MBarrierLayout())
    ys_free = gl.allocate_shared_memory(gl.int64, [CONSUMERS * BUFFERS, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(STAGES):
        mbarrier.init(full.index(slot), count=1)
        mbarrier.init(free.index(slot), count=1)
    for slot in gl.static_range(W_STAGES):
        mbarrier.init(w_full.index(slot), count=1)
        mbarrier.init(w_free.index(slot), count=1)
    for slot in gl.static_range(CONSUMERS * BUFFERS):
        mbarrier.init(handed_full.index(slot), count=1)
        mbarrier.init(ys_free.index(slot), count=1)
    mbarrier.init(turn.index(0), count=1)
    mbarrier.init(turn.index(1), count=1)
    fence_async_shared()  # TMA, too, sees them as they are now
    # The tuples stand where they are used: an assignment would make tensors of constexprs.
    if CONSUMERS == 1:
        specialize(
            [
                (_consume, (xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y, partials,
                            counters, UNITS, SLICES, FILTERS, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, BLOCK_N,
                            BLOCK_K, LAST, STEPS, GROUP, SKIP, SPLIT, CONSUMERS, STAGES, W_STAGES, BUFFERS, RESIDENT,
                            HANDED, DEPENDENT, FETCH, FINISH, 0, WARPS)),
                (load_x, (x, handed, xs, ys, full, free, handed_full, ys_free, UNITS, SLICES, BOX, TILES, SIZE, OUT,
                          FILTER, STRIDE, PADDING, BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, SPLIT, CONSUMERS, STAGES,
                          BUFFERS, HANDED, DEPENDENT)),
                (load_w, (w, ws, w_full, w_free, UNITS, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING,
                          BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, SPLIT, W_STAGES, RESIDENT, FIXED, DEPENDENT)),
            ],
            [1, 1],
            [24, 24],
        )  # fmt: skip
    else:
        specialize(
            [
                (_consume, (xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y, partials,
                            counters, UNITS, SLICES, FILTERS, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, BLOCK_N,
                            BLOCK_K, LAST, STEPS, GROUP, SKIP, SPLIT, CONSUMERS, STAGES, W_STAGES, BUFFERS, RESIDENT,
                            HANDED, DEPENDENT, FETCH, FINISH, 0, WARPS)),
                (_consume, (xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y, partials,
                            counters, UNITS, SLICES, FILTERS, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, BLOCK_N,
                            BLOCK_K, LAST, STEPS, GROUP, SKIP, SPLIT, CONSUMERS, STAGES, W_STAGES, BUFFERS, RESIDENT,
                            HANDED, DEPENDENT, FETCH, FINISH, 1, WARPS)),
                (load_x, (x, handed, xs, ys, full, free, handed_full, ys_free, UNITS, SLICES, BOX, TILES, SIZE, OUT,
                          FILTER, STRIDE, PADDING, BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, SPLIT, CONSUMERS, STAGES,
                          BUFFERS, HANDED, DEPENDENT)),
                (load_w, (w, ws, w_full, w_free, UNITS, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING,
                          BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, SPLIT, W_STAGES, RESIDENT, FIXED, DEPENDENT)),
            ],
            [4, 1, 1],
            [232, 24, 24],
        )  # fmt: skip
