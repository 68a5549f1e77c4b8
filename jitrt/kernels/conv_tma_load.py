"""The two warps of `conv_tma` that load, each into a ring of its own: see conv_tma_kernel."""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from jitrt.kernels.conv_tma_walk import block_of, unit_of
from jitrt.kernels.gemm_tma_kernel import LACKING
from jitrt.kernels.x_ring import load_block

if LACKING is None:
    from jitrt.kernels.gemm_tma_kernel import copy_in, mbarrier


@gluon.jit
def load_x(
    x, handed, xs, ys, full, free, handed_full, ys_free,
    UNITS: gl.constexpr, SLICES: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr, SIZE: gl.constexpr,
    OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr, PADDING: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, SKIP: gl.constexpr, SPLIT: gl.constexpr,
    CONSUMERS: gl.constexpr, STAGES: gl.constexpr, BUFFERS: gl.constexpr, HANDED: gl.constexpr,
    DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Loads of x and of the residual, in the order the consumers need them."""
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()  # all programs run at once: nothing of theirs is taken
        tl.extra.cuda.gdc_wait()
    block = 0
    turn = 0
    for unit in range(gl.program_id(0), UNITS, gl.num_programs(0)):
        line, image, column, part, first, end = unit_of(
            unit, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP, SPLIT
        )
        for number in range(first, end):
            r, s, k = block_of(number, line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
            slot = block % STAGES
            mbarrier.wait(free.index(slot), (block // STAGES & 1) ^ 1)
            place = [line * STRIDE[0] + r - PADDING[0], image, column * STRIDE[1] + s - PADDING[1], k * BLOCK_K]
            load_block(x, place, full, xs, slot, BOX, GROUP)
            block += 1
        if HANDED:
            count = turn // CONSUMERS
            slot = turn % CONSUMERS * BUFFERS + count % BUFFERS
            mbarrier.wait(ys_free.index(slot), (count // BUFFERS & 1) ^ 1)
            mbarrier.expect(handed_full.index(slot), handed.block_type.nbytes)
            copy_in(handed, [line, image, column, part * BLOCK_N], handed_full.index(slot), ys.index(slot))
        turn += 1  # noqa: SIM113


@gluon.jit
def load_w(
    w, ws, w_full, w_free,
    UNITS: gl.constexpr, SLICES: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr, SIZE: gl.constexpr,
    OUT: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr, PADDING: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, SKIP: gl.constexpr, SPLIT: gl.constexpr,
    W_STAGES: gl.constexpr, RESIDENT: gl.constexpr, FIXED: gl.constexpr, DEPENDENT: gl.constexpr,
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
            line, _, column, part, first, end = unit_of(
                unit, SLICES, BOX, TILES, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP, SPLIT
            )
            for number in range(first, end):
                r, s, k = block_of(number, line, column, BOX, SIZE, OUT, FILTER, STRIDE, PADDING, STEPS, GROUP, SKIP)
                for g in gl.static_range(GROUP):
                    slot = block % W_STAGES
                    mbarrier.wait(w_free.index(slot), (block // W_STAGES & 1) ^ 1)
                    mbarrier.expect(w_full.index(slot), w.block_type.nbytes)
                    into = ws.index(slot).reshape(w.block_type.shape)
                    copy_in(w, [part * BLOCK_N, (r + g) * FILTER[1] + s, k * BLOCK_K], w_full.index(slot), into)
                    block += 1
