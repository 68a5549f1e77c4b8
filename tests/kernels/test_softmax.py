"""Softmax along any dimension, short rows and long, with what surrounds it in attention."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32, f64
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Cast, LogSoftmax, Mul, ReduceSum, Relu, Softmax
from jitrt.graph.types import channels_last, row_major
from jitrt.kernels.base import Problem, Tactic
from jitrt.kernels.softmax import SoftmaxTemplate
from jitrt.testing import check_problem, compiles, disagrees, make_problem, run_interpreted

SHAPE = (2, 3, 5, 13)
SINGLE = {"BLOCK_M": 4, "BLOCK_K": 16, "num_warps": 1}
LOOP = {"BLOCK_M": 4, "BLOCK_K": 4, "num_warps": 1}


def problem(
    op: Op, shape: tuple[int, ...] = SHAPE, dtype: DType = f32, strides: tuple[int, ...] | None = None
) -> Problem:
    g = Graph()
    x = g.add_input("x", TensorType(dtype, shape, strides and Layout(strides)))
    y = g.add(op, x)
    y.type = y.type.with_layout(x.type.layout)
    g.mark_output(y)
    return make_problem(g)


@pytest.mark.parametrize("op", [Softmax, LogSoftmax])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("strides", [row_major(SHAPE), channels_last(SHAPE)], ids=["nchw", "nhwc"])
def test_any_axis_in_one_pass_and_in_two(op: type, axis: int, strides: tuple[int, ...]) -> None:
    check_problem(problem(op(axis), strides=strides), SoftmaxTemplate(), [SINGLE, LOOP])


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("op", [Softmax(3), LogSoftmax(3)], ids=str)
def test_16_bit_floats(op: Op, dtype: DType) -> None:
    check_problem(problem(op, dtype=dtype), SoftmaxTemplate(), [SINGLE, LOOP])


@pytest.mark.parametrize("shape", [(7,), (1, 1), (9, 1), (1, 40)], ids=str)
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    check_problem(problem(Softmax(len(shape) - 1), shape), SoftmaxTemplate())


def test_attention_scores() -> None:
    """softmax(scores * scale + mask) in float32 of 16-bit scores, written back as 16 bits: one pass over memory."""
    g = Graph()
    scores = g.add_input("scores", TensorType(f16, SHAPE))
    mask = g.add_input("mask", TensorType(f16, (2, 1, 1, 13)))
    value = g.add(Add(), g.add(Mul(), scores, g.scalar(0.125, f16)), mask)
    g.mark_output(g.add(Cast(f16), g.add(Softmax(3), g.add(Cast(f32), value))))
    check_problem(make_problem(g), SoftmaxTemplate(), [SINGLE, LOOP])


def test_an_epilogue_with_a_strided_output() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (6, 13)))
    other = g.add_input("other", TensorType(f32, (6, 13)))
    g.mark_output(g.add(Relu(), g.add(Add(), g.add(Softmax(1), x), other), name="y"))
    check_problem(make_problem(g, strides={"y": (20, 1), "other": (1, 6)}), SoftmaxTemplate(), [SINGLE, LOOP])


@pytest.mark.parametrize("config", [SINGLE, LOOP], ids=["one pass", "two passes"])
def test_masked_scores(config: dict[str, int]) -> None:
    """A row that begins with -inf, as a causal mask makes, is fine; a row of nothing but -inf is NaN, as in PyTorch."""
    p = problem(Softmax(1), (4, 13))
    x = np.random.default_rng(0).standard_normal((4, 13)).astype(np.float32)
    x[0, :9] = x[1, 1:] = x[2] = -np.inf
    got = run_interpreted(p, Tactic.make(SoftmaxTemplate(), config), [x])
    assert disagrees(p, [x], got) is None
    assert got[1, 0] == 1
    assert np.isnan(got[2]).all()


@pytest.mark.parametrize(
    ("shape", "axis"), [((12 * 128, 197, 197), 2), ((128, 1000), 1), ((1, 50257), 1), ((8, 16, 64, 64), 1)], ids=str
)
def test_the_best_guess_compiles_for_every_target(shape: tuple[int, ...], axis: int) -> None:
    p = problem(Softmax(axis), shape, f16)
    configs = SoftmaxTemplate().candidates(p, TARGETS[90])
    assert 3 <= len(configs) <= 10
    compiles(p, SoftmaxTemplate())


@pytest.mark.parametrize("shape", [(1, 10), (1, 1), (3, 2)], ids=str)
def test_few_short_rows_have_candidates_too(shape: tuple[int, int]) -> None:
    p = problem(Softmax(1), shape)
    check_problem(p, SoftmaxTemplate(), SoftmaxTemplate().candidates(p, TARGETS[90]))


def test_short_rows_share_a_program_and_long_ones_do_not() -> None:
    best = SoftmaxTemplate().candidates(problem(Softmax(1), (100_000, 30), f16), TARGETS[90])[0]
    assert best["BLOCK_M"] > 1
    best = SoftmaxTemplate().candidates(problem(Softmax(1), (64, 30_000), f16), TARGETS[90])[0]
    assert (best["BLOCK_M"], best["BLOCK_K"]) == (1, 4096)
    across = SoftmaxTemplate().candidates(problem(Softmax(1), (8, 16, 64, 64), f16), TARGETS[90])[0]
    assert across["BLOCK_M"] >= 16


def test_refusals_say_why() -> None:
    assert SoftmaxTemplate().accepts(problem(ReduceSum((1,))).body) == "anchor is no softmax"
    assert SoftmaxTemplate().accepts(problem(Relu()).body) == "anchor is no softmax"
    assert SoftmaxTemplate().accepts(problem(Softmax(1), dtype=f64).body) == "a softmax of f64 has no kernel"
    g = Graph()
    x = g.add_input("x", TensorType(f32, (4, 4)))
    total = g.add(Softmax(1), x)
    g.mark_output(g.add(Add(), total, g.add_input("wide", TensorType(f32, (2, 4, 4)))))
    assert SoftmaxTemplate().accepts(g) == "the epilogue changes the shape from [4, 4] to [2, 4, 4]"
