"""Pools: windows of every kind, in every layout, against numpy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitrt.codegen.target import TARGETS
from jitrt.errors import ShapeError
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32, f64, i32
from jitrt.graph.op import Op
from jitrt.graph.ops import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    Add,
    AvgPool,
    Cast,
    Concat,
    MaxPool,
    Mul,
    ReduceSum,
    Relu,
    Sigmoid,
)
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from jitrt.kernels.pool import Pool, describe
from jitrt.testing import check_problem, compiles, make_problem

SMALL = [{"BLOCK_M": 32, "BLOCK_K": 8, "num_warps": 1}]


def gapped(shape: tuple[int, ...], gap: int) -> tuple[int, ...]:
    """NHWC strides with `gap` foreign channels after each pixel, as a slice of a concat's buffer has them."""
    return channels_last((shape[0], shape[1] + gap, *shape[2:]))


def pooled(
    op: Op,
    shape: tuple[int, ...] = (2, 11, 7, 9),
    dtype: DType = f32,
    *,
    nchw: bool = False,
    in_gap: int = 0,
    out_gap: int = 0,
    epilogue: bool = False,
    before: Op | None = None,
    source: DType | None = None,
    alignment: int = 16,
) -> Problem:
    g = Graph()
    x = value = g.add_input("x", TensorType(source or dtype, shape))
    if before is not None:
        value = g.add(before, value)
    value = g.add(op, value)
    if epilogue:
        scale = g.add_input("scale", TensorType(dtype, (shape[1], *[1] * (len(shape) - 2))))
        other = g.add_input("other", TensorType(dtype, value.type.shape))
        value = g.add(Relu(), g.add(Add(), g.add(Mul(), value, scale), other))
    g.mark_output(value)
    if not nchw:
        x.type = x.type.with_layout(Layout(gapped(shape, in_gap)))
        value.type = value.type.with_layout(Layout(gapped(value.type.shape, out_gap)))
    return make_problem(g, alignment=alignment)


POOLS = [
    MaxPool((3, 3), (2, 2), (1, 1)),
    MaxPool((2, 2), (2, 2), (0, 0), ceil_mode=True),
    MaxPool((3, 2), (1, 2), (1, 0), dilation=(2, 3)),
    MaxPool((3, 3), (2, 2), (1, 1), ceil_mode=True, dilation=(1, 2)),
    AvgPool((3, 3), (1, 1), (1, 1)),
    AvgPool((3, 3), (1, 1), (1, 1), count_include_pad=False),
    AvgPool((3, 3), (2, 2), (1, 1), ceil_mode=True),
    AvgPool((2, 4), (2, 3), (1, 1), ceil_mode=True, count_include_pad=False),
    AvgPool((2, 2), (2, 2), (0, 0)),
    AvgPool((7, 9), (1, 1), (0, 0)),
    AdaptiveAvgPool((1, 1)),
    AdaptiveAvgPool((3, 4)),
    AdaptiveMaxPool((3, 4)),
    AdaptiveAvgPool((7, 3)),
    AdaptiveAvgPool((9, 12)),
    AdaptiveMaxPool((2, 1)),
    AvgPool((3, 2), (1, 2), (1, 1), count_include_pad=False, dilation=(2, 3)),
    AvgPool((3, 2), (2, 2), (1, 0), ceil_mode=True, dilation=(1, 2)),
]


@pytest.mark.parametrize("nchw", [False, True], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("op", POOLS, ids=str)
def test_windows(op: Op, nchw: bool) -> None:
    check_problem(pooled(op, nchw=nchw), Pool(), SMALL)


def test_a_mean_has_as_many_dilations_as_dimensions() -> None:
    with pytest.raises(ShapeError, match="dilation"):
        pooled(AvgPool((2, 2), (1, 1), (0, 0), dilation=(2,)))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("op", [POOLS[0], POOLS[5], POOLS[12]], ids=str)
def test_16_bit_floats(op: Op, dtype: DType) -> None:
    check_problem(pooled(op, dtype=dtype), Pool(), SMALL)
    check_problem(pooled(op, dtype=dtype, epilogue=True, in_gap=5, out_gap=2, alignment=4), Pool(), SMALL)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (MaxPool((3,), (2,), (1,), dilation=(1,)), (2, 5, 13)),
        (AvgPool((4,), (3,), (2,), ceil_mode=True), (2, 5, 13)),
        (AdaptiveAvgPool((4,)), (3, 2, 10)),
        (MaxPool((2, 3, 2), (2, 1, 2), (1, 1, 0), dilation=(1, 1, 2)), (1, 3, 4, 5, 6)),
        (AvgPool((2, 2, 3), (1, 2, 2), (0, 1, 1), count_include_pad=False), (1, 3, 4, 5, 6)),
        (AdaptiveMaxPool((3, 2, 4)), (1, 3, 4, 5, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("nchw", [False, True], ids=["channels last", "channels first"])
def test_one_and_three_dimensions(op: Op, shape: tuple[int, ...], nchw: bool) -> None:
    check_problem(pooled(op, shape, nchw=nchw), Pool(), SMALL)


@pytest.mark.parametrize("op", [POOLS[0], POOLS[4]], ids=str)
@pytest.mark.parametrize(
    ("before", "source", "dtype"),
    [(Cast(f16), f32, f16), (Cast(f32), f16, f32), (Sigmoid(), f16, f16)],
    ids=["round", "widen", "sigmoid"],
)
def test_elementwise_ops_run_on_the_way_in(op: Op, before: Op, source: DType, dtype: DType) -> None:
    """sigmoid(0) is not 0: padding is left out after the ops, not before."""
    check_problem(pooled(op, dtype=dtype, before=before, source=source), Pool(), SMALL)


@settings(max_examples=25)
@given(st.data())
def test_any_window(data: st.DataObject) -> None:
    size = [data.draw(st.integers(3, 8)) for _ in range(2)]
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(2))
    stride = tuple(data.draw(st.integers(1, 3)) for _ in range(2))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    ceil = data.draw(st.booleans())
    op: Op = MaxPool(kernel, stride, padding, ceil)
    if data.draw(st.booleans()):
        op = AvgPool(kernel, stride, padding, ceil, count_include_pad=data.draw(st.booleans()))
    check_problem(pooled(op, (1, 3, *size)), Pool(), SMALL)


def test_the_network_sizes_compile_without_spills() -> None:
    stem = pooled(MaxPool((3, 3), (2, 2), (1, 1)), (128, 64, 112, 112), f16)
    best = Pool().candidates(stem, TARGETS[90])[0]
    assert all(b.registers <= 64 for b in compiles(stem, Pool(), best))
    branch = pooled(AvgPool((3, 3), (1, 1), (1, 1)), (8, 192, 35, 35), f16, epilogue=True)
    compiles(branch, Pool())
    compiles(pooled(AdaptiveAvgPool((1, 1)), (1, 2048, 7, 7), f16), Pool())
    for dtype in (bf16, f32, f64):
        compiles(pooled(MaxPool((3, 3), (2, 2), (1, 1)), (1, 64, 56, 56), dtype), Pool(), targets=(90,))
    compiles(pooled(AdaptiveAvgPool((7, 7)), (8, 512, 9, 9), f32, nchw=True), Pool())


def test_the_first_candidate_is_of_four_warps_and_wide() -> None:
    large = pooled(MaxPool((3, 3), (2, 2), (1, 1)), (128, 64, 112, 112), f16)
    small = pooled(MaxPool((3, 3), (2, 2), (1, 1)), (1, 64, 14, 14), f16)
    for problem in (large, small):
        configs = Pool().candidates(problem, TARGETS[90])
        assert 3 <= len(configs) <= 8
        assert configs[0] == {"BLOCK_M": 8, "BLOCK_K": 64, "num_warps": 4}
    # Of 160 channels blocks of 128 would waste a third.
    narrow = Pool().candidates(pooled(MaxPool((3, 3), (2, 2), (1, 1)), (1, 160, 14, 14), f16), TARGETS[90])
    assert narrow[0]["BLOCK_K"] == 32
    check_problem(pooled(POOLS[0]), Pool(), Pool().candidates(pooled(POOLS[0]), TARGETS[90]), extremes=False)


def test_offsets_past_2_31_are_computed_in_64_bits() -> None:
    problem = pooled(MaxPool((3, 3), (2, 2), (1, 1)), (40, 64, 1024, 1024), f16)
    call = Pool().lower(problem, SMALL[0], TARGETS[90]).calls[0]
    assert call.constexprs["WIDE"]
    compiles(problem, Pool(), targets=(90,))


def test_an_adaptive_pool_with_equal_windows_is_a_sliding_one() -> None:
    anchor = pooled(AdaptiveAvgPool((7, 3))).anchor
    assert anchor is not None
    windows = describe(anchor)
    assert (windows.adaptive, windows.taps, windows.divisor) == (False, (1, 1, 3), 3)
    assert windows.checked == (False, False, False)


def refused(op: Op, *operands: TensorType, before: Op | None = None) -> str | None:
    g = Graph()
    inputs = [g.add_input(f"x{i}", t) for i, t in enumerate(operands)]
    g.mark_output(g.add(op, g.add(before, *inputs) if before else inputs[0]))
    return Pool().accepts(g)


def test_refusals_say_why() -> None:
    x = TensorType(f32, (2, 6, 8, 8))
    pool = MaxPool((2, 2), (2, 2), (0, 0))
    assert refused(ReduceSum((2,)), x) == "anchor is no pool"
    assert refused(Relu(), x) == "anchor is no pool"
    assert refused(pool, x.with_dtype(i32)) == "a pool of i32 has no kernel"
    assert refused(MaxPool((1,) * 4, (1,) * 4, (0,) * 4, dilation=(1,) * 4), TensorType(f32, (1,) * 6)) == (
        "a 4-d pool has no kernel"
    )
    assert refused(pool, x, x, before=Add()) == "what is computed before it reads more than one tensor"
    assert refused(pool, x, x, before=Concat(1)) == "concat before it is not elementwise"
    assert refused(pool, x) is None
