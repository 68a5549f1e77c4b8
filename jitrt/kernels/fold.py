"""The first launch of a stem: its input with blocks of pixels as cells of adjacent numbers.

Formula: out[n, i, j, (r, s, c)] = x[n, c, i * STRIDE[0] + r - BEFORE[0], j * STRIDE[1] + s - BEFORE[1]], zero beside
the image and in what a cell has beyond. Any dtype and layout in, the convolution's dtype out. What a filter of that
stride sees of a row of cells is one run of memory. Floor: (x + out) bytes / bandwidth.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.kernels.base import KernelCall, Operand, Workspace
from jitrt.kernels.conv_shape import ConvShape


@triton.jit
def fold(
    out,
    x,
    SIZE: tl.constexpr,  # channels, height, width of x
    FOLDED: tl.constexpr,  # images, rows, cells of out
    CELL: tl.constexpr,  # numbers of a cell
    STRIDE: tl.constexpr,
    BEFORE: tl.constexpr,  # rows above x in out, columns left of it
    X_STRIDES: tl.constexpr,  # n, c, h, w
    WIDE: tl.constexpr,  # offsets in x pass 2^31
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    line: tl.constexpr = FOLDED[2] * CELL
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = row // FOLDED[1]
    top = row % FOLDED[1] * STRIDE[0] - BEFORE[0]
    # What depends on the element alone is shared by all rows of a program.
    at = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    rest = at % CELL
    r = rest // (STRIDE[1] * SIZE[0])
    w = at // CELL * STRIDE[1] + rest // SIZE[0] % STRIDE[1] - BEFORE[1]
    c = rest % SIZE[0]
    inside = (at < line) & (r < STRIDE[0]) & (w >= 0) & (w < SIZE[2])
    valid = (n < FOLDED[0])[:, None]
    h = top[:, None] + r[None, :]
    mask = valid & inside[None, :] & (h >= 0) & (h < SIZE[1])
    if WIDE:
        n, top, r, w, c = n.to(tl.int64), top.to(tl.int64), r.to(tl.int64), w.to(tl.int64), c.to(tl.int64)
    begin = n * X_STRIDES[0] + top * X_STRIDES[2]
    offset = begin[:, None] + (r * X_STRIDES[2] + c * X_STRIDES[1] + w * X_STRIDES[3])[None, :]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    value = tl.load(x + offset, mask=mask, other=0.0)
    to = row[:, None] * line + at[None, :]
    tl.store(out + to, value.to(out.dtype.element_ty), mask=valid & (at < line)[None, :])


def fold_call(
    x_index: int,
    conv: ConvShape,
    dtype: DType,
    folded: tuple[int, int, int],
    cell: int,
    before: tuple[int, int],
    target: Target,
) -> KernelCall:
    """The launch that writes operand `x_index`, the input of `conv`, to the workspace as `folded` (images, rows, cells
    of `cell` numbers) of `dtype`, with `before` rows and columns of zeros before the first."""
    rows, line = folded[0] * folded[1], folded[2] * cell
    block_n = min(512, triton.next_power_of_2(line))
    block_m = 8 if rows * line >= 1 << 20 else 2
    strides = (*conv.x_strides[:2], *conv.x_strides[3:])
    shape = (folded[0], conv.channels, *conv.size[1:])
    constexprs = {
        "SIZE": shape[1:],
        "FOLDED": folded,
        "CELL": cell,
        "STRIDE": conv.stride[1:],
        "BEFORE": before,
        "X_STRIDES": strides,
        "WIDE": sum(s * (n - 1) for s, n in zip(strides, shape, strict=True)) >= 2**31,
        "DEPENDENT": target.arch >= 90,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
    }
    grid = (-(-rows // block_m), -(-line // block_n), 1)
    assert math.prod(grid) > 0
    return KernelCall(fold, {"out": Workspace(0, dtype.value), "x": Operand(x_index)}, constexprs, grid)
