"""Gather and the ops that find positions: what numpy's and PyTorch's rules are where they matter."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.errors import ShapeError
from jitrt.graph import DType, Graph, TensorType, b8, f32, i64
from jitrt.graph.op import Array, Op
from jitrt.graph.ops import ArgMax, ArgMin, CumSum, Gather, TopK
from jitrt.graph.text import parse, to_text

NAN = float("nan")


def call(op: Op, *arrays: Array) -> Array:
    types = [TensorType(DType.of(a.dtype), a.shape) for a in arrays]
    (out,) = op.eval(*arrays)
    (inferred,) = op.infer(*types)
    assert (inferred.shape, inferred.dtype.numpy) == (out.shape, out.dtype)
    return out


def test_gather_broadcasts_and_never_leaves_x() -> None:
    x = np.arange(12.0).reshape(3, 4)
    index = np.array([[2], [-1], [-3], [7], [-9]])
    np.testing.assert_array_equal(call(Gather(0), x, index), x[[2, 2, 0, 2, 0]])
    np.testing.assert_array_equal(call(Gather(1), x[:1], np.array([[1], [3]])), [[1], [3]])
    assert call(Gather(0), np.zeros((0, 4)), np.zeros((0, 4), np.int64)).shape == (0, 4)


def test_positions_of_ties_and_nan() -> None:
    x = np.array([[1.0, 3, NAN, 3, NAN], [2, 2, 1, 1, 0]])
    np.testing.assert_array_equal(call(ArgMax(1), x), [2, 0])
    np.testing.assert_array_equal(call(ArgMin(1), x), [2, 4])
    np.testing.assert_array_equal(call(TopK(1, 4), x), [[2, 4, 1, 3], [0, 1, 2, 3]])
    np.testing.assert_array_equal(call(TopK(1, 5, False), x), [[0, 1, 3, 2, 4], [4, 2, 3, 0, 1]])


@pytest.mark.parametrize(
    ("op", "types", "message"),
    [
        (Gather(0), [TensorType(f32, (3, 4)), TensorType(f32, (3, 4))], "the index is f32"),
        (Gather(0), [TensorType(f32, (3, 4)), TensorType(b8, (3, 4))], "the index is b8"),
        (Gather(0), [TensorType(f32, (3, 4)), TensorType(i64, (3,))], "x has rank 2, the index 1"),
        (Gather(2), [TensorType(f32, (3, 4)), TensorType(i64, (3, 4))], "axis 2"),
        (Gather(0), [TensorType(f32, (3, 4)), TensorType(i64, (3, 3))], "do not broadcast beside axis 0"),
        (Gather(0), [TensorType(f32, (0, 4)), TensorType(i64, (3, 4))], "nothing to take"),
        (CumSum(0), [TensorType(b8, (3,))], "cast them first"),
    ],
)
def test_operands_that_do_not_fit_are_refused(op: Op, types: list[TensorType], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.infer(*types)


def test_they_are_read_back_from_text() -> None:
    graph = Graph("positions")
    x, index = graph.add_input("x", TensorType(f32, (3, 4))), graph.add_input("i", TensorType(i64, (3, 1)))
    found = [graph.add(op, x) for op in (ArgMax(1, True), ArgMin(0), TopK(1, 2, False), CumSum(1))]
    graph.mark_output(*found, graph.add(Gather(1), x, index))
    assert parse(to_text(graph)) == graph
