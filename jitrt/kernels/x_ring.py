"""The ring of x's blocks in shared memory, as `conv_tma` and `conv_pointwise` load and multiply them.

A block is the lines of pixels that a tile needs for the GROUP rows of the filter that share it: GROUP - 1 more than the
tile has, which sees as many as it has from line g on for row g.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from jitrt.kernels.gemm_tma_kernel import LACKING

if LACKING is None:
    from jitrt.kernels.gemm_tma_kernel import copy_in, mbarrier


@gluon.jit
def ring_of(x, STAGES: gl.constexpr, BOX: gl.constexpr, GROUP: gl.constexpr):
    """Shared memory for STAGES blocks of x."""
    ROWS: gl.constexpr = BOX[1] * BOX[2] if GROUP > 1 else BOX[0] * BOX[1] * BOX[2]
    PARTS: gl.constexpr = STAGES * (BOX[0] + GROUP - 1) if GROUP > 1 else STAGES
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, x.block_type.shape[3]], x.dtype)
    return gl.allocate_shared_memory(x.dtype, [PARTS, ROWS, x.block_type.shape[3]], layout)


@gluon.jit
def load_block(x, place, full, xs, slot, BOX: gl.constexpr, GROUP: gl.constexpr):
    """Start loading a block from `place` on into a slot, and tell its barrier what will come."""
    LINES: gl.constexpr = BOX[0] + GROUP - 1
    mbarrier.expect(full.index(slot), x.block_type.nbytes // BOX[0] * LINES)
    if GROUP > 1:
        into = xs.index(slot * LINES)._reinterpret(x.dtype, x.block_type.shape, x.layout)
    else:
        into = xs.index(slot).reshape(x.block_type.shape)
    copy_in(x, place, full.index(slot), into)


@gluon.jit
def lines_from(xs, slot, g: gl.constexpr, BOX: gl.constexpr, GROUP: gl.constexpr):
    """What a tile sees of a slot from line g on: (its pixels, channels)."""
    if GROUP > 1:
        SHAPE: gl.constexpr = [BOX[0] * BOX[1] * BOX[2], xs.shape[2]]
        left: gl.constexpr = gl.NVMMASharedLayout.get_default_for(SHAPE, xs.dtype)
        return xs.index(slot * (BOX[0] + GROUP - 1) + g)._reinterpret(xs.dtype, SHAPE, left)
    else:
        return xs.index(slot)
