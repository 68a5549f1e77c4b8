"""Depthwise convolution against numpy."""

from __future__ import annotations

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import bf16, f32
from jitrt.kernels.base import Problem
from jitrt.kernels.depthwise import Depthwise
from jitrt.testing import check_problem, compiles
from tests.kernels.convolutions import conv_problem

SAME = ((1, 1), (1, 1))


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(conv_problem((2, 19, 5, 7), 19, (3, 3), padding=SAME, groups=19), id="ragged"),
        pytest.param(
            conv_problem((1, 8, 9, 8), 8, (5, 5), stride=(2, 2), padding=((2, 2), (2, 2)), groups=8), id="strided"
        ),
        pytest.param(conv_problem((1, 6, 9, 8), 18, (3, 3), padding=SAME, groups=6), id="multiplier 3"),
        pytest.param(
            conv_problem((1, 8, 9, 9), 8, (3, 3), dilation=(2, 2), padding=((2, 2), (2, 2)), groups=8), id="dilated"
        ),
        pytest.param(conv_problem((1, 8, 5, 5), 8, (3, 3), padding=SAME, groups=8, row_gap=3), id="gaps in the output"),
        pytest.param(
            conv_problem((1, 8, 5, 5), 8, (3, 3), padding=SAME, groups=8, nchw_in=True, nchw_out=True), id="NCHW"
        ),
        pytest.param(conv_problem((1, 8, 5, 5), 8, (3, 3), padding=SAME, groups=8, dtype=bf16), id="bf16"),
        pytest.param(
            conv_problem((1, 8, 5, 5), 8, (3, 3), padding=SAME, groups=8, dtype=f32, residual=True), id="fp32"
        ),
        pytest.param(conv_problem((1, 8, 5, 5), 8, (3, 3), padding=SAME, groups=8, cast_from=f32), id="cast"),
        pytest.param(conv_problem((2, 9, 13), 9, (3,), stride=(2,), padding=((1, 1),), groups=9), id="1-d"),
        pytest.param(conv_problem((2, 8, 33), 16, (31,), padding=((15, 15),), groups=8), id="1-d, long"),
        pytest.param(
            conv_problem((1, 8, 3, 5, 4), 8, (3, 3, 2), stride=(1, 2, 1), padding=((1, 1),) * 3, groups=8), id="3-d"
        ),
    ],
)
def test_numbers(problem: Problem) -> None:
    check_problem(problem, Depthwise(), [{"BLOCK_M": 8, "BLOCK_C": 16, "num_warps": 2}])


def test_compiles_without_spills() -> None:
    problem = conv_problem((1, 96, 56, 56), 96, (7, 7), padding=((3, 3), (3, 3)), groups=96)
    compiles(problem, Depthwise(), Depthwise().candidates(problem, TARGETS[90])[0])


def test_live_weights_are_read_where_they_lie() -> None:
    for problem in (
        conv_problem((1, 8, 5, 4), 8, (3, 3), padding=SAME, groups=8),
        conv_problem((1, 8, 24), 8, (15,), groups=8),
    ):
        live = Problem(problem.body, (False, False, True), problem.alignment)
        check_problem(live, Depthwise(), [{"BLOCK_M": 8, "BLOCK_C": 16, "num_warps": 2}])


def test_few_channels_have_candidates_too() -> None:
    problem = conv_problem((1, 3, 5, 5), 3, (3, 3), padding=SAME, groups=3)
    check_problem(problem, Depthwise(), Depthwise().candidates(problem, TARGETS[90])[:1])


def test_leaves_dense_convolutions_alone() -> None:
    assert Depthwise().accepts(conv_problem((1, 8, 5, 5), 8, (3, 3)).body) == "anchor is not depthwise"
    assert Depthwise().accepts(conv_problem((1, 8, 5, 5), 8, (3, 3), groups=4).body) == "anchor is not depthwise"
