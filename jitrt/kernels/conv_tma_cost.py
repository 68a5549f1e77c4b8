"""What a program of `conv_tma` does for a tile, in the terms of gemm_tma's cost model, whose constants it borrows.

They were fitted to gemm_tma's timings alone; of 33 forms of this kernel on ResNet-50's 3x3 convolutions at batch 128
they are 9% off (root mean square, H200).
"""

from __future__ import annotations

import math

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config
from jitrt.kernels.conv_tma_shape import BLOCK_K, Box, Shape, lines_of
from jitrt.kernels.gemm_tma_cost import Work


def box_of(config: Config) -> Box:
    return config["LINES"], config["IMAGES"], config["COLUMNS"]


def steps_of(shape: Shape) -> int:
    """Blocks of channels."""
    return -(-shape.channels // shape.block_k)


def depth_of(shape: Shape, config: Config) -> tuple[int, int]:
    """Channels multiplied for a tap, and those of them in its last block. Who takes some blocks of a tap takes all of
    each."""
    last = shape.last if config["SPLIT"] == 1 else shape.block_k
    return (steps_of(shape) - 1) * shape.block_k + last, last


def units_of(shape: Shape, config: Config) -> int:
    """Tiles of pixels times slices of filters times the parts of their sums."""
    return math.prod(shape.tiles(box_of(config))) * slices_of(shape, config) * int(config["SPLIT"])


def slices_of(shape: Shape, config: Config) -> int:
    return -(-shape.filters // config["BLOCK_N"])


def x_block(config: Config, block_k: int = BLOCK_K) -> int:
    """Bytes of a block of x."""
    box = box_of(config)
    return 2 * block_k * lines_of(box, config["GROUP"]) * box[1] * box[2]


def w_block(config: Config, block_k: int) -> int:
    """Bytes of a block of w."""
    return int(2 * block_k * config["BLOCK_N"])


def work_of(shape: Shape, config: Config, target: Target) -> Work:
    """A tile's work, and an SM's share of the tiles."""
    box, bn, per_sm = box_of(config), config["BLOCK_N"], config["PROGRAMS"]
    pixels, units, handed, split = math.prod(box), units_of(shape, config), shape.handed is not None, config["SPLIT"]
    programs = min(target.sms * per_sm, units)
    taps = (shape.met(box) if config["SKIP"] else shape.taps) / split
    blocks = taps * steps_of(shape)
    x, w = x_block(config, shape.block_k), w_block(config, shape.block_k)
    x_bytes, w_bytes = x / config["GROUP"], 0 if config["RESIDENT"] else w
    result = 2 * pixels * bn
    paced = max(bn, (bn + 64) // 2)  # with few filters reading both operands takes longer than multiplying them
    read = math.prod(shape.x.sizes) * shape.channels + shape.filters * shape.channels * shape.taps
    return Work(
        tiles=-(-units // programs) * per_sm,
        consumers=config["CONSUMERS"] * per_sm,
        products=int(pixels * paced * taps * depth_of(shape, config)[0]),
        steps=math.ceil(blocks),
        loaded=int(blocks * (x_bytes + w_bytes)) + (result if handed else 0),
        ahead=config["STAGES"] * x + (0 if config["RESIDENT"] else config["W_STAGES"] * w),
        stored=result,
        elements=pixels * bn // (32 * config["num_warps"]),
        handed=handed,
        kept=w * shape.taps * steps_of(shape) * per_sm if config["RESIDENT"] else 0,
        moved=2 * (read + shape.rows * shape.filters * (2 if handed else 1)),
        added=4 * pixels * bn * split if split > 1 else 0,
    )
