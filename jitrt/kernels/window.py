"""Which taps of a window lie inside a tensor, as bits: found before a kernel's loop, which then needs one instruction a
row where comparing coordinates takes up to six."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def inside(start, TAPS: tl.constexpr, STEP: tl.constexpr, SIZE: tl.constexpr):
    """Along one dimension, bit n: whether `start` + n * STEP is a position of SIZE. int32, hence TAPS <= 32."""
    bits = tl.zeros(start.shape, tl.int32)
    for n in tl.static_range(TAPS):
        at = start + n * STEP
        bits |= ((at >= 0) & (at < SIZE)).to(tl.int32) << n
    return bits


@triton.jit
def across(outer, inner, OUTER: tl.constexpr, INNER: tl.constexpr):
    """Along two dimensions, bit n * INNER + i: both bit n of the OUTER bits and bit i of the INNER ones."""
    bits = tl.zeros(inner.shape, tl.int32)
    for n in tl.static_range(OUTER):
        bits |= tl.where((outer >> n) & 1 != 0, inner << (n * INNER), 0)
    return bits
