"""scikit-learn's pipelines through skl2onnx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import jitrt.onnx
from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from tests.frameworks.common import agrees, operators

pytestmark = pytest.mark.slow


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32)[:400], y[:400]


@pytest.mark.filterwarnings("ignore:.*Maximum iterations.*")
def test_a_scaler_and_an_mlp(package: Callable[..., Any], tmp_path: Any) -> None:
    skl2onnx = package("skl2onnx", "sklearn")
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = digits()
    model = make_pipeline(StandardScaler(), MLPClassifier((32, 16), max_iter=20, random_state=0)).fit(x, y)
    proto = skl2onnx.to_onnx(model, x[:1], options={id(model): {"zipmap": False}})
    assert {"ai.onnx.ml::Scaler", "ai.onnx.ml::ArrayFeatureExtractor"} <= operators(proto)
    agrees(proto, {"X": x[:50]}, [model.predict(x[:50]), model.predict_proba(x[:50])])

    onnx.save(proto, tmp_path / "mlp.onnx")
    session = jitrt.onnx.InferenceSession(tmp_path / "mlp.onnx", providers=["CPUExecutionProvider"])
    assert [(port.name, port.shape) for port in session.get_inputs()] == [("X", [None, 64])]
    labels, _ = session.run(None, {"X": x[:7]})  # another batch size than above
    np.testing.assert_array_equal(labels, model.predict(x[:7]))

    with pytest.raises(UnsupportedOpError, match="zipmap"):  # a list of dictionaries is no tensor
        import_onnx(skl2onnx.to_onnx(model, x[:1]), shapes={"X": (4, 64)})


@pytest.mark.filterwarnings("ignore:.*Maximum iterations.*")
def test_two_classes_a_regression_and_linear_models(package: Callable[..., Any]) -> None:
    skl2onnx = package("skl2onnx", "sklearn")
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler

    x, y = digits()
    two = np.where(y > 4, 7, 3)  # labels that are no positions
    classifiers = [
        make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=20, random_state=0)).fit(x, two),
        make_pipeline(Normalizer(), LogisticRegression(max_iter=50)).fit(x, y),
    ]
    for model in classifiers:
        proto = skl2onnx.to_onnx(model, x[:1], options={id(model): {"zipmap": False}})
        agrees(proto, {"X": x[:30]}, [model.predict(x[:30]), model.predict_proba(x[:30])])
    regressors = [
        make_pipeline(MinMaxScaler(), MLPRegressor(hidden_layer_sizes=(16,), max_iter=20, random_state=0)).fit(x, y),
        make_pipeline(StandardScaler(), LinearRegression()).fit(x, y),
    ]
    for model in regressors:
        agrees(skl2onnx.to_onnx(model, x[:1]), {"X": x[:30]}, [model.predict(x[:30])[:, None]])
