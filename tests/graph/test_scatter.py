"""Scatter: which update stays, what is left out, what is refused; sums against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jitrt.errors import ShapeError
from jitrt.graph import DType, Graph, TensorType, b8, f16, f32, i64
from jitrt.graph.op import Array
from jitrt.graph.ops import Scatter
from jitrt.graph.text import parse, to_text


def call(op: Scatter, *arrays: Array) -> Array:
    (inferred,) = op.infer(*(TensorType(DType.of(a.dtype), a.shape) for a in arrays))
    (out,) = op.eval(*arrays)
    assert out.shape == inferred.shape
    return out


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_it_equals_torch(axis: int) -> None:
    rng = np.random.default_rng(0)
    shape = [5 if d == axis else size for d, size in enumerate((3, 4, 6))]
    x, updates = rng.standard_normal((3, 4, 6)), rng.standard_normal(shape)
    index = rng.integers(0, (3, 4, 6)[axis], shape)
    for ours, theirs in (("add", "sum"), ("mul", "prod"), ("min", "amin"), ("max", "amax")):
        got = call(Scatter(axis, ours), x, index, updates)
        want = torch.tensor(x).scatter_reduce(axis, torch.tensor(index), torch.tensor(updates), theirs)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-12)


def test_the_last_stays_and_what_is_out_of_range_is_left_out() -> None:
    x, index = np.zeros((3, 2)), np.array([[1], [-3], [1], [3], [-4]])
    got = call(Scatter(0), x, index, np.arange(1.0, 6)[:, None])
    np.testing.assert_array_equal(got, [[2, 2], [3, 3], [0, 0]])
    np.testing.assert_array_equal(x, 0)
    np.testing.assert_array_equal(call(Scatter(0, "add"), x, index, np.ones((1, 2))), [[1, 1], [2, 2], [0, 0]])


def test_halves_are_rounded_once() -> None:
    x, index, updates = np.full(1, 2048, np.float16), np.zeros(4, np.int64), np.ones(4, np.float16)
    assert call(Scatter(0, "add"), x, index, updates).astype(np.float16) == 2052


X, INDEX = TensorType(f32, (3, 4)), TensorType(i64, (2, 4))


@pytest.mark.parametrize(
    ("op", "types", "message"),
    [
        (Scatter(0), [X, INDEX], "got 2 operands"),
        (Scatter(0, "mean"), [X, INDEX, X], "reduction 'mean', expected one of none, add, mul, min, max"),
        (Scatter(0), [X, X, X], "the index is f32"),
        (Scatter(0), [X, TensorType(b8, (2, 4)), X], "the index is b8"),
        (Scatter(0), [X, INDEX, TensorType(f16, (2, 4))], "updates of f16 for f32"),
        (Scatter(0, "add"), [TensorType(b8, (3, 4)), INDEX, TensorType(b8, (2, 4))], "add of booleans"),
        (Scatter(0), [X, TensorType(i64, (2,)), X], "ranks 2, 1 and 2 differ"),
        (Scatter(2), [X, INDEX, X], "axis 2 of"),
        (Scatter(0), [X, TensorType(i64, (2, 3)), TensorType(f32, (2, 3))], "does not broadcast to [2, 4]"),
        (Scatter(0), [X, INDEX, TensorType(f32, (3, 4))], "updates f32[3,4] does not broadcast to [2, 4]"),
    ],
)
def test_operands_that_do_not_fit_are_refused(op: Scatter, types: list[TensorType], message: str) -> None:
    with pytest.raises(ShapeError) as refusal:
        op.infer(*types)
    assert message in str(refusal.value)


def test_it_is_read_back_from_text() -> None:
    graph = Graph("scatter")
    values = [graph.add_input(name, type) for name, type in (("x", X), ("i", INDEX), ("u", TensorType(f32, (1, 4))))]
    graph.mark_output(graph.add(Scatter(0, "max"), *values))
    assert parse(to_text(graph)) == graph
