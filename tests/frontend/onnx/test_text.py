"""n-grams against ONNX's reference."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.errors import UnsupportedOpError
from jitrt.graph import interpret
from tests.frontend.onnx.graphs import load, same

POOL = "ngram_counts = [0, 3], ngram_indexes = [0, 1, 2, 5, 4, 6, 3], pool_int64s = [2, 3, 5, 5, 4, 5, 6, 7, 8, 6, 7]"
WEIGHTS = "weights = [1.0, 2.0, 3.0, 0.5, 4.0, 0.1, 6.0]"
X = np.array([[5, 4, 5, 6, 7, 8], [2, 2, 6, 7, 3, 5], [9, 9, 9, 9, 9, 9]])


def node(mode: str, low: int, high: int, skips: int, more: str = "") -> str:
    bounds = f"min_gram_length = {low}, max_gram_length = {high}, max_skip_count = {skips}"
    return f'y = TfIdfVectorizer <mode = "{mode}", {bounds}, {POOL}{more}> (x)'


@pytest.mark.parametrize("bounds", [(1, 1, 0), (2, 2, 0), (1, 2, 0), (2, 2, 3), (1, 2, 9)], ids=str)
def test_counts(bounds: tuple[int, int, int]) -> None:
    same(node("TF", *bounds), opset=9, x=X)
    same(node("TF", *bounds), x=X[0].astype(np.int32))


@pytest.mark.parametrize("mode", ["IDF", "TFIDF"])
def test_weights(mode: str) -> None:
    same(node(mode, 1, 2, 1, f", {WEIGHTS}"), x=X)
    (plain,) = interpret(load(node(mode, 1, 2, 1), x=X), [X])  # without weights they are 1
    (counts,) = interpret(load(node("TF", 1, 2, 1), x=X), [X])
    np.testing.assert_array_equal(plain, counts if mode == "TFIDF" else np.sign(counts))


def test_refusals() -> None:
    with pytest.raises(UnsupportedOpError, match="mode 'FT' with 7 weights for 7 columns"):
        load(node("FT", 1, 2, 0), x=X)
    with pytest.raises(UnsupportedOpError, match=r"mode 'IDF' with 1 weights"):
        load(node("IDF", 1, 2, 0, ", weights = [1.0]"), x=X)
    with pytest.raises(UnsupportedOpError, match="with 7 n-grams"):
        load(node("TF", 1, 2, 0), x=X[None])
    with pytest.raises(UnsupportedOpError, match="the pool of 11 numbers does not end in whole n-grams of 2"):
        load(node("TF", 1, 2, 0).replace("[0, 3]", "[0, 4]"), x=X)
    text = node("TF", 1, 1, 0).replace("pool_int64s = [2, 3, 5, 5, 4, 5, 6, 7, 8, 6, 7]", 'pool_strings = ["a", "b"]')
    with pytest.raises(UnsupportedOpError, match="of strings"):
        load(text, x=X)
