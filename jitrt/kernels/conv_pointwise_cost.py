"""What a program of `conv_pointwise` does for a tile, in the terms of gemm_tma's cost model."""

from __future__ import annotations

import math

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config
from jitrt.kernels.conv_pointwise_shape import Shape
from jitrt.kernels.conv_tma_cost import box_of, steps_of, x_block
from jitrt.kernels.conv_tma_shape import BLOCK_K
from jitrt.kernels.gemm_tma_cost import ELEMENT, HANDED, PRODUCTS, STEP, Work

# Fitted, beside gemm_tma's, to 27 timings on an H200, of which the model is 15% off (root mean square).
_WAIT = 3  # steps that a product takes on its own
_RESIDUAL = 1500.0  # cycles from a load of the residual, when its place is free, to its data


def units_of(shape: Shape, config: Config) -> int:
    """Tiles."""
    return math.prod(shape.first.tiles(box_of(config)))


def products_of(shape: Shape, config: Config) -> int:
    """Products of what lies between, each with BLOCK_N filters."""
    return -(-shape.filters // config["BLOCK_N"])


def blocks_of(shape: Shape, config: Config) -> int:
    """Blocks of x that a tile takes."""
    return shape.first.taps // config["GROUP"] * steps_of(shape.first)


def v_block(shape: Shape) -> int:
    """Bytes of a block of the first convolution's weights."""
    return 2 * BLOCK_K * shape.block_c


def w_block(shape: Shape, config: Config) -> int:
    """Bytes of a block of the second convolution's weights."""
    return 2 * int(config["BLOCK_N"]) * shape.block_c


def held(shape: Shape, config: Config) -> int:
    """Bytes of weights that a program keeps."""
    v = 0 if config["V_STAGES"] else shape.first.taps * steps_of(shape.first) * v_block(shape)
    return v + (0 if config["W_STAGES"] else products_of(shape, config) * w_block(shape, config))


def work_of(shape: Shape, config: Config, target: Target) -> Work:
    """A tile's work, and an SM's share of the tiles."""
    first, handed = shape.first, shape.handed is not None
    bn, per_sm, consumers, threads = (
        config["BLOCK_N"],
        config["PROGRAMS"],
        config["CONSUMERS"],
        32 * config["num_warps"],
    )
    pixels, units = math.prod(box_of(config)), units_of(shape, config)
    blocks, parts = blocks_of(shape, config), products_of(shape, config)
    steps = first.taps * steps_of(first)
    result = 2 * pixels * bn
    # (bytes a tile, bytes that may be under way) of each ring
    rings = [(blocks * x_block(config), config["STAGES"] * x_block(config))]
    if config["V_STAGES"]:
        rings.append((steps * v_block(shape), config["V_STAGES"] * v_block(shape)))
    if config["W_STAGES"]:
        rings.append((parts * w_block(shape, config), config["W_STAGES"] * w_block(shape, config)))
    if handed:
        rings.append((parts * result, (config["BUFFERS"] - 1) * consumers * result))
    loaded = sum(size for size, _ in rings)
    read = math.prod(first.x.sizes) * first.channels + shape.width * (first.channels * first.taps + shape.filters)
    rounds = -(-units // min(target.sms * per_sm, units))
    elements = pixels * bn // threads
    multiply = pixels * bn * shape.block_c / PRODUCTS + _WAIT * STEP
    part = multiply + elements * (ELEMENT + (HANDED if handed else 0.0))
    ahead = config["BUFFERS"] - 1
    idle = parts * max(0.0, (_RESIDUAL - (ahead - 1) * part) / ahead) if handed else 0.0
    ordered = config["W_STAGES"] and consumers > 1
    return Work(
        tiles=rounds * per_sm,
        consumers=min(consumers, rounds) * per_sm,
        products=pixels * shape.block_c * (steps * BLOCK_K + parts * bn),
        steps=steps + _WAIT * parts,
        loaded=loaded,
        ahead=int(loaded / max(size / ahead for size, ahead in rings)),
        stored=parts * result,
        elements=parts * elements + pixels * shape.block_c // (2 * threads),
        handed=handed,
        kept=held(shape, config) * per_sm,
        moved=2 * (read + first.rows * shape.filters * (2 if handed else 1)),
        idle=idle,
        in_turn=parts * part + idle if ordered else 0.0,
    )
