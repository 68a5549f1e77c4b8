"""Scatter in odd layouts, with every reduction and what is elementwise around it."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, b8, bf16, f16, f32, f64, i8, i32, i64, u8
from jitrt.graph.ops import Add, Gather, Mul, Neg, Relu, Scatter, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem, Tactic
from jitrt.kernels.scatter import ScatterTemplate
from jitrt.testing import check_problem, compiles, make_problem, run_interpreted

TILE = [{"BLOCK_M": 16, "BLOCK_K": 8, "num_warps": 1}]
Shape = tuple[int, ...]


def scattered(
    x: Shape, index: Shape, updates: Shape, op: Scatter, *, dtype: DType = f32, by: DType = i64, nhwc: bool = False
) -> Problem:
    g = Graph()
    values = [g.add_input(n, TensorType(d, s)) for n, d, s in zip("xiu", (dtype, by, dtype), (x, index, updates))]
    y = g.add(op, *values)
    for value in (*values, y) if nhwc else ():
        value.type = value.type.with_layout(Layout(channels_last(value.type.shape)))
    g.mark_output(y)
    return make_problem(g)


@pytest.mark.parametrize(
    ("x", "index", "updates", "axis"),
    [
        ((7,), (4,), (4,), 0),
        ((6, 5), (9, 1), (9, 5), 0),
        ((6, 5), (1, 3), (6, 3), 1),
        ((3, 6, 5), (3, 4, 5), (1, 4, 1), 1),
        ((1, 5), (3, 5), (3, 5), 0),
        ((2, 5, 4, 7), (2, 1, 3, 1), (2, 5, 3, 7), 2),
    ],
    ids=str,
)
def test_shapes(x: Shape, index: Shape, updates: Shape, axis: int) -> None:
    """The index is -9 to 9: negative ones, repeated ones, and some out of range."""
    check_problem(scattered(x, index, updates, Scatter(axis)), ScatterTemplate(), TILE)
    check_problem(scattered(x, index, updates, Scatter(axis, "add"), nhwc=len(x) == 4), ScatterTemplate(), TILE)


@pytest.mark.parametrize(
    ("dtype", "by"), [(f16, i32), (bf16, i8), (f64, i64), (i64, i32), (i32, u8), (u8, i64), (b8, i64)], ids=str
)
def test_dtypes_and_reductions(dtype: DType, by: DType) -> None:
    for reduction in ("none",) if dtype == b8 else ("none", "add", "mul", "min", "max"):
        op = Scatter(1, reduction)
        check_problem(scattered((3, 6, 5), (3, 8, 1), (3, 8, 5), op, dtype=dtype, by=by), ScatterTemplate(), TILE)


def test_the_last_of_several_stays_and_nothing_outside_is_written() -> None:
    problem = scattered((4, 3), (5, 1), (5, 1), Scatter(0))
    x, updates = np.zeros((4, 3), np.float32), np.arange(1, 6, dtype=np.float32)[:, None]
    index = np.array([[2], [-2], [4], [-5], [2**62]])
    got = run_interpreted(problem, Tactic.make(ScatterTemplate(), TILE[0]), [x, index, updates])
    np.testing.assert_array_equal(got, [[0] * 3, [0] * 3, [2] * 3, [0] * 3])


def test_what_surrounds_it_is_fused() -> None:
    """relu(scatter(sigmoid(x), i + j, -u * v) * scale)."""
    g = Graph()
    x = g.add_input("x", TensorType(f16, (4, 6, 5)))
    i, j = g.add_input("i", TensorType(i64, (4, 3, 1))), g.add_input("j", TensorType(i64, (1,)))
    u, v = g.add_input("u", TensorType(f16, (4, 3, 5))), g.add_input("v", TensorType(f16, (3, 1)))
    value = g.add(Scatter(1, "add"), g.add(Sigmoid(), x), g.add(Add(), i, j), g.add(Neg(), g.add(Mul(), u, v)))
    g.mark_output(g.add(Relu(), g.add(Mul(), value, g.add_input("scale", TensorType(f16, (5,))))))
    check_problem(make_problem(g), ScatterTemplate(), TILE)


def test_candidates_compile_for_every_target() -> None:
    cache = scattered((8, 1024, 64), (8, 1, 1), (8, 1, 64), Scatter(1), dtype=f16)
    assert len(ScatterTemplate().candidates(cache, TARGETS[90])) >= 3
    compiles(cache, ScatterTemplate())
    compiles(scattered((500, 64), (300, 1), (300, 64), Scatter(0, "add")), ScatterTemplate(), targets=(90,))


def test_refusals_say_why() -> None:
    g = Graph()
    x, i, u = (g.add_input(n, TensorType(d, (5, 7))) for n, d in zip("xiu", (f32, i64, f32)))
    g.mark_output(g.add(Gather(0), x, i))
    assert ScatterTemplate().accepts(g) == "anchor is no scatter"
    g = Graph()
    x, i, u = (g.add_input(n, TensorType(d, (5, 7))) for n, d in zip("xiu", (f32, i64, f32)))
    g.mark_output(g.add(Scatter(0), g.add(Gather(0), x, i), i, u))
    assert ScatterTemplate().accepts(g) == "gather before it is not elementwise"
