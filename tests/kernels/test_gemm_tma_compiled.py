"""gemm_tma as the compiler made it, on the PTX machine: numbers, and what each wait, arrival and fence in it is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS, Target
from jitrt.graph import Graph, TensorType, bf16, f16
from jitrt.graph.interpret import interpret
from jitrt.graph.ops import Add, Conv, Maximum
from jitrt.kernels.base import Problem
from jitrt.kernels.gemm_tma import GemmTma
from jitrt.testing import random_operands
from jitrt.testing.ptx_warps import EarlyWarpBlock, WarpBlock
from tests.kernels import compiled
from tests.kernels.convolutions import nhwc
from tests.kernels.pointwise_products import linear_problem, pointwise_problem
from tests.kernels.protocol import CHANGES, Random, missed

ONE, TWO = (replace(TARGETS[90], sms=number) for number in (1, 2))
TURNS = pointwise_problem((1, 96, 9, 12), 136, residual=True)


def config(m: int = 64, n: int = 64, consumers: int = 2, stages: int = 3, **others: Any) -> dict[str, Any]:
    usual = {"PARTS": 1, "BUFFERS": 2, "RESIDENT": False, "PROGRAMS": 1, "num_warps": 4}
    return {"BLOCK_M": m, "BLOCK_N": n, "CONSUMERS": consumers, "STAGES": stages, **usual, **others}


CASES: dict[str, tuple[Problem, dict[str, Any]]] = {
    "residual, in turns": (TURNS, config()),
    "residual, slots of their own": (TURNS, config(stages=4, BUFFERS=3)),
    "w resident, in parts": (
        pointwise_problem((3, 72, 7, 9), 104, residual=True),
        config(consumers=1, stages=2, RESIDENT=True, PARTS=2),
    ),
    "eight warps": (pointwise_problem((2, 64, 9, 11), 136, bias=False), config(128, 128, 1, 2, num_warps=8)),
    "stride 2": (pointwise_problem((2, 72, 18, 22), 64, stride=2, residual=True), config(consumers=1)),
    "stride 2, runs": (pointwise_problem((1, 64, 6, 40), 72, stride=2), config(stages=2, BUFFERS=1)),
    "slices": (pointwise_problem((1, 64, 13, 11), 72, gap=24, input_gap=8), config(BUFFERS=1)),
    "bfloat16": (pointwise_problem((1, 136, 9, 9), 64, residual=True, dtype=bf16), config(stages=4)),
    "linear": (linear_problem((3, 50, 80), 136), config(consumers=1, stages=4, BUFFERS=1)),
}


def run(name: str, machine: type[WarpBlock], target: Target = TWO, text: str | None = None) -> float:
    """The largest error, relative to the largest number."""
    problem, chosen = CASES[name]
    arrays = random_operands(problem)
    (exact,) = interpret(problem.body, arrays, exact=True)
    got = compiled.run(problem, GemmTma(), chosen, arrays, target, machine, lambda made: text or made)
    return float(np.abs(got.astype(np.float64) - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    assert run(name, WarpBlock) < (4e-3 if name == "bfloat16" else 1e-3)


@pytest.mark.parametrize("name", ["residual, in turns", "w resident, in parts", "stride 2"])
@pytest.mark.parametrize("machine", [EarlyWarpBlock, Random])
def test_numbers_whenever_copies_are_done(name: str, machine: type[WarpBlock]) -> None:
    assert run(name, machine) < 1e-3


def test_some_channels_are_bounded_from_below_and_some_are_not() -> None:
    """Siblings of which some have a ReLU (jitrt/passes/fuse_horizontal.py): the others' bound is -inf."""
    body = Graph("region")
    x, w = (
        body.add_input(name, nhwc(TensorType(f16, size)))
        for name, size in (("x", (1, 96, 9, 12)), ("w", (136, 96, 1, 1)))
    )
    bias, bound = (body.add_input(name, TensorType(f16, (136, 1, 1))) for name in ("bias", "bound"))
    y = body.add(Maximum(), body.add(Add(), body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, w), bias), bound)
    y.type = nhwc(y.type)
    body.mark_output(y)
    problem = Problem(body, (False, True, True, True), (16,) * 5)
    arrays = [np.array(array) for array in random_operands(problem)]
    arrays[0][0, :, 0, :3] = np.inf, -np.inf, np.nan
    arrays[3][:64], arrays[3][64:] = 0, -np.inf
    with np.errstate(invalid="ignore"):
        (exact,) = interpret(body, arrays, exact=True)
        got = compiled.run(problem, GemmTma(), config(), arrays, TWO, WarpBlock).astype(np.float64)
    assert (exact[:, 64:] < 0).any() and np.isnan(exact).any()
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(got[~finite], exact[~finite])
    np.testing.assert_allclose(got[finite], exact[finite], rtol=1e-2, atol=1e-2)


# -- what is left out, or comes too early, is found out


@pytest.fixture(scope="module")
def made() -> str:
    """The PTX of two consumers that take turns."""
    problem, chosen = CASES["residual, in turns"]
    return str(compiled.build(GemmTma().lower(problem, chosen, ONE).calls[0], problem, ONE).asm["ptx"])


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_the_protocol_is_found(what: str, made: str) -> None:
    assert missed(made, what, lambda machine, text: run("residual, in turns", machine, ONE, text)) == []
