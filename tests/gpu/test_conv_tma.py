"""Every candidate of the Gluon kernel for convolutions of several taps on the GPU: verified, NaN and infinities too,
and timed. The sizes are those of networks, and odd ones: tiles that are not full, slices, strides, uneven padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("triton")

from jitrt.codegen.target import target_of
from jitrt.graph import bf16
from jitrt.kernels.base import Problem
from jitrt.kernels.conv_tma import ConvTma
from tests.gpu.candidates import check_candidates
from tests.kernels.convolutions import conv_problem

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


def posed(shape: tuple[int, ...], filters: int, kernel: tuple[int, int] = (3, 3), **others: Any) -> Problem:
    problem = conv_problem(shape, filters, kernel, **{"padding": ((1, 1), (1, 1)), **others})
    return replace(problem, alignment=(16,) * len(problem.alignment))


PROBLEMS = {
    "128 at 28": posed((16, 128, 28, 28), 128),
    "512 at 7": posed((64, 512, 7, 7), 512),
    "few tiles": posed((8, 512, 7, 7), 512),
    "few tiles, stride 2": posed((8, 512, 14, 14), 512, stride=(2, 2)),
    "few tiles, odd sizes, residual": posed((6, 520, 7, 9), 264, residual=True),
    "few tiles, bfloat16": posed((7, 384, 9, 9), 192, dtype=bf16, row_gap=8),
    "odd sizes, residual": posed((17, 96, 35, 33), 72, residual=True),
    "32 filters": posed((16, 128, 28, 28), 32, row_gap=224),
    "stride 2": posed((16, 256, 28, 28), 256, stride=(2, 2)),
    "stride 2, odd, a slice into a slice": posed((33, 72, 27, 29), 136, stride=(2, 2), row_gap=8, input_gap=24),
    "2x5, uneven padding": posed((32, 64, 27, 27), 128, (2, 5), padding=((1, 0), (2, 1))),
    "bfloat16, 1x7": posed((16, 128, 17, 17), 192, (1, 7), padding=((0, 0), (3, 3)), dtype=bf16),
}


def test_every_candidate_is_right() -> None:
    template, target = ConvTma(), target_of(90)
    assert [name for name, problem in PROBLEMS.items() if template.supports(problem, target)] == []
    check_candidates(PROBLEMS, offered={template.name: template})
