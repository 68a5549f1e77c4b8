"""Resizes and extensions in every mode and layout, with what is elementwise around them."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, b8, bf16, f16, f32, f64, i64
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Cast, Extend, Mul, Pad, Relu, Resize, Roll, Sigmoid
from jitrt.graph.ops.resample import snapped
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from jitrt.kernels.resample import Resample
from jitrt.testing import check_problem, compiles, make_problem

SHAPE = (2, 3, 4, 5)
TILE = [{"BLOCK_M": 32, "BLOCK_K": 8, "num_warps": 1}]


def resampled(op: Op, dtype: DType = f32, shape: tuple[int, ...] = SHAPE, *, nhwc: bool = False) -> Problem:
    g = Graph()
    x = g.add_input("x", TensorType(dtype, shape))
    y = g.add(op, x)
    if nhwc:
        for value in (x, y):
            value.type = value.type.with_layout(Layout(channels_last(value.type.shape)))
    g.mark_output(y)
    return make_problem(g)


MODES = [
    Resize((8, 10), "nearest"),
    Resize((7, 3), "nearest"),
    Resize((7, 3), "nearest_exact"),
    Resize((7, 3), "linear"),
    Resize((7, 3), "linear", True),
    Resize((1, 9), "linear", True),
    Resize((6, 8), "linear", False, (1 / 1.7, 1 / 1.7)),
    Resize((4, 8), "cubic"),
    Resize((7, 3), "cubic", True),
    Extend(((0, 0), (0, 0), (3, 2), (1, 4)), "reflect"),
    Extend(((0, 0), (0, 0), (5, 9), (0, 7)), "replicate"),
    Extend(((1, 0), (2, 3), (4, 0), (2, 5)), "circular"),
    Roll((0, 1, 2, 4)),
]


@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("op", MODES, ids=str)
def test_modes(op: Op, nhwc: bool) -> None:
    check_problem(resampled(op, nhwc=nhwc), Resample(), TILE, extremes=getattr(op, "taps", 1) == 1)


@pytest.mark.parametrize("dtype", [f16, bf16, f64], ids=str)
@pytest.mark.parametrize("op", [MODES[1], MODES[3], MODES[9]], ids=str)
def test_floats(op: Op, dtype: DType) -> None:
    check_problem(resampled(op, dtype), Resample(), TILE, extremes=False)


@pytest.mark.parametrize("dtype", [i64, b8], ids=str)
@pytest.mark.parametrize("op", [MODES[1], MODES[9]], ids=str)
def test_what_only_moves_takes_any_type(op: Op, dtype: DType) -> None:
    check_problem(resampled(op, dtype), Resample(), TILE)


def test_other_ranks() -> None:
    for op, shape in (
        (Resize((9,), "linear"), (2, 3, 5)),
        (Resize((3, 2, 4), "linear"), (1, 2, 2, 3, 3)),
        (Resize((3, 2, 5), "nearest"), (1, 2, 2, 3, 3)),
        (Extend(((2, 1),), "reflect"), (4,)),
        (Roll((3,)), (3,)),
        (Extend(((0, 0), (1, 2)), "circular"), (3, 2)),
    ):
        check_problem(resampled(op, f32, shape), Resample(), TILE, extremes=False)


@pytest.mark.parametrize("op", [MODES[3], MODES[10]], ids=str)
def test_what_surrounds_it_is_fused(op: Op) -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f16, SHAPE, Layout(channels_last(SHAPE))))
    value = g.add(op, g.add(Sigmoid(), g.add(Cast(f32), x)))
    value = g.add(Mul(), value, g.add_input("scale", TensorType(f32, (3, 1, 1))))
    g.mark_output(g.add(Relu(), g.add(Add(), value, g.add_input("other", TensorType(f32, value.type.shape)))))
    check_problem(make_problem(g), Resample(), TILE, extremes=False)


def test_candidates_compile_for_every_target() -> None:
    problem = resampled(Resize((112, 112), "linear"), f16, (8, 64, 56, 56), nhwc=True)
    assert 3 <= len(Resample().candidates(problem, TARGETS[90])) <= 10
    compiles(problem, Resample())
    compiles(resampled(Resize((112, 112), "cubic"), f32, (1, 64, 56, 56)), Resample(), targets=(90,))
    compiles(
        resampled(Extend(((0, 0),) * 2 + ((1, 1),) * 2, "reflect"), f16, (8, 64, 56, 56)), Resample(), targets=(80,)
    )


def refused(*ops: Op, shape: tuple[int, ...] = SHAPE) -> str | None:
    g = Graph()
    value = g.add_input("x", TensorType(f32, shape))
    for op in ops:
        value = g.add(op, value)
    g.mark_output(value)
    return Resample().accepts(g)


def test_refusals_say_why() -> None:
    assert refused(Relu()) == "anchor is no resize, extension or roll"
    assert refused(Resize((3, 3, 3), "cubic"), shape=(1, 2, 2, 2, 2)) is None
    assert refused(Resize((3,) * 4, "cubic"), shape=(1, 1, 2, 2, 2, 2)) == (
        "a cubic resize in 4 dimensions has no kernel"
    )
    assert refused(Pad(((0, 0),) * 2 + ((1, 1),) * 2), MODES[0]) == "pad before it is not elementwise"


def test_a_source_position_is_the_same_whether_or_not_a_product_is_rounded_before_its_sum() -> None:
    """A compiler may make (o + 0.5) * step - 0.5 one FMA, rounded once: 1.0 becomes 0.9999999, just before an element
    instead of on it. What is snapped is the same bits either way."""
    moved = 0
    for size, out in itertools.product(range(1, 40, 3), range(1, 60)):
        op = Resize((out,), "linear")
        step = op.step(0, size)
        plain = (np.arange(out) + 0.5) * step - 0.5
        fused = np.array([float(Fraction(o + 0.5) * Fraction(step) - Fraction(1, 2)) for o in range(out)])
        moved += int((np.floor(plain) != np.floor(fused)).sum())
        np.testing.assert_array_equal(snapped(plain), snapped(fused))
        (first, _), (_, weight) = op.sources(0, size)
        place = np.maximum(snapped(fused), 0)
        np.testing.assert_array_equal(first, np.clip(np.floor(place), 0, size - 1))
        np.testing.assert_array_equal(weight, place - np.floor(place))
    assert moved > 0
