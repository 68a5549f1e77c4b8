"""Transposed convolution by phases, apart and merged: every shape of window, layout, dtype and split, against numpy."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import Graph, TensorType, bf16, f16, f32
from jitrt.graph.ops import ConvTranspose, Relu
from jitrt.kernels.base import Problem, Tactic, accepts, templates
from jitrt.kernels.conv_transpose import ConvTransposeTemplate
from jitrt.kernels.transposed_shape import Axis
from jitrt.testing import check_problem, compiles, disagrees, random_operands, run_interpreted
from tests.kernels.convolutions import conv_problem, transposed_problem

TEMPLATE = ConvTransposeTemplate()
TWO, ONE = (2, 2), ((1, 1), (1, 1))


def config(
    m: int = 16, n: int = 16, k: int = 16, *, split: int = 1, merged: bool = False, early: bool = False
) -> dict[str, int | bool]:
    return {
        "BLOCK_M": m,
        "BLOCK_N": n,
        "BLOCK_K": k,
        "SPLIT_K": split,
        "EARLY": early,
        "FLATTEN": False,
        "MERGED": merged,
        "num_warps": 4,
        "num_stages": 2,
    }


MERGEABLE = {
    "2x2": transposed_problem((2, 19, 3, 4), 7, (2, 2), stride=TWO, residual=True),
    "4x4": transposed_problem((1, 16, 4, 3), 5, (4, 4), stride=TWO, padding=ONE, row_gap=3),
    "3x3": transposed_problem((1, 16, 3, 4), 5, (3, 3), stride=TWO, padding=ONE, output_padding=(1, 1), cast_from=f32),
    "one pixel": transposed_problem((3, 19, 1, 1), 6, (4, 3)),
    "1-d": transposed_problem((2, 16, 5), 6, (4,), stride=(4,), row_major=True),
    "3-d": transposed_problem((1, 16, 2, 3, 2), 3, (2, 4, 1), stride=(2, 2, 1), padding=((0, 0), (1, 1), (0, 0))),
}
APART = {
    "ragged phases": transposed_problem((2, 17, 4, 3), 5, (3, 3), stride=TWO, padding=ONE),
    "stride 3, no taps": transposed_problem((1, 16, 3, 3), 5, (2, 4), stride=(3, 3), output_padding=(2, 1)),
    "stride 1": transposed_problem((1, 16, 4, 5), 20, (3, 2), padding=((1, 0), (0, 1)), residual=True),
    "dilated": transposed_problem((1, 16, 3, 4), 5, (3, 3), stride=(2, 3), dilation=(3, 2), padding=ONE),
    "common factor": transposed_problem(
        (1, 16, 3, 3), 5, (3, 2), stride=(4, 2), dilation=(2, 4), output_padding=(3, 1)
    ),
    "one-sided padding": transposed_problem((1, 8, 3, 4), 5, (4, 4), stride=TWO, padding=((2, 0), (0, 3))),
    "row-major": transposed_problem((2, 8, 3, 4), 5, (3, 3), stride=TWO, row_major=True),
    "bf16": transposed_problem((1, 16, 3, 4), 8, (4, 4), stride=TWO, padding=ONE, dtype=bf16),
    "fp32": transposed_problem((1, 16, 3, 4), 8, (4, 4), stride=TWO, padding=ONE, dtype=f32),
    "grouped": transposed_problem((1, 24, 3, 4), 12, (3, 3), stride=TWO, groups=3),
    "bundles": transposed_problem((1, 64, 3, 2), 32, (2, 2), stride=TWO, groups=16),
    "depthwise": transposed_problem((1, 9, 3, 4), 9, (4, 4), stride=TWO, padding=ONE, groups=9),
    "1-d": transposed_problem((2, 16, 5), 6, (7,), stride=(2,), padding=((3, 3),), output_padding=(1,)),
    "32 taps": transposed_problem((1, 16, 3, 4), 5, (4, 15), stride=(1, 2), padding=((2, 2), (7, 7))),
    "more taps": transposed_problem((1, 16, 3, 4), 5, (7, 11), stride=(1, 2), padding=((3, 3), (5, 5))),
    "3-d": transposed_problem(
        (1, 16, 2, 3, 2), 5, (3, 3, 2), stride=(2, 1, 2), padding=((1, 1), (0, 1), (0, 0)), dilation=(1, 2, 1)
    ),
}


@pytest.mark.parametrize("name", MERGEABLE)
def test_merged(name: str) -> None:
    problem = MERGEABLE[name]
    assert {c["MERGED"] for c in TEMPLATE.candidates(problem, TARGETS[90])} == {False, True}
    check_problem(problem, TEMPLATE, [config(merged=True), config()], extremes=False)


@pytest.mark.parametrize("name", APART)
def test_phases_apart(name: str) -> None:
    check_problem(APART[name], TEMPLATE, [config()], extremes=False)


@pytest.mark.parametrize("name", ["ragged phases", "stride 3, no taps"])
def test_phases_of_different_length_take_turns_where_x_does_not_stay_in_l2(name: str) -> None:
    small = replace(TARGETS[90], l2=0)
    calls = [TEMPLATE.lower(APART[name], config(), target).calls[0] for target in (TARGETS[90], small)]
    assert [call.constexprs["IN_TURN"] for call in calls] == [True, False]
    check_problem(APART[name], TEMPLATE, [config()], target=small, extremes=False)


@pytest.mark.parametrize("problem", [MERGEABLE["2x2"], APART["ragged phases"], APART["stride 3, no taps"]])
def test_infinities_of_x_stay_where_they_belong(problem: Problem) -> None:
    assert not TEMPLATE.spreads_nonfinite(problem)
    x, _, *rest = random_operands(problem, extreme=True)
    arrays = [x, random_operands(problem)[1], *rest]
    for chosen in [config(), config(merged=True)] if problem is MERGEABLE["2x2"] else [config()]:
        got = run_interpreted(problem, Tactic.make(TEMPLATE, chosen), arrays, TARGETS[90])
        assert disagrees(problem, arrays, got) is None


def test_split_k_adds_the_parts_and_leaves_the_counters_zero() -> None:
    problem = transposed_problem((1, 48, 3, 3), 20, (3, 3), stride=TWO, padding=ONE, residual=True)
    check_problem(problem, TEMPLATE, [config(split=2), config(split=4, k=32), config(split=8)], extremes=False)


def test_early_residual() -> None:
    problem = transposed_problem((1, 24, 5, 3), 20, (2, 2), stride=TWO, residual=True)
    check_problem(problem, TEMPLATE, [config(early=True), config(early=True, merged=True)])


def test_live_weights_are_read_where_they_lie() -> None:
    problem = transposed_problem((1, 16, 3, 3), 5, (4, 4), stride=TWO, padding=ONE)
    live = Problem(problem.body, (False, False, True), problem.alignment)
    assert not any(c["MERGED"] for c in TEMPLATE.candidates(live, TARGETS[90]))
    check_problem(live, TEMPLATE, [config()])


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("dtype", [f16, f32])
def test_compiles_without_spills(dtype: object, merged: bool) -> None:
    problem = transposed_problem((1, 64, 14, 14), 16, (4, 4), stride=TWO, padding=ONE, dtype=dtype, residual=True)  # type: ignore[arg-type]
    compiles(problem, TEMPLATE, config(32, 32, 32, merged=merged, split=1 if dtype == f16 else 3))


@pytest.mark.parametrize(
    "problem",
    [
        transposed_problem((32, 256, 32, 32), 128, (4, 4), stride=TWO, padding=ONE),
        transposed_problem((8, 256, 64, 64), 128, (3, 3), stride=TWO, padding=ONE, output_padding=(1, 1)),
        transposed_problem((8, 128, 64, 64), 64, (2, 2), stride=TWO),
    ],
)
def test_best_guess_compiles_for_every_target(problem: Problem) -> None:
    for arch in (80, 90, 100):
        compiles(problem, TEMPLATE, TEMPLATE.candidates(problem, TARGETS[arch])[0], targets=(arch,), spills=64)


def test_taps_are_those_of_the_definition() -> None:
    """Every (output, tap, input) that the op's formula relates is found in the output's phase, and nothing else."""
    checked = 0
    for size, filter_, stride, padding, dilation in itertools.product(
        (1, 3), (1, 2, 3, 4), (1, 2, 4), (0, 1), (1, 2, 3)
    ):
        out = (size - 1) * stride - 2 * padding + dilation * (filter_ - 1) + 1
        if out < 1:
            continue
        axis = Axis.of(size, out, filter_, stride, padding, dilation)
        for o in range(out):
            step, phase = divmod(o, axis.stride)
            found = {(t, step + at) for t, at in axis.taps(phase) if 0 <= step + at < size}
            pairs = itertools.product(range(filter_), range(size))
            assert found == {(t, i) for t, i in pairs if i * stride - padding + t * dilation == o}
            checked += len(found)
    assert checked > 500


def test_only_zeros_spread_infinities() -> None:
    assert not TEMPLATE.spreads_nonfinite(MERGEABLE["2x2"])
    assert TEMPLATE.spreads_nonfinite(MERGEABLE["4x4"])
    assert not TEMPLATE.spreads_nonfinite(APART["ragged phases"])
    assert TEMPLATE.spreads_nonfinite(APART["bundles"])


def test_few_filters_may_read_x_through_l1() -> None:
    few = transposed_problem((4, 64, 32, 32), 3, (4, 4), stride=TWO, padding=ONE)
    unstaged = [c for c in TEMPLATE.candidates(few, TARGETS[90]) if c["num_stages"] == 1]
    assert unstaged and all(c["MERGED"] for c in unstaged)
    compiles(few, TEMPLATE, unstaged[0], targets=(90,), spills=64)


def test_many_filters_that_need_zeros_are_not_merged() -> None:
    wide = transposed_problem((1, 64, 8, 8), 64, (4, 4), stride=TWO, padding=ONE)
    assert not any(c["MERGED"] for c in TEMPLATE.candidates(wide, TARGETS[90]))


def test_refuses_what_it_cannot_run() -> None:
    assert "no transposed convolution" in (TEMPLATE.accepts(conv_problem((1, 4, 8, 8), 4, (3, 3)).body) or "")
    assert "no convolution" in (templates()["conv2d"].accepts(MERGEABLE["2x2"].body) or "")

    body = Graph("region")
    x, w = (body.add_input(name, TensorType(f16, (4, 4, 3, 3, 3, 3))) for name in "xw")
    body.mark_output(body.add(ConvTranspose((1,) * 4, ((0, 0),) * 4, (0,) * 4, (1,) * 4), x, w))
    assert TEMPLATE.accepts(body) == "a 4-d convolution has no kernel"

    body = Graph("region")
    x, w = body.add_input("x", TensorType(f16, (1, 4, 8, 8))), body.add_input("w", TensorType(f16, (4, 4, 3, 3)))
    body.mark_output(body.add(ConvTranspose((1, 1), ONE, (0, 0), (1, 1)), body.add(Relu(), x), w))
    assert accepts(body) == "relu cannot run inside a convolution's loop (at conv_transpose)"

    grouped = APART["grouped"]
    live = Problem(grouped.body, (False, False, True), grouped.alignment)
    assert "constant weights" in (TEMPLATE.supports(live, TARGETS[90]) or "")
