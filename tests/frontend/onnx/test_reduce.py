"""Reductions, softmax, positions, order and running sums, in the old forms and the new, against ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import NeedsInput
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import close, load, near, ops, same

RNG = np.random.default_rng(0)
X = RNG.uniform(0.1, 2, (2, 3, 4)).astype(np.float32)
WHOLE = RNG.integers(-9, 9, (2, 3, 4))
KINDS = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum"
KINDS += " ReduceLogSumExp"


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize("op", KINDS.split())
def test_dimensions_as_attribute_and_as_operand(op: str) -> None:
    for dtype in (np.float32, np.float64, np.float16):
        rtol = 2e-3 if dtype == np.float16 else 1e-6
        x = X.astype(dtype)
        close(f"y = {op} <axes = [0, 2], keepdims = 0> (x)", opset=11, rtol=rtol, x=x)
        close(f"y = {op} <axes = [-2]> (x)", opset=7, rtol=rtol, x=x)
        close(f"y = {op} <keepdims = 0> (x, axes)", "axes", rtol=rtol, x=x, axes=ints(-1, 1))
        close(f"y = {op} (x)", rtol=rtol, x=x)
        close(f"y = {op} <noop_with_empty_axes = 1> (x, axes)", "axes", rtol=rtol, x=x, axes=ints())


@pytest.mark.parametrize("op", [op for op in KINDS.split() if "Log" not in op])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers(op: str, dtype: Any) -> None:
    x = WHOLE.astype(dtype)
    if op == "ReduceSumSquare" and dtype == np.int32:  # ONNX's reference gives int64
        (got,) = interpret(load("y = ReduceSumSquare <keepdims = 0> (x)", opset=13, x=x), [x])
        assert (got.dtype, got) == (np.int32, (x * x).sum())
    elif op == "ReduceMean":  # numpy's own mean of integers overflows nowhere and truncates: so does this one
        (got,) = interpret(load("y = ReduceMean <axes = [1]> (x)", opset=13, x=x), [x])
        np.testing.assert_array_equal(got, np.trunc(x.mean(1, keepdims=True)))
    else:
        same(f"y = {op} (x, axes)", "axes", x=x, axes=ints(1))


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.uint32, np.uint64])
def test_extremes_of_any_type(op: str, dtype: Any) -> None:
    same(f"y = {op} (x, axes)", "axes", x=(WHOLE % 3 == 0).astype(dtype), axes=ints(0, 2))


@pytest.mark.parametrize("op", [op for op in KINDS.split() if op != "ReduceMean"])
def test_of_nothing(op: str) -> None:
    text = f"y = {op} <keepdims = 0> (x, axes)"
    graph = load(text, "axes", x=np.zeros((2, 0, 3), np.float32), axes=ints(1))
    want = {"ReduceProd": 1, "ReduceMax": -np.inf, "ReduceMin": np.inf}.get(op, -np.inf if "Log" in op else 0)
    (got,) = interpret(graph, [np.zeros((2, 0, 3), np.float32)])
    np.testing.assert_array_equal(got, np.full((2, 3), want, np.float32))
    assert "reduce" not in " ".join(ops(graph))


def test_the_logarithm_of_a_sum_keeps_infinities() -> None:
    x = np.array([[-np.inf, -np.inf], [1000, 1000], [np.inf, 0], [-np.inf, 3]], np.float32)
    (got,) = interpret(load("y = ReduceLogSumExp <axes = [1], keepdims = 0> (x)", opset=13, x=x), [x])
    np.testing.assert_allclose(got, [-np.inf, 1000 + np.log(2), np.inf, 3], rtol=1e-6)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.int8, np.uint32])
def test_positions(op: str, dtype: Any) -> None:
    x = (WHOLE % 3).astype(dtype)  # equals, of which the first counts, or the last
    if dtype == np.uint32:
        x *= 2**31 - 1
    for options in ("axis = 1", "axis = -1, keepdims = 0", "axis = 2, select_last_index = 1", "select_last_index = 1"):
        same(f"y = {op} <{options}> (x)", opset=13, x=x)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_softmax(op: str, dtype: Any) -> None:
    x, rtol = (3 * X).astype(dtype), 2e-3 if dtype == np.float16 else 1e-6
    for axis in (0, 1, -1):
        close(f"y = {op} <axis = {axis}> (x)", rtol=rtol, x=x)
    rows = x.reshape(2, 12)  # before opset 13 the dimensions from `axis` on are one row
    (got,) = interpret(load(f"y = {op} (x)", opset=11, x=x), [x])
    (want,) = interpret(load(f"y = {op} <axis = 1> (x)", x=rows), [rows])
    near([got.reshape(2, 12)], [want], rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint64, np.int32, np.uint32, np.int8])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(dtype: Any, largest: int) -> None:
    x = WHOLE.astype(dtype) * np.array(2**40 if np.dtype(dtype).itemsize == 8 else 1, dtype)
    text = f"y, i = TopK <axis = 1, largest = {largest}> (x, k)"
    graph = load(text, "k", opset=11, outputs="y i", x=x, k=ints(2))
    values, places = interpret(graph, [x])
    keys = [[(int(v) * (-1 if largest else 1), i) for i, v in enumerate(row)] for row in x.swapaxes(1, 2).reshape(8, 3)]
    want = np.array([[i for _, i in sorted(row)[:2]] for row in keys]).reshape(2, 4, 2).swapaxes(1, 2)
    np.testing.assert_array_equal(places, want)
    np.testing.assert_array_equal(values, np.take_along_axis(x, want, 1))


def test_older_forms_of_top_k() -> None:
    same("y, i = TopK <k = 2, axis = 2> (x)", opset=7, outputs="y i", x=X)
    same("y, i = TopK <axis = -1> (x, k)", "k", opset=10, outputs="y i", x=X, k=ints(3))


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("options", ["", "<exclusive = 1>", "<reverse = 1>", "<exclusive = 1, reverse = 1>"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_running(op: str, options: str, dtype: Any) -> None:
    close(f"y = {op} {options} (x, axis)", "axis", x=X.astype(dtype), axis=np.array(-2), rtol=1e-6)


KERNELS = """
    a = ReduceSum (x, axes) b = ReduceLogSumExp (x, axes) c = Softmax <axis = 1> (d) e = ReduceMean (i, axes)
    f, g = TopK (i, k) h = ArgMin <select_last_index = 1> (x) j = CumSum <exclusive = 1, reverse = 1> (i, axis)
    l = ReduceMax (t, axes) m = ReduceProd (u, axes) n = ReduceL2 (x, axes) o = ReduceMin (w, axes)
    p, q = TopK (u, k) r = Hardmax (x) s = LogSoftmax (d)
"""


def test_kernels() -> None:
    """What each has a kernel for, in types that differ: one plan of them all."""
    arrays: dict[str, Any] = {"x": X, "d": X.astype(np.float64), "i": WHOLE * 2**33, "t": WHOLE > 3}
    arrays |= {"u": abs(WHOLE).astype(np.uint32) + np.uint32(2**31), "w": (WHOLE + 9).astype(np.uint8)}
    known = {"axes": ints(1), "k": ints(2), "axis": np.array(2)}
    graph = load(KERNELS, "axes k axis", opset=20, outputs="a b c e f g h j l m n o p q r s", **arrays, **known)
    given = list(arrays.values())
    near(plan_interpreted(graph).run(given), interpret(graph, given), 1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("y = ReduceSum <axes = [3]> (x)", "axis 3 of a tensor of rank 3"),
        ("y, i = TopK <k = 5> (x)", "the 5 best of 4 elements"),
        ("y = ArgMax <axis = -4> (x)", "axis -4 of a tensor of rank 3"),
        ("y = Softmax <axis = 3> (x)", "axis 3 of a tensor of rank 3"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        load(text, opset=9, x=X)


def test_what_has_to_be_known() -> None:
    with pytest.raises(NeedsInput, match="which dimensions are reduced"):
        load("y = ReduceSum (x, axes)", x=X, axes=ints(1))
