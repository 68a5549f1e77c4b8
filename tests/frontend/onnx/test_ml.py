"""Operators of scikit-learn's pipelines, against ONNX's own reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from jitrt.graph import interpret
from tests.frontend.onnx.nodes import node

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
X[1, 2] = 0
LABELS = {"classlabels_ints": [7, -3, 12]}


def model(op: str, x: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    outputs = 1 + (op == "LinearClassifier")
    return node(op, [x], outputs=outputs, opset=21, domain="ai.onnx.ml", version=3, **attributes)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Scaler", {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.0]}),
        ("Scaler", {"offset": [1.0], "scale": [0.5]}),
        ("Binarizer", {"threshold": 0.25}),
        ("Imputer", {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": 0.0}),
        ("Imputer", {"imputed_value_floats": [5.0], "replaced_value_float": float("nan")}),
        ("Normalizer", {"norm": "L1"}),
        ("Normalizer", {"norm": "L2"}),
        ("Normalizer", {"norm": "MAX"}),
        ("LinearRegressor", {"coefficients": [1.0, 2.0, 3.0, -1.0, 0.5, 0.25], "intercepts": [0.5, 1.0], "targets": 2}),
        ("LinearClassifier", LABELS | {"coefficients": list(np.linspace(-1, 1, 9)), "intercepts": [0.1, 0.2, 0.3]}),
        (
            "LinearClassifier",
            LABELS
            | {"coefficients": list(np.linspace(1, -2, 9)), "intercepts": [0.0] * 3, "post_transform": "SOFTMAX"},
        ),
        (
            "LinearClassifier",
            {
                "classlabels_ints": [0, 4],
                "coefficients": [1.0, -1.0, 2.0],
                "intercepts": [0.1],
                "post_transform": "LOGISTIC",
            },
        ),
    ],
)
def test_it_agrees_with_the_reference(op: str, attributes: dict[str, Any]) -> None:
    x = X.copy()
    if np.isnan(attributes.get("replaced_value_float", 0)):
        x[0, 0] = np.nan
    proto = model(op, x, **attributes)
    wanted = ReferenceEvaluator(proto).run(None, {"x0": x})
    got = interpret(import_onnx(proto).graph, [x])
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("Scaler", {"offset": [1.0, 2.0], "scale": [0.5]}, "offset has 2 numbers"),
        ("Normalizer", {"norm": "L7"}, "norm='L7', expected MAX, L1 or L2"),
        ("LinearRegressor", {"coefficients": [1.0]}, "1 coefficients for x"),
        ("LinearRegressor", {"coefficients": [1.0] * 3, "post_transform": "PROBIT"}, "post_transform='PROBIT'"),
        ("LinearClassifier", {"classlabels_strings": ["a", "b"], "coefficients": [1.0] * 3}, "labels that are text"),
        ("ZipMap", {"classlabels_int64s": [0, 1, 2]}, r"export with options=\{'zipmap': False\}"),
    ],
)
def test_what_it_refuses(op: str, attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        import_onnx(model(op, X, **attributes))


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_rows_of_any_type_are_normalised_to_float32(dtype: Any) -> None:
    x = np.array([[3, -4], [0, 0]], dtype)
    proto = model("Normalizer", x, norm="L2")
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    (y,) = interpret(import_onnx(proto).graph, [x])
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [[0.6, -0.8], [0, 0]], rtol=1e-6)
