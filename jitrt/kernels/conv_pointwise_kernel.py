"""The kernel of `conv_pointwise`, in Gluon: y = f(g(sum over taps of x v^T) w^T), three warps loading, one or two
groups multiplying.

A tile is a box of pixels, BOX = (lines, images, columns) of the result in this order, with all channels between and all
filters. One warp loads x, another v, a third w and the residual, each into a ring of its own (v and w once, if they are
resident). CONSUMERS groups of warps take turns on the tiles: one multiplies over the taps while the other, which keeps
what lies between in registers, multiplies it by PRODUCTS blocks of BLOCK_N filters.

GROUP rows of the filter share a block of x, which then has GROUP - 1 lines more: the block of filter row g begins g
lines further on. That is why lines are the outermost dimension of a box.

Barriers of a slot are told apart by one bit, the parity of its round, so a consumer may wait for a block only once the
block before it in that slot has come: `turn` (of x and v) and `w_turn` make two consumers wait in order.
"""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from jitrt.kernels.conv_pointwise_load import load_v, load_w, load_x
from jitrt.kernels.conv_tma_multiply import sum_over_taps
from jitrt.kernels.conv_tma_walk import place_of
from jitrt.kernels.gemm_tma_kernel import LACKING
from jitrt.kernels.x_ring import ring_of

if LACKING is None:
    from jitrt.kernels.gemm_tma_kernel import (
        copy_out,
        fence_async_shared,
        mbarrier,
        specialize,
        tma,
        warpgroup_mma,
        warpgroup_mma_wait,
    )


@gluon.jit
def _consume(
    xs, vs, ws, ys, full, free, v_full, v_free, w_full, w_free, handed_full, ys_free, turn, w_turn, middle_aux, aux, y,
    UNITS: gl.constexpr, WIDTH: gl.constexpr, FILTERS: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr,
    FILTER: gl.constexpr, BLOCK_C: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STEPS: gl.constexpr,
    GROUP: gl.constexpr, PRODUCTS: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, V_STAGES: gl.constexpr,
    V_RESIDENT: gl.constexpr, W_STAGES: gl.constexpr, W_RESIDENT: gl.constexpr, BUFFERS: gl.constexpr,
    HANDED: gl.constexpr, DEPENDENT: gl.constexpr, MIDDLE_FETCH: gl.constexpr, MIDDLE_FINISH: gl.constexpr,
    FETCH: gl.constexpr, FINISH: gl.constexpr, WHICH: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Every tile whose turn it is for consumer WHICH."""
    BLOCK_M: gl.constexpr = BOX[0] * BOX[1] * BOX[2]
    BLOCKS: gl.constexpr = FILTER[0] // GROUP * FILTER[1] * STEPS
    sums: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, BLOCK_C, 16]
    )
    mma: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, BLOCK_N, 16]
    )
    middle_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=mma, k_width=2)
    columns = gl.expand_dims(gl.arange(0, BLOCK_N, gl.SliceLayout(0, mma)), 0)
    c = gl.expand_dims(gl.arange(0, BLOCK_C, gl.SliceLayout(0, sums)), 0)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if V_RESIDENT:
        mbarrier.wait(v_full.index(0), 0)
    if W_RESIDENT:
        mbarrier.wait(w_full.index(0), 0)
    first = gl.program_id(0)
    step = gl.num_programs(0)
    block = WHICH * BLOCKS
    w_block = WHICH * PRODUCTS
    count = 0
    round = 0
    for unit in range(first + WHICH * step, UNITS, step * CONSUMERS):
        line, image, column = place_of(unit, BOX, TILES, False)
        if CONSUMERS == 2:
            mbarrier.wait(turn.index(WHICH), (round & 1) ^ (1 - WHICH))
        middle_held = MIDDLE_FETCH(middle_aux, 0, c, True, c < WIDTH)
        value = sum_over_taps(
            xs, vs, full, free, v_full, v_free, turn, block, BLOCKS,
            BOX, BLOCK_C, BLOCK_K, BLOCK_K, STEPS, GROUP, CONSUMERS, STAGES, V_STAGES, V_RESIDENT, WHICH, WARPS,
        )  # fmt: skip
        block += BLOCKS * CONSUMERS

        value = MIDDLE_FINISH(value, middle_held)
        if WIDTH != BLOCK_C:
            value = gl.where(c < WIDTH, value, 0.0)
        middle = gl.convert_layout(value.to(ws.dtype), middle_layout)
        if CONSUMERS == 2 and not W_RESIDENT:
            mbarrier.wait(w_turn.index(WHICH), (round & 1) ^ (1 - WHICH))
        for part in range(PRODUCTS):
            k = part * BLOCK_N + columns
            held = FETCH(aux, 0, k, True, k < FILTERS)
            if W_RESIDENT:
                right = ws.index(part)
            else:
                right = ws.index(w_block % W_STAGES)
                mbarrier.wait(w_full.index(w_block % W_STAGES), w_block // W_STAGES & 1)
            zeros = gl.zeros([BLOCK_M, BLOCK_N], gl.float32, mma)
            result = warpgroup_mma(middle, right.permute((1, 0)), zeros, use_acc=False, is_async=True)
            result = warpgroup_mma_wait(num_outstanding=0, deps=(result,))
            if not W_RESIDENT:
                mbarrier.arrive(w_free.index(w_block % W_STAGES), count=1)
                w_block += 1
            place = WHICH * BUFFERS + count % BUFFERS
            tile = ys.index(place).reshape([BLOCK_M, BLOCK_N])
            if HANDED:
                mbarrier.wait(handed_full.index(place), count // BUFFERS & 1)
                result = FINISH(result, tile.load(mma).to(gl.float32), held)
            else:
                tma.store_wait(BUFFERS - 1)
                result = FINISH(result, held)
            tile.store(result.to(y.dtype))
            fence_async_shared()
            copy_out(y, [line, image, column, part * BLOCK_N], ys.index(place))
            if HANDED:
                tma.store_wait(1)
                before = ys_free.index(WHICH * BUFFERS + (count + BUFFERS - 1) % BUFFERS)
                mbarrier.arrive(before, count=1, pred=count > 0)
            count += 1
        if not W_RESIDENT:
            w_block += PRODUCTS * (CONSUMERS - 1)
            if CONSUMERS == 2:
                mbarrier.arrive(w_turn.index(1 - WHICH), count=1)
        round += 1  # noqa: SIM113
    tma.store_wait(0)


@gluon.jit
def conv_pointwise(
    x, v, w, handed, y, middle_aux, aux,
    UNITS: gl.constexpr,  # tiles
    WIDTH: gl.constexpr,  # channels between
    FILTERS: gl.constexpr,
    BOX: gl.constexpr,  # (lines, images, columns) of a tile
    TILES: gl.constexpr,  # along these
    FILTER: gl.constexpr,
    STRIDE: gl.constexpr,
    PADDING: gl.constexpr,  # before
    BLOCK_C: gl.constexpr,  # at least WIDTH
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    STEPS: gl.constexpr,  # blocks of the channels
    GROUP: gl.constexpr,  # rows of the filter that share a block of x: 1 or all
    PRODUCTS: gl.constexpr,  # of what lies between and BLOCK_N filters
    CONSUMERS: gl.constexpr,  # 1 or 2
    STAGES: gl.constexpr,  # blocks of x
    V_STAGES: gl.constexpr,  # blocks of v
    V_RESIDENT: gl.constexpr,  # v stays
    W_STAGES: gl.constexpr,  # blocks of w; all of them if it is resident
    W_RESIDENT: gl.constexpr,
    BUFFERS: gl.constexpr,  # tiles of results of a consumer
    HANDED: gl.constexpr,  # FINISH takes a tile of `handed`
    FIXED: gl.constexpr,  # v and w are constants
    WARPS: gl.constexpr,  # of a consumer
    DEPENDENT: gl.constexpr,  # may start before the launch it depends on ends
    MIDDLE_FETCH: gl.constexpr,
    MIDDLE_FINISH: gl.constexpr,
    FETCH: gl.constexpr,
    FINISH: gl.constexpr,
):  # fmt: skip
    right: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_C, BLOCK_K], v.dtype)
    KEPT: gl.constexpr = FILTER[0] * FILTER[1] * STEPS if V_RESIDENT else V_STAGES
    xs = ring_of(x, STAGES, BOX, GROUP)
    vs = gl.allocate_shared_memory(v.dtype, [KEPT, BLOCK_C, BLOCK_K], right)
    ws = gl.allocate_shared_memory(w.dtype, [W_STAGES, BLOCK_N, BLOCK_C], w.layout)
    ys = gl.allocate_shared_memory(y.dtype, [CONSUMERS * BUFFERS] + y.block_type.shape, y.layout)  # noqa: RUF005
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [V_STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [V_STAGES, 1], mbarrier.MBarrierLayout())
    w_full = gl.allocate_shared_memory(gl.int64, [W_STAGES, 1], mbarrier.MBarrierLayout())
    w_free = gl.allocate_shared_memory(gl.int64, [W_STAGES, 1], mbarrier.MBarrierLayout())
    handed_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS * BUFFERS, 1], mbarrier.MBarrierLayout())
    ys_free = gl.allocate_shared_memory(gl.int64, [CONSUMERS * BUFFERS, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    w_turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(STAGES):
        mbarrier.init(full.index(slot), count=1)
        mbarrier.init(free.index(slot), count=1)
    for slot in gl.static_range(V_STAGES):
        mbarrier.init(v_full.index(slot), count=1)
        mbarrier.init(v_free.index(slot), count=1)
    for slot in gl.static_range(W_STAGES):
        mbarrier.init(w_full.index(slot), count=1)
        mbarrier.init(w_free.index(slot), count=1)
    for slot in gl.static_range(CONSUMERS * BUFFERS):
        mbarrier.init(handed_full.index(slot), count=1)
        mbarrier.init(ys_free.index(slot), count=1)
    for which in gl.static_range(2):
        mbarrier.init(turn.index(which), count=1)
        mbarrier.init(w_turn.index(which), count=1)
    fence_async_shared()  # TMA, too, sees them as they are now
    # The tuples stand where they are used: an assignment would make tensors of constexprs.
    if CONSUMERS == 1:
        specialize(
            [
                (_consume, (xs, vs, ws, ys, full, free, v_full, v_free, w_full, w_free, handed_full, ys_free, turn,
                            w_turn, middle_aux, aux, y, UNITS, WIDTH, FILTERS, BOX, TILES, FILTER, BLOCK_C, BLOCK_N,
                            BLOCK_K, STEPS, GROUP, PRODUCTS, CONSUMERS, STAGES, V_STAGES, V_RESIDENT, W_STAGES,
                            W_RESIDENT, BUFFERS, HANDED, DEPENDENT, MIDDLE_FETCH, MIDDLE_FINISH, FETCH, FINISH, 0,
                            WARPS)),
                (load_x, (x, xs, full, free, UNITS, BOX, TILES, FILTER, STRIDE, PADDING, BLOCK_K, STEPS, GROUP, STAGES,
                           DEPENDENT)),
                (load_v, (v, vs, v_full, v_free, UNITS, FILTER, BLOCK_K, STEPS, GROUP, V_STAGES, V_RESIDENT, FIXED,
                           DEPENDENT)),
                (load_w, (w, handed, ws, ys, w_full, w_free, handed_full, ys_free, UNITS, BOX, TILES, BLOCK_N,
                           PRODUCTS, CONSUMERS, W_STAGES, W_RESIDENT, BUFFERS, HANDED, FIXED, DEPENDENT)),
            ],
            [1, 1, 1],
            [24, 24, 24],
        )  # fmt: skip
    else:
        specialize(
            [
                (_consume, (xs, vs, ws, ys, full, free, v_full, v_free, w_full, w_free, handed_full, ys_free, turn,
                            w_turn, middle_aux, aux, y, UNITS, WIDTH, FILTERS, BOX, TILES, FILTER, BLOCK_C, BLOCK_N,
                            BLOCK_K, STEPS, GROUP, PRODUCTS, CONSUMERS, STAGES, V_STAGES, V_RESIDENT, W_STAGES,
                            W_RESIDENT, BUFFERS, HANDED, DEPENDENT, MIDDLE_FETCH, MIDDLE_FINISH, FETCH, FINISH, 0,
                            WARPS)),
                (_consume, (xs, vs, ws, ys, full, free, v_full, v_free, w_full, w_free, handed_full, ys_free, turn,
                            w_turn, middle_aux, aux, y, UNITS, WIDTH, FILTERS, BOX, TILES, FILTER, BLOCK_C, BLOCK_N,
                            BLOCK_K, STEPS, GROUP, PRODUCTS, CONSUMERS, STAGES, V_STAGES, V_RESIDENT, W_STAGES,
                            W_RESIDENT, BUFFERS, HANDED, DEPENDENT, MIDDLE_FETCH, MIDDLE_FINISH, FETCH, FINISH, 1,
                            WARPS)),
                (load_x, (x, xs, full, free, UNITS, BOX, TILES, FILTER, STRIDE, PADDING, BLOCK_K, STEPS, GROUP, STAGES,
                           DEPENDENT)),
                (load_v, (v, vs, v_full, v_free, UNITS, FILTER, BLOCK_K, STEPS, GROUP, V_STAGES, V_RESIDENT, FIXED,
                           DEPENDENT)),
                (load_w, (w, handed, ws, ys, w_full, w_free, handed_full, ys_free, UNITS, BOX, TILES, BLOCK_N,
                           PRODUCTS, CONSUMERS, W_STAGES, W_RESIDENT, BUFFERS, HANDED, FIXED, DEPENDENT)),
            ],
            [4, 1, 1, 1],
            [232, 24, 24, 24],
        )  # fmt: skip
