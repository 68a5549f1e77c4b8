"""Matrix products, einsum, determinants, Fourier transforms, against ONNX's reference and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import NeedsInput
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import close, load, near, ops

RNG = np.random.default_rng(0)


def some(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    if np.dtype(dtype).kind in "iu":
        return RNG.integers(0, 99, shape).astype(dtype)
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((4,), (4, 5)), ((2, 3, 4), (4,)), ((2, 1, 3, 4), (3, 4, 2))])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int32, np.uint64])
def test_matmul(shapes: tuple[tuple[int, ...], ...], dtype: Any) -> None:
    a, b = (some(*shape, dtype=dtype) for shape in shapes)
    close("y = MatMul (a, b)", a=a, b=b, rtol=2e-3 if dtype == np.float16 else 1e-6)


def test_a_product_with_weights_is_a_linear_layer() -> None:
    assert ops(close("y = MatMul (a, b)", "b", a=some(2, 3, 4), b=some(4, 5))) == ["linear"]
    assert "matmul" in ops(close("y = MatMul (a, b)", "b", a=some(3, 4, dtype=np.int32), b=some(4, 5, dtype=np.int32)))


@pytest.mark.parametrize("options", ["", "transA = 1", "transB = 1", "transA = 1, transB = 1, alpha = 0.5, beta = 0.3"])
@pytest.mark.parametrize("known", ["", "b c"], ids=["computed", "weights"])
def test_gemm(options: str, known: str) -> None:
    a, b = (some(4, 3) if "transA" in options else some(3, 4)), (some(5, 4) if "transB" in options else some(4, 5))
    for c in (some(5), some(3, 1), some(1)):
        close(f"y = Gemm <{options}> (a, b, c)" if options else "y = Gemm (a, b, c)", known, a=a, b=b, c=c)
    close("y = Gemm <beta = 0.0> (a, b, c)", opset=11, a=some(3, 4), b=some(4, 5), c=some(5))
    close("y = Gemm <alpha = 2.0> (a, b)", opset=11, a=some(3, 4, dtype=np.int32), b=some(4, 5, dtype=np.int32))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("bij,bjk", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
        ("i,j->ji", [(3,), (4,)]),
        ("bhqd,bkhd->bhqk", [(2, 3, 4, 5), (2, 6, 3, 5)]),
        ("ii->i", [(4, 4)]),
        ("iij->j", [(3, 3, 4)]),
        ("ij->", [(3, 4)]),
        ("b...->...", [(2, 3, 4)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("abc,c,bd->da", [(2, 3, 4), (4,), (3, 5)]),
        ("ij,ij->ij", [(3, 4), (1, 4)]),
        ("ij,kl->", [(2, 3), (3, 2)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    arrays = {f"x{i}": some(*shape) for i, shape in enumerate(shapes)}
    graph = load(f'y = Einsum <equation = "{equation}"> ({", ".join(arrays)})', **arrays)
    near(interpret(graph, list(arrays.values())), [np.einsum(equation, *arrays.values())], 1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_determinants(n: int) -> None:
    x = some(3, 2, n, n)
    x[0, 0, 0, 0], x[1, 1, :, 0] = 0, 0  # a pivot that is not there, and a matrix without one
    close("y = Det (x)", x=x, rtol=1e-4)


@pytest.mark.parametrize("points", [None, 5, 8, 13])
@pytest.mark.parametrize("parts", [1, 2])
def test_fourier(points: int | None, parts: int) -> None:
    x, axis = some(2, 8, 3, parts), np.array(1)
    signal = x[..., 0] + (1j * x[..., 1] if parts == 2 else 0)
    forms = [("", np.fft.fft), ("inverse = 1", np.fft.ifft)] if parts == 2 else [("", np.fft.fft)]
    forms += [("onesided = 1", np.fft.rfft)] if parts == 1 else []
    for options, function in forms:
        want = function(signal, points, axis=1)
        attributes = f"<{options}>" if options else ""
        length = {} if points is None else {"n": np.array(points)}
        graph = load(
            f"y = DFT {attributes} (x, {''.join(length)}, axis)", " ".join(["axis", *length]), x=x, axis=axis, **length
        )
        near(interpret(graph, [x]), [np.stack([want.real, want.imag], -1).astype(np.float32)], 1e-6)


def test_fourier_of_half_a_spectrum_is_real() -> None:
    signal = some(2, 9)
    half = np.fft.rfft(signal)
    x = np.stack([half.real, half.imag], -1).astype(np.float32)
    graph = load("y = DFT <onesided = 1, inverse = 1, axis = 1> (x, n)", "n", opset=17, x=x, n=np.array(9))
    near(interpret(graph, [x]), [signal[..., None]], 1e-6)


@pytest.mark.parametrize("onesided", [0, 1])
def test_frames(onesided: int) -> None:
    x, window = some(2, 30, 1), np.hanning(8).astype(np.float32)
    graph = load(
        f"w = HannWindow (n) y = STFT <onesided = {onesided}> (x, step, w, n)",
        "n step",
        x=x,
        n=np.array(8),
        step=np.array(5),
    )
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(8) / 8)
    frames = np.stack([x[:, i : i + 8, 0] * window for i in range(0, 23, 5)], 1)
    want = np.fft.rfft(frames) if onesided else np.fft.fft(frames)
    near(interpret(graph, [x]), [np.stack([want.real, want.imag], -1).astype(np.float32)], 1e-6)


def test_mel_filters_are_a_constant() -> None:
    numbers: dict[str, Any] = {"bins": np.array(8), "points": np.array(64), "rate": np.array(8192)}
    numbers |= {"low": np.array(0, np.float32), "high": np.array(4096, np.float32)}
    close("y = MelWeightMatrix (bins, points, rate, low, high)", " ".join(numbers), **numbers)


def test_kernels() -> None:
    """Products in the types that matrix units have and have not, in one plan."""
    arrays = {"a": some(3, 4), "b": some(4, 5), "d": some(2, 3, 4, dtype=np.float64), "e": some(4, 2, dtype=np.float64)}
    arrays |= {"i": some(7, 4, dtype=np.int64), "j": some(4, 3, dtype=np.int64), "m": some(2, 2, 2), "s": some(1, 8, 1)}
    text = """
        p = Gemm <beta = 0.5> (a, b, c) q = MatMul (d, e) r = MatMul (i, j) t = Det (m)
        u = Einsum <equation = "ik,jk,kl->jil"> (a, a, b) v = DFT (s)
    """
    graph = load(text, "c", outputs="p q r t u v", c=some(5), **arrays)
    given = list(arrays.values())
    near(plan_interpreted(graph).run(given), interpret(graph, given), 1e-5)


def test_refusals() -> None:
    square = some(17, 17)
    cases = [
        ("y = Det (x)", "the determinant of 17 by 17 elements"),
        ('y = Einsum <equation = "ij,jk->ik"> (x)', "has 2 terms for 1 operands"),
        ('y = Einsum <equation = "ij->ik"> (x)', "a dimension of the result is none"),
        ('y = Einsum <equation = "i->i"> (x)', "i for a tensor of rank 2"),
        ("y = DFT (x)", "whose last one must be of real numbers or pairs"),
    ]
    for text, reason in cases:
        with pytest.raises(UnsupportedOpError, match=reason):
            load(text, x=square)
    with pytest.raises(UnsupportedOpError, match="dimension j is 3 and 4"):
        load('y = Einsum <equation = "ij,jk"> (a, b)', a=some(2, 3), b=some(4, 2))
    with pytest.raises(UnsupportedOpError, match=r"alpha = 0.5 with integers"):
        load("y = Gemm <alpha = 0.5> (x, x)", x=square.astype(np.int32))
    with pytest.raises(UnsupportedOpError, match="a transform of 5000 points, of at most 4096"):
        load("y = DFT (x)", x=np.zeros((1, 5000, 1), np.float32))
    with pytest.raises(NeedsInput, match="the step between frames"):
        load("y = STFT (x, step)", x=some(1, 8, 1), step=np.array(2))
    with pytest.raises(UnsupportedOpError, match="frames of 9, 2 apart"):
        load("y = STFT (x, step, , n)", "step n", x=some(1, 8, 1), step=np.array(2), n=np.array(9))
