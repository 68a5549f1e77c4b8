"""How kernels that compare elements order them: as 64-bit integers that hold an element and its position.

The larger key is the better element, or, of equals, the earlier one. The two zeros are equal. Floats and integers of up
to 32 bits have such keys, but for u32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jitrt.graph.dtype import DType

LONGEST = 2**31 - 1  # positions that fit beside an element


@triton.jit
def keys(x, position, SMALLEST: tl.constexpr, FLOAT: tl.constexpr, NAN_WINS: tl.constexpr):
    """int64 keys of elements x at `position`; with SMALLEST the smaller element is the better one. NaN is better than
    any number, or worse."""
    if FLOAT:
        x = x.to(tl.float32) + 0.0  # -0 becomes 0
        bits = x.to(tl.int32, bitcast=True)
        value = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        value = ~value if SMALLEST else value
        value = tl.where(x != x, 0x7FFFFFFF if NAN_WINS else -0x80000000, value)
    else:
        value = x.to(tl.int32)
        value = ~value if SMALLEST else value
    return (value.to(tl.int64) << 32) | (0x7FFFFFFF - position).to(tl.int64)


@triton.jit
def positions(key):
    """The positions that keys hold, int64."""
    return 0x7FFFFFFF - (key & 0xFFFFFFFF)


def refuse_order(dtype: DType, what: str) -> str | None:
    """None if elements of `dtype` have keys, else why not."""
    if dtype == DType.u32:
        return f"{what} of u32 has no kernel: subtract 2^31 and cast to i32 first"
    if dtype.itemsize > 4:
        return f"{what} of {dtype.value} has no kernel: cast to {'f32' if dtype.is_float else 'i32'} first"
    return None
