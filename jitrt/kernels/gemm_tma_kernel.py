"""The kernel of `gemm_tma`, in Gluon: y = f(x w^T), one warp loading, one or two groups of warps multiplying.

A tile is BLOCK_M rows of x and its part of the filters. One warp loads x (and w, unless it is RESIDENT) into a ring of
STAGES blocks; CONSUMERS groups of warps take turns on the tiles, so that one multiplies while the other runs its
epilogue. A result is made over the tile of `handed` it was computed from, and stored while the next one is multiplied.

Barriers of a slot are told apart by one bit, the parity of its round, so a consumer may wait for a block only once the
block before it in that slot has come. It has if it was its own; else `turn` makes the consumers wait in order.
"""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

try:
    from triton.experimental.gluon.language.nvidia.hopper import (
        fence_async_shared,
        mbarrier,
        tma,
        warpgroup_mma,
        warpgroup_mma_init,
        warpgroup_mma_wait,
    )

    copy_in = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # since, and before, Triton 3.8
    copy_out = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
    specialize = gl.warp_specialize
    LACKING = None
except (ImportError, AttributeError) as error:
    LACKING = f"this Triton's Gluon has no warp specialisation as the kernel needs it: {error}"

ANY_VIEW = LACKING is None and not hasattr(tma, "async_load")
"""Whether a kernel may see any part of shared memory in any shape, as before Triton 3.8."""


@gluon.jit
def _walk(UNITS: gl.constexpr, SLICES: gl.constexpr, RESIDENT: gl.constexpr):
    """First unit, step and end of this program. A unit is a row tile of its slice; or a row tile and a slice."""
    program = gl.program_id(0)
    if RESIDENT:
        return program // SLICES, gl.num_programs(0) // SLICES, UNITS // SLICES
    else:
        return program, gl.num_programs(0), UNITS


@gluon.jit
def _place(unit, SLICES: gl.constexpr, RESIDENT: gl.constexpr):
    """(row tile, slice) of a unit. Slices run fastest, so that neighbours find the same rows of x in L2."""
    if RESIDENT:
        return unit, gl.program_id(0) % SLICES
    else:
        return unit // SLICES, unit % SLICES


@gluon.jit
def _load(tensor, tile, column, barrier, into, BLOCK_M: gl.constexpr, LINE: gl.constexpr, RUNS: gl.constexpr):
    """Start loading BLOCK_M rows from `column` on: in a row, or in lines, RUNS of LINE pixels each."""
    if LINE:
        copy_in(tensor, [tile // RUNS * (BLOCK_M // LINE), tile % RUNS * LINE, column], barrier, into)
    else:
        copy_in(tensor, [tile * BLOCK_M, column], barrier, into)


@gluon.jit
def _produce(
    x, w, handed, xs, ws, ys, full, free, w_full, handed_full, ys_free,
    UNITS: gl.constexpr, SLICES: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr,
    STEPS: gl.constexpr, PARTS: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, BUFFERS: gl.constexpr,
    RESIDENT: gl.constexpr, HANDED: gl.constexpr, LINE: gl.constexpr, RUNS: gl.constexpr, FIXED: gl.constexpr,
    DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Loads, all of them, in the order the consumers need them."""
    first, step, end = _walk(UNITS, SLICES, RESIDENT)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()  # all programs run at once: nothing of theirs is taken
    if DEPENDENT and not FIXED:
        tl.extra.cuda.gdc_wait()
    if RESIDENT:
        filters = gl.program_id(0) % SLICES * (PARTS * BLOCK_N)
        mbarrier.expect(w_full, PARTS * STEPS * w.block_type.nbytes)
        for block in range(PARTS * STEPS):
            place = [filters + block // STEPS * BLOCK_N, block % STEPS * BLOCK_K]
            copy_in(w, place, w_full, ws.index(block))
    if DEPENDENT and FIXED:
        tl.extra.cuda.gdc_wait()
    block = 0
    turn = 0
    for unit in range(first, end, step):
        tile, part = _place(unit, SLICES, RESIDENT)
        for k in range(STEPS):
            slot = block % STAGES
            mbarrier.wait(free.index(slot), (block // STAGES & 1) ^ 1)
            if RESIDENT:
                mbarrier.expect(full.index(slot), x.block_type.nbytes)
            else:
                mbarrier.expect(full.index(slot), x.block_type.nbytes + w.block_type.nbytes)
                copy_in(w, [part * BLOCK_N, k * BLOCK_K], full.index(slot), ws.index(slot))
            _load(x, tile, k * BLOCK_K, full.index(slot), xs.index(slot), BLOCK_M, LINE, RUNS)
            block += 1
        if HANDED:
            for n in range(PARTS):
                count = turn // CONSUMERS * PARTS + n
                slot = turn % CONSUMERS * BUFFERS + count % BUFFERS
                mbarrier.wait(ys_free.index(slot), (count // BUFFERS & 1) ^ 1)
                mbarrier.expect(handed_full.index(slot), handed.block_type.nbytes)
                column = (part * PARTS + n) * BLOCK_N
                _load(handed, tile, column, handed_full.index(slot), ys.index(slot), BLOCK_M, LINE, RUNS)
        turn += 1  # noqa: SIM113


@gluon.jit
def _consume(
    xs, ws, ys, full, free, w_full, handed_full, ys_free, turn, aux, y,
    UNITS: gl.constexpr, SLICES: gl.constexpr, FILTERS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STEPS: gl.constexpr, PARTS: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr,
    BUFFERS: gl.constexpr, RESIDENT: gl.constexpr, HANDED: gl.constexpr, LINE: gl.constexpr, RUNS: gl.constexpr,
    DEPENDENT: gl.constexpr, FETCH: gl.constexpr, FINISH: gl.constexpr, WHICH: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Every tile whose turn it is for consumer WHICH: multiply, finish, store."""
    mma: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, BLOCK_N, 16]
    )
    ORDER: gl.constexpr = CONSUMERS == 2 and STAGES % (2 * STEPS) != 0
    first, step, end = _walk(UNITS, SLICES, RESIDENT)
    columns = gl.expand_dims(gl.arange(0, BLOCK_N, gl.SliceLayout(0, mma)), 0)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if RESIDENT:
        mbarrier.wait(w_full, 0)
    block = WHICH * STEPS
    count = 0
    round = 0
    for unit in range(first + WHICH * step, end, step * CONSUMERS):
        tile, part = _place(unit, SLICES, RESIDENT)
        if ORDER:
            mbarrier.wait(turn.index(WHICH), (round & 1) ^ (1 - WHICH))
        for n in range(PARTS):
            column = (part * PARTS + n) * BLOCK_N
            k = column + columns
            held = FETCH(aux, 0, k, True, k < FILTERS)
            acc = warpgroup_mma_init(gl.zeros([BLOCK_M, BLOCK_N], gl.float32, mma))
            for kb in range(STEPS):
                slot = (block + kb) % STAGES
                mbarrier.wait(full.index(slot), (block + kb) // STAGES & 1)
                if RESIDENT:
                    right = ws.index(n * STEPS + kb).permute((1, 0))
                else:
                    right = ws.index(slot).permute((1, 0))
                acc = warpgroup_mma(xs.index(slot).reshape([BLOCK_M, BLOCK_K]), right, acc, is_async=True)
                # Once at most one product is under way, the block of the one before is free.
                acc = warpgroup_mma_init(warpgroup_mma_wait(num_outstanding=1, deps=(acc,)))
                before = free.index((block + kb + STAGES - 1) % STAGES)
                mbarrier.arrive(before, count=1, pred=(kb > 0) & (n == PARTS - 1))
            if ORDER:
                mbarrier.arrive(turn.index(1 - WHICH), count=1, pred=n == 0)
            value = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
            mbarrier.arrive(free.index((block + STEPS - 1) % STAGES), count=1, pred=n == PARTS - 1)
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
            if LINE:
                copy_out(y, [tile // RUNS * (BLOCK_M // LINE), tile % RUNS * LINE, column], ys.index(slot))
            else:
                copy_out(y, [tile * BLOCK_M, column], ys.index(slot))
            if HANDED:
                tma.store_wait(1)
                before = ys_free.index(WHICH * BUFFERS + (count + BUFFERS - 1) % BUFFERS)
                mbarrier.arrive(before, count=1, pred=count > 0)
            count += 1
        block += CONSUMERS * STEPS
        round += 1  # noqa: SIM113
    tma.store_wait(0)


@gluon.jit
def gemm_tma(
    x, w, handed, y, aux,
    UNITS: gl.constexpr,  # row tiles times slices
    SLICES: gl.constexpr,  # of PARTS * BLOCK_N filters
    FILTERS: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr,
    STEPS: gl.constexpr,  # blocks of the channels
    PARTS: gl.constexpr,  # that take turns on a row tile's x
    CONSUMERS: gl.constexpr,  # 1 or 2
    STAGES: gl.constexpr,  # blocks of x, and of w unless it is resident
    BUFFERS: gl.constexpr,  # tiles of results of a consumer
    RESIDENT: gl.constexpr,  # a program keeps its slice of w
    HANDED: gl.constexpr,  # FINISH takes a tile of `handed`
    LINE: gl.constexpr,  # pixels of a line in a tile, 0 where rows are evenly spaced
    RUNS: gl.constexpr,  # of LINE pixels in a line
    FIXED: gl.constexpr,  # w is a constant
    WARPS: gl.constexpr,  # of a consumer
    DEPENDENT: gl.constexpr,  # may start before the launch it depends on ends
    FETCH: gl.constexpr,
    FINISH: gl.constexpr,
):  # fmt: skip
    xs = gl.allocate_shared_memory(x.dtype, [STAGES] + x.block_type.shape, x.layout)  # noqa: RUF005
    ws = gl.allocate_shared_memory(w.dtype, [PARTS * STEPS if RESIDENT else STAGES, BLOCK_N, BLOCK_K], w.layout)
    ys = gl.allocate_shared_memory(y.dtype, [CONSUMERS * BUFFERS] + y.block_type.shape, y.layout)  # noqa: RUF005
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    handed_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS * BUFFERS, 1], mbarrier.MBarrierLayout())
    ys_free = gl.allocate_shared_memory(gl.int64, [CONSUMERS * BUFFERS, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    w_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(STAGES):
        mbarrier.init(full.index(slot), count=1)
        mbarrier.init(free.index(slot), count=1)
    for slot in gl.static_range(CONSUMERS * BUFFERS):
        mbarrier.init(handed_full.index(slot), count=1)
        mbarrier.init(ys_free.index(slot), count=1)
    mbarrier.init(w_full, count=1)
    mbarrier.init(turn.index(0), count=1)
    mbarrier.init(turn.index(1), count=1)
    fence_async_shared()  # TMA, too, sees them as they are now
    # The tuples stand where they are used: an assignment would make tensors of constexprs.
    if CONSUMERS == 1:
        specialize(
            [
                (_consume, (xs, ws, ys, full, free, w_full, handed_full, ys_free, turn, aux, y, UNITS, SLICES, FILTERS,
                            BLOCK_M, BLOCK_N, BLOCK_K, STEPS, PARTS, CONSUMERS, STAGES, BUFFERS, RESIDENT, HANDED, LINE,
                            RUNS, DEPENDENT, FETCH, FINISH, 0, WARPS)),
                (_produce, (x, w, handed, xs, ws, ys, full, free, w_full, handed_full, ys_free, UNITS, SLICES, BLOCK_M,
                            BLOCK_N, BLOCK_K, STEPS, PARTS, CONSUMERS, STAGES, BUFFERS, RESIDENT, HANDED, LINE, RUNS,
                            FIXED, DEPENDENT)),
            ],
            [1],
            [24],
        )  # fmt: skip
    else:
        specialize(
            [
                (_consume, (xs, ws, ys, full, free, w_full, handed_full, ys_free, turn, aux, y, UNITS, SLICES, FILTERS,
                            BLOCK_M, BLOCK_N, BLOCK_K, STEPS, PARTS, CONSUMERS, STAGES, BUFFERS, RESIDENT, HANDED, LINE,
                            RUNS, DEPENDENT, FETCH, FINISH, 0, WARPS)),
                (_consume, (xs, ws, ys, full, free, w_full, handed_full, ys_free, turn, aux, y, UNITS, SLICES, FILTERS,
                            BLOCK_M, BLOCK_N, BLOCK_K, STEPS, PARTS, CONSUMERS, STAGES, BUFFERS, RESIDENT, HANDED, LINE,
                            RUNS, DEPENDENT, FETCH, FINISH, 1, WARPS)),
                (_produce, (x, w, handed, xs, ws, ys, full, free, w_full, handed_full, ys_free, UNITS, SLICES, BLOCK_M,
                            BLOCK_N, BLOCK_K, STEPS, PARTS, CONSUMERS, STAGES, BUFFERS, RESIDENT, HANDED, LINE, RUNS,
                            FIXED, DEPENDENT)),
            ],
            [4, 1],
            [232, 24],
        )  # fmt: skip
