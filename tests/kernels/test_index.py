"""Gather, argmax, top k and running sums, in odd layouts, with what is elementwise around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, b8, bf16, f16, f32, f64, i8, i32, i64, u8
from jitrt.graph.op import Op
from jitrt.graph.ops import (
    Add,
    ArgMax,
    ArgMin,
    Cast,
    CumProd,
    CumSum,
    Gather,
    Mul,
    Neg,
    Relu,
    Sigmoid,
    Softmax,
    TopK,
)
from jitrt.graph.types import channels_last
from jitrt.kernels.argmax import ArgMaxTemplate
from jitrt.kernels.base import Problem, Tactic
from jitrt.kernels.gather import GatherTemplate
from jitrt.kernels.scan import Scan
from jitrt.kernels.topk import LONGEST, TopKTemplate
from jitrt.testing import check_problem, compiles, make_problem, run_interpreted

SHAPE = (2, 5, 4, 7)
SMALL = (2, 5, 3, 4)
TILE = [{"BLOCK_M": 16, "BLOCK_K": 8, "num_warps": 1}]


def gathered(x: tuple[int, ...], index: tuple[int, ...], axis: int, *, dtype: DType = f32, by: DType = i64) -> Problem:
    g = Graph()
    value, at = g.add_input("x", TensorType(dtype, x)), g.add_input("index", TensorType(by, index))
    g.mark_output(g.add(Gather(axis), value, at))
    return make_problem(g)


@pytest.mark.parametrize(
    ("x", "index", "axis"),
    [
        ((6, 5), (4, 1), 0),
        ((6, 5), (1, 9), 1),
        ((6, 5), (6, 3), 1),
        ((3, 6, 5), (3, 4, 1), 1),
        ((1, 6, 1), (3, 4, 5), 1),
        ((7,), (4,), 0),
        ((1, 5), (3, 5), 0),
    ],
    ids=str,
)
def test_shapes(x: tuple[int, ...], index: tuple[int, ...], axis: int) -> None:
    """The operands' integers are -9 to 9: negative ones, and some out of range."""
    check_problem(gathered(x, index, axis), GatherTemplate(), TILE)


@pytest.mark.parametrize(("dtype", "by"), [(f16, i32), (bf16, i8), (i64, i64), (b8, u8), (f64, i32)], ids=str)
def test_dtypes(dtype: DType, by: DType) -> None:
    check_problem(gathered((3, 6, 5), (3, 4, 1), 1, dtype=dtype, by=by), GatherTemplate(), TILE)


def test_whatever_the_index_nothing_outside_is_read() -> None:
    problem = gathered((3, 4), (5, 1), 0)
    x, index = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([[-(2**62)], [-4], [-3], [3], [2**62]])
    tactic = Tactic.make(GatherTemplate(), TILE[0])
    np.testing.assert_array_equal(run_interpreted(problem, tactic, [x, index]), x[[0, 0, 0, 2, 2]])


def test_of_a_table_only_what_is_taken_moves() -> None:
    """Two rows of a thousand, and all of a table that is shorter than what is taken of it."""
    assert gathered((1000, 8), (2, 1), 0).moved_bytes == 2 * 8 * 4 + 2 * 8 + 2 * 8 * 4
    assert gathered((3, 8), (9, 1), 0).moved_bytes == 3 * 8 * 4 + 9 * 8 + 9 * 8 * 4
    g = Graph()
    table, index = g.add_input("table", TensorType(i64, (50, 1))), g.add_input("index", TensorType(i64, (1, 1)))
    g.mark_output(g.add(Gather(0), table, g.add(Add(), index, table)))
    assert make_problem(g).moved_bytes == 50 * 8 + 8 + 50 * 8  # the table is read besides


def test_what_surrounds_a_gather_is_fused() -> None:
    """relu(gather(sigmoid(x), i + j) * scale), in channels-last."""
    g = Graph()
    x = g.add_input("x", TensorType(f16, SHAPE, Layout(channels_last(SHAPE))))
    i, j = (g.add_input(name, TensorType(i64, (1, 1, 6, 1))) for name in "ij")
    value = g.add(Gather(2), g.add(Sigmoid(), x), g.add(Add(), i, j))
    value = g.add(Relu(), g.add(Mul(), value, g.add_input("scale", TensorType(f16, (5, 1, 1)))))
    value.type = value.type.with_layout(Layout(channels_last(value.type.shape)))
    g.mark_output(value)
    check_problem(make_problem(g), GatherTemplate(), TILE)


def along(op: Op, dtype: DType = f32, shape: tuple[int, ...] = SMALL, *, nhwc: bool = False) -> Problem:
    g = Graph()
    y = g.add(op, g.add_input("x", TensorType(dtype, shape, Layout(channels_last(shape)) if nhwc else None)))
    if nhwc and y.type.rank == len(shape):
        y.type = y.type.with_layout(Layout(channels_last(y.type.shape)))
    g.mark_output(y)
    return make_problem(g)


ROWS = [{"BLOCK_M": 32, "BLOCK_K": 8, "num_warps": 1}, {"BLOCK_M": 16, "BLOCK_K": 2, "num_warps": 1}]
SORTS = [{"BLOCK_M": 16, "BLOCK_K": 8, "num_warps": 1, "SORT": way} for way in (True, False)]


@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_axes(axis: int, nhwc: bool) -> None:
    for op in (ArgMax(axis), ArgMin(axis, True)):
        check_problem(along(op, nhwc=nhwc), ArgMaxTemplate(), ROWS)
    for op, config in zip((TopK(axis, SMALL[axis]), TopK(axis, 2, False)), SORTS, strict=True):
        check_problem(along(op, nhwc=nhwc), TopKTemplate(), [config])
    for op in (CumSum(axis), CumProd(axis)):
        check_problem(along(op, nhwc=nhwc), Scan(), ROWS, extremes=False)


@pytest.mark.parametrize("dtype", [f16, bf16, i32, u8, b8], ids=str)
def test_ties_and_dtypes(dtype: DType) -> None:
    """Small integers and booleans are full of ties, and the extreme floats of NaN and both zeros."""
    for op in (ArgMax(1), ArgMin(1)):
        check_problem(along(op, dtype, (3, 30)), ArgMaxTemplate(), [{"BLOCK_M": 4, "BLOCK_K": 16, "num_warps": 1}])
    for op, way in ((TopK(1, 30), True), (TopK(1, 30, False), True), (TopK(1, 4, False), False)):
        config = {"BLOCK_M": 4, "BLOCK_K": 32, "num_warps": 1, "SORT": way}
        check_problem(along(op, dtype, (3, 30)), TopKTemplate(), [config])


@pytest.mark.parametrize("dtype", [f16, f64, i32, i64, u8], ids=str)
def test_running_sums_of_other_types(dtype: DType) -> None:
    for op in (CumSum(1), CumProd(1)):
        check_problem(along(op, dtype, (3, 11)), Scan(), ROWS, extremes=False)


def test_what_surrounds_them_is_fused() -> None:
    for op, template, configs in (
        (ArgMax(1), ArgMaxTemplate(), ROWS),
        (TopK(1, 3), TopKTemplate(), SORTS),
        (CumSum(1), Scan(), ROWS),
    ):
        g = Graph()
        x, y = (g.add_input(name, TensorType(f32, (5, 7))) for name in "xy")
        found = g.add(op, g.add(Neg(), g.add(Mul(), x, y)))
        g.mark_output(g.add(Add(), g.add(Cast(f32), found), g.scalar(0.5, f32)))
        check_problem(make_problem(g), template, configs, extremes=False)


def test_candidates_compile_for_every_target() -> None:
    compiles(gathered((30000, 768), (128, 1), 0, dtype=f16), GatherTemplate())
    compiles(along(ArgMax(1), f16, (128, 1000)), ArgMaxTemplate(), targets=(90,))
    compiles(along(CumSum(1), f32, (4, 10000)), Scan(), targets=(90,))
    problem = along(TopK(1, 5), f32, (16, 1000))
    configs = TopKTemplate().candidates(problem, TARGETS[90])
    assert {config["SORT"] for config in configs} == {True, False}
    compiles(problem, TopKTemplate(), targets=(80, 100))
    compiles(problem, TopKTemplate(), next(config for config in configs if config["SORT"]), targets=(90,))


REFUSED: list[tuple[Any, Op, DType, tuple[int, ...], str]] = [
    (GatherTemplate(), CumSum(1), f32, (3, 5), "anchor is no gather"),
    (ArgMaxTemplate(), CumSum(1), f32, (3, 5), "anchor is no argmax"),
    (TopKTemplate(), CumSum(1), f32, (3, 5), "anchor is no topk"),
    (Scan(), TopK(1, 2), f32, (3, 5), "anchor is no running sum"),
    (ArgMaxTemplate(), ArgMin(1), i64, (3, 5), "argmin of i64 has no kernel: cast to i32 first"),
    (ArgMaxTemplate(), ArgMax(1), i8, (1, 2**31), "longer than positions are counted"),
    (TopKTemplate(), TopK(1, 2), f64, (3, 5), "topk of f64 has no kernel: cast to f32 first"),
    (TopKTemplate(), TopK(1, 2), DType.u32, (3, 5), "topk of u32 has no kernel: subtract 2^31 and cast to i32 first"),
    (TopKTemplate(), TopK(1, 2), f32, (3, LONGEST + 1), "does not fit into registers: topk sorts up to 4096"),
]


@pytest.mark.parametrize(("template", "op", "dtype", "shape", "reason"), REFUSED)
def test_refusals_say_why(template: Any, op: Op, dtype: DType, shape: tuple[int, ...], reason: str) -> None:
    assert reason in template.accepts(along(op, dtype, shape).body)


def test_a_gather_takes_no_second_anchor_or_tensor() -> None:
    g = Graph()
    x, y = (g.add_input(name, TensorType(f32, (5, 7))) for name in "xy")
    g.mark_output(g.add(Gather(0), g.add(Add(), x, y), g.add_input("i", TensorType(i64, (5, 7)))))
    assert GatherTemplate().accepts(g) == "what is computed before it reads more than one tensor"
    g = Graph()
    x = g.add(Softmax(1), g.add_input("x", TensorType(f32, (5, 7))))
    g.mark_output(x)
    assert GatherTemplate().accepts(g) == "anchor is no gather"
