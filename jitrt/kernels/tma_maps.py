"""Tensor maps of what kernels load and store by TMA, swizzled as Gluon lays out blocks in shared memory."""

from __future__ import annotations

from dataclasses import replace

from triton.experimental.gluon import language as gl

from jitrt.codegen.pointwise import TRITON_TYPES
from jitrt.graph.dtype import DType
from jitrt.kernels.base import Descriptor, Operand, Result
from jitrt.kernels.conv_tma_shape import BLOCK_K, Box, Pixels, lines_of

_TYPES = {DType.f16: "float16", DType.bf16: "bfloat16"}


def tensor_map(
    base: Operand | Result, dtype: DType, sizes: tuple[int, ...], strides: tuple[int, ...], block: tuple[int, ...]
) -> Descriptor:
    """A map over `sizes` elements, the last dimension without gaps, `strides` those of the others; loaded or stored by
    `block`."""
    layout = gl.NVMMASharedLayout.get_default_for(list(block), getattr(gl, _TYPES[dtype]))
    text = f"tensordesc<{TRITON_TYPES[dtype]}{list(block)},{layout!r}>"
    swizzle = layout.swizzle_byte_width
    box = (*block[:-1], min(block[-1], swizzle // dtype.itemsize))
    return Descriptor(base, dtype.value, sizes, strides, box, swizzle, text)


def pixel_map(base: Operand | Result, dtype: DType, pixels: Pixels, columns: int, block: tuple[int, ...]) -> Descriptor:
    """A map over pixels of `columns` elements."""
    return tensor_map(base, dtype, (*pixels.sizes, columns), pixels.strides, block)


def loaded_box(
    box: Box, group: int, stride: tuple[int, int], block_k: int = BLOCK_K
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a load of x spans for a tile and the rows of a filter that share it, and its steps: of each line and column
    that the result leaves out, but counts."""
    steps = (stride[0], 1, stride[1], 1)
    extents = (lines_of(box, group), box[1], box[2], block_k)
    return tuple(extent * step for extent, step in zip(extents, steps, strict=True)), steps


def input_map(
    base: Operand | Result,
    dtype: DType,
    pixels: Pixels,
    channels: int,
    box: Box,
    group: int,
    stride: tuple[int, int],
    block_k: int = BLOCK_K,
) -> Descriptor:
    """A map over the x of a convolution, of which a load brings every `stride`-th line and column of a tile."""
    loaded, steps = loaded_box(box, group, stride, block_k)
    plain = pixel_map(base, dtype, pixels, channels, (*box, block_k))
    return replace(plain, box=loaded, steps=steps if any(step != 1 for step in steps) else ())
