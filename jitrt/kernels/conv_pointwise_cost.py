"""Which tiles of `conv_pointwise` are worth compiling, and what they should take.

The estimate is that of two matrix products (`gemm_cost`), with the rounds of one launch, and nothing stored between.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import triton

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config
from jitrt.kernels.gemm_cost import H200, GemmShape, cost, count, estimate, rank_configs

_REGISTERS = 65536
_MOST_REGISTERS = 248
_OTHER_REGISTERS = 40  # a thread's, for addresses
_MOST_PRODUCTS = 16  # of a program, after the loop
_RESERVED = 1024  # bytes of shared memory of a program


@dataclass(frozen=True)
class Shape:
    """`rows` pixels; `channels` x `taps` are summed for `width` channels, and these for `filters`. `reads` operands of
    the epilogue are as large as the result. `fixed`: the weights of the second convolution are constants."""

    rows: int
    channels: int
    taps: int
    width: int
    filters: int
    reads: int
    fixed: bool

    @property
    def products(self) -> tuple[GemmShape, GemmShape]:
        """The convolutions as two kernels."""
        parts = ((self.width, self.channels, self.taps, 0), (self.filters, self.width, 1, self.reads))
        return tuple(  # type: ignore[return-value]
            GemmShape(self.rows, n, 1, c, taps, 2, False, reads, epilogue_vectors=True) for n, c, taps, reads in parts
        )


def block_c(shape: Shape) -> int:
    """Channels between, as a program has them."""
    return max(16, triton.next_power_of_2(shape.width))


def _chunks(shape: Shape, config: Config) -> int:
    """Products after the loop."""
    return -(-shape.filters // config["BLOCK_N"])


def _shared(config: Config, shape: Shape) -> int:
    """Bytes: blocks of x and v under way, beside all of w or before what is under way of it."""
    c = block_c(shape)
    loop = config["num_stages"] * config["BLOCK_K"] * (config["BLOCK_M"] + c)
    if config["RESIDENT"]:
        return 2 * (loop + c * _chunks(shape, config) * config["BLOCK_N"]) + _RESERVED
    after = config["BLOCK_N"] * max(config["STAGES_N"] * c, config["BLOCK_M"])
    return 2 * max(loop, after) + _RESERVED


def _registers(config: Config, shape: Shape) -> int:
    """Registers a thread: the larger of the sums in the loop, and after it the left operand and the sums of a product;
    and the operands of the epilogue that are held."""
    c, threads = block_c(shape), 32 * config["num_warps"]
    tile = config["BLOCK_M"] * config["BLOCK_N"]
    held = tile // 2 * shape.reads * config["AHEAD"]
    loop = config["BLOCK_M"] * c + held
    after = config["BLOCK_M"] * c // 2 + tile + max(held, tile // 2 * shape.reads) * 2
    return max(loop, after) // threads + _OTHER_REGISTERS


def configs(shape: Shape, target: Target) -> list[Config]:
    """What fits."""
    out: list[Config] = []
    widest = triton.next_power_of_2(shape.filters)
    blocks_k = [k for k in (16, 32, 64, 128) if k < 2 * shape.channels or k == 16][-2:]
    for bm, warps, bn, bk, stages, (resident, stages_n) in itertools.product(
        (16, 32, 64, 128), (4, 8), (32, 64, 128, 256), blocks_k, (2, 3, 4), ((True, 1), (False, 2), (False, 3))
    ):
        if bn > max(32, widest) or bm >= max(32, 2 * shape.rows) or (resident and not shape.fixed):
            continue
        # wgmma takes 64 rows for each group of four warps.
        if bm >= 64 and warps != 4 and bm // warps != 16:
            continue
        products = -(-shape.filters // bn)
        if products > _MOST_PRODUCTS or (not resident and stages_n > products + 1):
            continue
        if stages > max(2, shape.taps * -(-shape.channels // bk)):
            continue
        for ahead in sorted({0, 1, products if resident else 1} if shape.reads else {0, 1}):
            config: Mapping[str, Any] = {
                "BLOCK_M": bm,
                "BLOCK_N": bn,
                "BLOCK_K": bk,
                "AHEAD": ahead,
                "RESIDENT": resident,
                "STAGES_N": stages_n,
                "num_warps": warps,
                "num_stages": stages,
            }
            if _shared(config, shape) <= target.shared and _registers(config, shape) <= _MOST_REGISTERS:
                out.append(config)
    return out


def seconds(config: Config, shape: Shape, target: Target) -> float:
    """Estimated seconds."""
    c, bm, bn, warps = block_c(shape), config["BLOCK_M"], config["BLOCK_N"], config["num_warps"]
    programs = -(-shape.rows // bm)
    room = target.shared // _shared(config, shape)
    resident = max(1, min(room, _REGISTERS // (_registers(config, shape) * 32 * warps), 64 // warps))
    together = min(resident, -(-programs // target.sms))
    rounds = -(-programs // (target.sms * together))
    common = {"BLOCK_M": bm, "SPLIT_K": 1, "FLATTEN": False, "num_warps": warps}
    loop = {**common, "BLOCK_N": c, "BLOCK_K": config["BLOCK_K"], "EARLY": True, "num_stages": config["num_stages"]}
    after = {**common, "BLOCK_N": bn, "BLOCK_K": c, "EARLY": config["AHEAD"] > 0, "num_stages": 2}
    first, second = shape.products
    chunks = _chunks(shape, config)
    one = count(loop, first, target)
    two = count(after, second, target)
    stored = bm * shape.filters * 2 * (1 + shape.reads) * together
    moved = one.moved + two.moved - 4 * shape.rows * shape.width
    one = one._replace(rounds=rounds, together=together, stored=0, if_late=0, moved=moved)
    w = 2 * c * bn
    two = two._replace(rounds=rounds, together=together, steps=chunks, stored=stored, loaded=w, addresses=0, moved=0)
    return float(estimate(one, H200) + estimate(two, H200) - H200.launch)


@lru_cache(maxsize=256)
def seconds_apart(shape: Shape, target: Target) -> float:
    """What the best configurations of `conv2d` are estimated to take for both, one after the other."""
    return sum(cost(rank_configs(product, target, 1)[0], product, target) for product in shape.products)
