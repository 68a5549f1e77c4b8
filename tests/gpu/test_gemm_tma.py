"""Every candidate of the Gluon kernel for 1x1 convolutions on the GPU: verified, NaN and infinities too, and timed. The
sizes are those of networks, and odd ones: tiles that are not full, slices, lines."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from jitrt.codegen.target import target_of
from jitrt.graph import bf16, f16
from jitrt.graph import ops as o
from jitrt.kernels.gemm_tma import GemmTma
from tests.gpu.candidates import check_candidates
from tests.kernels.pointwise_products import linear_problem, pointwise_problem

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]

PROBLEMS = {
    "residual, odd rows": pointwise_problem((3, 256, 27, 27), 1024, residual=True),
    "odd rows, no bias": pointwise_problem((17, 128, 27, 27), 512, bias=False),
    "odd channels": pointwise_problem((9, 200, 27, 27), 264, residual=True),
    "into a slice, from a slice": pointwise_problem((5, 256, 27, 27), 512, gap=64, input_gap=8),
    "stride 2": pointwise_problem((8, 256, 56, 56), 512, stride=2, residual=True),
    "stride 2, lines of 15": pointwise_problem((32, 128, 30, 29), 512, stride=2),
    "bfloat16, hardswish": pointwise_problem((3, 512, 27, 27), 512, residual=True, dtype=bf16, then=(o.HardSwish(),)),
    "bfloat16 to float16": pointwise_problem((8, 256, 14, 14), 1024, dtype=bf16, out=f16),
    "gelu": linear_problem((8, 197, 768), 3072, then=(o.Gelu(),)),
}


def test_every_candidate_is_right() -> None:
    template, target = GemmTma(), target_of(90)
    assert [name for name, problem in PROBLEMS.items() if template.supports(problem, target)] == []
    check_candidates(PROBLEMS, offered={template.name: template})
