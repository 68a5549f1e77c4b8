"""Operators of com.microsoft against their formulas in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from jitrt.graph import Graph, interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import near
from tests.frontend.onnx.nodes import node

RNG = np.random.default_rng(0)
EPS = 1e-3


def some(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def load(op: str, *arrays: np.ndarray | None, known: tuple[int, ...] = (), **options: Any) -> Graph:
    model = node(op, arrays, **{"opset": 17, "domain": "com.microsoft", **options})
    return import_onnx(model, constants={f"x{i}": arrays[i] for i in known}).graph


def run(op: str, *arrays: np.ndarray | None, known: tuple[int, ...] = (), **options: Any) -> tuple[np.ndarray, ...]:
    given = [array for i, array in enumerate(arrays) if array is not None and i not in known]
    return interpret(load(op, *arrays, known=known, **options), given)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def fast_gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def layer_norm(x: Any, weight: Any, bias: Any = 0) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS) * weight + bias


def rms_norm(x: Any, weight: Any) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def close(got: Any, *wanted: Any) -> None:
    near(list(got), [np.asarray(want, np.float32) for want in wanted], 1e-5)


X, SKIP, WIDE, OTHER = some(2, 3, 8), some(2, 3, 8), some(8), some(8)


def test_activations() -> None:
    close(run("Gelu", X), gelu(X))
    close(run("BiasGelu", X, WIDE), gelu(X + WIDE))
    close(run("FastGelu", X), fast_gelu(X))
    close(run("FastGelu", X, WIDE), fast_gelu(X + WIDE))
    close(run("QuickGelu", X), X * sigmoid(1.702 * X))
    both = X + WIDE
    close(run("BiasSplitGelu", X, WIDE), both[..., :4] * gelu(both[..., 4:]))
    close(run("BiasAdd", X, WIDE, SKIP), X + WIDE + SKIP)


def test_products() -> None:
    a, b, c = some(2, 4, 3), some(2, 4, 5), some(5)
    close(run("FusedMatMul", a, b, transA=1, alpha=0.5), 0.5 * a.swapaxes(1, 2) @ b)
    turned = some(4, 2, 3)  # its batch is the second dimension
    close(run("FusedMatMul", turned, some(2, 3, 5) * 0 + 1, transBatchA=1), turned.swapaxes(0, 1) @ np.ones((2, 3, 5)))
    close(run("GemmFastGelu", X, b := some(8, 5), c), fast_gelu(X @ b + c))
    left, right = some(3, 4), some(4, 5)
    full = left @ right + c
    close(run("FusedGemm", left, right, c, activation="Relu"), np.maximum(full, 0))
    leaky = np.where(full > 0, full, 0.3 * full)
    close(run("FusedGemm", left, right, c, activation="LeakyRelu", activation_alpha=0.3), leaky)


def test_convolutions() -> None:
    x, w, bias = some(2, 3, 6, 7), some(4, 3, 1, 1), some(4)
    plain = np.einsum("nchw,kc->nkhw", x, w[..., 0, 0]) + bias[:, None, None]
    other = some(*plain.shape)
    close(run("FusedConv", x, w, bias, activation="Sigmoid"), sigmoid(plain))
    clipped = np.clip(plain + other, -0.5, 0.5)
    close(run("FusedConv", x, w, bias, other, activation="Clip", activation_params=[-0.5, 0.5]), clipped)
    hard = np.clip(0.3 * plain + 0.4, 0, 1)
    close(run("FusedConv", x, w, bias, activation="HardSigmoid", activation_params=[0.3, 0.4]), hard)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    close(run("NhwcConv", last, w, bias), plain.transpose(0, 2, 3, 1))
    with_other = np.tanh(plain + other).transpose(0, 2, 3, 1)
    close(run("NhwcFusedConv", last, w, bias, other.transpose(0, 2, 3, 1), activation="Tanh"), with_other)


def test_normalisations() -> None:
    total = X + SKIP
    options = {"epsilon": EPS, "outputs": 1}
    close(run("SkipLayerNormalization", X, SKIP, WIDE, OTHER, **options), layer_norm(total, WIDE, OTHER))
    close(run("SkipSimplifiedLayerNormalization", X, SKIP, WIDE, **options), rms_norm(total, WIDE))
    for domain in ("", "com.microsoft"):
        close(run("SimplifiedLayerNormalization", X, WIDE, domain=domain, axis=-1, **options), rms_norm(X, WIDE))
    image, weight, bias = some(2, 3, 5, 8), some(8), some(8)
    rows = image.reshape(2, 15, 4, 2).transpose(0, 2, 1, 3).reshape(2, 4, 30)
    normal = layer_norm(rows, 1).reshape(2, 4, 15, 2).transpose(0, 2, 1, 3).reshape(image.shape) * weight + bias
    options = {"epsilon": EPS, "groups": 4}
    close(run("GroupNorm", image, weight, bias, activation=0, **options), normal)
    close(run("GroupNorm", image, weight, bias, activation=1, **options), normal * sigmoid(normal))
    first = image.transpose(0, 3, 1, 2)
    got = run("GroupNorm", first, weight, bias, activation=0, channels_last=0, **options)
    close(got, normal.transpose(0, 3, 1, 2))
    skip = some(2, 8)
    got = run("SkipGroupNorm", image - skip[:, None, None], weight, bias, skip, activation=0, outputs=2, **options)
    close(got, normal, image)


def test_the_sum_before_a_normalisation() -> None:
    graph = load("SkipLayerNormalization", X, SKIP, WIDE, None, OTHER, outputs=1, epsilon=EPS)
    close(interpret(graph, [X, SKIP, WIDE, OTHER]), layer_norm(X + SKIP + OTHER, WIDE))
    names = ["x0", "x1", "x2"]
    node = helper.make_node("SkipLayerNormalization", names, ["y", "", "", "s"], domain="com.microsoft", epsilon=EPS)
    infos = [helper.make_tensor_value_info(n, 1, a.shape) for n, a in zip(names, (X, SKIP, WIDE), strict=True)]
    proto = helper.make_graph([node], "test", infos, [onnx.ValueInfoProto(name=name) for name in "ys"])
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    got = interpret(import_onnx(helper.make_model(proto, opset_imports=versions)).graph, [X, SKIP, WIDE])
    close(got, layer_norm(X + SKIP, WIDE), X + SKIP)


@pytest.mark.parametrize("positions", [None, np.array([[2, 1, 0], [0, 1, 2]], np.int32)])
def test_embedding(positions: np.ndarray | None) -> None:
    words, segments = RNG.integers(0, 9, (2, 3), dtype=np.int32), RNG.integers(0, 2, (2, 3), dtype=np.int32)
    tables, mask = (some(9, 8), some(4, 8), some(2, 8)), np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    place = np.arange(3) if positions is None else positions
    total = tables[0][words] + tables[1][place] + tables[2][segments]
    arrays = (words, segments, *tables, WIDE, OTHER, mask, positions)
    y, shown, before = run("EmbedLayerNormalization", *arrays, outputs=3, epsilon=EPS)
    close([y, before], layer_norm(total, WIDE, OTHER), total)
    assert (shown.dtype, shown.tolist()) == (np.int32, [2, 3])


# -- attention ---------------------------------------------------------------------------------------------------------


def heads(x: Any, count: int) -> Any:
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def attend(q: Any, k: Any, v: Any, bias: Any = 0, scale: float = 0) -> Any:
    scores = q @ k.swapaxes(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1])) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1)


MASKS: dict[str, tuple[np.ndarray, Any]] = {
    "lengths": (np.array([2, 3], np.int32), [[1, 1, 0], [1, 1, 1]]),
    "ends and starts": (np.array([3, 2, 1, 0], np.int32), [[0, 1, 1], [1, 1, 0]]),
    "ones": (np.array([[0, 1, 1], [1, 0, 1]], np.int32), [[0, 1, 1], [1, 0, 1]]),
}


@pytest.mark.parametrize("kind", MASKS)
def test_attention_with_masks(kind: str) -> None:
    w, bias = some(8, 24), some(24)
    mask, shown = MASKS[kind]
    q, k, v = (heads(part, 2) for part in np.split(X @ w + bias, 3, -1))
    hidden = np.where(np.array(shown)[:, None, None], 0, -10000.0)
    close(run("Attention", X, w, bias, mask, num_heads=2), attend(q, k, v, hidden))


def test_attention_with_past_and_present() -> None:
    w, bias, past, added = some(8, 24), some(24), some(2, 2, 2, 4, 4), some(1, 2, 3, 7)
    q, k, v = (heads(part, 2) for part in np.split(X @ w + bias, 3, -1))
    k, v = np.concatenate([past[0], k], 2), np.concatenate([past[1], v], 2)
    causal = np.where(np.tri(3, 7, 4, dtype=bool), 0, -np.inf)
    options = {"num_heads": 2, "unidirectional": 1, "scale": 0.7, "outputs": 2}
    close(
        run("Attention", X, w, bias, None, past, added, **options),
        attend(q, k, v, added + causal, 0.7),
        np.stack([k, v]),
    )
    narrow = [heads(part, 2) for part in np.split(X @ w[:, :20], [8, 16], -1)]
    close(run("Attention", X, w[:, :20], num_heads=2, qkv_hidden_sizes=[8, 8, 4]), attend(*narrow))


def test_multi_head_attention() -> None:
    q, k, v, bias = some(2, 3, 8), some(2, 5, 8), some(2, 5, 4), some(20)
    mask, added = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], np.int32), some(2, 1, 3, 5)
    with_bias = [heads(x + part, 2) for x, part in zip((q, k, v), np.split(bias, [8, 16]), strict=True)]
    hidden = np.where(mask[:, None, None], 0, -10000.0)
    close(run("MultiHeadAttention", q, k, v, bias, mask, added, num_heads=2), attend(*with_bias, hidden + added))
    packed = some(2, 3, 2, 3, 4)
    want = attend(*(packed[..., i, :].swapaxes(1, 2) for i in range(3)))
    close(run("MultiHeadAttention", packed, num_heads=2), want)
    pair = some(2, 5, 2, 2, 4)
    want = attend(heads(q, 2), *(pair[..., i, :].swapaxes(1, 2) for i in range(2)))
    close(run("MultiHeadAttention", q, pair, num_heads=2), want)
    past = some(2, 2, 4, 4), some(2, 2, 4, 2)
    longer = [np.concatenate([before, heads(x, 2)], 2) for before, x in zip(past, (k, v), strict=True)]
    got = run("MultiHeadAttention", q, k, v, None, None, None, *past, num_heads=2, outputs=3)
    close(got, attend(heads(q, 2), *longer), *longer)
    close(run("MultiHeadAttention", q, *longer, num_heads=2), attend(heads(q, 2), *longer))


def test_rotary_embedding() -> None:
    x, cos, sin = some(1, 3, 8), some(9, 4), some(9, 4)
    for start in (np.array([2]), np.array([[2, 3, 4]])):
        (got,) = run("RotaryEmbedding", x, start, cos, sin)
        c, s = cos[2:5], sin[2:5]
        close([got], np.concatenate([x[..., :4] * c - x[..., 4:] * s, x[..., :4] * s + x[..., 4:] * c], -1))


# -- whole numbers -----------------------------------------------------------------------------------------------------


def test_quantized_elementwise() -> None:
    a, b = (RNG.integers(0, 255, (2, 3, 4, 5), dtype=np.uint8) for _ in range(2))
    scale, zero, out, middle = np.float32(0.05), np.uint8(7), np.float32(0.1), np.uint8(90)
    left, right = (scale * (x.astype(np.float32) - zero) for x in (a, b))

    def quantized(x: Any) -> Any:
        return np.clip(np.rint((x / out).astype(np.float32)) + middle, 0, 255).astype(np.uint8)

    pairs = (a, scale, zero, b, scale, zero, out, middle)
    near(run("QLinearAdd", *pairs), [quantized(left + right)], 0)
    near(run("QLinearMul", *pairs), [quantized(left * right)], 0)
    single = (a, scale, zero, out, middle)
    near(run("QLinearSigmoid", *single), [quantized(sigmoid(left))], 0)
    near(run("QLinearLeakyRelu", *single, alpha=0.5), [quantized(np.where(left > 0, left, left / 2))], 0)
    near(run("QLinearGlobalAveragePool", *single), [quantized(left.mean((2, 3), keepdims=True))], 0)
    last = quantized(left.mean((1, 2), keepdims=True))
    near(run("QLinearGlobalAveragePool", *single, channels_last=1), [last], 0)
    joined = run("QLinearConcat", out, middle, a, scale, zero, b, scale, zero, axis=1)
    near(joined, [quantized(np.concatenate([left, right], 1))], 0)
    near(run("QuantizeLinear", left, out, middle), [quantized(left)], 0)


def test_products_of_whole_numbers() -> None:
    b, b_scale, bias = RNG.integers(-128, 127, (8, 5), dtype=np.int8), some(5) ** 2, some(5)
    a, a_scale, a_zero = RNG.integers(0, 255, (3, 8), dtype=np.uint8), np.float32(0.1), np.uint8(9)
    want = ((a.astype(int) - 9) @ b.astype(int)) * (a_scale * b_scale) + bias
    close(run("MatMulIntegerToFloat", a, b, a_scale, b_scale, a_zero, None, bias, known=(1,)), want)
    (got,) = run("DynamicQuantizeMatMul", X, b, b_scale)
    assert np.abs(got - X @ (b * b_scale)).max() < 0.02 * np.abs(got).max()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_products_with_packed_weights(bits: int, zeros: bool) -> None:
    columns, rows, blocks = 40, 6, 3  # of 16 numbers, the last not full
    whole = RNG.integers(0, 2**bits, (rows, blocks * 16), dtype=np.uint8)
    middle = (
        RNG.integers(0, 2**bits, (rows, blocks), dtype=np.uint8) if zeros else np.full((rows, blocks), 2 ** (bits - 1))
    )
    scales, x = some(rows, blocks), some(3, columns)

    def packed(numbers: Any) -> Any:
        if bits == 8:
            return numbers
        even = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)))
        return (even[:, ::2] | even[:, 1::2] << 4).astype(np.uint8)

    weights = (whole.reshape(rows, blocks, 16).astype(np.float32) - middle[..., None]) * scales[..., None]
    given = [x, packed(whole).reshape(rows, blocks, -1), scales.reshape(-1)]
    given += [packed(middle).reshape(-1)] if zeros else []
    known = tuple(range(1, len(given)))
    got = run("MatMulNBits", *given, known=known, K=columns, N=rows, bits=bits, block_size=16)
    close(got, x @ weights.reshape(rows, -1)[:, :columns].T)


def test_kernels() -> None:
    w, mask = some(8, 24), np.array([2, 3], np.int32)
    graph = load("Attention", X, w, None, mask, num_heads=2, unidirectional=1, outputs=2, known=(1,))
    near(plan_interpreted(graph).run([X, mask]), interpret(graph, [X, mask]), 1e-5)


@pytest.mark.parametrize(
    ("op", "arrays", "options", "reason"),
    [
        (
            "FusedGemm",
            [some(2, 2), some(2, 2)],
            {"activation": "Mish"},
            "activation 'Mish', expected one of Relu, Tanh",
        ),
        ("SkipLayerNormalization", [X, X, WIDE], {"outputs": 2}, "its mean and deviation as results"),
        ("SimplifiedLayerNormalization", [X, WIDE], {"outputs": 2}, "its deviation as a result"),
        ("Attention", [X, some(8, 24)], {"num_heads": 2, "do_rotary": 1}, "with rotary embeddings"),
        ("Attention", [X, some(8, 24), None, np.zeros(8, np.int32)], {"num_heads": 2}, "for 2 rows of 3 keys"),
        ("MultiHeadAttention", [X], {"num_heads": 2}, "without k or v"),
        ("MultiHeadAttention", [X, X, X], {"num_heads": 2, "outputs": 4}, "or the scores as a result"),
        (
            "MultiHeadAttention",
            [X, some(2, 2, 3, 4), some(2, 2, 3, 4), some(24)],
            {"num_heads": 2},
            "with a bias and k and v that have heads",
        ),
        ("RotaryEmbedding", [X, np.array([0]), some(4, 4), some(4, 4)], {"scale": 2.0}, "scale=2.0"),
        (
            "RotaryEmbedding",
            [X, np.array([0]), some(4, 4), some(4, 4)],
            {"is_packed_batching": 1},
            "is_packed_batching",
        ),
        (
            "MatMulNBits",
            [X, np.zeros((4, 1, 4), np.uint8), some(4)],
            {"K": 8, "N": 4, "bits": 2, "block_size": 16},
            "weights of 2 bits",
        ),
        ("GroupQueryAttention", [X, X, X], {"num_heads": 2, "kv_num_heads": 2}, "no importer"),
    ],
)
def test_refusals(op: str, arrays: list[Any], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        load(op, *arrays, **options)
