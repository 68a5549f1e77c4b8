from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f32, interpret, verify
from jitrt.graph.ops import Conv, ConvTranspose, Relu
from jitrt.passes import PassContext
from jitrt.passes.pipeline import optimize
from jitrt.passes.untranspose import untranspose


def net(op, shape=(2, 6, 5, 4), weights=(6, 2, 3, 2), live=False):
    graph = Graph("net")
    rng = np.random.default_rng(0)
    x = graph.add_input("x", TensorType(f32, shape))
    if live:
        w = graph.add_input("w", TensorType(f32, weights))
    else:
        w = graph.add_constant(rng.standard_normal(weights).astype(np.float32), "up.weight")
    graph.mark_output(graph.add(Relu(), graph.add(op, x, w, loc="model.py:3")))
    return graph


@pytest.mark.parametrize(
    "op",
    [
        ConvTranspose((1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1)),
        ConvTranspose((1, 1), ((2, 0), (0, 1)), (0, 0), (1, 1), 2),
        ConvTranspose((1, 1), ((1, 1), (0, 2)), (1, 2), (2, 3), 6),
    ],
)
def test_it_becomes_a_convolution_that_means_the_same(op):
    graph = net(op)
    x = np.random.default_rng(1).standard_normal((2, 6, 5, 4)).astype(np.float32)
    (before,) = interpret(graph, [x], exact=True)
    context = PassContext()
    untranspose(graph, context)
    verify(graph)
    assert [type(node.op) for node in graph.nodes] == [Conv, Relu]
    np.testing.assert_allclose(interpret(graph, [x], exact=True)[0], before, rtol=1e-12, atol=1e-12)
    assert [(d.applied, d.location) for d in context.report] == [(True, "model.py:3")]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (net(ConvTranspose((1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1)), live=True), "its weights are no constant"),
        (net(ConvTranspose((1, 1), ((3, 0), (0, 0)), (0, 0), (1, 1))), "it cuts off more than its filters reach"),
        (
            net(ConvTranspose((1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1)), shape=(2, 6, 1, 4)),
            "each output pixel has one tap, a convolution would multiply padding with the others",
        ),
    ],
)
def test_refusals(graph, reason):
    context = PassContext()
    untranspose(graph, context)
    assert isinstance(graph.nodes[0].op, ConvTranspose)
    assert [d.text for d in context.report] == [f"conv_transpose of stride 1 stays: {reason}"]


def test_other_strides_are_none_of_its_business():
    graph, context = net(ConvTranspose((1, 2), ((0, 0), (0, 0)), (0, 0), (1, 1))), PassContext()
    untranspose(graph, context)
    assert isinstance(graph.nodes[0].op, ConvTranspose)
    assert not list(context.report)


def test_it_is_in_the_pipeline():
    optimized = optimize(net(ConvTranspose((1, 1), ((0, 0), (0, 0)), (0, 0), (1, 1))))
    assert [type(node.op) for node in optimized.nodes[0].op.body.nodes] == [Conv, Relu]
