"""Every candidate of the attention kernel, verified and timed on the GPU."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from jitrt.graph import b8, bf16, f32
from tests.gpu.candidates import check_candidates
from tests.kernels.test_attention import attention

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]

NETWORKS = {
    **{f"ViT-B, batch {n}": attention((n, 12), 197, 197, 64, 64, joint=True) for n in (1, 8)},
    **{f"BERT-base, batch {n}": attention((n, 12), 128, 128, 64, 64, joint=True) for n in (1, 8)},
}

# Odd sizes, edges of blocks, every type, masks, layouts.
OTHERS = {
    "long, wide heads, bfloat16": attention((1, 8), 1000, 1030, 128, 128, dtype=bf16),
    "odd heads, a mask that is added": attention((2, 3), 65, 130, 40, 72, mask=f32),
    "a mask of booleans, a residual": attention((2, 4), 127, 129, 32, 32, mask=b8, residual=True),
    "one row": attention((4, 8), 1, 300, 64, 64),
    "float32": attention((1, 4), 70, 90, 64, 64, dtype=f32),
    "tf32, the same values for all heads": attention((2, 4), 70, 90, 64, 64, dtype=f32, tf32=True, shared_values=True),
    "heads of 256": attention((1, 4), 100, 100, 256, 256),
}


def test_every_candidate_of_the_networks_is_right() -> None:
    check_candidates(NETWORKS)


def test_every_candidate_of_other_shapes_is_right() -> None:
    check_candidates(OTHERS)
