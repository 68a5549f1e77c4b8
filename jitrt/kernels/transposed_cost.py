"""What the cost model of matrix products makes of a transposed convolution by phases (`conv_transpose`)."""

from __future__ import annotations

import math

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config
from jitrt.kernels.gemm_cost import H200, GemmShape, count, estimate
from jitrt.kernels.transposed_shape import TransposedShape

_UNROLLED = 64  # tensor-core instructions of a warp in the longest loop that is unrolled


def phased_gemm(shape: TransposedShape, *, itemsize: int, ieee: bool, epilogue_reads: int) -> GemmShape:
    """The matrix products of all phases, as if each had as many taps as they have on average."""
    return GemmShape(
        rows=shape.rows,
        columns=shape.filters,
        batches=shape.bundles * shape.phases,
        channels=max(shape.channels, 16),  # the kernel does not flatten
        taps=-(-shape.taps // shape.phases),
        itemsize=itemsize,
        ieee=ieee,
        epilogue_reads=epilogue_reads,
    )


def phased_cost(config: Config, gemm: GemmShape, shape: TransposedShape, target: Target) -> float:
    """Estimated seconds, for the `phased_gemm` of `shape`.

    Loops that are unrolled have no addresses to compute, and eight warps on a tile that four could do are no slower for
    it (on the H200 faster by 4 to 13%). Where phases differ in length, programs follow each other without rounds, and
    the longest program takes its time even on an SM of its own.
    """
    counts = count(config, gemm, target)
    split, block_k, warps = config["SPLIT_K"], config["BLOCK_K"], config["num_warps"]
    blocks = -(-gemm.channels // block_k)
    longest = -(-math.prod(shape.tap_counts[0]) * blocks // split)
    instructions = longest * config["BLOCK_M"] // (16 * warps) * block_k * gemm.itemsize // 32
    if split == 1 and instructions <= _UNROLLED and not gemm.ieee:
        counts = counts._replace(if_wide=0, addresses=0)
    if shape.even:
        return estimate(counts, H200)
    programs = -(-gemm.rows // config["BLOCK_M"]) * -(-gemm.columns // config["BLOCK_N"]) * gemm.batches * split
    together = counts.together
    mean = counts._replace(
        rounds=programs / (target.sms * together), steps=shape.taps * blocks / (shape.phases * split)
    )
    alone = counts._replace(rounds=1, steps=longest, together=1, stored=counts.stored / together)
    return max(estimate(mean, H200), estimate(alone, H200))
