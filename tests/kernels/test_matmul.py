"""Matrix products: batches, broadcasts, transposes, casts and epilogues, against numpy."""

from __future__ import annotations

from typing import Any

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32, f64
from jitrt.graph.ops import Add, Cast, Matmul, Mul, Relu
from jitrt.kernels.base import Problem
from jitrt.kernels.matmul import MatmulTemplate, describe
from jitrt.testing import check_problem, compiles, make_problem

SMALL = {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, "num_warps": 1, "num_stages": 2}


def product(
    a: tuple[int, ...],
    b: tuple[int, ...],
    dtype: DType = f32,
    *,
    tf32: bool = False,
    cast_a: DType | None = None,
    cast_b: DType | None = None,
    epilogue: bool = False,
    strides: dict[str, tuple[int, ...]] | None = None,
) -> Problem:
    g = Graph()
    values = []
    for name, shape, cast in (("a", a, cast_a), ("b", b, cast_b)):
        value = g.add_input(name, TensorType(cast or dtype, shape))
        if strides and name in strides:
            value.type = value.type.with_layout(Layout(strides[name]))
        values.append(g.add(Cast(dtype), value) if cast else value)
    y = g.add(Matmul(tf32), *values)
    if epilogue:
        y = g.add(Mul(), y, g.scalar(0.125, dtype))
        mask = g.add_input("mask", TensorType(dtype, (y.type.shape[0], *[1] * (y.type.rank - 2), y.type.shape[-1])))
        y = g.add(Relu(), g.add(Add(), y, mask))
    g.mark_output(y)
    if strides and "y" in strides:
        y.type = y.type.with_layout(Layout(strides["y"]))
    return make_problem(g, alignment=2 if strides else 16)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((19, 37), (37, 21)),
        ((3, 19, 18), (3, 18, 5)),
        ((2, 3, 7, 33), (2, 3, 33, 9)),
        ((2, 1, 7, 33), (3, 33, 9)),
        ((7, 33), (2, 3, 33, 9)),
        ((2, 3, 7, 33), (33, 9)),
        ((2, 3, 1, 8), (1, 1, 8, 1)),
        ((1, 1), (1, 1)),
    ],
    ids=str,
)
def test_batches_broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check_problem(product(a, b), MatmulTemplate(), [SMALL])


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_16_bit_floats(dtype: DType) -> None:
    check_problem(product((2, 19, 40), (2, 40, 21), dtype), MatmulTemplate(), [SMALL])


@pytest.mark.parametrize("dtype", [f32, f16], ids=str)
def test_heads_of_attention_in_place(dtype: DType) -> None:
    """q @ k^T for (batch, tokens, heads, size) in memory: operands and result are views of wider buffers."""
    n, heads, tokens, size = 2, 3, 17, 8
    row = 3 * heads * size
    q = (tokens * row, size, row, 1)
    k = (tokens * row, size, 1, row)
    y = (tokens * heads * 20, 20, heads * 20, 1)
    p = product((n, heads, tokens, size), (n, heads, size, tokens), dtype, strides={"a": q, "b": k, "y": y})
    check_problem(p, MatmulTemplate(), [SMALL])


@pytest.mark.parametrize("casts", [(f32, None), (None, f32), (f32, f32)], ids=str)
def test_operands_are_cast_on_the_way_in(casts: tuple[DType | None, DType | None]) -> None:
    check_problem(product((19, 37), (37, 21), f16, cast_a=casts[0], cast_b=casts[1]), MatmulTemplate(), [SMALL])


@pytest.mark.parametrize("shapes", [((2, 3, 7, 33), (2, 3, 33, 9)), ((2, 3, 7, 33), (33, 9))], ids=str)
def test_what_follows_is_fused(shapes: Any) -> None:
    check_problem(product(*shapes, f16, epilogue=True), MatmulTemplate(), [SMALL])


def test_a_grid_of_several_bands_makes_every_tile_once() -> None:
    check_problem(product((16 * 9 + 3, 5), (5, 40)), MatmulTemplate(), [SMALL], extremes=False)


def test_the_batch_is_rows_where_b_has_none() -> None:
    folded = describe(product((4, 8, 16), (16, 5)).anchor)
    assert (folded.batch, folded.rows, folded.a_row_stride) == ((), 32, 16)
    apart = describe(product((4, 8, 16), (16, 5), strides={"a": (1000, 16, 1)}).anchor)
    assert (apart.batch, apart.rows) == ((4,), 8)


@pytest.mark.parametrize("dtype", [f16, f32], ids=str)
@pytest.mark.parametrize("tf32", [False, True])
def test_the_best_guess_compiles_for_every_target(dtype: DType, tf32: bool) -> None:
    p = product((12, 197, 64), (12, 64, 197), dtype, tf32=tf32 and dtype == f32)
    configs = MatmulTemplate().candidates(p, TARGETS[90])
    assert 3 <= len(configs) <= 10
    compiles(p, MatmulTemplate())


def test_offsets_past_2_31_are_computed_in_64_bits() -> None:
    p = product((4, 30_000, 64), (64, 64), f16, strides={"a": (1 << 31, 64, 1)})
    call = MatmulTemplate().lower(p, SMALL, TARGETS[90]).calls[0]
    assert call.constexprs["WIDE"]
    compiles(p, MatmulTemplate(), SMALL, targets=(90,))


def test_refusals_say_why() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (4, 4)))
    g.mark_output(g.add(Relu(), x))
    assert MatmulTemplate().accepts(g) == "anchor is no matrix product"
    assert MatmulTemplate().accepts(product((4, 4), (4, 4), f64).body) == "a matrix product of f64 has no kernel"
    g = Graph()
    x = g.add_input("x", TensorType(f32, (4, 4)))
    g.mark_output(g.add(Matmul(), g.add(Relu(), x), x))
    assert MatmulTemplate().accepts(g) == "relu cannot run inside a matrix product's loop: only one cast can"
    g = Graph()
    x = g.add_input("x", TensorType(f32, (4, 4)))
    g.mark_output(g.add(Matmul(), g.add(Cast(f16), g.add(Cast(bf16), x)), g.add(Cast(f16), x)))
    assert MatmulTemplate().accepts(g) == "cast cannot run inside a matrix product's loop: only one cast can"
