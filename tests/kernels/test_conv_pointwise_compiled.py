"""conv_pointwise as the compiler made it, on the PTX machine: numbers, and what each wait, arrival and fence is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS, Target
from jitrt.graph import bf16
from jitrt.graph.interpret import interpret
from jitrt.kernels.base import Problem
from jitrt.kernels.conv_pointwise import ConvPointwise
from jitrt.testing import random_operands
from jitrt.testing.ptx_warps import EarlyWarpBlock, WarpBlock
from tests.kernels import compiled
from tests.kernels.bottlenecks import bottleneck
from tests.kernels.protocol import Random, missed

ONE, TWO = (replace(TARGETS[90], sms=number) for number in (1, 2))


def config(box: tuple[int, int, int], n: int = 64, group: int = 3, consumers: int = 2, **others: int) -> dict[str, Any]:
    """Weights that stay, if nothing is said of their stages."""
    tile = dict(zip(("LINES", "IMAGES", "COLUMNS"), box, strict=True))
    usual = {"STAGES": 3, "V_STAGES": 0, "W_STAGES": 0, "BUFFERS": 2, "PROGRAMS": 1, "num_warps": 4}
    return {**tile, "BLOCK_N": n, "GROUP": group, "CONSUMERS": consumers, **usual, **others}


CASES: dict[str, tuple[Problem, dict[str, Any]]] = {
    "weights stay": (bottleneck((1, 64, 9, 9), 64, 136), config((8, 1, 8))),
    "weights come": (bottleneck((1, 72, 9, 9), 72, 72), config((8, 1, 8), V_STAGES=4, W_STAGES=2)),
    "one consumer": (
        bottleneck((2, 40, 6, 9), 40, 136, gap=8),
        config((4, 2, 8), 128, 1, 1, STAGES=2, V_STAGES=2, BUFFERS=3),
    ),
    "no residual, stride 2, bfloat16": (
        bottleneck((1, 40, 17, 9), 24, 72, stride=2, residual=False, dtype=bf16, swish=True),
        config((4, 2, 8), group=1, W_STAGES=2, BUFFERS=1),
    ),
    "eight warps, uneven padding": (
        bottleneck((1, 16, 12, 9), 16, 64, 2, padding=((1, 0), (0, 1))),
        config((16, 1, 8), group=2, consumers=1, num_warps=8, V_STAGES=2),
    ),
    # Two that are small, for all that can be wrong with them: of the one every wait matters, where weights stay some
    # of the second consumer are for what the first has waited for.
    "short": (
        bottleneck((1, 16, 40, 8), 16, 72, 2, padding=((1, 0), (0, 1)), residual=False),
        config((8, 1, 8), group=2, V_STAGES=3, W_STAGES=3),
    ),
    "short, residual": (
        bottleneck((1, 16, 40, 8), 16, 72, 2, padding=((1, 0), (0, 1))),
        config((8, 1, 8), group=2),
    ),
}


def run(name: str, machine: type[WarpBlock], target: Target = TWO, text: str | None = None) -> float:
    """The largest error, relative to the largest number."""
    problem, chosen = CASES[name]
    arrays = random_operands(problem)
    (exact,) = interpret(problem.body, arrays, exact=True)
    got = compiled.run(problem, ConvPointwise(), chosen, arrays, target, machine, lambda made: text or made)
    return float(np.abs(got.astype(np.float64) - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    assert run(name, WarpBlock) < (8e-3 if "bfloat16" in name else 1e-3)


@pytest.mark.parametrize("name", ["short", "short, residual"])
@pytest.mark.parametrize("machine", [EarlyWarpBlock, Random])
def test_numbers_whenever_copies_are_done(name: str, machine: type[WarpBlock]) -> None:
    assert run(name, machine) < 1e-3


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """PTX by case, as Triton makes it: where all products are waited for, as jitrt sees to, more may be missing."""
    texts = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jitrt.codegen.compile.safe", str)
        for name in ("short", "short, residual"):
            problem, chosen = CASES[name]
            call = ConvPointwise().lower(problem, chosen, ONE).calls[0]
            texts[name] = str(compiled.build(call, problem, ONE).asm["ptx"])
    return texts


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("short", "no wait for a barrier"),
        ("short", "no arrival"),
        ("short", "a slot is released while it is read"),
        ("short", "warps do not meet before one releases a slot"),
        ("short, residual", "no arrival"),
        ("short, residual", "a result's place is released while it is stored"),
        ("short, residual", "no wait for the launch before"),
    ],
)
def test_a_change_of_the_protocol_is_found(name: str, what: str, made: dict[str, str]) -> None:
    assert missed(made[name], what, lambda machine, text: run(name, machine, ONE, text)) == []
