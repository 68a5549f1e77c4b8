"""The pointwise kernel: layouts, broadcasts, ragged edges, and what it refuses."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import triton
from hypothesis import given, settings
from hypothesis import strategies as st

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32, i64
from jitrt.graph.ops import Add, Contiguous, Mul, Pad, Relu, Sigmoid, Softmax
from jitrt.graph.types import channels_last, strides_in_order
from jitrt.kernels.base import Problem
from jitrt.kernels.pointwise import Pointwise, space_of
from jitrt.testing import check_problem, compiles, make_problem

SHAPE = (2, 5, 3, 7)
TILES = {"BLOCK_M": 8, "BLOCK_K": 4, "num_warps": 1, "FLAT": False}
FLAT = {"BLOCK_M": 1, "BLOCK_K": 64, "num_warps": 4, "FLAT": True}


def chain(x: TensorType, y: TensorType, *others: TensorType) -> Problem:
    """relu(x) + others..., written with the strides of `y`."""
    g = Graph()
    value = g.add(Relu(), g.add_input("x", x))
    for index, other in enumerate(others):
        value = g.add(Add(), value, g.add_input(f"o{index}", other))
    value.type = y
    g.mark_output(value)
    return make_problem(g, alignment=2 * x.dtype.itemsize)


def nhwc(dtype: DType, shape=SHAPE) -> TensorType:
    return TensorType(dtype, shape, Layout(channels_last(shape)))


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
def test_a_dense_tensor_is_one_row(dtype: DType) -> None:
    problem = chain(nhwc(dtype), nhwc(dtype), nhwc(dtype), TensorType(dtype, ()))
    assert all(config["FLAT"] for config in Pointwise().candidates(problem, TARGETS[90]))
    assert space_of(problem, flat=True).address(problem.output.type).offset == "k"
    check_problem(problem, Pointwise(), [FLAT])


@pytest.mark.parametrize("dtype", [f32, f16], ids=str)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (channels_last(SHAPE), None),
        (None, channels_last(SHAPE)),
        (None, (3 * 7 * 12, 1, 7 * 12, 12)),  # a slice of a concat: 5 of 12 channels
        ((3 * 7 * 9, 1, 7 * 9, 9), (3 * 7 * 12, 1, 7 * 12, 12)),
        ((1, 2, 10, 30), None),
        ((0, 1, 0, 5), None),
    ],
    ids=["to nchw", "to nhwc", "to slice", "slice to slice", "reversed", "expanded"],
)
def test_layouts(x, y, dtype: DType) -> None:
    def typed(strides):
        return TensorType(dtype, SHAPE, strides and Layout(strides))

    problem = chain(typed(x), typed(y), TensorType(dtype, (5, 1, 1)))
    check_problem(problem, Pointwise(), [TILES, FLAT])


@pytest.mark.parametrize("shape", [(1,), (), (1, 1), (7, 1), (1, 13), (2, 1, 3, 1)])
def test_odd_ranks(shape: tuple[int, ...]) -> None:
    check_problem(chain(TensorType(f32, shape), TensorType(f32, shape)), Pointwise())


@settings(max_examples=25)
@given(st.data())
def test_any_order_and_broadcast(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    small = tuple(data.draw(st.sampled_from([1, s])) for s in shape)[data.draw(st.integers(0, len(shape))) :]
    y = TensorType(f32, shape, Layout(strides_in_order(shape, order)))
    check_problem(chain(TensorType(f32, shape), y, TensorType(f32, small)), Pointwise(), extremes=False)


def test_a_copy_changes_the_layout_of_any_type() -> None:
    g = Graph()
    g.mark_output(g.add(Contiguous(), g.add_input("x", TensorType(i64, (5, 7))), name="y"))
    check_problem(make_problem(g, strides={"y": (1, 5)}), Pointwise())


def test_every_candidate_is_right_and_compiles() -> None:
    problem = chain(nhwc(f16), nhwc(f16), TensorType(f16, (5, 1, 1)))
    configs = Pointwise().candidates(problem, TARGETS[90])
    assert len(configs) >= 3
    check_problem(problem, Pointwise(), configs)
    for config in configs[:2]:
        compiles(problem, Pointwise(), config)


@pytest.mark.parametrize("channels", [64, 72, 3])
def test_one_row_and_tiles_are_both_tried_where_operands_differ(channels: int) -> None:
    shape = (8, channels, 28, 28)
    problem = chain(nhwc(f16, shape), nhwc(f16, shape), TensorType(f16, (channels, 1, 1)))
    configs = Pointwise().candidates(problem, TARGETS[90])
    assert {config["FLAT"] for config in configs} == {True, False}
    assert configs[0]["FLAT"]


def test_a_change_of_layout_reads_and_writes_whole_runs_of_memory(tmp_path: Path) -> None:
    """NHWC to NCHW: the channels are innermost in the rows, so that a load runs along them and a store along pixels."""
    shape = (8, 64, 56, 56)
    problem = chain(nhwc(f16, shape), TensorType(f16, shape))
    problem = replace(problem, alignment=(16, 16))
    assert Pointwise().candidates(problem, TARGETS[90])[0]["BLOCK_K"] == 64
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for number, binary in enumerate(compiles(problem, Pointwise())):
        path = tmp_path / f"{number}.cubin"
        path.write_bytes(binary.cubin)
        code = subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=True).stdout
        assert "LDG.E.128" in code or "LDG.E.64" in code
        assert "STG.E.128" in code or "STG.E.64" in code


def test_a_tensor_past_2_31_elements_is_not_one_row() -> None:
    """As one row its column index would overflow."""
    huge = TensorType(f16, (3, 1 << 30))
    problem = chain(huge, huge)
    assert not any(config["FLAT"] for config in Pointwise().candidates(problem, TARGETS[90]))
    space = space_of(problem, flat=False)
    assert (space.count("m"), space.count("k")) == (3, 1 << 30)
    assert "m.to(tl.int64)" in space.address(huge).offset
    compiles(problem, Pointwise(), targets=(90,))


def test_an_anchor_or_another_op_is_refused() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (4, 5)))
    g.mark_output(g.add(Softmax(1), g.add(Mul(), x, x)))
    assert Pointwise().accepts(g) == "anchor softmax is not elementwise"
    g = Graph()
    x = g.add_input("x", TensorType(f32, (4, 5)))
    g.mark_output(g.add(Sigmoid(), g.add(Pad(((0, 0), (1, 1))), x)))
    assert Pointwise().accepts(g) == "pad is not elementwise"
