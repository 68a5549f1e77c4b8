"""The first launch of a stem: its input with blocks of pixels as cells of adjacent numbers.

Formula: out[n, i, j, (r, s, c)] = x[n, c, i * STRIDE[0] + r - BEFORE[0], j * STRIDE[1] + s - BEFORE[1]], zero beside
the image and in what a cell has beyond. Any dtype and layout in, the convolution's dtype out. What a filter of that
stride sees of a row of cells is one run of memory. Floor: (x + out) bytes / bandwidth.

A thread loads all numbers of a cell: from one pointer, as far apart as is known when the kernel is compiled. Stores are
of 16 bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jitrt.codegen.target import Target
from jitrt.kernels.base import Argument, KernelCall, Operand, Workspace
from jitrt.kernels.stem_pool_shape import StemPool

_BLOCK = 128  # cells of a program, one a thread


@triton.jit
def fold(
    out,
    x,
    SIZE: tl.constexpr,  # channels, height, width of x
    FOLDED: tl.constexpr,  # images, rows, cells of out
    CELLS: tl.constexpr,  # of out, with those after the last image, which are zero
    CELL: tl.constexpr,  # numbers of a cell, a power of two
    STRIDE: tl.constexpr,
    BEFORE: tl.constexpr,  # rows above x in out, columns left of it
    X_STRIDES: tl.constexpr,  # n, c, h, w
    WIDE: tl.constexpr,  # offsets in x pass 2^31
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    BLOCK: tl.constexpr,
):
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = cell // FOLDED[2]
    n = row // FOLDED[1]
    h = row % FOLDED[1] * STRIDE[0] - BEFORE[0]
    w = cell % FOLDED[2] * STRIDE[1] - BEFORE[1]
    valid = n < FOLDED[0]
    if WIDE:
        n, up, left = n.to(tl.int64), h.to(tl.int64), w.to(tl.int64)
    else:
        up, left = h, w
    corner = x + (n * X_STRIDES[0] + up * X_STRIDES[2] + left * X_STRIDES[3])
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    numbers = _numbers(corner, h, w, valid, out, SIZE, STRIDE, X_STRIDES, BLOCK, 0, 1, CELL)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    to = cell[:, None] * CELL + tl.arange(0, CELL)[None, :]
    tl.store(out + to, tl.reshape(numbers, (BLOCK, CELL)), mask=(cell < CELLS)[:, None])


@triton.jit
def _numbers(
    corner,
    h,
    w,
    valid,
    out,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    X_STRIDES: tl.constexpr,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
    EVERY: tl.constexpr,
    CELL: tl.constexpr,
):
    """Numbers FIRST, FIRST + EVERY ... of the cells that begin at h, w: (cells, 2, 2 ...) in their order."""
    if EVERY < CELL:
        even = _numbers(corner, h, w, valid, out, SIZE, STRIDE, X_STRIDES, BLOCK, FIRST, 2 * EVERY, CELL)
        odd = _numbers(corner, h, w, valid, out, SIZE, STRIDE, X_STRIDES, BLOCK, FIRST + EVERY, 2 * EVERY, CELL)
        return tl.join(even, odd)
    else:
        r: tl.constexpr = FIRST // (STRIDE[1] * SIZE[0])
        s: tl.constexpr = FIRST // SIZE[0] % STRIDE[1]
        c: tl.constexpr = FIRST % SIZE[0]
        if r >= STRIDE[0]:
            return tl.zeros((BLOCK,), out.dtype.element_ty)
        else:
            inside = valid & (h >= -r) & (h < SIZE[1] - r) & (w >= -s) & (w < SIZE[2] - s)
            at = corner + (r * X_STRIDES[2] + s * X_STRIDES[3] + c * X_STRIDES[1])
            return tl.load(at, mask=inside, other=0.0).to(out.dtype.element_ty)


def fold_call(shape: StemPool, beyond: int, target: Target) -> KernelCall:
    """The launch that writes a stem's input to the workspace, from its start, as cells, and `beyond` rows of zeros."""
    conv = shape.conv
    strides = (*conv.x_strides[:2], *conv.x_strides[3:])
    size = (shape.folded[0], conv.channels, *conv.size[1:])
    cells = (shape.folded[0] * shape.folded[1] + beyond) * shape.folded[2]
    constexprs = {
        "SIZE": size[1:],
        "FOLDED": shape.folded,
        "CELLS": cells,
        "CELL": shape.cell,
        "STRIDE": conv.stride[1:],
        "BEFORE": shape.before,
        "X_STRIDES": strides,
        "WIDE": sum(s * (n - 1) for s, n in zip(strides, size, strict=True)) >= 2**31,
        "DEPENDENT": target.arch >= 90,
        "BLOCK": _BLOCK,
    }
    arguments: dict[str, Argument] = {"out": Workspace(0, shape.dtype.value), "x": Operand(shape.x_index)}
    return KernelCall(fold, arguments, constexprs, (-(-cells // _BLOCK), 1, 1))
