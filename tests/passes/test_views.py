"""The arithmetic of layouts, checked against numpy's own strided arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitrt.graph import TensorType, f32
from jitrt.graph.ops import Expand, Identity, Permute, Relu, Reshape, Slice
from jitrt.graph.types import Layout, channels_last, row_major, strides_in_order
from jitrt.passes.views import reshape_groups, reshape_strides, source_strides, strides_for_reshape, view_layout

_SHAPES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4).map(tuple)


def _type(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> TensorType:
    return TensorType(f32, shape, Layout(strides, offset))


def _window(type: TensorType) -> np.ndarray:
    """The elements' positions in the storage."""
    memory = np.arange(type.offset + type.span)
    return np.lib.stride_tricks.as_strided(memory[type.offset :], type.shape, [8 * s for s in type.strides])


@st.composite
def _laid_out(draw: st.DrawFn) -> TensorType:
    shape = draw(_SHAPES)
    strides = strides_in_order(shape, draw(st.permutations(range(len(shape)))))
    gap = draw(st.sampled_from([1, 2]))
    return _type(shape, tuple(gap * s for s in strides), draw(st.integers(0, 3)))


@given(_laid_out(), st.data())
def test_a_view_shows_what_the_op_computes(type: TensorType, data: st.DataObject) -> None:
    order = tuple(data.draw(st.permutations(range(type.rank))))
    start = tuple(data.draw(st.integers(0, s - 1)) for s in type.shape)
    step = tuple(data.draw(st.integers(1, 2)) for _ in type.shape)
    bigger = (2, *(5 if s == 1 else s for s in type.shape))
    for op in (Identity(), Permute(order), Slice(start, type.shape, step), Expand(bigger)):
        (expected,) = op.eval(_window(type))
        layout = view_layout(op, type, expected.shape)
        assert layout is not None
        np.testing.assert_array_equal(_window(_type(expected.shape, layout.strides, layout.offset)), expected)


@given(_laid_out(), _SHAPES)
def test_a_reshape_is_a_view_exactly_where_numpy_needs_no_copy(type: TensorType, split: tuple[int, ...]) -> None:
    flat = int(np.prod(type.shape))
    shape = (*split, flat // int(np.prod(split))) if flat % int(np.prod(split)) == 0 else (flat,)
    window = _window(type)
    strides = reshape_strides(type.shape, type.strides, shape)
    try:
        expected = window.reshape(shape, copy=False)
    except ValueError:
        assert strides is None
        return
    assert strides is not None
    np.testing.assert_array_equal(_window(_type(shape, strides, type.offset)), expected)


def test_a_reshape_of_nothing_is_a_view():
    assert reshape_strides((2, 0, 3), (1, 7, 7), (0, 6)) == row_major((0, 6))


@given(_laid_out(), st.data())
def test_source_strides_invert_a_view(type: TensorType, data: st.DataObject) -> None:
    for op in (Identity(), Permute(tuple(data.draw(st.permutations(range(type.rank))))), Reshape((type.numel,))):
        (out,) = op.infer(type)
        strides = source_strides(op, type.shape, out, row_major(out.shape))
        assert strides is not None
        back = view_layout(op, _type(type.shape, strides), out.shape)
        assert back is not None
        np.testing.assert_array_equal(
            _window(_type(out.shape, back.strides)), _window(_type(out.shape, row_major(out.shape)))
        )


def test_what_shows_only_part_has_no_source_strides():
    out = TensorType(f32, (2,))
    assert source_strides(Slice((0,), (4,), (2,)), (4,), out, (1,)) is None
    assert source_strides(Expand((2,)), (1,), out, (1,)) is None
    assert source_strides(Reshape((2, 2)), (4,), TensorType(f32, (2, 2)), (1, 2)) is None
    assert view_layout(Relu(), out, (2,)) is None


@pytest.mark.parametrize(
    ("shape", "new", "groups"),
    [
        ((2, 6, 5), (2, 3, 10), [([0], [0]), ([1, 2], [1, 2])]),
        ((2, 3), (2, 3, 1), [([0], [0]), ([1], [1]), ([], [2])]),
        ((1, 6), (6,), [([0, 1], [0])]),
        ((4, 3, 3), (4, 9), [([0], [0]), ([1, 2], [1])]),
    ],
)
def test_reshape_groups(shape, new, groups):
    assert reshape_groups(shape, new) == groups


@given(_laid_out(), _SHAPES)
def test_strides_for_a_reshape_make_it_a_view(type: TensorType, split: tuple[int, ...]) -> None:
    flat = int(np.prod(type.shape))
    shape = (*split, flat // int(np.prod(split))) if flat % int(np.prod(split)) == 0 else (flat,)
    dense = _type(type.shape, strides_for_reshape(type, shape))
    assert dense.is_dense
    assert reshape_strides(dense.shape, dense.strides, shape) is not None


def test_strides_for_a_reshape_stay_channels_last():
    # A channel shuffle: (n, groups, c, h, w) in memory order n, h, w, groups, c, its groups and channels exchanged.
    shuffled = _type((1, 4, 2, 3, 5), (120, 1, 4, 40, 8))
    strides = strides_for_reshape(shuffled, (1, 8, 3, 5))
    assert reshape_strides(shuffled.shape, strides, (1, 8, 3, 5)) == channels_last((1, 8, 3, 5))
