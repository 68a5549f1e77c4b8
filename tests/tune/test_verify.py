"""Trials: the reference they check against, the batches they shorten, and what they let through or refuse."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import DType, Graph, Layout, Op, TensorType, Value, f16, f32, i32, interpret
from jitrt.graph.ops import (
    Add,
    Cast,
    Concat,
    Conv,
    Div,
    Exp,
    Floor,
    LayerNorm,
    Linear,
    Log,
    Matmul,
    Mul,
    Pow,
    ReduceSum,
    Relu,
    Softmax,
)
from jitrt.kernels.base import Problem
from jitrt.tune import verify
from jitrt.tune.verify import Trial, make_trial, reduction_length, with_batch

SHORT = 1e-12  # seconds a reference may take: every batch is made of repeated items, if it can be


def problem(
    op: Op,
    *shapes: tuple[int, ...],
    dtype: DType = f32,
    weights: tuple[int, ...] = (),
    after: Op | None = None,
    strides: dict[int, tuple[int, ...]] | None = None,
) -> Problem:
    body = Graph("region")
    operands: list[Value] = []
    for index, shape in enumerate(shapes):
        layout = Layout(strides[index]) if strides and index in strides else None
        operands.append(body.add_input(f"x{index}", TensorType(dtype, shape, layout)))
    out = body.add(op, *operands)
    body.mark_output(out if after is None else body.add(after, out))
    return Problem(body, tuple(i in weights for i in range(len(shapes))), (16,) * (len(shapes) + 1))


CONV = Conv((1, 1), ((1, 1), (1, 1)), (1, 1))


def answer(trial: Trial, posed: Problem) -> np.ndarray:
    """What a right kernel gives: the whole body in the problem's own dtypes."""
    operands = [a[trial.items] if i in trial.batched else a for i, a in enumerate(trial.operands)]
    (out,) = interpret(posed.body, operands, exact=True)
    with np.errstate(over="ignore"):
        return out.astype(posed.output.type.dtype.numpy)


# -- the reference -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("dtype", [f16, f32])
@pytest.mark.parametrize("seconds", [SHORT, 10.0])
def test_a_right_answer_passes_and_one_wrong_element_does_not(dtype: DType, seconds: float, special: bool) -> None:
    posed = problem(CONV, (6, 8, 9, 9), (4, 8, 3, 3), dtype=dtype, weights=(1,), after=Relu())
    trial = make_trial(posed, special=special, seconds=seconds)
    out = answer(trial, posed)
    assert (trial.items is None) == (seconds > 1)
    assert trial.check(out) is None
    for item in range(6):
        spoiled = out.copy()
        spoiled[item, 3, 8, 8] = 1e3
        assert "1 of" in (trial.check(spoiled) or "")


@pytest.mark.parametrize("seconds", [SHORT, 1.0])
def test_a_small_branch_of_a_concat_is_not_lost_among_the_others(seconds: float) -> None:
    """0.6 % in one channel of sixteen are 0.04 % of the whole: the least that a wrong kernel was seen to be off by."""
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, (12, 8, 12, 12)))
    weights = [body.add_input(f"w{k}", TensorType(f16, (k, 8, 3, 3))) for k in (15, 1)]
    large, small = (body.add(CONV, x, w) for w in weights)
    body.mark_output(body.add(Concat(1), large, body.add(Mul(), small, body.add_constant(np.float16(0.25)))))
    trial = make_trial(Problem(body, (False, True, True), (16,) * 4), seconds=seconds)
    out = trial.expected if trial.items is None else trial.expected[trial.items]
    assert (trial.items is None) == (seconds == 1.0)
    assert trial.check(out.astype(np.float16)) is None
    wrong = out.copy()
    wrong[:, 15] *= 1.006
    assert "relative error 6.0e-03" in (trial.check(wrong.astype(np.float16)) or "")


def test_two_items_exchanged_do_not_pass() -> None:
    posed = problem(CONV, (8, 8, 9, 9), (4, 8, 3, 3), weights=(1,))
    trial = make_trial(posed, seconds=SHORT)
    assert trial.items is not None
    a, b = np.unique(trial.items, return_index=True)[1][:2]
    out = answer(trial, posed)
    out[[a, b]] = out[[b, a]]
    assert trial.check(out) is not None


def test_all_items_may_differ_by_rounding() -> None:
    posed = problem(CONV, (8, 8, 9, 9), (4, 8, 3, 3), weights=(1,))
    trial = make_trial(posed, seconds=SHORT)
    out = answer(trial, posed)
    assert trial.check(out * (1 + np.linspace(0, 1e-6, 8, dtype=np.float32)[:, None, None, None])) is None


def test_operands_are_the_same_at_every_call_and_special_ones_keep_the_weights() -> None:
    posed = problem(CONV, (2, 8, 9, 9), (4, 8, 3, 3), weights=(1,))
    first, again, special = make_trial(posed), make_trial(posed), make_trial(posed, special=True)
    assert all((a == b).all() for a, b in zip(first.operands, again.operands, strict=True))
    assert (first.operands[1] == special.operands[1]).all()
    assert np.isnan(special.operands[0]).any()
    assert not np.isnan(first.operands[0]).any()
    assert np.abs(special.operands[0][~np.isnan(special.operands[0])]).max() > 100
    assert 0 < np.isnan(special.expected).mean() < 1
    assert not np.isnan(special.expected[1]).any(), "NaN stays in the first item"


def test_float32_is_only_tried_where_an_answer_is_doubtful() -> None:
    posed = problem(CONV, (8, 8, 9, 9), (4, 8, 3, 3), weights=(1,))
    for special in (False, True):
        trial = make_trial(posed, special=special, seconds=SHORT)
        assert trial.check(answer(trial, posed)) is None
        assert "slack" not in vars(trial)
        assert trial.check(answer(trial, posed) + 1) is not None
        assert trial.slack.shape == trial.expected.shape


@pytest.mark.parametrize("axes", [1, 2], ids=["items apart", "not apart"])
def test_the_special_trial_is_made_like_the_other(axes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    posed = problem(LayerNorm(axes), (64, 16), *[(64, 16)[2 - axes :]] * 2, weights=(1, 2))
    plain, alone = make_trial(posed, seconds=SHORT), make_trial(posed, special=True, seconds=SHORT)
    monkeypatch.setattr(verify, "_items_are_apart", None)  # nobody asks again
    special = make_trial(posed, special=True, seconds=SHORT, like=plain)
    assert (special.items is None) == (plain.items is None) == (axes == 2)
    assert all((a == b).all() for a, b in zip(plain.operands[1:], special.operands[1:], strict=True))
    assert np.array_equal(special.expected, alone.expected, equal_nan=True)
    assert special.check(answer(special, posed)) is None


def test_a_sample_of_a_batch_has_every_item_and_who_comes_after_it() -> None:
    trial = make_trial(problem(Relu(), (300, 7)), seconds=SHORT)
    assert trial.items is not None
    places = trial.sample(1 << 22)
    assert places is not None and len(places) < 20
    assert {0, 1, 298, 299} <= set(places)
    for kind in range(len(trial.expected)):
        first = np.flatnonzero(trial.items == kind)[0]
        assert {first, min(first + 1, 299)} <= set(places)
    out = trial.expected[trial.items].astype(np.float32)
    assert trial.at(places).check(out[places]) is None
    out[places[-1], 3] += 1
    assert trial.at(places).check(out[places]) is not None
    assert trial.sample(1) is None, "all of it is little"
    assert make_trial(problem(Relu(), (4, 7), dtype=i32), seconds=SHORT).sample(1 << 30) is None
    assert make_trial(problem(Softmax(0), (64, 16)), seconds=SHORT).sample(1 << 30) is None


def test_no_nan_is_made_an_integer() -> None:
    trial = make_trial(problem(Relu(), (64, 64), after=Cast(i32)), special=True)
    assert np.isfinite(trial.operands[0]).all()


def test_large_exponents_are_not_held_to_the_last_digits() -> None:
    posed = problem(Exp(), (64, 1024))
    trial = make_trial(posed, special=True)
    exponent = (trial.operands[0] * np.float32(1.442695)).astype(np.float32)  # as the GPU does: rounded, then exp2
    with np.errstate(over="ignore"):
        out = np.exp2(exponent.astype(np.float64)).astype(np.float32)
    assert trial.check(out) is None
    normal = make_trial(posed)
    assert trial.bound.norm > normal.bound.norm


def test_results_are_of_the_size_of_the_operands() -> None:
    posed = problem(Linear(), (16, 4096), (16, 4096), dtype=f16, weights=(1,))
    assert 0.5 < make_trial(posed).expected.std() < 2


@pytest.mark.parametrize("op", [Div(), Pow()])
def test_operands_stay_away_from_poles(op: Op) -> None:
    trial = make_trial(problem(op, (64, 64), (64, 64)))
    assert np.isfinite(trial.expected).all()
    assert np.abs(trial.expected).max() < 10
    assert np.isfinite(make_trial(problem(Log(), (64, 64))).expected).all()


def test_a_constant_divisor_is_no_pole() -> None:
    body = Graph("region")
    x = body.add_input("x", TensorType(f32, (64,)))
    body.mark_output(body.add(Div(), x, body.scalar(6.0, f32)))
    assert (make_trial(Problem(body, (False,), (16, 16))).operands[0] < 0).any()


def test_a_dimension_of_stride_0_repeats_one_element() -> None:
    posed = problem(Add(), (5, 7), (5, 7), strides={1: (0, 1)})
    for seconds in (SHORT, 10.0):
        operand = make_trial(posed, seconds=seconds).operands[1]
        assert operand.shape[1:] == (7,)
        assert (operand == operand[:1]).all()


def test_what_float32_itself_cannot_compute_is_not_held_against_a_kernel() -> None:
    body = Graph("region")
    x = body.add_input("x", TensorType(f32, (4, 4096)))
    e = body.add(Exp(), body.add(Mul(), x, body.scalar(60.0, f32)))
    body.mark_output(body.add(Div(), e, body.add(Add(), e, body.scalar(1.0, f32))))
    posed = Problem(body, (False,), (16, 16))
    trial = make_trial(posed)
    with np.errstate(all="ignore"):
        e = np.exp(trial.operands[0] * np.float32(60.0))
        out = e / (e + np.float32(1))  # NaN where e overflows
    assert np.isnan(out).any()
    assert trial.check(out) is None
    finite = np.flatnonzero(np.isfinite(out))[0]
    out.reshape(-1)[finite] += 0.1
    assert trial.check(out) is not None


def test_a_jump_may_go_the_other_way_in_a_few_places() -> None:
    posed = problem(Linear(), (128, 64), (64, 64), weights=(1,), after=Floor())
    trial = make_trial(posed)
    out = answer(trial, posed)
    out[3, 3] += 1
    assert trial.check(out) is None
    out[:3, :3] += 1
    assert trial.check(out) is not None


def test_integers_from_floats_may_be_off_in_a_few_places_and_others_nowhere() -> None:
    posed = problem(Linear(), (128, 64), (64, 64), weights=(1,), after=Cast(i32))
    out = answer(trial := make_trial(posed), posed)
    out[3, 3] += 1
    assert trial.check(out) is None
    exact = problem(Add(), (128, 64), (128, 64), dtype=i32)
    out = answer(trial := make_trial(exact), exact)
    assert trial.check(out) is None
    out[3, 3] += 1
    assert trial.check(out) == "wrong numbers at 1 of 8192 elements (first at [3, 3]: expected 0, got 1)"


def test_the_first_wrong_element_is_named_by_its_place_in_the_whole_batch() -> None:
    posed = problem(Mul(), (64, 300_000), (64, 300_000))
    trial = make_trial(posed)
    assert trial.items is not None
    out = trial.expected[trial.items].astype(np.float32)
    place = int(np.flatnonzero(trial.items == trial.items[40])[0])
    out[trial.items == trial.items[40], 123] += 1
    assert f"(first at [{place}, 123]: expected " in (trial.check(out) or "")


# -- a smaller batch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "posed",
    [
        problem(CONV, (8, 4, 5, 5), (8, 4, 3, 3), weights=(1,)),  # as many filters as items
        problem(Linear(), (8, 5), (8, 5), weights=(1,)),
        problem(Matmul(), (8, 4, 5), (8, 5, 3)),
        problem(Matmul(), (8, 8), (8, 8)),  # the second operand's rows are no items
        problem(Softmax(1), (8, 5)),
        problem(LayerNorm(1), (8, 5), (5,), (5,), weights=(1, 2)),
        problem(Add(), (8, 4, 4), (4, 1)),
        problem(ReduceSum((1,)), (8, 5)),
    ],
)
def test_batches_are_made_of_repeated_items(posed: Problem) -> None:
    trial = make_trial(posed, seconds=SHORT)
    assert trial.items is not None
    assert len(trial.expected) == 2
    assert sorted(set(trial.items)) == [0, 1]
    assert trial.check(answer(trial, posed)) is None


@pytest.mark.parametrize(
    "posed",
    [
        problem(Softmax(0), (8, 5)),
        problem(LayerNorm(2), (8, 5), (8, 5), (8, 5), weights=(1, 2)),
        problem(ReduceSum((0,)), (8, 8)),
        problem(Relu(), (2, 8)),
        problem(Relu(), ()),
        problem(Relu(), (8, 5), strides={0: (1, 8)}),  # items that do not lie one after another
    ],
)
def test_items_that_are_not_apart_get_the_whole_reference(posed: Problem) -> None:
    trial = make_trial(posed, seconds=SHORT)
    assert trial.items is None
    assert trial.check(answer(trial, posed)) is None


def test_a_body_that_does_not_fit_another_batch_says_so() -> None:
    body = problem(Matmul(), (8, 8), (8, 8)).body
    assert with_batch(body, frozenset({0, 1}), 2) is None
    small = with_batch(body, frozenset({0}), 2)
    assert small is not None
    assert small.outputs[0].type.shape == (2, 8)


@pytest.mark.parametrize(
    ("posed", "length"),
    [
        (problem(CONV, (1, 16, 5, 5), (8, 16, 3, 3)), 2 * 144),
        (problem(Linear(), (3, 50), (7, 50)), 100),
        (problem(ReduceSum((1,)), (3, 50)), 50),
        (problem(Softmax(1), (3, 50)), 1),
    ],
)
def test_reduction_length(posed: Problem, length: int) -> None:
    assert posed.anchor is not None
    assert reduction_length(posed.anchor) == length
