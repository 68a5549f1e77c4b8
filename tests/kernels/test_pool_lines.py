"""Pools of several lines a program: windows of every kind that overlap, against numpy."""

from __future__ import annotations

from typing import Any

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, bf16, f16
from jitrt.graph.op import Op
from jitrt.graph.ops import AdaptiveAvgPool, AvgPool, MaxPool, Sigmoid
from jitrt.kernels import pool_lines
from jitrt.kernels.base import Problem, templates
from jitrt.kernels.pool_lines import PoolLines
from jitrt.testing import check_problem, compiles
from jitrt.tune.candidates import candidates_of
from tests.kernels.test_pool import pooled

TEMPLATE = PoolLines()
H200 = TARGETS[90]


def config(lines: int = 4, **others: Any) -> dict[str, Any]:
    return {"LINES": lines, "BLOCK_M": 16, "BLOCK_K": 8, "num_warps": 1, **others}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems are small here."""
    monkeypatch.setattr(pool_lines, "_PROGRAMS", 0)


OVERLAPPING = [
    MaxPool((3, 3), (1, 1), (1, 1)),
    MaxPool((5, 3), (2, 2), (1, 1)),
    MaxPool((3, 2), (1, 2), (1, 0), dilation=(1, 3)),
    MaxPool((5, 3), (2, 2), (0, 0), ceil_mode=True),
    MaxPool((3, 1), (1, 1), (0, 0)),
    AvgPool((3, 3), (1, 1), (1, 1)),
    AvgPool((3, 3), (1, 1), (1, 1), count_include_pad=False),
    AvgPool((5, 3), (2, 2), (1, 1), ceil_mode=True),
    AvgPool((5, 4), (2, 3), (2, 1), ceil_mode=True, count_include_pad=False),
    AvgPool((3, 2), (1, 2), (1, 1), count_include_pad=False, dilation=(1, 3)),
]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("lines", [2, 4, 7])
@pytest.mark.parametrize("op", OVERLAPPING, ids=str)
def test_windows(op: Op, lines: int) -> None:
    check_problem(pooled(op, in_gap=3, out_gap=5), PoolLines(), [config(lines)])


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("dtype", [f16, bf16])
@pytest.mark.parametrize("op", OVERLAPPING[5:6] + OVERLAPPING[:1], ids=str)
def test_16_bit_floats_with_an_epilogue(op: Op, dtype: DType) -> None:
    check_problem(pooled(op, dtype=dtype, epilogue=True), PoolLines(), [config()])


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("op", OVERLAPPING[:1] + OVERLAPPING[6:7], ids=str)
def test_elementwise_ops_run_on_the_way_in(op: Op) -> None:
    check_problem(pooled(op, before=Sigmoid()), PoolLines(), [config()])


def large(op: Op, channels: int = 192, size: int = 28, **others: Any) -> Problem:
    return pooled(op, (100, channels, size, size), f16, **others)


def test_it_compiles_without_spills_and_is_the_first_guess() -> None:
    for op, channels, size in ((OVERLAPPING[0], 192, 28), (OVERLAPPING[5], 768, 17), (OVERLAPPING[6], 64, 73)):
        problem = large(op, channels, size)
        first = candidates_of(problem, H200, templates(), 1)[0]
        assert first.tactic.template == "pool_lines"
        assert all(binary.spills == 0 for binary in compiles(problem, TEMPLATE, dict(first.tactic.config)))


def test_offsets_past_2_31_are_computed_in_64_bits() -> None:
    problem = pooled(OVERLAPPING[0], (40, 64, 1024, 1024), f16)
    assert TEMPLATE.lower(problem, config(), H200).calls[0].constexprs["WIDE"]
    compiles(problem, TEMPLATE, targets=(90,))


def test_lines_are_not_wasted() -> None:
    def first(size: int) -> int:
        return int(TEMPLATE.candidates(large(OVERLAPPING[0], size=size), H200)[0]["LINES"])

    assert (first(28), first(21), first(16)) == (7, 7, 4)


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (large(MaxPool((3, 3), (2, 2), (1, 1))), "less than half"),
        (large(MaxPool((3, 3), (1, 1), (1, 1), dilation=(2, 1))), "less than half"),
        (large(AdaptiveAvgPool((5, 5))), "not all alike"),
        (large(AvgPool((7, 7), (1, 1), (3, 3))), "too many"),
        (large(OVERLAPPING[0], nchw=True), "channels apart"),
        (pooled(OVERLAPPING[0], (1, 192, 28, 28), f16), "few programs"),
        (pooled(MaxPool((3,), (1,), (1,)), (64, 64, 4096), f16), "two dimensions"),
    ],
)
def test_refusals(problem: Problem, why: str) -> None:
    assert why in (TEMPLATE.supports(problem, H200) or "")
    assert TEMPLATE.supports(large(OVERLAPPING[0]), H200) is None
