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
from jitrt.graph.op import Array
from jitrt.kernels.base import Problem
from jitrt.kernels.conv_tma import ConvTma
from jitrt.testing import random_operands
from jitrt.testing.ptx_warps import EarlyWarpBlock, WarpBlock
from tests.kernels import compiled
from tests.kernels.convolutions import conv_problem
from tests.kernels.protocol import Random, missed

ONE, TWO = (replace(TARGETS[90], sms=number) for number in (1, 2))
SAME = ((1, 1), (1, 1))


class Other(Random):
    seed = 7


def posed(shape: tuple[int, ...], filters: int, kernel: tuple[int, int] = (3, 3), **others: Any) -> Problem:
    problem = conv_problem(shape, filters, kernel, **{"padding": SAME, **others})
    return replace(problem, alignment=(16,) * len(problem.alignment))


def config(box: tuple[int, int, int], n: int = 64, group: int = 1, consumers: int = 2, **others: Any) -> dict[str, Any]:
    tile = dict(zip(("LINES", "IMAGES", "COLUMNS"), box, strict=True))
    usual = {
        "SKIP": False,
        "SPLIT": 1,
        "STAGES": 3,
        "W_STAGES": 4,
        "BUFFERS": 1,
        "RESIDENT": False,
        "PROGRAMS": 1,
        "num_warps": 4,
    }
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
    "split": (posed((2, 72, 7, 9), 72), config((4, 2, 8), SPLIT=2, consumers=1)),
    "split, residual": (posed((2, 40, 6, 9), 72, residual=True), config((4, 2, 8), SPLIT=3, STAGES=2, BUFFERS=2)),
    "split, rows share x, residual": (
        posed((1, 64, 5, 9), 64, residual=True),
        config((2, 1, 32), group=3, SPLIT=2, consumers=1),
    ),
    "split, padding is skipped": (posed((33, 72, 3, 3), 64), config((1, 64, 1), SKIP=True, SPLIT=2)),
    "split once": (
        posed((2, 64, 8, 8), 64, residual=True),
        config((8, 1, 8), group=3, SPLIT=2, consumers=1, STAGES=2, W_STAGES=3),
    ),
    "split, eight warps": (
        posed((1, 64, 7, 17), 72),
        config((8, 1, 16), 128, group=3, SPLIT=3, consumers=1, num_warps=8),
    ),
    "32 filters": (posed((2, 64, 9, 9), 32), config((8, 2, 8), 32, group=3, STAGES=2)),
    "24 filters, w resident": (posed((2, 72, 7, 9), 24), config((4, 4, 8), 32, RESIDENT=True, W_STAGES=1, STAGES=2)),
    "32 channels, rows share x, w resident": (
        posed((2, 32, 9, 9), 32),
        config((8, 2, 8), 32, group=3, STAGES=2, RESIDENT=True, W_STAGES=1),
    ),
    "24 channels, rows share x, residual": (
        posed((1, 24, 5, 9), 64, residual=True),
        config((2, 1, 32), group=3, STAGES=4, BUFFERS=2),
    ),
    "16 channels, five rows share x": (
        posed((1, 16, 9, 8), 32, (5, 5), padding=((2, 2), (2, 2))),
        config((8, 1, 8), 32, group=5, W_STAGES=6),
    ),
    "80 channels, rows share x, residual": (
        posed((1, 80, 5, 9), 64, residual=True),
        config((2, 1, 32), group=3, STAGES=4, BUFFERS=2),
    ),
    "160 channels, padding is skipped": (posed((33, 160, 3, 3), 64), config((1, 32, 2), SKIP=True)),
    "8 channels, stride 2": (posed((2, 8, 9, 14), 72, stride=(2, 2)), config((2, 2, 16))),
    "bfloat16": (posed((1, 64, 9, 9), 64, dtype=bf16), config((8, 1, 8), group=3)),
}


def result(name: str, machine: type[WarpBlock], target: Target = TWO, text: str | None = None) -> Array:
    problem, chosen = CASES[name]
    arrays = random_operands(problem)
    return compiled.run(problem, ConvTma(), chosen, arrays, target, machine, lambda made: text or made)


def run(name: str, machine: type[WarpBlock], target: Target = TWO, text: str | None = None) -> float:
    """The largest error, relative to the largest number."""
    problem, _ = CASES[name]
    (exact,) = interpret(problem.body, random_operands(problem), exact=True)
    got = result(name, machine, target, text)
    return float(np.abs(got.astype(np.float64) - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    assert run(name, WarpBlock) < (4e-3 if name == "bfloat16" else 1e-3)


@pytest.mark.parametrize("name", ["residual", "rows share x", "padding is skipped, residual, stride 2", "split once"])
@pytest.mark.parametrize("machine", [EarlyWarpBlock, Random])
def test_numbers_whenever_copies_are_done(name: str, machine: type[WarpBlock]) -> None:
    assert run(name, machine) < 1e-3


def test_split_sums_are_added_in_the_same_order_whoever_comes_last() -> None:
    results = [result("split, residual", machine) for machine in (WarpBlock, Random, Other)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def text_of(name: str, target: Target) -> str:
    problem, chosen = CASES[name]
    return str(compiled.build(ConvTma().lower(problem, chosen, target).calls[0], problem, target).asm["ptx"])


@pytest.fixture(scope="module")
def made() -> str:
    """The PTX of two consumers that take turns, with a residual and rows of the filter that share x."""
    return text_of("rows share x", ONE)


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


@pytest.mark.parametrize(
    ("programs", "what"),
    [
        (TWO, "warps do not meet before one announces a sum"),
        (TWO, "what announces a sum orders nothing"),
        (TWO, "warps do not meet before they know who came last"),
        (TWO, "a counter is not reset"),
        (ONE, "no wait for a barrier"),
        (ONE, "no arrival"),
        (ONE, "no wait for a store"),
    ],
)
def test_a_change_of_what_splits_is_found(what: str, programs: Target) -> None:
    made = text_of("split once", programs)
    assert missed(made, what, lambda machine, text: run("split once", machine, programs, text)) == []


def test_an_infinite_weight_makes_nan_of_padding() -> None:
    problem, chosen = CASES["plain"]
    arrays = [np.array(array) for array in random_operands(problem)]
    arrays[1][3, 0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        (exact,) = interpret(problem.body, arrays, exact=True)
        got = compiled.run(problem, ConvTma(), chosen, arrays, TWO, WarpBlock, safe)
    assert np.isnan(exact).any()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(exact))
