"""Trees of ai.onnx.ml against ONNX's reference, or a walk in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from jitrt.errors import UnsupportedOpError
from jitrt.frontend.onnx import import_onnx
from jitrt.graph import Graph, interpret
from jitrt.testing import plan_interpreted
from tests.frontend.onnx.graphs import near
from tests.frontend.onnx.nodes import node

X = np.random.default_rng(0).integers(-3, 4, (9, 4)).astype(np.float32)
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def model(op: str, outputs: int = 1, version: int = 3, **attributes: Any) -> onnx.ModelProto:
    return node(op, [X], outputs=outputs, opset=20, domain="ai.onnx.ml", version=version, **attributes)


def load(op: str, outputs: int = 1, version: int = 3, **attributes: Any) -> Graph:
    return import_onnx(model(op, outputs, version, **attributes)).graph


def forest(prefix: str, targets: int, modes: list[str], positive: bool = False) -> dict[str, Any]:
    """Three trees of different depths; every leaf has a weight for every target."""
    rng = np.random.default_rng(1)
    nodes: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "featureids", "values", "modes")}
    nodes |= {"truenodeids": [], "falsenodeids": []}
    weights: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    for tree, depth in enumerate((0, 2, 3)):
        for position in range(2 ** (depth + 1) - 1):
            inner = position < 2**depth - 1
            row = (tree, position, int(rng.integers(4)) if inner else 0, float(rng.integers(-3, 4)))
            row += (
                str(rng.choice(modes)) if inner else "LEAF",
                2 * position + 1 if inner else 0,
                2 * position + 2 if inner else 0,
            )
            for key, value in zip(nodes, row, strict=True):
                nodes[key].append(value)
            for target in range(0 if inner else targets):
                number = float(rng.uniform(0, 0.3) if positive else rng.standard_normal())
                for key, value in zip(weights, (tree, position, target, number), strict=True):
                    weights[key].append(value)
    found = {f"nodes_{key}": values for key, values in nodes.items()}
    return found | {f"{prefix}_{key}": values for key, values in weights.items()}


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("modes", [["BRANCH_LEQ"], MODES], ids=["one comparison", "all"])
def test_regressor(how: str, modes: list[str]) -> None:
    options = forest("target", 2, modes) | {"n_targets": 2, "aggregate_function": how, "base_values": [0.5, 1.5]}
    want = ReferenceEvaluator(model("TreeEnsembleRegressor", **options)).run(None, {"x0": X})
    near(interpret(load("TreeEnsembleRegressor", **options), [X]), want, 1e-5)


@pytest.mark.parametrize("after", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_classifier(after: str) -> None:
    options = forest("class", 3, MODES) | {"classlabels_int64s": [7, 5, 9], "post_transform": after}
    labels, scores = interpret(load("TreeEnsembleClassifier", 2, **options), [X])
    want = ReferenceEvaluator(model("TreeEnsembleClassifier", 2, **options)).run(None, {"x0": X})
    near([scores], [want[1]], 1e-5)
    np.testing.assert_array_equal(labels, want[0])


@pytest.mark.parametrize("positive", [False, True])
def test_two_classes_with_one_score(positive: bool) -> None:
    """As ONNX Runtime has it; ONNX's reference has no labels for it."""
    options = forest("class", 1, MODES, positive)
    plain = {key.replace("class", "target"): value for key, value in options.items()}
    (score,) = ReferenceEvaluator(model("TreeEnsembleRegressor", n_targets=1, **plain)).run(None, {"x0": X})
    graph = load("TreeEnsembleClassifier", 2, classlabels_int64s=[3, 4], post_transform="LOGISTIC", **options)
    labels, scores = interpret(graph, [X])
    both = np.concatenate([1 - score, score], 1) if positive else 1 / (1 + np.exp(-np.concatenate([-score, score], 1)))
    near([scores], [both.astype(np.float32)], 1e-5)
    np.testing.assert_array_equal(labels, np.where(score[:, 0] > (0.5 if positive else 0), 4, 3))


def ensemble(**other: Any) -> dict[str, Any]:
    """One tree: is x0 <= 1? then is x1 in {0, 2}? else leaf 2; and a tree of one leaf."""

    def tensor(kind: int, numbers: Any) -> Any:
        return helper.make_tensor("t", kind, [len(numbers)], numbers)

    number = onnx.TensorProto.FLOAT
    return {
        "tree_roots": [0, 2],
        "nodes_featureids": [0, 1, 0],
        "nodes_splits": tensor(number, [1.0, 0.0, 0.0]),
        "nodes_modes": tensor(onnx.TensorProto.UINT8, [0, 6, 0]),
        "membership_values": tensor(number, [0.0, 2.0, np.nan]),
        "nodes_truenodeids": [1, 0, 3],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [2, 1, 3],
        "nodes_falseleafs": [1, 1, 1],
        "leaf_targetids": [0, 1, 0, 1],
        "leaf_weights": tensor(number, [1.0, 2.0, 4.0, 8.0]),
        "n_targets": 2,
    } | other


def test_the_new_form() -> None:
    x = X.copy()
    x[0, 0] = np.nan
    first = np.where(x[:, 0] <= 1, np.where(np.isin(x[:, 1], [0, 2]), 0, 1), 2)
    want = np.array([[1, 8], [0, 10], [4, 8]], np.float32)[first]
    graph = load("TreeEnsemble", version=5, **ensemble())
    near(interpret(graph, [x]), [want], 0)
    near(plan_interpreted(graph).run([x]), [want], 0)
    want[0] = [1, 8] if x[0, 1] in (0, 2) else [0, 10]
    graph = load("TreeEnsemble", version=5, **ensemble(nodes_missing_value_tracks_true=[1, 0, 0]))
    near(interpret(graph, [x]), [want], 0)
    lowest = np.array([[1, 8], [0, 2], [4, 8]], np.float32)[first[1:]]
    near([interpret(load("TreeEnsemble", version=5, **ensemble(aggregate_function=2)), [x])[0][1:]], [lowest], 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nodes_truenodeids": [0, 0, 3]}, "more than 64 levels, or nodes in a circle"),
        ({"nodes_truenodeids": [9, 0, 3]}, "it refers to nodes that it does not have"),
        ({"nodes_featureids": [0, 4, 0]}, "it asks for features that x, .*, does not have"),
        ({"nodes_featureids": [0]}, "the tables of its nodes differ in length"),
        ({"nodes_falseleafs": [1]}, "tables of its nodes that differ in length"),
        ({"leaf_targetids": [0, 1, 0, 2]}, "weights for 2 targets that do not fit them"),
        ({"membership_values": helper.make_tensor("t", 1, [0], [])}, "0 sets of members for 1 nodes"),
        ({"post_transform": 4}, "post_transform='PROBIT'"),
        ({"aggregate_function": 5}, "aggregate_function=5"),
    ],
)
def test_refusals(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        load("TreeEnsemble", version=5, **ensemble(**changes))


def test_refusals_of_the_old_form() -> None:
    options = forest("target", 1, MODES)
    cases = [
        ({"aggregate_function": "MEDIAN"}, "aggregate_function='MEDIAN'"),
        ({"base_values": [1.0, 2.0]}, "2 base values for 1 results"),
        ({"nodes_modes": ["LEAF"]}, "nodes of the modes"),
        ({"nodes_truenodeids": [1]}, "tables of its nodes that differ in length"),
        ({"target_nodeids": [99] * len(options["target_ids"])}, "weights of nodes that it does not have"),
    ]
    for changes, reason in cases:
        with pytest.raises(UnsupportedOpError, match=reason):
            load("TreeEnsembleRegressor", n_targets=1, **(options | changes))
    with pytest.raises(UnsupportedOpError, match="labels that are text"):
        load("TreeEnsembleClassifier", 2, classlabels_strings=["a", "b"], **forest("class", 2, MODES))
