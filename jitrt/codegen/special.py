"""Functions too long for an expression, as `@triton.jit` functions that generated source calls.

Made of what `triton.language` has on every target and in the interpreter. Operands are float32 or float64 tensors, or,
where that says so, integers; a second operand may be a literal. All but those of windows are elementwise.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def clamp(x, low, high):
    """min(max(x, low), high); NaN stays."""
    if x.dtype == tl.float64:  # a literal is a float32 to tl.maximum
        return tl.where(x < low, low, tl.where(x > high, high, x))
    else:
        return tl.minimum(tl.maximum(x, low, tl.PropagateNan.ALL), high, tl.PropagateNan.ALL)


@triton.jit
def round(x):
    """Nearest integer, ties to even; infinities and NaN stay."""
    low = tl.floor(x)
    above = x - low
    odd = low - 2 * tl.floor(low * 0.5)
    return tl.where((above > 0.5) | ((above == 0.5) & (odd == 1)), low + 1, low)


@triton.jit
def tanh(x):
    """1 - 2 / (e^2x + 1), which cancels near 0: there, in float32, the series to x^5."""
    y = 1 - 2 / (tl.exp(2 * x) + 1)
    if x.dtype == tl.float64:
        return y
    else:
        z = x * x
        return tl.where(z < 0.01, x + x * z * (0.13333334 * z - 0.33333334), y)


@triton.jit
def log1p(x):
    """log(1 + x): the factor x / ((1 + x) - 1) undoes the rounding of 1 + x (Kahan, HP-15C manual, 1982)."""
    one_more = 1 + x
    corrected = tl.log(one_more) * (x / (one_more - 1))
    return tl.where(one_more == 1, x, tl.where(one_more == float("inf"), one_more, corrected))


@triton.jit
def expm1(x):
    """exp(x) - 1, Kahan's way as `log1p`."""
    e = tl.exp(x)
    corrected = (e - 1) * (x / tl.log(e))
    return tl.where(e == 1, x, tl.where((e == float("inf")) | (e - 1 == -1), e - 1, corrected))


@triton.jit
def atan(x):
    """Arctangent: reduced to |u| <= tan(pi/8), then a polynomial (Cephes, atanf.c); one step of Newton in float64."""
    size = tl.abs(x)
    far = size > 2.414213562373095
    middle = size > 0.4142135623730950
    u = tl.where(far, -1 / size, tl.where(middle, (size - 1) / (size + 1), size))
    z = u * u
    p = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    p = p * z * u + u
    if x.dtype == tl.float64:
        sine = tl.sin(p)
        cosine = tl.cos(p)
        p -= (sine - u * cosine) / (cosine + u * sine)
    y = tl.where(far, 1.5707963267948966, tl.where(middle, 0.7853981633974483, 0.0)) + p
    return tl.where(x < 0, -y, y)


@triton.jit
def _quotient(a, b):
    """a / b, correctly rounded."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def _left(a, b, q):
    """a - q * b, exactly (in float64, where the product of two float32 numbers fits)."""
    wide = a.to(tl.float64) - q.to(tl.float64) * b.to(tl.float64)
    return tl.where(q == 0, a, wide.to(a.dtype))


@triton.jit
def _truncated(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def floor_div(a, b):
    """floor(a / b); 0 for integers where b is 0."""
    b = tl.zeros_like(a) + b
    if a.dtype.is_floating():
        q = tl.floor(_quotient(a, b))
        r = _left(a, b, q)  # shows whether the quotient was rounded up to an integer
        return tl.where((r != 0) & ((r < 0) != (b < 0)) & (tl.abs(q) < 16777216.0), q - 1, q)
    else:
        divisor = tl.where(b == 0, 1, b)
        q = a // divisor  # truncated
        r = a - q * divisor
        q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
        return tl.where(b == 0, 0, q)


@triton.jit
def remainder(a, b):
    """a - floor(a / b) * b, with the sign of b; 0 for integers where b is 0."""
    b = tl.zeros_like(a) + b
    if a.dtype.is_floating():
        q = tl.floor(_quotient(a, b))
        r = _left(a, b, q)
        r = tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
        return tl.where(tl.abs(r) == tl.abs(b), tl.where(q == 0, r, r * 0), r)
    else:
        divisor = tl.where(b == 0, 1, b)
        r = a - (a // divisor) * divisor
        r = tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
        return tl.where(b == 0, 0, r)


@triton.jit
def fmod(a, b):
    """a - trunc(a / b) * b, with the sign of a; 0 for integers where b is 0."""
    b = tl.zeros_like(a) + b
    if a.dtype.is_floating():
        q = _truncated(_quotient(a, b))
        r = _left(a, b, q)
        size = tl.abs(b)
        r = tl.where((r != 0) & ((r < 0) != (a < 0)), tl.where(a < 0, r - size, r + size), r)
        return tl.where(tl.abs(r) >= size, r * 0, r)
    else:
        divisor = tl.where(b == 0, 1, b)
        r = a - (a // divisor) * divisor
        return tl.where(b == 0, 0, r)


@triton.jit
def trunc_div(a, b):
    """a / b without its fraction; 0 for integers where b is 0."""
    b = tl.zeros_like(a) + b
    if a.dtype.is_floating():
        return _truncated(_quotient(a, b))
    else:
        return tl.where(b == 0, 0, a // tl.where(b == 0, 1, b))


@triton.jit
def sign(x):
    """-1, 0 or 1; NaN stays."""
    above = (x > 0).to(x.dtype)
    if x.dtype.is_int_unsigned():
        return above
    else:
        return tl.where(x == x, above - (x < 0).to(x.dtype), x)


@triton.jit
def power(a, b):
    """a ** b. Of floats by way of logarithms: |a|^b with the sign of an odd whole exponent, NaN for a negative finite
    base under any other. Of integers by squaring, which wraps around."""
    b = tl.zeros_like(a) + b
    if a.dtype.is_floating():
        size = tl.exp2(b * tl.log2(tl.abs(a)))
        odd = tl.floor(b * 0.5) * 2 != b
        other = tl.where(a == float("-inf"), size, float("nan"))
        signed = tl.where(tl.floor(b) == b, tl.where(odd, -size, size), other)
        return tl.where((b == 0) | (a == 1), 1.0, tl.where(a < 0, signed, size))
    else:
        result = tl.full(a.shape, 1, a.dtype)
        factor = a
        bits: tl.constexpr = a.dtype.primitive_bitwidth
        for bit in tl.static_range(bits):
            result = tl.where(((b >> bit) & 1) == 1, result * factor, result)
            factor = factor * factor
        if not a.dtype.is_int_unsigned():
            inverse = tl.where(a == 1, 1, tl.where(a == -1, 1 - 2 * (b & 1), 0))
            result = tl.where(b < 0, inverse, result)
        return result


@triton.jit
def shift_left(a, b):
    """a << b, 0 where b is as large as there are bits."""
    b = tl.zeros_like(a) + b
    return tl.where((b >= 0) & (b < a.dtype.primitive_bitwidth), a << b, 0)


@triton.jit
def shift_right(a, b):
    """a >> b: what shifts in are zeros, or copies of the sign of a signed a."""
    b = tl.zeros_like(a) + b
    most: tl.constexpr = a.dtype.primitive_bitwidth - 1
    inside = (b >= 0) & (b <= most)
    if a.dtype.is_int_unsigned():
        return tl.where(inside, a >> b, 0)
    else:
        return a >> tl.where(inside, b, most)


@triton.jit
def to_integer(x, dtype: tl.constexpr):
    """A number in an integer type: floats are truncated, and wrap around where the type does not hold them."""
    if x.dtype.is_floating():
        if dtype == tl.uint64:
            return tl.where(x < 0, x.to(tl.int64).to(tl.uint64), x.to(tl.uint64))
        elif dtype == tl.uint32:
            return x.to(tl.int64).to(dtype)
        else:
            return x.to(tl.int32).to(dtype)
    else:
        return x.to(dtype)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, tl.PropagateNan.ALL)


@triton.jit
def window_maximum(x, ROWS: tl.constexpr):
    """The maximum of every ROWS neighbouring rows, column by column; NaN if one of them is."""
    windows = tl.reshape(x, (x.shape[0] // ROWS, ROWS, x.shape[1]))
    return tl.reduce(windows, 1, _larger)


@triton.jit
def window_mean(x, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """The mean of the first COUNT of every ROWS neighbouring rows, column by column."""
    windows = tl.reshape(x, (x.shape[0] // ROWS, ROWS, x.shape[1]))
    if COUNT < ROWS:
        windows = tl.where(tl.arange(0, ROWS)[None, :, None] < COUNT, windows, 0.0)
    return tl.sum(windows, 1) / COUNT
