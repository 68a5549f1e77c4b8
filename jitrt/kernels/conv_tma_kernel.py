"""The kernel of `conv_tma`, in Gluon: y = f(sum over taps of x w^T), two warps loading, one or two groups multiplying.

A tile is a box of x's pixels, BOX = (lines, images, columns) of the result in this order, and BLOCK_N filters. What is
outside x is read as zero by TMA, so that padding costs nothing. One warp loads x, another w (once, if it is RESIDENT),
each into a ring of its own; CONSUMERS groups of warps take turns on the tiles, so that one multiplies while the other
runs its epilogue.

GROUP rows of the filter share a block of x, which then has GROUP - 1 lines more: the block of filter row g begins g
lines further on. That is why lines are the outermost dimension of a box.

Barriers of a slot are told apart by one bit, the parity of its round, so a consumer may wait for a block only once the
block before it in that slot has come: `turn` makes two consumers wait in order.
"""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from jitrt.kernels.conv_tma_walk import block_of, blocks_of, place_of
from jitrt.kernels.gemm_tma_kernel import LACKING

if LACKING is None:
    from jitrt.kernels.gemm_tma_kernel import (
        copy_in,
        copy_out,
        fence_async_shared,
        mbarrier,
        specialize,
        tma,
        warpgroup_mma,
        warpgroup_mma_init,
        warpgroup_mma_wait,
    )


@gluon.jit
def _load_x(
    x, handed, xs, ys, full, free, handed_full, ys_free,
    UNITS: gl.constexpr, SLICES: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr, SIZE: gl.constexpr,
    OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr, PADDING: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, SKIP: gl.constexpr, CONSUMERS: gl.constexpr,
    STAGES: gl.constexpr, BUFFERS: gl.constexpr, HANDED: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Loads of x and of the residual, in the order the consumers need them."""
    LINES: gl.constexpr = BOX[0] + GROUP - 1
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    block = 0
    turn = 0
    for unit in range(gl.program_id(0), UNITS, gl.num_programs(0)):
        line, image, column, part = place_of(unit, SLICES, BOX, TILES, SKIP)
        blocks = blocks_of(line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
        for number in range(blocks):
            r, s, k = block_of(number, line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
            slot = block % STAGES
            mbarrier.wait(free.index(slot), (block // STAGES & 1) ^ 1)
            mbarrier.expect(full.index(slot), x.block_type.nbytes // BOX[0] * LINES)
            into = xs.index(slot * LINES)._reinterpret(x.dtype, x.block_type.shape, x.layout)
            place = [line * STRIDE[0] + r - PADDING[0], image, column * STRIDE[1] + s - PADDING[1], k * BLOCK_K]
            copy_in(x, place, full.index(slot), into)
            block += 1
        if HANDED:
            count = turn // CONSUMERS
            slot = turn % CONSUMERS * BUFFERS + count % BUFFERS
            mbarrier.wait(ys_free.index(slot), (count // BUFFERS & 1) ^ 1)
            mbarrier.expect(handed_full.index(slot), handed.block_type.nbytes)
            copy_in(handed, [line, image, column, part * BLOCK_N], handed_full.index(slot), ys.index(slot))
        turn += 1  # noqa: SIM113


@gluon.jit
def _load_w(
    w, ws, w_full, w_free,
    UNITS: gl.constexpr, SLICES: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr, SIZE: gl.constexpr,
    OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr, PADDING: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, SKIP: gl.constexpr, W_STAGES: gl.constexpr,
    RESIDENT: gl.constexpr, FIXED: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Loads of w: all of it, or in the order the consumers need it."""
    if DEPENDENT and not FIXED:
        tl.extra.cuda.gdc_wait()
    if RESIDENT:
        COUNT: gl.constexpr = FILTER[0] * FILTER[1] * STEPS
        mbarrier.expect(w_full.index(0), COUNT * w.block_type.nbytes)
        for number in range(COUNT // GROUP):
            r, s, k = block_of(number, 0, 0, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
            for g in gl.static_range(GROUP):
                into = ws.index(number * GROUP + g).reshape(w.block_type.shape)
                copy_in(w, [0, (r + g) * FILTER[1] + s, k * BLOCK_K], w_full.index(0), into)
    else:
        block = 0
        for unit in range(gl.program_id(0), UNITS, gl.num_programs(0)):
            line, _, column, part = place_of(unit, SLICES, BOX, TILES, SKIP)
            blocks = blocks_of(line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
            for number in range(blocks):
                r, s, k = block_of(number, line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
                for g in gl.static_range(GROUP):
                    slot = block % W_STAGES
                    mbarrier.wait(w_free.index(slot), (block // W_STAGES & 1) ^ 1)
                    mbarrier.expect(w_full.index(slot), w.block_type.nbytes)
                    into = ws.index(slot).reshape(w.block_type.shape)
                    copy_in(w, [part * BLOCK_N, (r + g) * FILTER[1] + s, k * BLOCK_K], w_full.index(slot), into)
                    block += 1


@gluon.jit
def _consume(
    xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y,
    UNITS: gl.constexpr, SLICES: gl.constexpr, FILTERS: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr,
    SIZE: gl.constexpr, OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr, PADDING: gl.constexpr,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, SKIP: gl.constexpr,
    CONSUMERS: gl.constexpr, STAGES: gl.constexpr, W_STAGES: gl.constexpr, BUFFERS: gl.constexpr,
    RESIDENT: gl.constexpr, HANDED: gl.constexpr, DEPENDENT: gl.constexpr, FETCH: gl.constexpr, FINISH: gl.constexpr,
    WHICH: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Every tile whose turn it is for consumer WHICH: multiply, finish, store."""
    BLOCK_M: gl.constexpr = BOX[0] * BOX[1] * BOX[2]
    LINES: gl.constexpr = BOX[0] + GROUP - 1
    mma: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, BLOCK_N, 16]
    )
    left_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, BLOCK_K], xs.dtype)
    columns = gl.expand_dims(gl.arange(0, BLOCK_N, gl.SliceLayout(0, mma)), 0)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if RESIDENT:
        mbarrier.wait(w_full.index(0), 0)
    block = 0
    first = gl.program_id(0)
    step = gl.num_programs(0)
    if WHICH == 1:
        line, image, column, part = place_of(first, SLICES, BOX, TILES, SKIP)
        block += blocks_of(line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
    count = 0
    for unit in range(first + WHICH * step, UNITS, step * CONSUMERS):
        line, image, column, part = place_of(unit, SLICES, BOX, TILES, SKIP)
        blocks = blocks_of(line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
        if CONSUMERS == 2:
            mbarrier.wait(turn.index(WHICH), (count & 1) ^ (1 - WHICH))
        k = part * BLOCK_N + columns
        held = FETCH(aux, 0, k, True, k < FILTERS)
        acc = warpgroup_mma_init(gl.zeros([BLOCK_M, BLOCK_N], gl.float32, mma))
        for number in range(blocks):
            slot = (block + number) % STAGES
            mbarrier.wait(full.index(slot), (block + number) // STAGES & 1)
            for g in gl.static_range(GROUP):
                if RESIDENT:
                    right = ws.index(number * GROUP + g)
                else:
                    w_block = (block + number) * GROUP + g
                    right = ws.index(w_block % W_STAGES)
                    mbarrier.wait(w_full.index(w_block % W_STAGES), w_block // W_STAGES & 1)
                left = xs.index(slot * LINES + g)._reinterpret(xs.dtype, [BLOCK_M, BLOCK_K], left_layout)
                acc = warpgroup_mma(left, right.permute((1, 0)), acc, is_async=True)
                # Once at most one product is under way, the blocks of the one before are free.
                acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
                if g == 0:
                    before = free.index((block + number + STAGES - 1) % STAGES)
                    mbarrier.arrive(before, count=1, pred=number > 0)
                if not RESIDENT:
                    before = w_free.index((w_block + W_STAGES - 1) % W_STAGES)
                    mbarrier.arrive(before, count=1, pred=(number > 0) | (g > 0))
        if CONSUMERS == 2:
            mbarrier.arrive(turn.index(1 - WHICH), count=1)
        value = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
        block += blocks
        mbarrier.arrive(free.index((block + STAGES - 1) % STAGES), count=1)
        if not RESIDENT:
            mbarrier.arrive(w_free.index((block * GROUP + W_STAGES - 1) % W_STAGES), count=1)
        slot = WHICH * BUFFERS + count % BUFFERS
        result = ys.index(slot).reshape([BLOCK_M, BLOCK_N])
        if HANDED:
            mbarrier.wait(handed_full.index(slot), count // BUFFERS & 1)
            value = FINISH(value, result.load(mma).to(gl.float32), held)
        else:
            tma.store_wait(BUFFERS - 1)
            value = FINISH(value, held)
        result.store(value.to(y.dtype))
        fence_async_shared()
        copy_out(y, [line, image, column, part * BLOCK_N], ys.index(slot))
        if HANDED:
            tma.store_wait(1)
            before = ys_free.index(WHICH * BUFFERS + (count + BUFFERS - 1) % BUFFERS)
            mbarrier.arrive(before, count=1, pred=count > 0)
        count += 1  # noqa: SIM113
        if CONSUMERS == 2:
            # The other consumer's tile in between; past the end it does not matter.
            line, image, column, part = place_of(unit + step, SLICES, BOX, TILES, SKIP)
            block += blocks_of(line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
    tma.store_wait(0)


@gluon.jit
def conv_tma(
    x, w, handed, y, aux,
    UNITS: gl.constexpr,  # tiles of pixels times slices
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
    STEPS: gl.constexpr,  # blocks of the channels
    GROUP: gl.constexpr,  # rows of the filter that share a block of x: 1 or all
    SKIP: gl.constexpr,  # taps of a tile that meet nothing but padding
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
    LINES: gl.constexpr = BOX[0] + GROUP - 1
    line: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BOX[1] * BOX[2], BLOCK_K], x.dtype)
    right: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, BLOCK_K], w.dtype)
    HELD: gl.constexpr = FILTER[0] * FILTER[1] * STEPS if RESIDENT else W_STAGES
    xs = gl.allocate_shared_memory(x.dtype, [STAGES * LINES, BOX[1] * BOX[2], BLOCK_K], line)
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
                (_consume, (xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y, UNITS, SLICES,
                            FILTERS, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, BLOCK_N, BLOCK_K, STEPS, GROUP,
                            SKIP, CONSUMERS, STAGES, W_STAGES, BUFFERS, RESIDENT, HANDED, DEPENDENT, FETCH, FINISH, 0,
                            WARPS)),
                (_load_x, (x, handed, xs, ys, full, free, handed_full, ys_free, UNITS, SLICES, BOX, TILES, SIZE, OUT,
                           FILTER, STRIDE, PADDING, BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, CONSUMERS, STAGES, BUFFERS,
                           HANDED, DEPENDENT)),
                (_load_w, (w, ws, w_full, w_free, UNITS, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING,
                           BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, W_STAGES, RESIDENT, FIXED, DEPENDENT)),
            ],
            [1, 1],
            [24, 24],
        )  # fmt: skip
    else:
        specialize(
            [
                (_consume, (xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y, UNITS, SLICES,
                            FILTERS, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, BLOCK_N, BLOCK_K, STEPS, GROUP,
                            SKIP, CONSUMERS, STAGES, W_STAGES, BUFFERS, RESIDENT, HANDED, DEPENDENT, FETCH, FINISH, 0,
                            WARPS)),
                (_consume, (xs, ws, ys, full, free, w_full, w_free, handed_full, ys_free, turn, aux, y, UNITS, SLICES,
                            FILTERS, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, BLOCK_N, BLOCK_K, STEPS, GROUP,
                            SKIP, CONSUMERS, STAGES, W_STAGES, BUFFERS, RESIDENT, HANDED, DEPENDENT, FETCH, FINISH, 1,
                            WARPS)),
                (_load_x, (x, handed, xs, ys, full, free, handed_full, ys_free, UNITS, SLICES, BOX, TILES, SIZE, OUT,
                           FILTER, STRIDE, PADDING, BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, CONSUMERS, STAGES, BUFFERS,
                           HANDED, DEPENDENT)),
                (_load_w, (w, ws, w_full, w_free, UNITS, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING,
                           BLOCK_N, BLOCK_K, STEPS, GROUP, SKIP, W_STAGES, RESIDENT, FIXED, DEPENDENT)),
            ],
            [4, 1, 1],
            [232, 24, 24],
        )  # fmt: skip
