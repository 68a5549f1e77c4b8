"""Attention and rotary embeddings against ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import close, load, near, ops

RNG = np.random.default_rng(0)


def some(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


Q, K, V = some(2, 4, 3, 8), some(2, 2, 5, 8), some(2, 2, 5, 6)  # four heads share two
PAST = {"pk": some(2, 2, 4, 8), "pv": some(2, 2, 4, 6)}
HIDDEN = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)  # one row sees nothing


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ("", {}),
        ("is_causal = 1", {}),
        ("scale = 0.3, softcap = 2.0", {}),
        ("softmax_precision = 11", {}),
        ("", {"mask": HIDDEN}),
        ("is_causal = 1", {"mask": HIDDEN}),
        ("", {"mask": some(4, 3, 5)}),
        ("is_causal = 1", {"mask": some(2, 1, 3, 5)}),
        ("", {"mask": some(3, 4)}),  # shorter than the keys
        ("", {"mask": some(3, 9), **PAST}),
        ("is_causal = 1, left_window_size = 2", PAST),
        ("left_window_size = 1, right_window_size = 1", {}),
        ("", {"n": np.array([5, 2])}),
        ("is_causal = 1", {"n": np.array([5, 2])}),
        ("is_causal = 1, left_window_size = 1", {"n": np.array([4, 3]), "mask": HIDDEN}),
    ],
)
def test_what_is_looked_at(options: str, extra: dict[str, Any], dtype: Any) -> None:
    arrays = {"q": Q, "k": K, "v": V} | extra
    arrays = {name: a.astype(dtype) if a.dtype == np.float32 else a for name, a in arrays.items()}
    names = [name if name in arrays else "" for name in ("q", "k", "v", "mask", "pk", "pv", "n")]
    text = (
        f"y, a, b = Attention <{options}> ({', '.join(names)})"
        if options
        else f"y, a, b = Attention ({', '.join(names)})"
    )
    close(text, outputs="y a b", rtol=4e-3 if dtype == np.float16 else 1e-5, **arrays)


@pytest.mark.parametrize("mode", range(4))
def test_scores_at_every_stage(mode: int) -> None:
    cap = 1.5 if mode else 0.0  # before which mode 0 looks, unlike ONNX's reference
    options = f"qk_matmul_output_mode = {mode}, softcap = {cap}, is_causal = 1"
    close(f"y, a, b, s = Attention <{options}> (q, k, v, mask)", outputs="y s", q=Q, k=K, v=V, mask=HIDDEN)


def test_heads_in_the_last_dimension() -> None:
    q, k, v = some(2, 3, 32), some(2, 5, 16), some(2, 5, 12)
    text = "y, a, b = Attention <q_num_heads = 4, kv_num_heads = 2, is_causal = 1> (q, k, v)"
    close(text, outputs="y a b", opset=23, q=q, k=k, v=v)


def test_it_is_two_products_and_a_softmax() -> None:
    graph = load("y = Attention <is_causal = 1> (q, k, v)", q=some(1, 2, 3, 4), k=some(1, 2, 3, 4), v=some(1, 2, 3, 4))
    assert ops(graph) == ["permute", "matmul", "mul", "where", "softmax", "matmul"]


@pytest.mark.parametrize("options", ["", "interleaved = 1", "rotary_embedding_dim = 4"])
def test_rotary_embedding(options: str) -> None:
    half = 2 if "dim" in options else 4
    cos, sin, places = some(9, half), some(9, half), RNG.integers(0, 9, (2, 3))
    head = f"RotaryEmbedding <{options}>" if options else "RotaryEmbedding"
    close(f"y = {head} (x, c, s, p)", x=some(2, 5, 3, 8), c=cos, s=sin, p=places)
    close(f"y = {head} (x, c, s)", x=some(2, 5, 3, 8), c=cos[places], s=sin[places])
    flat = head.replace("<", "<num_heads = 5, ") if options else "RotaryEmbedding <num_heads = 5>"
    close(f"y = {flat} (x, c, s, p)", x=some(2, 3, 40), c=cos, s=sin, p=places)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_what_the_standard_has_a_body_for(rule: str) -> None:
    arrays = {"q": some(1, 3, 8), "k": some(1, 3, 4), "v": some(1, 3, 6)}
    gates = {"d": -abs(some(1, 3, 2)), "b": abs(some(1, 3, 2))}
    names = ["d" if "gated" in rule else "", "b" if "delta" in rule else ""]
    options = f'q_num_heads = 4, kv_num_heads = 2, update_rule = "{rule}"'
    text = f"y, s = LinearAttention <{options}> (q, k, v, , {', '.join(names)})"
    close(text, outputs="y s", **arrays, **{name: gates[name] for name in names if name})


def test_kernels() -> None:
    text = """
        y = Attention <is_causal = 1, softcap = 3.0> (q, k, v, mask)
        z, s = CausalConvWithState <activation = "silu"> (x, w, , p) r = RotaryEmbedding (q, c, c)
    """
    arrays = {"q": Q, "k": K, "v": V, "mask": HIDDEN, "x": some(2, 3, 7), "w": some(3, 1, 4), "p": some(2, 3, 3)}
    graph = load(text, "w", outputs="y z s r", c=some(2, 3, 4), **arrays)
    given = [arrays.get(value.name, np.ones((2, 3, 4), np.float32)) for value in graph.inputs]
    near(plan_interpreted(graph).run(given), interpret(graph, given), 1e-5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("y = Attention (q, q, q)", "attribute 'q_num_heads' is missing"),
        ("y = Attention (a, b, b)", "4 heads of q share 3 of k"),
        ("y = Attention <softmax_precision = 17> (a, a, a)", "jitrt has no element type float8e4m3fn"),
        ("y = RotaryEmbedding (q, q, q)", "of a tensor of rank 3 without num_heads"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        load(text, q=some(1, 2, 8), a=some(1, 4, 2, 8), b=some(1, 3, 2, 8))
