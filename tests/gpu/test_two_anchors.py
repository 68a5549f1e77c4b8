"""Every candidate of the kernels with two anchors, verified and timed on the GPU at the networks' sizes."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from tests.gpu.candidates import check_candidates
from tests.kernels.two_anchors import heads, pools, separables, squeezes, stems

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

POOLS = {**pools(1), **pools(16, ["224x224 64 -> 64", "28x28 512 -> 512"])}


def test_every_candidate_is_right() -> None:
    check_candidates(PROBLEMS)


def test_every_candidate_of_a_convolution_and_its_pool_is_right() -> None:
    check_candidates(POOLS)
