"""conv_tma as the compiler made it, on the PTX machine: numbers, and what each wait, arrival and fence in it is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.ptx import safe
from jitrt.codegen.target import TARGETS, Target
from jitrt.graph import bf16
from jitrt.graph.interpret import interpret
from jitrt.kernels.base import Problem
from jitrt.kernels.conv_tma import ConvTma
from jitrt.testing import random_operands
from jitrt.testing.ptx_warps import EarlyWarpBlock, WarpBlock
from tests.kernels import compiled
from tests.kernels.convolutions import conv_problem
from tests.kernels.protocol import Random, missed

ONE, TWO = (replace(TARGETS[90], sms=number) for number in (1, 2))
SAME = ((1, 1), (1, 1))


def posed(shape: tuple[int, ...], filters: int, kernel: tuple[int, int] = (3, 3), **others: Any) -> Problem:
    problem = conv_problem(shape, filters, kernel, **{"padding": SAME, **others})
    return replace(problem, alignment=(16,) * len(problem.alignment))


def config(box: tuple[int, int, int], n: int = 64, group: int = 1, consumers: int = 2, **others: Any) -> dict[str, Any]:
    tile = dict(zip(("LINES", "IMAGES", "COLUMNS"), box, strict=True))
    usual = {"SKIP": False, "STAGES": 3, "W_STAGES": 4, "BUFFERS": 1, "RESIDENT": False, "PROGRAMS": 1, "num_warps": 4}
    return {**tile, "BLOCK_N": n, "GROUP": group, "CONSUMERS": consumers, **usual, **others}


CASES: dict[str, tuple[Problem, dict[str, Any]]] = {
    "plain": (posed((2, 72, 7, 9), 72), config((4, 2, 8))),
    "residual": (posed((2, 40, 6, 9), 72, residual=True), config((4, 2, 8), STAGES=2, BUFFERS=2)),
    "rows share x": (posed((2, 64, 5, 9), 64, residual=True), config((2, 1, 32), group=3, STAGES=4, BUFFERS=2)),
    "rows share x, w resident": (
        posed((2, 64, 9, 9), 56),
        config((8, 1, 8), group=3, STAGES=2, RESIDENT=True, W_STAGES=1),
    ),
    "w resident": (posed((1, 64, 9, 17), 64), config((2, 1, 32), consumers=1, RESIDENT=True, W_STAGES=1)),
    "padding is skipped": (posed((65, 16, 3, 3), 64), config((1, 64, 1), SKIP=True)),
    "padding is skipped, residual, stride 2": (
        posed((33, 16, 6, 5), 64, residual=True, stride=(2, 2)),
        config((1, 32, 2), SKIP=True, BUFFERS=2),
    ),
    "eight warps": (posed((2, 64, 7, 17), 72), config((4, 2, 16), 128, group=3, consumers=1, num_warps=8)),
    "stride 2, slices": (posed((2, 40, 9, 14), 72, stride=(2, 2), row_gap=8, input_gap=24), config((2, 2, 16))),
    "rectangular, uneven padding": (
        posed((1, 64, 9, 11), 64, (5, 2), padding=((2, 1), (1, 0)), stride=(1, 3)),
        config((16, 1, 4), group=1, consumers=1),
    ),
    "five rows share x": (posed((1, 64, 9, 8), 64, (5, 3), padding=((2, 2), (1, 1))), config((8, 1, 8), group=5)),
    "bfloat16": (posed((1, 64, 9, 9), 64, dtype=bf16), config((8, 1, 8), group=3)),
}


def run(name: str, machine: type[WarpBlock], target: Target = TWO, text: str | None = None) -> float:
    """The largest error, relative to the largest number."""
    problem, chosen = CASES[name]
    arrays = random_operands(problem)
    (exact,) = interpret(problem.body, arrays, exact=True)
    got = compiled.run(problem, ConvTma(), chosen, arrays, target, machine, lambda made: text or safe(made))
    return float(np.abs(got.astype(np.float64) - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    assert run(name, WarpBlock) < (4e-3 if name == "bfloat16" else 1e-3)


@pytest.mark.parametrize("name", ["residual", "rows share x", "padding is skipped, residual, stride 2"])
@pytest.mark.parametrize("machine", [EarlyWarpBlock, Random])
def test_numbers_whenever_copies_are_done(name: str, machine: type[WarpBlock]) -> None:
    assert run(name, machine) < 1e-3


@pytest.fixture(scope="module")
def made() -> str:
    """The PTX of two consumers that take turns, with a residual and rows of the filter that share x."""
    problem, chosen = CASES["rows share x"]
    return str(compiled.build(ConvTma().lower(problem, chosen, ONE).calls[0], problem, ONE).asm["ptx"])


@pytest.mark.parametrize(
    "what",
    [
        "no wait for a barrier",
        "no arrival",
        "a slot is released while it is read",
        "a result's place is released while it is stored",
        "warps do not meet before one releases a slot",
    ],
)
def test_a_change_of_the_protocol_is_found(what: str, made: str) -> None:
    assert missed(made, what, lambda machine, text: run("rows share x", machine, ONE, text)) == []
