"""The implicit-GEMM convolution: every shape of window, layout, dtype and split, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import Graph, TensorType, bf16, f16, f32, f64
from jitrt.graph.ops import Add, Conv, Relu
from jitrt.kernels.base import Problem, templates
from jitrt.kernels.conv2d import Conv2d
from jitrt.kernels.conv_shape import bundle_of, describe, pack_bundles
from jitrt.testing import check_problem, compiles
from tests.kernels.convolutions import conv_problem, linear_problem, nhwc

SAME, SAME3 = ((1, 1),) * 2, ((1, 1),) * 3


def config(
    m: int = 16, n: int = 16, k: int = 16, *, split: int = 1, flatten: bool = False, early: bool = False
) -> dict[str, int | bool]:
    return {
        "BLOCK_M": m,
        "BLOCK_N": n,
        "BLOCK_K": k,
        "SPLIT_K": split,
        "FLATTEN": flatten,
        "EARLY": early,
        "num_warps": 4,
        "num_stages": 2,
    }


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(conv_problem((2, 19, 5, 7), 21, (3, 3), padding=SAME), id="ragged everywhere"),
        pytest.param(conv_problem((1, 16, 7, 6), 16, (3, 3), stride=(2, 2), padding=SAME), id="strided"),
        pytest.param(conv_problem((1, 16, 9, 9), 16, (3, 3), dilation=(2, 3), padding=((2, 2), (3, 3))), id="dilated"),
        pytest.param(conv_problem((1, 8, 5, 6), 9, (1, 5), padding=((0, 0), (3, 1))), id="one-sided padding"),
        pytest.param(conv_problem((3, 24, 3, 3), 40, (1, 1), residual=True), id="1x1 and residual"),
        pytest.param(conv_problem((1, 3, 9, 9), 10, (3, 3), nchw_in=True, padding=SAME), id="NCHW in"),
        pytest.param(conv_problem((1, 16, 4, 4), 10, (1, 1), nchw_out=True), id="NCHW out"),
        pytest.param(conv_problem((1, 16, 4, 5), 10, (3, 3), padding=SAME, row_gap=6), id="into a concat's slice"),
        pytest.param(conv_problem((1, 16, 4, 5), 10, (1, 1), input_gap=5), id="out of a concat's slice"),
        pytest.param(conv_problem((1, 16, 4, 5), 10, (1, 1), cast_from=f32), id="cast on the way in"),
        pytest.param(conv_problem((1, 16, 6, 6), 16, (3, 3), padding=SAME, dtype=bf16), id="bf16"),
        pytest.param(conv_problem((1, 16, 6, 6), 16, (3, 3), padding=SAME, dtype=f32), id="fp32"),
        pytest.param(conv_problem((1, 24, 5, 5), 12, (3, 3), padding=SAME, groups=3), id="grouped"),
        pytest.param(conv_problem((1, 64, 3, 3), 128, (3, 3), padding=SAME, groups=16), id="bundled groups"),
        pytest.param(linear_problem((3, 5, 37), 19), id="linear"),
        pytest.param(linear_problem((3, 1), 1), id="linear of one element"),
        pytest.param(conv_problem((3, 37, 1, 1), 21, (1, 1), nchw_in=True, row_major_weights=True), id="one pixel"),
        pytest.param(conv_problem((1, 37, 5, 1), 21, (3, 1), nchw_in=True, row_major_weights=True), id="one column"),
        pytest.param(conv_problem((1, 1, 5, 6), 1, (3, 3), padding=SAME, row_major_weights=True), id="one channel"),
        pytest.param(conv_problem((2, 4, 3, 3), 4, (1, 1), groups=2, row_major_weights=True), id="1x1 grouped"),
        pytest.param(conv_problem((2, 19, 17), 21, (5,), stride=(2,), padding=((3, 1),), dilation=(2,)), id="1-d"),
        pytest.param(conv_problem((2, 24, 9), 18, (3,), padding=((1, 1),), groups=3, nchw_in=True), id="1-d grouped"),
        pytest.param(
            conv_problem(
                (2, 19, 4, 5, 3), 21, (3, 2, 3), stride=(2, 1, 1), padding=((1, 1), (0, 1), (2, 0)), dilation=(1, 2, 1)
            ),
            id="3-d",
        ),
        pytest.param(conv_problem((1, 16, 3, 4, 4), 9, (3, 1, 1), row_gap=3, residual=True), id="3-d, depth alone"),
        pytest.param(
            conv_problem((1, 24, 3, 4, 3), 12, (2, 3, 3), padding=((1, 0),) * 3, groups=3, dtype=f32), id="3-d grouped"
        ),
        pytest.param(
            conv_problem((1, 16, 1, 4, 4), 8, (1, 1, 1), stride=(2, 1, 1), padding=((1, 0), (0, 0), (0, 0))),
            id="3-d, flat but padded",
        ),
    ],
)
def test_numbers(problem: Problem) -> None:
    check_problem(problem, Conv2d(), [config()], extremes=not Conv2d().spreads_nonfinite(problem))


def test_split_k_adds_the_parts_and_leaves_the_counters_zero() -> None:
    problem = conv_problem((1, 48, 3, 3), 20, (3, 3), padding=SAME, residual=True)
    check_problem(problem, Conv2d(), [config(split=2), config(split=4, k=32), config(split=16)])


def test_early_residual() -> None:
    problem = conv_problem((1, 24, 5, 3), 20, (3, 3), padding=SAME, residual=True)
    check_problem(problem, Conv2d(), [config(early=True)])
    compiles(problem, Conv2d(), config(32, 32, 32, early=True))


def test_flattened_reduction_of_few_channels() -> None:
    problem = conv_problem((1, 3, 11, 9), 12, (7, 7), stride=(2, 2), padding=((3, 3), (3, 3)), nchw_in=True)
    check_problem(problem, Conv2d(), [config(flatten=True), config(k=64, flatten=True, split=2)])
    clip = conv_problem((1, 3, 3, 7, 5), 12, (3, 3, 3), stride=(1, 2, 1), padding=SAME3, nchw_in=True)
    check_problem(clip, Conv2d(), [config(k=64, flatten=True)])


@pytest.mark.parametrize("dtype", [f16, bf16, f32])
@pytest.mark.parametrize("split", [1, 3])
def test_compiles_without_spills(dtype: object, split: int) -> None:
    problem = conv_problem((1, 64, 14, 14), 64, (3, 3), padding=SAME, dtype=dtype, residual=True)  # type: ignore[arg-type]
    compiles(problem, Conv2d(), config(32, 32, 32, split=split))


@pytest.mark.parametrize(
    "problem",
    [
        conv_problem((1, 64, 56, 56), 64, (3, 3), padding=SAME),
        conv_problem((128, 64, 56, 56), 256, (1, 1), residual=True),
        conv_problem((1, 512, 7, 7), 512, (3, 3), padding=SAME),
    ],
)
def test_best_guess_compiles_for_every_target(problem: Problem) -> None:
    for arch in (80, 90, 100):
        best = Conv2d().candidates(problem, TARGETS[arch])[0]
        compiles(problem, Conv2d(), best, targets=(arch,), spills=64)


def test_candidates_fit_the_chip() -> None:
    for arch, target in TARGETS.items():
        for found in Conv2d().candidates(conv_problem((8, 256, 14, 14), 256, (3, 3), padding=SAME), target):
            shared = (found["BLOCK_M"] + found["BLOCK_N"]) * found["BLOCK_K"] * 2 * found["num_stages"]
            assert shared <= target.shared, (arch, found)


def test_few_tiles_are_split() -> None:
    deep = Conv2d().candidates(conv_problem((1, 512, 7, 7), 512, (3, 3), padding=SAME), TARGETS[90])
    assert deep[0]["SPLIT_K"] > 1
    wide = Conv2d().candidates(conv_problem((128, 64, 56, 56), 64, (3, 3), padding=SAME), TARGETS[90])
    assert wide[0]["SPLIT_K"] == 1


def test_only_bundles_of_groups_spread_infinities() -> None:
    assert Conv2d().spreads_nonfinite(conv_problem((1, 24, 5, 5), 12, (3, 3), groups=3))
    assert not Conv2d().spreads_nonfinite(conv_problem((1, 96, 5, 5), 96, (3, 3), groups=3))
    assert not Conv2d().spreads_nonfinite(conv_problem((1, 3, 5, 5), 12, (3, 3)))


def test_pack_bundles_is_block_diagonal() -> None:
    w = np.arange(6 * 2, dtype=np.float32).reshape(6, 2, 1, 1) + 1
    packed = pack_bundles(w, groups=3, bundle=3)  # three groups of two filters and two channels
    dense = packed[:, 0, 0]
    assert dense.shape == (6, 6)
    for k in range(6):
        group = k // 2
        assert np.array_equal(dense[k, 2 * group : 2 * group + 2], w[k, :, 0, 0])
        assert np.count_nonzero(dense[k]) == 2


def test_bundles_divide_the_groups() -> None:
    assert bundle_of(1, 64) == 1
    assert bundle_of(32, 4) == 8
    assert bundle_of(2, 4) == 2
    assert bundle_of(7, 24) == 7


def test_refuses_what_it_cannot_run() -> None:
    body = Graph("region")
    x, w = (body.add_input(name, TensorType(f16, (4, 4, 3, 3, 3, 3))) for name in "xw")
    body.mark_output(body.add(Conv((1,) * 4, ((0, 0),) * 4, (1,) * 4), x, w))
    assert Conv2d().accepts(body) == "a 4-d convolution has no kernel"

    body = Graph("region")
    x, w = body.add_input("x", TensorType(f64, (1, 4, 8, 8))), body.add_input("w", TensorType(f64, (4, 4, 3, 3)))
    body.mark_output(body.add(Conv((1, 1), SAME, (1, 1)), x, w))
    assert "f64" in (Conv2d().accepts(body) or "")

    body = Graph("region")
    x, w = body.add_input("x", TensorType(f16, (1, 4, 8, 8))), body.add_input("w", TensorType(f16, (4, 4, 3, 3)))
    body.mark_output(body.add(Conv((1, 1), SAME, (1, 1)), body.add(Relu(), x), w))
    assert Conv2d().accepts(body) == "relu cannot run inside a convolution's loop"

    body = Graph("region")
    x, w = body.add_input("x", TensorType(f16, (4, 8, 5, 5))), body.add_input("w", TensorType(f16, (4, 4, 1, 1)))
    body.mark_output(body.add(Add(), body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 2), x, w), w))
    assert "the weights are read elsewhere too" in (Conv2d().accepts(body) or "")

    grouped = conv_problem((1, 24, 5, 5), 12, (3, 3), groups=3)
    live = Problem(grouped.body, (False, False, True), grouped.alignment)
    assert "constant weights" in (Conv2d().supports(live, TARGETS[90]) or "")


def test_leaves_depthwise_to_its_own_kernel() -> None:
    problem = conv_problem((1, 8, 5, 5), 8, (3, 3), groups=8)
    assert "depthwise" in (Conv2d().accepts(problem.body) or "")
    assert templates()["depthwise"].accepts(problem.body) is None


def test_where_there_is_one_element_nothing_is_said_of_the_next() -> None:
    # A stride of 1 along such a dimension would hide from the compiler that channels are loaded 16 bytes at a time.
    problem = conv_problem((1, 64, 1, 1), 32, (1, 1))
    x, w = (TensorType(f16, shape) for shape in ((1, 64, 1, 1), (32, 64, 1, 1)))
    assert x.strides[2:] == w.strides[2:] == (1, 1)
    assert problem.anchor is not None
    shape = describe(problem.anchor, x, w)
    assert shape == describe(problem.anchor, nhwc(x), nhwc(w))
    assert (shape.x_strides, shape.w_strides) == ((0, 1, 0, 0, 0), (64, 1, 0, 0, 0))
