"""Which tactics of transposed convolutions are tried first, beside what was fastest on an H200.

`phased_cost` was made with the first two of 3 x 3 and the largest of 4 x 4 in view. "Rolled" figures are of loops that
were not unrolled yet.
"""

from __future__ import annotations

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import f32
from jitrt.kernels.base import Config, Problem, templates
from jitrt.kernels.conv_transpose import ConvTransposeTemplate
from jitrt.kernels.gemm_cost import cost
from jitrt.kernels.transposed_cost import phased_cost, phased_gemm
from jitrt.kernels.transposed_shape import TransposedShape, describe_transposed
from tests.kernels.convolutions import conv_problem, transposed_problem

TARGET = TARGETS[90]
ONE = ((1, 1), (1, 1))


def doubled(shape: tuple[int, int, int, int], filters: int, size: int) -> Problem:
    """An upsampling to twice the size by filters of `size`."""
    pads = ((0, 0),) * 2 if size == 2 else ONE
    return transposed_problem(
        shape, filters, (size, size), stride=(2, 2), padding=pads, output_padding=(size % 2, size % 2)
    )


def tactic(config: Config) -> tuple[object, ...]:
    """(tile, SPLIT_K, warps, stages, merged)"""
    tile = (config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"])
    return tile, config["SPLIT_K"], config["num_warps"], config["num_stages"], config.get("MERGED", False)


@pytest.mark.parametrize(
    ("problem", "fastest"),
    [
        (doubled((8, 256, 64, 64), 128, 3), ((128, 128, 64), 1, 8, 3, False)),  # 40.4 us; cuDNN 43.4
        (doubled((1, 256, 64, 64), 128, 3), ((64, 128, 64), 1, 4, 4, False)),  # 8.5; 15.5
        (doubled((1, 256, 32, 32), 128, 4), ((64, 64, 64), 1, 4, 4, False)),  # 7.3, rolled; 12.9
        (doubled((8, 256, 32, 32), 128, 4), ((128, 128, 64), 1, 8, 3, False)),  # 17.8, rolled; 20.3
        (doubled((32, 256, 32, 32), 128, 4), ((128, 128, 64), 1, 8, 3, False)),  # 57.5; 59.9
        (doubled((8, 1024, 4, 4), 512, 4), ((64, 64, 128), 2, 4, 4, False)),  # 9.5, rolled; 20.5
        (doubled((8, 128, 128, 128), 64, 2), ((128, 128, 64), 1, 4, 2, True)),  # 39.3; 55.8
        (doubled((32, 64, 64, 64), 3, 4), ((256, 16, 64), 1, 4, 1, True)),  # 28.8; 69.1
    ],
)
def test_the_fastest_comes_early(problem: Problem, fastest: tuple[object, ...]) -> None:
    assert fastest in [tactic(c) for c in ConvTransposeTemplate().candidates(problem, TARGET)[:4]]


@pytest.mark.parametrize(
    ("problem", "fastest"),
    [
        (conv_problem((4, 64, 8, 56, 56), 64, (3, 3, 3), padding=((1, 1),) * 3), ((128, 64, 64), 1, 4, 3, False)),
        (
            conv_problem((4, 128, 8, 28, 28), 256, (3, 3, 3), stride=(2, 2, 2), padding=((1, 1),) * 3),
            ((64, 64, 64), 2, 4, 4, False),
        ),
    ],
)
def test_the_fastest_of_3d_convolutions_comes_early(problem: Problem, fastest: tuple[object, ...]) -> None:
    """52.4 us, cuDNN 57.3; 18.1 us, cuDNN 18.4."""
    assert fastest in [tactic(c) for c in templates()["conv2d"].candidates(problem, TARGET)[:3]]


def shape_of(problem: Problem) -> TransposedShape:
    assert problem.anchor is not None
    return describe_transposed(problem.anchor, problem.body.inputs[0].type, problem.body.inputs[1].type)


def config(m: int, n: int, k: int, *, split: int = 1, warps: int = 4) -> Config:
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "SPLIT_K": split, "EARLY": False, "FLATTEN": False} | {
        "num_warps": warps,
        "num_stages": 3,
    }


def test_only_unrolled_loops_are_cheaper_than_those_of_a_convolution() -> None:
    def saved(problem: Problem, chosen: Config, ieee: bool = False) -> bool:
        shape = shape_of(problem)
        gemm = phased_gemm(shape, itemsize=4 if ieee else 2, ieee=ieee, epilogue_reads=0)
        return phased_cost(chosen, gemm, shape, TARGET) < cost(chosen, gemm, TARGET)

    short, long = doubled((8, 256, 32, 32), 128, 4), doubled((8, 1024, 32, 32), 128, 4)
    assert saved(short, config(128, 128, 64, warps=8))
    assert not saved(short, config(128, 128, 64))  # twice the instructions a warp
    assert not saved(short, config(128, 128, 64, warps=8, split=2))
    assert not saved(long, config(128, 128, 64, warps=8))
    plain = transposed_problem((1, 16, 8, 8), 16, (2, 2), stride=(2, 2), dtype=f32)
    assert not saved(plain, config(32, 32, 16), ieee=True)


def test_a_launch_takes_at_least_as_long_as_the_longest_phase() -> None:
    """9 x 9 taps by 8: phases of 4, 2 and 1 taps, of which those of 4 decide while there are SMs to spare."""

    def seconds(size: int) -> float:
        problem = transposed_problem((1, 256, 8, 8), 64, (size, size), stride=(8, 8))
        shape = shape_of(problem)
        gemm = phased_gemm(shape, itemsize=2, ieee=False, epilogue_reads=0)
        return phased_cost(config(64, 64, 64), gemm, shape, TARGET)

    assert seconds(9) > 1.5 * seconds(8)
    assert seconds(16) == pytest.approx(seconds(9), rel=0.1)
