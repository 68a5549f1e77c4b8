"""Quantisation and products of whole numbers, against ONNX's reference and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.graph import interpret
from jitrt.passes.pipeline import optimize
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import close, load, near, ops, same

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4, 6)).astype(np.float32) * 40


def whole(dtype: Any, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def scales(*shape: int) -> np.ndarray:
    return RNG.uniform(0.1, 2, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantize(dtype: Any) -> None:
    same("y = QuantizeLinear (x, s, z)", opset=21, x=X, s=scales()[()].reshape(()), z=whole(dtype))
    same("y = QuantizeLinear (x, s, z)", opset=21, x=X, s=scales(4), z=whole(dtype, 4))
    same("y = QuantizeLinear <axis = -1> (x, s)", opset=13, x=X, s=scales(6))
    same("y = QuantizeLinear <axis = 2, block_size = 4> (x, s, z)", x=X, s=scales(3, 4, 2), z=whole(dtype, 3, 4, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_dequantize(dtype: Any) -> None:
    x = whole(dtype, 3, 4, 6)
    close("y = DequantizeLinear (x, s, z)", opset=21, x=x, s=scales(1).reshape(()), z=whole(dtype))
    close(
        "y = DequantizeLinear <axis = 0> (x, s, z)",
        opset=19 if x.itemsize == 1 else 21,
        x=x,
        s=scales(3),
        z=whole(dtype, 3),
    )
    close("y = DequantizeLinear <axis = 1, block_size = 2> (x, s)", x=x, s=scales(3, 2, 6))
    close("y = DequantizeLinear <output_dtype = 10> (x, s)", x=x, s=scales(1).reshape(()), rtol=1e-3)
    close("y = DequantizeLinear (x, s)", opset=19, x=whole(np.int32, 3) // 256, s=scales(1).reshape(()))


def test_ties_are_even_and_stay_ties() -> None:
    scale = np.float32(0.3)
    x = (np.arange(-40, 40) + np.float32(0.5)).astype(np.float32) * scale
    want = np.rint((x.astype(np.float64) / scale).astype(np.float32))
    for text in ("y = QuantizeLinear (x, s, z)", "y = QuantizeLinear <precision = 1> (x, s, z)"):
        (got,) = interpret(load(text, x=x, s=scale, z=np.int8(0)), [x, scale, np.int8(0)])
        np.testing.assert_array_equal(got, want)


def test_the_types_asked_for() -> None:
    (got,) = interpret(load("y = QuantizeLinear <output_dtype = 5> (x, s)", x=X, s=np.float32(1)), [X, np.float32(1)])
    assert got.dtype == np.int16
    half = X.astype(np.float16)
    same("y = QuantizeLinear (x, s)", x=half, s=np.array(0.5, np.float16))


def test_weights_are_dequantized_when_the_plan_is_built() -> None:
    """However large they are: a linear layer of a constant is all that is left."""
    w, given = whole(np.int8, 300, 400), {"s": scales(300, 25), "z": whole(np.int8, 300, 25)}
    text = "d = DequantizeLinear <axis = 1, block_size = 16> (w, s, z) t = Transpose (d) y = MatMul (x, t)"
    graph = optimize(close(text, "w s z", x=np.ones((2, 400), np.float32), w=w, **given))
    (region,) = graph.nodes
    assert [node.op.name for node in region.op.body.nodes] == ["linear"]  # type: ignore[attr-defined]


def test_dynamic_quantization() -> None:
    for x in (X, abs(X), -abs(X), np.zeros((2, 3), np.float32)):
        same("y, s, z = DynamicQuantizeLinear (x)", outputs="y s z", x=x)


@pytest.mark.parametrize("terms", [20, 300, 5000])
def test_products_are_exact(terms: int) -> None:
    """Sums that float32 holds, that it holds in two parts, and that need integers."""
    a, b = whole(np.uint8, 3, terms), np.full((terms, 2), -128, np.int8)
    a[0], az, bz = 255, np.uint8(0), np.int8(127)
    want = [(a.astype(np.int64) - az) @ (b.astype(np.int64) - bz)]
    for known in ("b d", ""):
        graph = load("y = MatMulInteger (a, b, c, d)", known, a=a, b=b, c=az, d=bz)
        given = [a, az] if known else [a, b, az, bz]
        near(interpret(graph, given), [want[0].astype(np.int32)], 0)
        assert ("matmul" in ops(graph)) == (terms == 5000 or not known)
    rows, columns = whole(np.uint8, 3), whole(np.int8, 2)
    same("y = MatMulInteger (a, b)", a=a[:, :9], b=b[:9])
    graph = load("y = MatMulInteger (a, b, c, d)", a=a, b=b, c=rows, d=columns)
    want = [(a.astype(np.int64) - rows[:, None]) @ (b.astype(np.int64) - columns)]
    near(interpret(graph, [a, b, rows, columns]), [want[0].astype(np.int32)], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantized_products(dtype: Any) -> None:
    a, b = whole(dtype, 2, 3, 8), whole(dtype, 8, 5)
    zero, out = np.array(3, dtype), np.array(9, dtype)
    arrays = {"a": a, "p": np.float32(0.02), "q": zero, "b": b, "r": scales(5) / 50, "s": zero, "t": np.float32(0.9)}
    graph = load("y = QLinearMatMul (a, p, q, b, r, s, t, u)", "b r s t u", **arrays, u=out)
    sums = (a.astype(np.int64) - zero) @ (b.astype(np.int64) - zero)
    limits = np.iinfo(dtype)
    real = sums * (arrays["p"].astype(np.float64) * arrays["r"] / arrays["t"])
    want = np.clip(np.rint(real) + out, limits.min, limits.max).astype(dtype)
    near(interpret(graph, [a, arrays["p"], zero]), [want], 0)


def test_kernels() -> None:
    """The whole of a quantised layer in one plan."""
    text = """
        a, p, z = DynamicQuantizeLinear (x) y = MatMulInteger (a, b, z, d) r = DequantizeLinear <axis = 1> (b, s, e)
        q = QuantizeLinear (r, s, e) n = QLinearMatMul (a, p, z, b, t, d, t, d)
    """
    arrays = {"x": X[:, 0], "b": whole(np.int8, 6, 5), "d": np.int8(7), "s": scales(5), "e": whole(np.int8, 5)}
    graph = load(text, "b d s t e", outputs="a p z y r q n", t=np.float32(0.7), **arrays)
    near(plan_interpreted(graph).run([X[:, 0]]), interpret(graph, [X[:, 0]]), 1e-6)


@pytest.mark.parametrize(
    ("text", "scale", "reason"),
    [
        ("y = QuantizeLinear <axis = 1> (x, s)", scales(3), "3 scales along dimension 1"),
        ("y = QuantizeLinear <axis = 4> (x, s)", scales(4), "axis 4 of a tensor of rank 3"),
        ("y = QuantizeLinear <axis = 1, block_size = 3> (x, s)", scales(3, 3, 6), "for blocks of 3 along dimension 1"),
        ("y = QuantizeLinear <output_dtype = 17> (x, s)", scales(4), "float8e4m3fn"),
        ("y = QuantizeLinear <output_dtype = 6> (x, s)", scales(4), "to i32"),
        ("y = QuantizeLinear <output_dtype = 1> (x, s)", scales(4), "to f32"),
    ],
)
def test_refusals(text: str, scale: np.ndarray, reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        load(text, x=X, s=scale)
