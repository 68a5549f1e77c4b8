"""Products with constant matrices."""

from __future__ import annotations

import numpy as np
import pytest

import jitrt
from jitrt.graph import Graph, TensorType, f32, f64, interpret
from jitrt.graph.ops import Add, Linear, Matmul, Relu
from jitrt.passes import PassContext
from jitrt.passes.apply_rules import unregister
from jitrt.passes.pipeline import optimize
from jitrt.passes.raise_linears import raise_linears


def product(dtype=f32, shape=(2, 3, 4), weights=(4, 5), *, turned=False, live=False):
    rng = np.random.default_rng(0)
    graph = Graph("product")
    x = graph.add_input("x", TensorType(dtype, shape))
    if live:
        w = graph.add_input("w", TensorType(dtype, weights))
    else:
        w = graph.add_constant(rng.standard_normal(weights).astype(dtype.numpy), "w")
    y = graph.add(Matmul(tf32=True), *((w, x) if turned else (x, w)), loc="model.py:4")
    graph.mark_output(graph.add(Relu(), y))
    return graph


def test_the_weights_are_turned_and_those_of_several_once():
    graph = product()
    w = graph.constants["w"]
    graph.mark_output(graph.add(Matmul(), graph.inputs[0], w))
    x = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    before = interpret(graph, [x])
    context = PassContext()
    raise_linears(graph, context)
    for after, wanted in zip(interpret(graph, [x]), before, strict=True):
        np.testing.assert_allclose(after, wanted, rtol=1e-6)
    assert [node.op for node in graph.nodes] == [Linear(tf32=True), Relu(), Linear()]
    assert graph.nodes[0].loc == "model.py:4"
    assert [v.type.shape for v in graph.constants.values()] == [(5, 4)]
    assert [d.text for d in context.report] == ["matmul by a constant is a linear layer"] * 2


@pytest.mark.parametrize(
    "graph",
    [
        product(live=True),
        product(shape=(3, 4), weights=(2, 4, 5)),  # a matrix for each of a batch
        product(shape=(5, 3), weights=(4, 5), turned=True),
    ],
)
def test_others_are_none_of_its_business(graph):
    context = PassContext()
    raise_linears(graph, context)
    assert isinstance(graph.nodes[0].op, Matmul)
    assert not list(context.report)


def test_refusals():
    graph, context = product(f64), PassContext()
    raise_linears(graph, context)
    assert [d.text for d in context.report] == ["not raised to linear: it has no f64 kernel"]
    jitrt.fusion_rule("mine", pattern=lambda g, x, w: g.matmul(x, w), rewrite=lambda g, x, w: g.matmul(x, w))
    try:
        graph, context = product(), PassContext()
        raise_linears(graph, context)
        assert [d.text for d in context.report] == ["not raised to linear: rule mine is written for it"]
    finally:
        unregister("mine")


def test_it_is_in_the_pipeline():
    graph = product()
    graph.mark_output(graph.add(Add(), graph.outputs.pop(), graph.scalar(1.0, f32)))
    assert [node.op.name for node in optimize(graph).nodes[0].op.body.nodes] == ["linear", "relu", "add"]
