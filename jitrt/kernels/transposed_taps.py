"""Phases of a transposed convolution and their taps inside a kernel, as `transposed_shape.Axis` has them.

Which taps lie inside x is found before the loop, as bits: one instruction a row is left in it, where comparing
coordinates takes up to six.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def phase_of(
    turn,
    PHASES: tl.constexpr,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    COMMON: tl.constexpr,
):
    """The phase whose turn it is: those with the most taps first, that a launch ends in short programs. They are those
    that begin at the first taps."""
    if COMMON == 1 and PHASES == STRIDE and FILTER % STRIDE != 0:
        phase = (turn * DILATION + (PADDING // STRIDE + 1) * STRIDE - PADDING) % STRIDE
    else:
        phase = turn
    return phase


@triton.jit
def taps_of(
    phase,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    COMMON: tl.constexpr,
    INVERSE: tl.constexpr,
):
    """(first tap of a phase, where it reads less the step, how many taps there are)."""
    step: tl.constexpr = STRIDE // COMMON
    reach = phase + PADDING
    tap = reach // COMMON * INVERSE % step
    taps = tl.where(reach % COMMON == 0, (FILTER - tap + step - 1) // step, 0)
    return tap, (reach - tap * DILATION) // STRIDE, taps


@triton.constexpr_function
def few_taps(taps):
    """Whether so many taps along the dimensions have a bit each."""
    return taps[0] * taps[1] * taps[2] <= 32


@triton.jit
def taps_inside(d0, h0, w0, TAPS: tl.constexpr, SIZE: tl.constexpr, DILATION: tl.constexpr, COMMON: tl.constexpr):
    """For every row, bit (t * TAPS[1] + r) * TAPS[2] + s: whether tap (t, r, s) of a phase that begins at (d0, h0, w0)
    reads a position of SIZE."""
    seen = _inside(w0, TAPS[2], DILATION[2] // COMMON[2], SIZE[2])
    seen = _across(_inside(h0, TAPS[1], DILATION[1] // COMMON[1], SIZE[1]), seen, TAPS[1], TAPS[2])
    return _across(_inside(d0, TAPS[0], DILATION[0] // COMMON[0], SIZE[0]), seen, TAPS[0], TAPS[1] * TAPS[2])


@triton.jit
def _inside(start, TAPS: tl.constexpr, JUMP: tl.constexpr, SIZE: tl.constexpr):
    """Along one dimension, bit n: whether `start` - n * JUMP is a position of SIZE."""
    bits = tl.zeros(start.shape, tl.int32)
    for n in tl.static_range(TAPS):
        at = start - n * JUMP
        bits |= ((at >= 0) & (at < SIZE)).to(tl.int32) << n
    return bits


@triton.jit
def _across(outer, inner, OUTER: tl.constexpr, INNER: tl.constexpr):
    """Along two dimensions, bit n * INNER + i: both bit n of the OUTER bits and bit i of the INNER ones."""
    bits = tl.zeros(inner.shape, tl.int32)
    for n in tl.static_range(OUTER):
        bits |= tl.where((outer >> n) & 1 != 0, inner << (n * INNER), 0)
    return bits
