"""Reductions over any axes of any layout, whole and split, against numpy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, b8, bf16, f16, f32, f64, i32, i64
from jitrt.graph.op import Op
from jitrt.graph.ops import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    Add,
    Cast,
    LogicalNot,
    Matmul,
    Mul,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceSum,
    Relu,
    Sigmoid,
    Softmax,
)
from jitrt.graph.types import channels_last, row_major, strides_in_order
from jitrt.kernels.base import Problem
from jitrt.kernels.reduce import Reduce, describe
from jitrt.testing import check_problem, compiles, make_problem

SHAPE = (2, 11, 5, 7)
NHWC = channels_last(SHAPE)


def config(m: int = 2, r: int = 8, k: int = 8, split: int = 1) -> dict[str, Any]:
    return {"BLOCK_M": m, "BLOCK_R": r, "BLOCK_K": k, "SPLIT": split, "num_warps": 1}


def reduced(
    op: Op, strides: tuple[int, ...] | None = NHWC, shape: tuple[int, ...] = SHAPE, dtype: DType = f32
) -> Problem:
    g = Graph()
    x = g.add_input("x", TensorType(dtype, shape, strides and Layout(strides)))
    g.mark_output(g.add(op, x))
    return make_problem(g)


@pytest.mark.parametrize("kind", [ReduceSum, ReduceMean, ReduceMax, ReduceMin])
@pytest.mark.parametrize("split", [1, 3], ids=["whole", "split"])
@pytest.mark.parametrize(
    ("axes", "strides", "tile"),
    [
        ((2, 3), NHWC, (1, 8, 8)),
        ((2, 3), row_major(SHAPE), (8, 8, 1)),
        ((1,), NHWC, (16, 4, 1)),
        ((1,), row_major(SHAPE), (4, 4, 8)),
        ((0, 1, 2, 3), NHWC, (1, 64, 1)),
    ],
    ids=["spatial nhwc", "spatial nchw", "channels nhwc", "channels nchw", "all"],
)
def test_axes_and_layouts(kind: Any, axes: tuple[int, ...], strides: Any, tile: Any, split: int) -> None:
    check_problem(reduced(kind(axes), strides), Reduce(), [config(*tile, split)])


@pytest.mark.parametrize("dtype", [f16, bf16, f64, i32, i64], ids=str)
@pytest.mark.parametrize("kind", [ReduceSum, ReduceMax, ReduceMin])
def test_dtypes(kind: Any, dtype: DType) -> None:
    check_problem(reduced(kind((2, 3)), dtype=dtype), Reduce(), [config(1, 16, 16), config(1, 16, 16, 2)])


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [(0,), (1, 3), (0, 2), (), (3,)], ids=str)
def test_kept_dimensions(axes: tuple[int, ...], keepdims: bool) -> None:
    check_problem(reduced(ReduceSum(axes, keepdims)), Reduce(), [config(8, 8, 4)], extremes=False)


@pytest.mark.parametrize("op", [AdaptiveAvgPool((1, 1)), AdaptiveMaxPool((1, 1))], ids=str)
@pytest.mark.parametrize("gap", [0, 5])
def test_global_pools(op: Op, gap: int) -> None:
    wide = channels_last((2, 11 + gap, 5, 7))
    check_problem(reduced(op, wide, dtype=f16), Reduce(), [config(1, 16, 16)])


@settings(max_examples=25)
@given(st.data())
def test_any_layout(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1)))))
    strides = strides_in_order(shape, data.draw(st.permutations(range(len(shape)))))
    problem = reduced(ReduceSum(axes, data.draw(st.booleans())), strides, shape)
    tile = [data.draw(st.sampled_from([1, 2, 4])) for _ in range(3)]
    check_problem(problem, Reduce(), [config(*tile, data.draw(st.sampled_from([1, 2])))], extremes=False)


def test_what_surrounds_it_is_fused() -> None:
    """sigmoid(mean(relu(x * scale + shift)) + bias): the head of a DenseNet and more."""
    g = Graph()
    x = g.add_input("x", TensorType(f16, SHAPE, Layout(NHWC)))
    scale, shift = (g.add_input(n, TensorType(f16, (11, 1, 1))) for n in ("scale", "shift"))
    bias = g.add_input("bias", TensorType(f16, (11,)))
    value = g.add(Relu(), g.add(Add(), g.add(Mul(), x, scale), shift))
    g.mark_output(g.add(Sigmoid(), g.add(Add(), g.add(ReduceMean((2, 3)), value), bias)))
    problem = make_problem(g)
    check_problem(problem, Reduce(), [config(1, 8, 16), config(1, 8, 16, 2)])
    (call,) = Reduce().lower(problem, config(), TARGETS[90]).calls
    assert [len(call.arguments[n]) for n in ("x_aux", "aux")] == [3, 1]


def test_elements_outside_do_not_count() -> None:
    """sigmoid(0) is not 0: what the ops make of masked elements must be left out."""
    g = Graph()
    x = g.add_input("x", TensorType(f32, (3, 13)))
    g.mark_output(g.add(ReduceSum((1,)), g.add(Sigmoid(), x)))
    check_problem(make_problem(g), Reduce(), [config(2, 8, 1), config(2, 4, 1, 2)])


def test_a_cast_before_it_rounds() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, SHAPE, Layout(NHWC)))
    g.mark_output(g.add(ReduceMean((2, 3)), g.add(Cast(f16), x)))
    check_problem(make_problem(g), Reduce(), [config(1, 8, 16)])


def test_the_output_may_be_a_slice() -> None:
    problem = reduced(ReduceMean((2, 3), True), dtype=f16)
    out = problem.body.outputs[0]
    out.type = out.type.with_layout(Layout((40, 1, 40, 40)))
    check_problem(problem, Reduce(), [config(1, 8, 16)])


@pytest.mark.parametrize(
    ("shape", "op"),
    [
        ((1, 2048, 7, 7), AdaptiveAvgPool((1, 1))),
        ((1, 32, 112, 112), ReduceMean((2, 3), True)),
        ((128, 64, 112, 112), ReduceSum((0, 1, 2, 3))),
        ((8, 12, 128, 128), ReduceMax((1,))),
    ],
    ids=str,
)
def test_the_best_guess_compiles_for_every_target(shape: tuple[int, ...], op: Op) -> None:
    problem = reduced(op, channels_last(shape), shape, f16)
    configs = Reduce().candidates(problem, TARGETS[90])
    assert 3 <= len(configs) <= 10
    compiles(problem, Reduce())


def test_few_outputs_of_long_rows_are_split() -> None:
    squeeze = reduced(ReduceMean((2, 3), True), channels_last((1, 32, 112, 112)), (1, 32, 112, 112), f16)
    best = Reduce().candidates(squeeze, TARGETS[90])[0]
    assert best["SPLIT"] >= 8
    lowered = Reduce().lower(squeeze, best, TARGETS[90])
    tiles, split, _ = lowered.calls[0].grid
    assert lowered.zeros_bytes == 4 * tiles
    assert lowered.workspace_bytes == tiles * split * best["BLOCK_M"] * best["BLOCK_K"] * 4
    head = reduced(AdaptiveAvgPool((1, 1)), channels_last((128, 2048, 7, 7)), (128, 2048, 7, 7), f16)
    assert Reduce().candidates(head, TARGETS[90])[0]["SPLIT"] == 1


def test_channels_are_columns_where_they_are_innermost() -> None:
    shape = describe(reduced(ReduceMean((2, 3))))
    assert (shape.rows, shape.length, shape.columns) == (2, 35, 11)
    shape = describe(reduced(ReduceMean((2, 3)), row_major(SHAPE)))
    assert (shape.rows, shape.length, shape.columns) == (22, 35, 1)


def refused(op: Op, dtype: DType = f32, before: Op | None = None) -> str | None:
    g = Graph()
    x = g.add_input("x", TensorType(dtype, (4, 4)))
    g.mark_output(g.add(op, g.add(before, *[x] * (2 if isinstance(before, Matmul) else 1)) if before else x))
    return Reduce().accepts(g)


def test_refusals_say_why() -> None:
    assert refused(Softmax(1)) == "anchor is no reduction"
    assert refused(LogicalNot()) == "anchor is no reduction"
    assert refused(ReduceMax((1,)), b8) == "a reduction of booleans has no kernel: cast them first"
    assert refused(ReduceMean((1,)), i32) == "the mean of integers has no kernel: cast them first"
    assert refused(ReduceMean((1,)), before=Relu()) is None
    g = Graph()
    x = g.add_input("x", TensorType(f32, (1, 3, 4, 4)))
    g.mark_output(g.add(AdaptiveAvgPool((2, 1)), x))
    assert Reduce().accepts(g) == "anchor is no reduction"
