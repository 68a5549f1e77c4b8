"""How `conv_tma`'s programs share the reduction of a tile: float32 sums through memory, added by the last to arrive.

Always in the same order, so that results are the same to the bit. Nobody waits for anybody. A sum is stored as its
threads hold it, 16 bytes each, one after the other: only they read it.
"""

from __future__ import annotations

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def _in_a_row(acc, WARPS: gl.constexpr):
    """The sums of wgmma, (M, N), in the order in which threads hold four of them, as one dimension; nothing moves."""
    M: gl.constexpr = acc.shape[0]
    N: gl.constexpr = acc.shape[1]
    parts = acc.reshape([M // (16 * WARPS), WARPS, 2, 8, N // 8, 4, 2])
    return parts.permute((0, 4, 1, 3, 5, 2, 6)).reshape([M * N])


@gluon.jit
def _as_tile(row, M: gl.constexpr, N: gl.constexpr, WARPS: gl.constexpr):
    """The reverse."""
    parts = row.reshape([M // (16 * WARPS), N // 8, WARPS, 8, 4, 2, 2])
    return parts.permute((0, 2, 5, 3, 1, 4, 6)).reshape([M, N])


@gluon.jit
def hand_in(acc, partials, counters, unit, SPLIT: gl.constexpr, WARPS: gl.constexpr):
    """Store a unit's sum. Whether all others of its tile have come."""
    row = _in_a_row(acc, WARPS)
    spot = gl.arange(0, row.shape[0], row.type.layout)
    gl.store(partials + unit * row.shape[0] + spot, row)
    tl.debug_barrier()  # every thread's sums are stored before one of them announces it
    return gl.atomic_add(counters + unit // SPLIT, 1, sem="acq_rel", scope="gpu") == SPLIT - 1


@gluon.jit
def _sum_at(which, row, spot, partials, unit):
    """Unit `which`'s sum; `row` is that of `unit`."""
    return gl.load(partials + which * row.shape[0] + spot, mask=which != unit, other=row, cache_modifier=".cg")


@gluon.jit
def sum_of(acc, partials, counters, unit, SPLIT: gl.constexpr, WARPS: gl.constexpr):
    """The sums of a tile's units, one after the other, this one's out of its registers. Its counter is 0 again."""
    row = _in_a_row(acc, WARPS)
    SIZE: gl.constexpr = row.shape[0]
    ELEMENTS: gl.constexpr = SIZE // (32 * WARPS)
    spot = gl.arange(0, SIZE, row.type.layout)
    first = unit // SPLIT * SPLIT
    total = _sum_at(first, row, spot, partials, unit)
    if ELEMENTS <= 32 or SPLIT * ELEMENTS <= 192:
        for part in gl.static_range(1, SPLIT):  # all loads at once, as registers allow
            total += _sum_at(first + part, row, spot, partials, unit)
    else:
        for part in range(1, SPLIT):
            total += _sum_at(first + part, row, spot, partials, unit)
    gl.store(counters + unit // SPLIT, 0)
    return gl.convert_layout(_as_tile(total, acc.shape[0], acc.shape[1], WARPS), acc.type.layout)
