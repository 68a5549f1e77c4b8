"""Forests and boosted trees (domain ai.onnx.ml), in the old form and the new."""

from __future__ import annotations

from typing import Any

import numpy as np

from jitrt.frontend.layers.trees import EQ, GT, GTE, LEAF, LEQ, LT, MEMBER, NEQ, Trees, leaves, together
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.ops.ml import floats, labelled, labels_of, transformed
from jitrt.frontend.onnx.registry import ML, onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array

_MODES = {"BRANCH_LEQ": LEQ, "BRANCH_LT": LT, "BRANCH_GTE": GTE, "BRANCH_GT": GT, "BRANCH_EQ": EQ, "BRANCH_NEQ": NEQ}
_MODES["LEAF"] = LEAF
_HOW = ("AVERAGE", "SUM", "MIN", "MAX")
_AFTER = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _array(n: Call, name: str, dtype: Any = np.int64) -> Array:
    """An attribute, which may be a tensor under a longer name."""
    held = n.attribute(f"{name}_as_tensor")
    return np.asarray(n.attribute(name, []) if held is None else held).astype(dtype, copy=False).reshape(-1)


def _scored(n: Call, x: Value, trees: Trees, weights: Array, given: Array, how: str) -> Value:
    if x.type.rank != 2:
        n.refuse(f"of {x.type}, expected rows of features")
    if how not in _HOW:
        n.refuse(f"aggregate_function={how!r}")
    try:
        return together(n.b, leaves(n.b, x, trees), weights, given, how, x.type.dtype)
    except ValueError as error:
        n.refuse(str(error))


def _weights(n: Call, nodes: Array, targets: Array, numbers: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """The weight of every node for every target, and which of them are given."""
    n.claim(*shape)
    weights, given = np.zeros(shape), np.zeros(shape, bool)
    if not len(nodes) == len(targets) == len(numbers) or (
        len(targets) and not 0 <= min(targets) <= max(targets) < shape[1]
    ):
        n.refuse(f"weights for {shape[1]} targets that do not fit them")
    np.add.at(weights, (nodes, targets), numbers)
    given[nodes, targets] = True
    return weights, given


@onnx_op("TreeEnsemble", since=5, domain=ML)
def tree_ensemble(n: Call, x: Value) -> Value:
    """Inner nodes and leaves are counted apart; here leaves stand behind the nodes."""
    mode = _array(n, "nodes_modes")
    inner, numbers = len(mode), _array(n, "leaf_weights", np.float64)
    total = inner + len(numbers)

    def table(name: str, rest: Any, dtype: Any = np.int64) -> Array:
        own = _array(n, name, dtype)
        return np.concatenate([own if own.size else np.zeros(inner, dtype), np.full(len(numbers), rest, dtype)])

    def child(side: str) -> Array:
        to, leaf = _array(n, f"nodes_{side}nodeids"), _array(n, f"nodes_{side}leafs")
        if not len(to) == len(leaf) == inner:
            n.refuse("tables of its nodes that differ in length")
        return np.concatenate([to + inner * leaf, np.arange(inner, total)])

    trees = Trees(
        np.concatenate([mode, np.full(len(numbers), LEAF)]),
        table("nodes_featureids", 0),
        table("nodes_splits", 0, np.float64),
        child("true"),
        child("false"),
        table("nodes_missing_value_tracks_true", 0),
        _array(n, "tree_roots"),
        _members(n, mode, total),
    )
    targets = n.attribute("n_targets", 1)
    places = np.arange(inner, total)
    weights, given = _weights(n, places, _array(n, "leaf_targetids"), numbers, (total, targets))
    how, kind = n.attribute("aggregate_function", 1), n.attribute("post_transform", 0)
    if not (0 <= how < len(_HOW) and 0 <= kind < len(_AFTER)):
        n.refuse(f"aggregate_function={how} or post_transform={kind}")
    return transformed(n, _scored(n, x, trees, weights, given, _HOW[how]), _AFTER[kind])


def _members(n: Call, mode: Array, total: int) -> Array:
    """What each node's feature may be among, from one list with a NaN after each node's part."""
    numbers = _array(n, "membership_values", np.float64)
    ends = np.flatnonzero(np.isnan(numbers))
    asking = np.flatnonzero(mode == MEMBER)
    parts = np.split(numbers, ends + 1)[: min(len(ends), len(asking))]
    most = max((len(part) for part in parts), default=0)
    if len(parts) < len(asking):
        n.refuse(f"{len(parts)} sets of members for {len(asking)} nodes that ask for one")
    n.claim(total, most)
    members = np.full((total, most), np.nan)
    for node, part in zip(asking, parts, strict=True):
        members[node, : len(part)] = part
    return members


def _by_id(n: Call) -> tuple[Trees, dict[tuple[int, int], int]]:
    """The trees of the old form, whose nodes have an identity, (tree, node), and where each stands."""
    tree, number = _array(n, "nodes_treeids"), _array(n, "nodes_nodeids")
    names = n.attribute("nodes_modes", [])
    if not set(names) <= set(_MODES) or not len(names) == len(tree) == len(number):
        n.refuse(f"nodes of the modes {sorted(set(names))}")
    place = {key: i for i, key in enumerate(zip(tree.tolist(), number.tolist(), strict=True))}
    mode = np.array([_MODES[name] for name in names], np.int64)
    own = np.arange(len(mode))

    def child(name: str) -> Array:
        to = _array(n, name)
        if len(to) != len(mode):
            n.refuse("tables of its nodes that differ in length")
        found = [place.get((int(t), int(c)), -1) for t, c in zip(tree, to, strict=True)]
        return np.where(mode == LEAF, own, found)

    missing = _array(n, "nodes_missing_value_tracks_true")
    roots = np.array([int(np.flatnonzero(tree == each)[0]) for each in np.unique(tree)])
    split, nan = _array(n, "nodes_values", np.float64), missing if missing.size else np.zeros(len(mode), np.int64)
    yes, no, none = child("nodes_truenodeids"), child("nodes_falsenodeids"), np.zeros((len(mode), 0))
    return Trees(mode, _array(n, "nodes_featureids"), split, yes, no, nan, roots, none), place


def _old(n: Call, x: Value, prefix: str, targets: int, how: str) -> Value:
    """(rows, targets) of the old form, base values added, as float32 or float64."""
    trees, place = _by_id(n)
    ids = zip(_array(n, f"{prefix}_treeids").tolist(), _array(n, f"{prefix}_nodeids").tolist(), strict=False)
    nodes = np.array([place.get(key, -1) for key in ids], np.int64)
    if nodes.size and nodes.min() < 0:
        n.refuse("weights of nodes that it does not have")
    columns, numbers = _array(n, f"{prefix}_ids"), _array(n, f"{prefix}_weights", np.float64)
    if targets == 1:
        columns = np.zeros_like(columns)
    weights, given = _weights(n, nodes, columns, numbers, (len(trees.mode), targets))
    y = _scored(n, floats(n, x), trees, weights, given, how)
    base = _array(n, "base_values", np.float64)
    if base.size not in (0, targets):
        n.refuse(f"{base.size} base values for {targets} results")
    return n.add(g.Add(), y, n.constant(base, y.type.dtype)) if base.size else y


@onnx_op("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(n: Call, x: Value) -> Value:
    y = _old(n, x, "target", n.attribute("n_targets", 1), n.attribute("aggregate_function", "SUM"))
    return n.b.operand(transformed(n, y, n.attribute("post_transform", "NONE")), DType.f32)


@onnx_op("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(n: Call, x: Value) -> tuple[Value, Value]:
    """(labels, scores). Of two classes with weights for one alone the score of the other is what is left to 1, or, if
    some weights are negative, the negated one: as in ONNX Runtime."""
    labels, kind = labels_of(n, "classlabels_int64s"), n.attribute("post_transform", "NONE")
    single = len(labels) == 2 and len(set(_array(n, "class_ids").tolist())) == 1
    scores = _old(n, x, "class", 1 if single else len(labels), "SUM")
    dtype = scores.type.dtype
    if single and (_array(n, "class_weights", np.float64) >= 0).all():
        rest = n.add(g.Sub(), n.graph.scalar(1, dtype), scores)
        scores = decided = n.add(g.Concat(1), rest, scores)
    elif single:
        decided = n.add(g.Concat(1), n.add(g.Neg(), scores), scores)
        scores = transformed(n, decided, kind)
    else:
        decided = scores = transformed(n, scores, kind)
    return labelled(n, labels, decided), n.b.operand(scores, DType.f32)
