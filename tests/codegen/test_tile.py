"""Addresses: the generated expressions, evaluated, are what numpy's strides say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitrt.codegen.tile import Space, TileSpace, merge
from jitrt.graph import Layout, TensorType, f16, f32
from jitrt.graph.types import channels_last, strides_in_order

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@st.composite
def laid_out(draw: st.DrawFn, shape: list[int]) -> TensorType:
    """A type that broadcasts to `shape`, its dimensions in any order in memory, with gaps."""
    sizes = [draw(st.sampled_from([1, s])) for s in shape][draw(st.integers(0, len(shape) - 1)) :]
    order = draw(st.permutations(range(len(sizes))))
    strides, step = [0] * len(sizes), draw(st.integers(1, 3))
    for d in order:
        strides[d] = step
        step = step * sizes[d] + draw(st.integers(0, 2))
    return TensorType(f32, tuple(sizes), Layout(tuple(strides)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[TensorType, TensorType]:
    shape = draw(shapes)
    order = draw(st.permutations(range(len(shape))))
    out = TensorType(f32, tuple(shape), Layout(strides_in_order(shape, order)))
    return out, draw(laid_out(shape))


def evaluate(expression: str, **indices: np.ndarray) -> np.ndarray:
    return np.asarray(eval(re.sub(r"\.to\(tl\.int64\)", ".astype('int64')", expression), {}, indices))


def positions(space: Space) -> dict[str, np.ndarray]:
    """Every position of a space, one array an index, and the logical index it stands for."""
    axes = list(space.axes)
    grid = np.meshgrid(*(np.arange(space.count(a)) for a in axes), indexing="ij")
    return dict(zip(axes, grid))


@given(cases())
def test_addresses_are_the_strides(case: tuple[TensorType, TensorType]) -> None:
    out, operand = case
    space = TileSpace.of(out)
    at = positions(space)
    index = [evaluate(space.coordinate(d), **at) for d in range(out.rank)]
    lead = out.rank - operand.rank
    expected = sum(
        np.where(size == 1, 0, index[lead + d]) * stride
        for d, (size, stride) in enumerate(zip(operand.shape, operand.strides))
    )
    address = space.address(operand)
    got = np.broadcast_to(evaluate(address.offset, **at), at["m"].shape)
    np.testing.assert_array_equal(got, expected)
    for name in space.axes:
        assert (name in address.axes) == bool(np.ptp(got, axis=list(space.axes).index(name)).any())


@given(cases())
def test_coordinates_meet_every_element_once_in_memory_order(case: tuple[TensorType, TensorType]) -> None:
    out, _ = case
    space = TileSpace.of(out)
    at = positions(space)
    index = np.stack([np.broadcast_to(evaluate(space.coordinate(d), **at), at["m"].shape) for d in range(out.rank)])
    flat = sum(i * s for i, s in zip(index, out.strides)).ravel()
    np.testing.assert_array_equal(flat, np.arange(out.numel))


def test_channels_are_the_columns_of_nhwc() -> None:
    shape = (2, 8, 3, 5)
    space = TileSpace.of(TensorType(f16, shape, Layout(channels_last(shape))))
    assert (space.rows, space.column, space.row_count, space.column_count) == ((0, 2, 3), 1, 30, 8)
    bias = space.address(TensorType(f16, (8, 1, 1)))
    assert (bias.offset, bias.axes, bias.mask) == ("k", ("k",), "k_mask")
    assert space.address(TensorType(f16, shape, Layout(channels_last(shape)))).mask == "m_mask & k_mask"


def test_a_scalar_has_no_index_and_no_mask() -> None:
    address = TileSpace.of(TensorType(f16, (4, 4))).address(TensorType(f16, ()))
    assert (address.offset, address.mask) == ("0", None)
    assert TileSpace.of(TensorType(f16, ())).column_count == 1


def test_a_column_can_be_chosen() -> None:
    space = TileSpace.of(TensorType(f16, (4, 6)), column=0)
    assert (space.rows, space.column) == ((1,), 0)
    assert space.address(TensorType(f16, (4, 6))).offset == "m + k * 6"


def test_offsets_past_2_31_are_computed_in_64_bits() -> None:
    huge = TensorType(f16, (70000, 70000))
    assert TileSpace.of(huge).address(huge).offset == "m.to(tl.int64) * 70000 + k.to(tl.int64)"
    transposed = huge.with_layout(Layout((1, 70000)))
    assert "k.to(tl.int64) * 70000" in TileSpace.of(huge, column=1).address(transposed).offset


def test_a_space_without_axes_says_so() -> None:
    with pytest.raises(NotImplementedError):
        _ = Space().axes


@pytest.mark.parametrize(
    ("dims", "merged"),
    [
        ([(2, 12), (3, 4), (4, 1)], [(24, 1)]),
        ([(2, 24), (3, 4), (4, 1)], [(2, 24), (12, 1)]),
        ([(2, 0), (3, 0)], [(6, 0)]),
        ([(1, 7), (5, 1), (1, 9)], [(5, 1)]),
        ([], []),
    ],
)
def test_merge_joins_dimensions_that_one_stride_steps_through(dims: list, merged: list) -> None:
    assert merge(dims) == merged
