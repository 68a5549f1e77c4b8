"""Depthwise convolutions on the GPU: every candidate of layers as networks have them, and of what they rarely have."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from jitrt.graph import bf16, f32
from jitrt.kernels.base import templates
from tests.gpu.candidates import check_candidates
from tests.kernels.convolutions import conv_problem

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]

ONE, TWO, THREE = (((n, n), (n, n)) for n in (1, 2, 3))
PROBLEMS = {
    "ConvNeXt, stage 1": conv_problem((8, 96, 56, 56), 96, (7, 7), padding=THREE, groups=96),
    "ConvNeXt, stage 3, batch 1": conv_problem((1, 384, 14, 14), 384, (7, 7), padding=THREE, groups=384, residual=True),
    "ConvNeXt, stage 4": conv_problem((16, 768, 7, 7), 768, (7, 7), padding=THREE, groups=768),
    "EfficientNet, 5x5": conv_problem((8, 240, 28, 28), 240, (5, 5), padding=TWO, groups=240),
    "EfficientNet, strided": conv_problem((2, 96, 112, 112), 96, (3, 3), stride=(2, 2), padding=ONE, groups=96),
    "odd sizes": conv_problem((3, 37, 29, 31), 74, (3, 5), stride=(1, 3), padding=((1, 1), (2, 0)), groups=37),
    "gaps": conv_problem((2, 40, 17, 19), 40, (3, 3), padding=ONE, groups=40, input_gap=3, row_gap=5),
    "dilated, bf16": conv_problem((2, 64, 33, 35), 64, (3, 3), dilation=(2, 3), padding=TWO, groups=64, dtype=bf16),
    "float32": conv_problem((2, 48, 20, 22), 48, (5, 5), padding=TWO, groups=48, dtype=f32),
    "1-d, long": conv_problem((2, 64, 700), 64, (31,), padding=((15, 15),), groups=64),
    "3-d": conv_problem((2, 24, 6, 20, 18), 24, (3, 3, 3), stride=(1, 2, 2), padding=((1, 1),) * 3, groups=24),
}


def test_every_candidate_is_right() -> None:
    check_candidates(PROBLEMS, {"depthwise": templates()["depthwise"]})
