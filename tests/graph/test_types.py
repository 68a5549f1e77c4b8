from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Layout, TensorType, f16, f32
from jitrt.graph.types import broadcast_shapes, channels_last, row_major, strides_in_order


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (1, 5, 1, 2)])
def test_row_major_is_numpys(shape):
    assert row_major(shape) == tuple(s // 4 for s in np.empty(shape, np.float32).strides)


def test_channels_last_puts_dimension_1_innermost():
    assert channels_last((2, 3, 4, 5)) == (60, 1, 15, 3)
    assert channels_last((2, 3, 4)) == (12, 1, 3)
    assert channels_last((2, 3)) == row_major((2, 3))
    assert strides_in_order((2, 3, 4), (2, 0, 1)) == (3, 1, 6)


def test_sizes():
    type = TensorType(f16, (2, 3), Layout((8, 2), 4, "x"))
    assert (type.rank, type.numel, type.nbytes, type.offset, type.strides) == (2, 6, 12, 4, (8, 2))
    assert type.span == 1 + 8 + 4
    assert TensorType(f32, (2, 0)).span == TensorType(f32, (2, 0)).numel == 0
    assert TensorType(f32, ()).span == 1


@pytest.mark.parametrize(
    ("shape", "strides", "dense"),
    [
        ((2, 3), (3, 1), True),
        ((2, 3), (1, 2), True),
        ((2, 3), (4, 1), False),
        ((2, 3), (0, 1), False),
        ((1, 3), (99, 1), True),
        ((3, 0), (1, 1), True),
        ((), (), True),
    ],
)
def test_is_dense(shape, strides, dense):
    assert TensorType(f32, shape, Layout(strides)).is_dense is dense


@pytest.mark.parametrize(
    ("shape", "strides", "order"),
    [
        ((2, 3, 4, 5), channels_last((2, 3, 4, 5)), (0, 2, 3, 1)),
        ((2, 3), (3, 1), (0, 1)),
        ((1, 3, 1, 2), channels_last((1, 3, 1, 2)), (0, 3, 2, 1)),
        ((2, 3), (0, 0), (0, 1)),
    ],
)
def test_memory_order(shape, strides, order):
    assert TensorType(f32, shape, Layout(strides)).memory_order == order


def test_a_layout_is_no_part_of_the_meaning():
    plain = TensorType(f32, (2, 3))
    laid = plain.with_layout(Layout((1, 2)))
    assert laid != plain
    assert laid.logical() == plain
    assert plain.with_dtype(f16).dtype == f16


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (TensorType(f32, (2, 3)), "f32[2,3]"),
        (TensorType(f32, ()), "f32[]"),
        (TensorType(f32, (2, 3), Layout((1, 2))), "f32[2,3]{1,2}"),
        (TensorType(f32, (2, 3), Layout((1, 2), 7)), "f32[2,3]{1,2+7}"),
        (TensorType(f16, (2,), Layout((1,), 0, "a/b")), "f16[2]{1+0@%a/b}"),
    ],
)
def test_text(type, text):
    assert str(type) == text


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        (((2, 3), (3,)), (2, 3)),
        (((2, 1), (1, 3), ()), (2, 3)),
        (((0, 3), (1,)), (0, 3)),
        (((2,), (3,)), None),
        ((), ()),
    ],
)
def test_broadcast_shapes(shapes, result):
    assert broadcast_shapes(*shapes) == result
