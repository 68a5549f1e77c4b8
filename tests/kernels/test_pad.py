"""Pads in every layout, with what is elementwise around them."""

from __future__ import annotations

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32, i64
from jitrt.graph.ops import Add, Cast, MaxPool, Mul, Pad, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from jitrt.kernels.pad import PadTemplate
from jitrt.testing import check_problem, compiles, make_problem

SHAPE = (2, 5, 4, 7)
SMALL = [{"BLOCK_M": 16, "BLOCK_K": 8, "num_warps": 1}]


def padded(
    padding: tuple[tuple[int, int], ...],
    value: float = 0.0,
    dtype: DType = f32,
    shape: tuple[int, ...] = SHAPE,
    *,
    nhwc: bool = False,
    gap: int = 0,
) -> Problem:
    g = Graph()
    x = g.add_input("x", TensorType(dtype, shape))
    y = g.add(Pad(padding, value), x)
    g.mark_output(y)
    if nhwc:
        x.type = x.type.with_layout(Layout(channels_last(shape)))
        n, c, *rest = y.type.shape
        y.type = y.type.with_layout(Layout(channels_last((n, c + gap, *rest))))
    return make_problem(g, alignment=2 if gap else 16)


@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    "padding",
    [
        ((0, 0), (0, 0), (1, 2), (3, 1)),
        ((0, 0), (2, 1), (0, 0), (0, 0)),
        ((1, 0), (0, 3), (0, 1), (1, 0)),
        ((0, 0), (0, 0), (0, 0), (0, 0)),
    ],
    ids=str,
)
def test_paddings(padding: tuple[tuple[int, int], ...], nhwc: bool) -> None:
    check_problem(padded(padding, 1.5, nhwc=nhwc), PadTemplate(), SMALL)


@pytest.mark.parametrize("dtype", [f16, bf16, i64], ids=str)
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_dtypes(dtype: DType, value: float) -> None:
    check_problem(padded(((0, 0), (0, 0), (1, 2), (3, 1)), value, dtype, nhwc=True, gap=3), PadTemplate(), SMALL)


@pytest.mark.parametrize("value", [float("-inf"), float("inf"), float("nan")])
def test_padding_that_is_no_finite_number(value: float) -> None:
    check_problem(padded(((0, 0), (0, 0), (1, 1), (1, 1)), value, f16), PadTemplate(), SMALL)


@pytest.mark.parametrize(
    ("shape", "padding"), [((3,), ((2, 1),)), ((1, 1), ((0, 2), (1, 1))), ((5, 1), ((0, 0), (3, 0)))]
)
def test_odd_ranks(shape: tuple[int, ...], padding: tuple[tuple[int, int], ...]) -> None:
    check_problem(padded(padding, 2.0, f32, shape), PadTemplate())


def test_what_surrounds_it_is_fused() -> None:
    """relu(pad(sigmoid(cast(x))) * scale + other): what comes before does not touch the padding, what follows does."""
    g = Graph()
    x = g.add_input("x", TensorType(f16, SHAPE, Layout(channels_last(SHAPE))))
    value = g.add(Pad(((0, 0), (0, 2), (1, 1), (0, 1)), -0.5), g.add(Sigmoid(), g.add(Cast(f32), x)))
    value = g.add(Mul(), value, g.add_input("scale", TensorType(f32, (7, 1, 1))))
    g.mark_output(g.add(Relu(), g.add(Add(), value, g.add_input("other", TensorType(f32, value.type.shape)))))
    check_problem(make_problem(g), PadTemplate(), SMALL)


def test_candidates_compile_for_every_target() -> None:
    problem = padded(((0, 0), (0, 0), (1, 1), (1, 1)), 0.0, f16, (8, 64, 56, 56), nhwc=True)
    configs = PadTemplate().candidates(problem, TARGETS[90])
    assert 3 <= len(configs) <= 10
    compiles(problem, PadTemplate())


def test_refusals_say_why() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, SHAPE))
    once = g.add(Pad(((0, 0), (0, 0), (1, 1), (1, 1))), x)
    twice = g.add(Pad(((0, 0), (0, 0), (1, 1), (1, 1))), once)
    g.mark_output(twice)
    assert PadTemplate().accepts(g) == "a region has at most one pad, this one 2"
    g = Graph()
    g.mark_output(g.add(Relu(), g.add_input("x", TensorType(f32, SHAPE))))
    assert PadTemplate().accepts(g) == "anchor is no pad"
    g = Graph()
    x = g.add(Pad(((0, 0), (0, 0), (1, 1), (1, 1))), g.add_input("x", TensorType(f32, SHAPE)))
    g.mark_output(g.add(MaxPool((2, 2), (2, 2), (0, 0)), x))
    assert PadTemplate().accepts(g) == "anchor is no pad"
    g = Graph()
    x, other = (g.add_input(n, TensorType(f32, SHAPE)) for n in ("x", "other"))
    g.mark_output(g.add(Pad(((0, 0), (0, 0), (1, 1), (1, 1))), g.add(Add(), x, other)))
    assert PadTemplate().accepts(g) == "what is computed before it reads more than one tensor"
