"""The three warps of `conv_pointwise` that load, each into a ring of its own: see conv_pointwise_kernel."""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from jitrt.kernels.conv_tma_walk import place_of
from jitrt.kernels.gemm_tma_kernel import LACKING
from jitrt.kernels.x_ring import load_block

if LACKING is None:
    from jitrt.kernels.gemm_tma_kernel import copy_in, mbarrier


@gluon.jit
def _block_of(number, FILTER: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr):
    """Tap (its first row and its column) and block of channels of a tile's block `number`."""
    tap = number // STEPS
    return tap // FILTER[1] * GROUP, tap % FILTER[1], number % STEPS


@gluon.jit
def load_x(
    x, xs, full, free,
    UNITS: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr, FILTER: gl.constexpr, STRIDE: gl.constexpr,
    PADDING: gl.constexpr, BLOCK_K: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Loads of x, in the order the consumers need them."""
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()  # all programs run at once: nothing of theirs is taken
        tl.extra.cuda.gdc_wait()
    block = 0
    for unit in range(gl.program_id(0), UNITS, gl.num_programs(0)):
        line, image, column = place_of(unit, BOX, TILES, False)
        for number in range(FILTER[0] // GROUP * FILTER[1] * STEPS):
            r, s, k = _block_of(number, FILTER, STEPS, GROUP)
            slot = block % STAGES
            mbarrier.wait(free.index(slot), (block // STAGES & 1) ^ 1)
            place = [line * STRIDE[0] + r - PADDING[0], image, column * STRIDE[1] + s - PADDING[1], k * BLOCK_K]
            load_block(x, place, full, xs, slot, BOX, GROUP)
            block += 1


@gluon.jit
def load_v(
    v, vs, v_full, v_free,
    UNITS: gl.constexpr, FILTER: gl.constexpr, BLOCK_K: gl.constexpr, STEPS: gl.constexpr, GROUP: gl.constexpr,
    V_STAGES: gl.constexpr, V_RESIDENT: gl.constexpr, FIXED: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Loads of v: all of it, or in the order the consumers need it."""
    BLOCKS: gl.constexpr = FILTER[0] // GROUP * FILTER[1] * STEPS
    if DEPENDENT and not FIXED:
        tl.extra.cuda.gdc_wait()
    if V_RESIDENT:
        mbarrier.expect(v_full.index(0), BLOCKS * GROUP * v.block_type.nbytes)
        for number in range(BLOCKS):
            r, s, k = _block_of(number, FILTER, STEPS, GROUP)
            for g in gl.static_range(GROUP):
                into = vs.index(number * GROUP + g).reshape(v.block_type.shape)
                copy_in(v, [0, (r + g) * FILTER[1] + s, k * BLOCK_K], v_full.index(0), into)
    else:
        block = 0
        for _ in range(gl.program_id(0), UNITS, gl.num_programs(0)):
            for number in range(BLOCKS):
                r, s, k = _block_of(number, FILTER, STEPS, GROUP)
                for g in gl.static_range(GROUP):
                    slot = block % V_STAGES
                    mbarrier.wait(v_free.index(slot), (block // V_STAGES & 1) ^ 1)
                    mbarrier.expect(v_full.index(slot), v.block_type.nbytes)
                    into = vs.index(slot).reshape(v.block_type.shape)
                    copy_in(v, [0, (r + g) * FILTER[1] + s, k * BLOCK_K], v_full.index(slot), into)
                    block += 1


@gluon.jit
def load_w(
    w, handed, ws, ys, w_full, w_free, handed_full, ys_free,
    UNITS: gl.constexpr, BOX: gl.constexpr, TILES: gl.constexpr, BLOCK_N: gl.constexpr, PRODUCTS: gl.constexpr,
    CONSUMERS: gl.constexpr, W_STAGES: gl.constexpr, W_RESIDENT: gl.constexpr, BUFFERS: gl.constexpr,
    HANDED: gl.constexpr, FIXED: gl.constexpr, DEPENDENT: gl.constexpr,
):  # fmt: skip
    """Loads of w (all of it, or in the order the consumers need it) and of the residual."""
    if DEPENDENT and not FIXED:
        tl.extra.cuda.gdc_wait()
    if W_RESIDENT:
        mbarrier.expect(w_full.index(0), PRODUCTS * w.block_type.nbytes)
        for part in range(PRODUCTS):
            copy_in(w, [part * BLOCK_N, 0], w_full.index(0), ws.index(part))
    if DEPENDENT and FIXED:
        tl.extra.cuda.gdc_wait()
    block = 0
    turn = 0
    for unit in range(gl.program_id(0), UNITS, gl.num_programs(0)):
        line, image, column = place_of(unit, BOX, TILES, False)
        for part in range(PRODUCTS):
            if not W_RESIDENT:
                slot = block % W_STAGES
                mbarrier.wait(w_free.index(slot), (block // W_STAGES & 1) ^ 1)
                mbarrier.expect(w_full.index(slot), w.block_type.nbytes)
                copy_in(w, [part * BLOCK_N, 0], w_full.index(slot), ws.index(slot))
                block += 1
            if HANDED:
                count = turn // CONSUMERS * PRODUCTS + part
                place = turn % CONSUMERS * BUFFERS + count % BUFFERS
                mbarrier.wait(ys_free.index(place), (count // BUFFERS & 1) ^ 1)
                mbarrier.expect(handed_full.index(place), handed.block_type.nbytes)
                copy_in(handed, [line, image, column, part * BLOCK_N], handed_full.index(place), ys.index(place))
        turn += 1  # noqa: SIM113
