"""The loop of products over the taps of a convolution, of blocks of x and w that other warps load by TMA."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from jitrt.kernels.gemm_tma_kernel import LACKING
from jitrt.kernels.x_ring import lines_from

if LACKING is None:
    from jitrt.kernels.gemm_tma_kernel import mbarrier, warpgroup_mma, warpgroup_mma_init, warpgroup_mma_wait


@gluon.jit
def sum_over_taps(
    xs, ws, full, free, w_full, w_free, turn, block, blocks,
    BOX: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, LAST: gl.constexpr, STEPS: gl.constexpr,
    GROUP: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, W_STAGES: gl.constexpr,
    RESIDENT: gl.constexpr, WHICH: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """The sum of a tile's `blocks` products from x's block number `block` on, by consumer WHICH whose turn it is: the
    other's turn begins when the last product is under way. GROUP rows of the filter share a block of x. Of every STEPS
    blocks the last has LAST channels, the rest of it is zeros: if there are any, the tile takes whole taps."""
    BLOCK_M: gl.constexpr = BOX[0] * BOX[1] * BOX[2]
    mma: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[WARPS, 1], instr_shape=[16, BLOCK_N, 16]
    )
    acc = warpgroup_mma_init(gl.zeros([BLOCK_M, BLOCK_N], gl.float32, mma))
    SPELLED: gl.constexpr = STEPS if LAST < BLOCK_K else 1  # out, one after the other
    for tap in range(blocks // SPELLED):
        for step in gl.static_range(SPELLED):
            number = tap * SPELLED + step
            slot = (block + number) % STAGES
            mbarrier.wait(full.index(slot), (block + number) // STAGES & 1)
            for g in gl.static_range(GROUP):
                if RESIDENT:
                    right = ws.index(number * GROUP + g)
                else:
                    w_block = (block + number) * GROUP + g
                    right = ws.index(w_block % W_STAGES)
                    mbarrier.wait(w_full.index(w_block % W_STAGES), w_block // W_STAGES & 1)
                left = lines_from(xs, slot, g, BOX, GROUP)
                if LAST < BLOCK_K and step == SPELLED - 1:
                    left, right = left.slice(0, LAST, 1), right.slice(0, LAST, 1)
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
    mbarrier.arrive(free.index((block + blocks + STAGES - 1) % STAGES), count=1)
    if not RESIDENT:
        mbarrier.arrive(w_free.index(((block + blocks) * GROUP + W_STAGES - 1) % W_STAGES), count=1)
    return value
