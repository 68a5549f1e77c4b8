"""The first layer's convolution through a padded four-channel copy, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import f32
from jitrt.kernels.base import Problem
from jitrt.kernels.stem import Stem, pack_stem
from jitrt.testing import check_problem, compiles
from tests.kernels.convolutions import conv_problem

SEVEN = {"stride": (2, 2), "padding": ((3, 3), (3, 3))}
CONFIG = {
    "BLOCK_M": 16,
    "BLOCK_N": 16,
    "BLOCK_K": 16,
    "SPLIT_K": 1,
    "FLATTEN": False,
    "EARLY": False,
    "num_warps": 4,
    "num_stages": 2,
}


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(conv_problem((2, 3, 13, 11), 17, (7, 7), nchw_in=True, **SEVEN), id="7x7 stride 2"),
        pytest.param(conv_problem((1, 3, 8, 9), 8, (3, 3), padding=((1, 1), (1, 1)), nchw_in=True), id="3x3 stride 1"),
        pytest.param(conv_problem((1, 1, 8, 9), 8, (5, 5)), id="one channel, NHWC"),
        pytest.param(conv_problem((1, 4, 8, 9), 8, (4, 4), stride=(4, 4)), id="patches of four channels"),
        pytest.param(conv_problem((1, 3, 9, 9), 8, (3, 3), nchw_in=True, cast_from=f32), id="float32 from outside"),
        pytest.param(
            conv_problem((1, 2, 9, 9), 8, (3, 2), dilation=(2, 1), nchw_in=True, dtype=f32), id="fp32, dilated rows"
        ),
        pytest.param(conv_problem((2, 1, 41), 8, (10,), stride=(5,), nchw_in=True), id="1-d, sound"),
        pytest.param(
            conv_problem((1, 3, 3, 7, 6), 8, (3, 3, 3), stride=(1, 2, 2), padding=((1, 1),) * 3, nchw_in=True),
            id="3-d, video",
        ),
    ],
)
def test_numbers(problem: Problem) -> None:
    check_problem(problem, Stem(), [CONFIG, {**CONFIG, "BLOCK_K": 64}], extremes=not Stem().spreads_nonfinite(problem))


def test_compiles_without_spills() -> None:
    problem = conv_problem((8, 3, 224, 224), 64, (7, 7), nchw_in=True, **SEVEN)
    compiles(problem, Stem(), CONFIG)
    assert Stem().candidates(problem, TARGETS[90])


def test_pack_puts_a_rows_taps_side_by_side() -> None:
    w = np.arange(2 * 3 * 1 * 3, dtype=np.float32).reshape(2, 3, 1, 3) + 1
    packed = pack_stem(w, taps=4).reshape(2, 1, 4, 4)
    assert np.array_equal(packed[:, :, :3, :3], w.transpose(0, 2, 3, 1))
    assert not packed[..., 3].any() and not packed[:, :, 3].any()


def test_only_filters_rounded_up_spread_infinities() -> None:
    assert Stem().spreads_nonfinite(conv_problem((1, 3, 13, 11), 8, (7, 7)))
    assert not Stem().spreads_nonfinite(conv_problem((1, 3, 13, 11), 8, (4, 4)))


def test_leaves_wider_inputs_and_live_weights_alone() -> None:
    assert "too many channels" in (Stem().accepts(conv_problem((1, 5, 8, 8), 8, (3, 3)).body) or "")
    assert "dilated" in (Stem().accepts(conv_problem((1, 3, 8, 8), 8, (3, 3), dilation=(1, 2)).body) or "")
    problem = conv_problem((1, 3, 8, 8), 8, (3, 3))
    live = Problem(problem.body, (False, False, True), problem.alignment)
    assert "constant weights" in (Stem().supports(live, TARGETS[90]) or "")
