"""Gathers and scatters of every kind, and what is known by its numbers, against ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import NeedsInput
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import agree, load, ops, same

X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
RANDOM = np.random.default_rng(0)


def whole(low: int, high: int, *shape: int, dtype: Any = np.int64) -> np.ndarray:
    return RANDOM.integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("axis", [0, -2])
def test_gather(shape: tuple[int, ...], axis: int) -> None:
    for dtype in (np.int32, np.int64):
        same(f"y = Gather <axis = {axis}> (x, i)", x=X, i=whole(-3, 3, *shape, dtype=dtype))


@pytest.mark.parametrize(
    ("index", "found"),
    [
        (2, ["slice", "reshape"]),
        (-1, ["slice", "reshape"]),
        ([1, 2], ["slice"]),
        ([0, 1, 2, 3], ["identity"]),
        ([[1], [3]], ["slice", "reshape"]),
        ([2, 1], ["gather"]),
        ([0, 1, 3], ["gather"]),
    ],
    ids=str,
)
def test_known_positions_that_go_up_evenly_are_a_view(index: Any, found: list[str]) -> None:
    assert ops(same("y = Gather <axis = 1> (x, i)", known="i", x=X, i=np.array(index))) == found


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis: int) -> None:
    """The index may be shorter than x, which ONNX's reference does not know."""
    text = "y = GatherElements <axis = {}> (x, i)"
    same(text.format(axis % 3), x=X, i=whole(-3, 3, *(2 if d == axis % 3 else size for d, size in enumerate(X.shape))))
    index = whole(0, 3, 2, 3, 2)
    part = X[tuple(slice(None if d == axis % 3 else size) for d, size in enumerate(index.shape))]
    agree(load(text.format(axis), x=X, i=index), [np.take_along_axis(part, index, axis)], [X, index])


@pytest.mark.parametrize(
    ("shape", "batch"),
    [((2, 1), 0), ((2, 6, 2), 0), ((3,), 0), ((3, 2), 1), ((3, 2, 2), 1), ((3, 4, 1), 2), ((3, 4, 2, 1), 2)],
    ids=str,
)
def test_gather_nd(shape: tuple[int, ...], batch: int) -> None:
    same(f"y = GatherND <batch_dims = {batch}> (x, i)", x=X, i=whole(-3, 3, *shape))


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
def test_scatters(reduction: str) -> None:
    """Several updates of one element, except where their order would matter."""
    values = whole(-4, 5, 3, 4, 5).astype(np.float32)
    for axis in (0, -1):
        index = np.argsort(RANDOM.random((2, 3, 3)), axis) if reduction == "none" else whole(-3, 3, 2, 3, 3)
        text = f'y = ScatterElements <axis = {axis}, reduction = "{reduction}"> (x, i, u)'
        same(text, x=values, i=index.astype(np.int64), u=whole(-4, 5, 2, 3, 3).astype(np.float32))
    points = np.array([[[2, 1], [0, 0]], [[2, 3], [0, 1]]]) if reduction == "none" else whole(-3, 3, 2, 2, 2)
    text = f'y = ScatterND <reduction = "{reduction}"> (x, i, u)'
    same(text, x=values, i=points, u=whole(-4, 5, 2, 2, 5).astype(np.float32))


def test_scatter_by_its_old_name() -> None:
    x, index, updates = X[:, :, 0], np.array([[2, -1]]), np.array([[-1, -2]], np.float32)
    want = np.copy(x)
    want[0, [2, 3]] = -1, -2
    agree(load("y = Scatter <axis = 1> (x, i, u)", opset=10, x=x, i=index, u=updates), [want], [x, index, updates])


def test_scatters_of_nothing_and_everything() -> None:
    empty = np.zeros((0, 4, 5), np.float32)
    assert ops(same("y = ScatterElements (x, i, u)", x=X, i=empty.astype(np.int64), u=empty)) == ["identity"]
    assert ops(same("y = ScatterND (x, i, u)", x=X, i=np.zeros((0, 1), np.int64), u=empty)) == ["identity"]
    same("y = ScatterND (x, i, u)", x=X, i=np.array([[1, 2, 3], [0, 0, 0]]), u=np.array([-1, -2], np.float32))


@pytest.mark.parametrize(
    ("index", "found"),
    [
        ([[[1, 2], [1, 3]], [[2, 2], [2, 3]]], {"slice", "concat"}),
        ([[[0, 1], [0, 2]], [[2, 1], [2, 2]]], {"scatter"}),
        ([[[-1, 0], [-1, 1]], [[0, 0], [0, 1]]], {"scatter"}),
    ],
    ids=["box", "rows apart", "from the end"],
)
def test_an_assignment_to_a_slice_is_no_scatter(index: Any, found: set[str]) -> None:
    """As PyTorch's exporter writes x[1:3, 2:4] = u."""
    graph = same("y = ScatterND (x, i, u)", known="i", x=X, i=np.array(index), u=-np.ones((2, 2, 5), np.float32))
    assert set(ops(graph)) - {"reshape"} == found


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_a_cache_is_written_where_each_item_stands(mode: str) -> None:
    cache, new = np.zeros((2, 3, 6, 4), np.float32), whole(1, 9, 2, 3, 2, 4).astype(np.float32)
    start = np.array([1, 4 + (mode == "circular")])
    text = f'y = TensorScatter <mode = "{mode}"> (x, u, i)'
    same(text, x=cache, u=new, i=start)
    same("y = TensorScatter <axis = 1> (x, u)", x=cache, u=np.ones((2, 2, 6, 4), np.float32))


def test_reverse_sequence() -> None:
    for time, batch in ((0, 1), (1, 0)):
        lengths = whole(1, 4, X.shape[batch])
        same(f"y = ReverseSequence <time_axis = {time}, batch_axis = {batch}> (x, n)", x=X, n=lengths)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(dtype: Any, axis: int) -> None:
    """Negative positions count from the end; what is out of range is nowhere."""
    index = np.array([[0, 2, 5], [3, 9, 1 if dtype == np.uint8 else -1]]).astype(dtype)
    given = {"d": np.array(4), "v": np.array([-1, 7], np.int32)}
    text = f"y = OneHot <axis = {axis}> (x, d, v)"
    want = np.full((2, 3, 4), -1, np.int32)
    for at in np.ndindex(2, 3):
        position = int(index[at]) + 4 * (index[at] < 0)
        if 0 <= position < 4:
            want[(*at, position)] = 7
    agree(load(text, known="d", x=index, **given), [np.moveaxis(want, -1, axis)], [index, given["v"]])


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("y = Compress (x, c)", {"c": np.array([True, False, True, True])}),
        ("y = Compress <axis = 1> (x, c)", {"c": np.array([False, True, False, True])}),
        ("y = Compress <axis = -1> (x, c)", {"c": np.array([False, True])}),
    ],
)
def test_compress(text: str, given: dict[str, np.ndarray]) -> None:
    same(text, known="c", x=X, **given)


def test_what_is_known_by_its_numbers() -> None:
    sparse = whole(0, 2, 3, 4)
    same("y = NonZero (x)", known="x", x=sparse)
    same("y = NonZero (x)", known="x", x=np.array([0.0, -1.0, 2.0]))
    outputs = "y first inverse count"
    text = outputs.replace(" ", ", ") + " = Unique {} (x)"
    for attributes in ("", "<axis = 0>", "<axis = -1>"):
        same(text.format(attributes), known="x", outputs=outputs, x=sparse)
    same(text.format("<sorted = 0>"), known="x", outputs=outputs, x=np.array([2, 1, 1, 3, 4, 3]))
    columns = np.array([[2, 1, 2, 0], [5, 5, 5, 0]])
    want = [columns[:, [0, 1, 3]], *(np.array(part) for part in ([0, 1, 3], [0, 1, 0, 2], [2, 1, 1]))]
    agree(load(text.format("<axis = 1, sorted = 0>"), known="x", outputs=outputs, x=columns), want, [])


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("y = NonZero (x)", "how many elements are not zero, and so the size of the result, is computed at run time"),
        ("y, b, c, d = Unique (x)", "how many elements are distinct"),
        ("c = Cast <to = 9> (x) y = Compress (x, c)", "which elements are kept"),
    ],
)
def test_a_size_that_depends_on_numbers_needs_them(text: str, which: str) -> None:
    with pytest.raises(NeedsInput, match=which) as need:
        load(text, x=np.arange(3, dtype=np.float32))
    assert need.value.names == ("x",)


REFUSED = [
    ("y = Gather (x, i)", np.array([0, 3]), "positions 0 to 3 of a dimension of 3"),
    ("y = Gather <axis = 3> (x, i)", np.array([0]), "axis 3 of a tensor of rank 3"),
    ("y = GatherND <batch_dims = 1> (x, i)", np.array([0]), "after 1 batch dimensions"),
    ("y = GatherND (x, i)", np.array([[0, 0, 0, 0]]), "4 indices after 0 batch dimensions"),
    ("y = TensorScatter <axis = 1> (z, x, i)", np.array([0, 0, 0]), "4 new ones in a cache of 3"),
]


@pytest.mark.parametrize(("text", "index", "reason"), REFUSED, ids=[case[2] for case in REFUSED])
def test_refusals_say_why(text: str, index: np.ndarray, reason: str) -> None:
    with pytest.raises(UnsupportedOpError) as refusal:
        load(text, known="i", x=X, z=X[:, 1:], i=index)
    assert reason in str(refusal.value)


def test_they_run_as_kernels() -> None:
    """All in one plan, in types that arithmetic is rare in."""
    text = """
        a = GatherND <batch_dims = 1> (x, i) b = ScatterElements <axis = 1, reduction = "add"> (x, j, u)
        c = TensorScatter <axis = 1, mode = "circular"> (b, u, n)
        d = ReverseSequence <time_axis = 1, batch_axis = 0> (c, n)
        e = GatherElements <axis = 2> (d, j) h = OneHot <axis = 1> (n, k, v) f = ScatterND <reduction = "max"> (e, i, w)
    """
    given = {
        "x": whole(-9, 9, 3, 4, 5, dtype=np.int16),
        "i": whole(0, 3, 3, 1, dtype=np.int64),
        "j": whole(-4, 4, 3, 2, 5, dtype=np.int64),
        "u": whole(-9, 9, 3, 2, 5, dtype=np.int16),
        "n": np.array([1, 3, 2]),
        "w": whole(-9, 9, 3, 2, 5, dtype=np.int16),
    }
    known = {"k": np.array([4]), "v": np.array([0, 1], np.uint8)}
    graph = load(text, known="k v", outputs="a f h", **given, **known)
    arrays = list(given.values())
    got = plan_interpreted(graph).run(arrays)
    for one, want in zip(got, interpret(graph, arrays), strict=True):
        np.testing.assert_array_equal(one, want)
