"""Decision trees: every row walks down all of them at once, a level a step, by looking up its nodes in tables."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.arithmetic import choose
from jitrt.frontend.layers.index import take
from jitrt.graph import DType, Value
from jitrt.graph import ops as g
from jitrt.graph.op import Array, Op

LEQ, LT, GTE, GT, EQ, NEQ, MEMBER, LEAF = range(8)
_COMPARED: dict[int, type[Op]] = {
    LEQ: g.LessEqual,
    LT: g.Less,
    GTE: g.GreaterEqual,
    GT: g.Greater,
    EQ: g.Equal,
    NEQ: g.NotEqual,
}
DEEPEST = 64  # levels: each is a dozen nodes


@dataclass(frozen=True)
class Trees:
    """Nodes of all trees, in arrays of one length: the comparison (one of the above), the feature and the number it
    compares, the nodes it leads to (a leaf to itself), and whether NaN counts as true. `roots` has a node a tree;
    `members` what each node's feature may be among, NaN filling up, for MEMBER (nodes, most)."""

    mode: Array
    feature: Array
    split: Array
    yes: Array
    no: Array
    nan_is_true: Array
    roots: Array
    members: Array

    def depth(self) -> int:
        """Levels until every row is at a leaf. Raises ValueError for nodes that are none, in a circle, or too deep."""
        count = len(self.mode)
        nodes = np.concatenate([self.roots, self.yes, self.no])
        if not all(len(part) == count for part in (self.feature, self.split, self.yes, self.no, self.nan_is_true)):
            raise ValueError("the tables of its nodes differ in length")
        if count == 0 or nodes.min() < 0 or nodes.max() >= count:
            raise ValueError("it refers to nodes that it does not have")
        here = np.unique(self.roots)
        for level in itertools.count():
            here = here[self.mode[here] != LEAF]
            if not here.size:
                return level
            if level == DEEPEST:
                raise ValueError(f"more than {DEEPEST} levels, or nodes in a circle")
            here = np.unique(np.concatenate([self.yes[here], self.no[here]]))
        raise AssertionError  # it returned or raised


def leaves(b: Builder, x: Value, trees: Trees) -> Value:
    """The leaf (its node) that each row of x (rows, features) comes to in every tree: (rows, trees) of i64.

    Raises ValueError as `Trees.depth`.
    """
    rows, count = x.type.shape[0], len(trees.roots)
    depth = trees.depth()
    inner = trees.mode != LEAF
    if inner.any() and not 0 <= trees.feature[inner].min() <= trees.feature[inner].max() < x.type.shape[1]:
        raise ValueError(f"it asks for features that x, {x.type}, does not have")
    b.claim(rows, count)
    node = b.constant(np.broadcast_to(trees.roots.astype(np.int64), (rows, count)).copy())
    children = b.constant(np.stack([trees.no, trees.yes], 1).astype(np.int64).reshape(-1))
    for _ in range(depth):
        answer = b.operand(_answer(b, x, node, trees), DType.i64)
        twice = b.add(g.Add(), node, node)
        node = take(b, children, b.add(g.Add(), twice, answer), 0)
    return node


def _answer(b: Builder, x: Value, node: Value, trees: Trees) -> Value:
    """Whether the comparison at each node holds."""

    def table(array: Array, dtype: DType) -> Value:
        return take(b, b.constant(array, dtype), node, 0)

    value = b.add(g.Gather(1), x, table(np.where(trees.mode == LEAF, 0, trees.feature), DType.i64))
    split = table(trees.split, x.type.dtype)
    kinds = [int(kind) for kind in np.unique(trees.mode) if kind != LEAF]
    holds: Value | None = None
    for kind in kinds:
        if kind == MEMBER:
            which = b.reshape(value, (*value.type.shape, 1))
            same = b.operand(b.add(g.Equal(), which, table(trees.members, x.type.dtype)), DType.i32)
            one = b.operand(b.add(g.ReduceMax((2,)), same), DType.b8)
        else:
            one = b.add(_COMPARED[kind](), value, split)
        if len(kinds) > 1:
            one = b.add(g.LogicalAnd(), one, table(trees.mode == kind, DType.b8))
        holds = one if holds is None else b.add(g.LogicalOr(), holds, one)
    assert holds is not None  # there is a level, so there is a node that is no leaf
    if trees.nan_is_true.any() or NEQ in kinds:
        missing = b.add(g.NotEqual(), value, value)
        holds = b.add(g.Where(), missing, table(trees.nan_is_true != 0, DType.b8), holds)
    return holds


def together(b: Builder, leaf: Value, weights: Array, given: Array, how: str, dtype: DType) -> Value:
    """(rows, targets): the weights (nodes, targets) of the leaves of all trees, added up, or their AVERAGE, MIN or MAX.
    `given` says which targets a node has a weight for; a target that no leaf has one for is 0."""
    if how in ("SUM", "AVERAGE"):
        found = take(b, b.constant(np.where(given, weights, 0), dtype), leaf, 0)  # (rows, trees, targets)
        total = b.add(g.ReduceSum((1,)), found)
        trees = b.graph.scalar(leaf.type.shape[1], dtype)
        return total if how == "SUM" else b.add(g.Div(), total, trees)
    never = np.inf if how == "MIN" else -np.inf
    found = take(b, b.constant(np.where(given, weights, never), dtype), leaf, 0)
    best = b.add((g.ReduceMin if how == "MIN" else g.ReduceMax)((1,)), found)
    none = b.add(g.Equal(), best, b.graph.scalar(never, dtype))
    return choose(b, none, 0, best, dtype)
