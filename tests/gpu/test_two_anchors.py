"""Every candidate of the kernels with two anchors, verified and timed on the GPU at the networks' sizes."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from jitrt.graph import bf16, f32
from jitrt.graph.ops import MaxPool
from tests.gpu.candidates import check_candidates
from tests.kernels.bottlenecks import bottleneck
from tests.kernels.test_stem_pool import stem
from tests.kernels.two_anchors import bottlenecks, heads, pools, separables, squeezes, stems

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]

PROBLEMS = {
    **heads(1),
    **heads(8),
    **dict(list(squeezes(1).items())[:1]),
    **stems(1),
    **stems(8),
    **separables(1, ["112x112 96 -> 24, by 2", "14x14 576 -> 96", "7x7 960 -> 160"]),
    **separables(8, ["56x56 144 -> 24"]),
}

# Odd sizes and edges of tiles; what users pass; every type; every number of a filter's rows of cells.
STEMS = {
    "stem: NCHW float32, odd": stem((3, 3, 97, 75), 70, cast_from=f32),
    "stem: bfloat16, one image": stem((1, 3, 64, 101), 33, dtype=bf16),
    "stem: tf32, NCHW out": stem((3, 3, 65, 66), 20, dtype=f32, tf32=True, nchw_out=True),
    "stem: 3x3 by 1, windows apart": stem((2, 3, 37, 40), 64, 3, 1, 1, MaxPool((2, 2), (2, 2), (0, 0))),
    "stem: 5x5 by 2, pool by 1": stem((3, 1, 45, 39), 24, 5, 2, 2, MaxPool((2, 2), (1, 1), (1, 1))),
    "stem: patches, first column shared": stem((3, 4, 58, 50), 24, 2, 2, 0, MaxPool((3, 3), (2, 2), (0, 0))),
}

POOLS = {**pools(1), **pools(16, ["224x224 64 -> 64", "28x28 512 -> 512"])}

# Odd sizes and edges of tiles, a result with gaps, no residual.
BOTTLENECKS = {
    **bottlenecks(8, ["56x56 64 -> 256"]),
    **bottlenecks(32),
    "bottleneck: odd": bottleneck((16, 72, 35, 29), 56, 200, gap=24),
    "bottleneck: 5x5 by 2, bfloat16": bottleneck((64, 40, 65, 61), 96, 136, 5, 2, dtype=bf16, residual=False),
    "bottleneck: patches, swish": bottleneck((32, 64, 57, 41), 128, 64, 2, padding=((0, 0), (0, 0)), swish=True),
}


def test_every_candidate_is_right() -> None:
    check_candidates(PROBLEMS)


def test_every_candidate_of_a_stem_is_right() -> None:
    check_candidates(STEMS)


def test_every_candidate_of_a_convolution_and_its_pool_is_right() -> None:
    check_candidates(POOLS)


def test_every_candidate_of_a_bottleneck_is_right() -> None:
    check_candidates(BOTTLENECKS)
