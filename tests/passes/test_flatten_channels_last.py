from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f32, interpret
from jitrt.graph.ops import Linear, MaxPool, Relu, Reshape
from jitrt.passes import optimize
from jitrt.passes.flatten_channels_last import flatten_channels_last


def _classifier(pool: bool = True, weight_constant: bool = True, size: int = 4) -> Graph:
    graph = Graph("classifier")
    x = graph.add_input("x", TensorType(f32, (2, 3, size, size)))
    image = graph.add(Relu(), graph.add(MaxPool((2, 2), (2, 2), (0, 0)), x)) if pool else graph.add(Relu(), x)
    columns = image.type.numel // 2
    data = np.random.default_rng(0).standard_normal((5, columns)).astype(np.float32)
    weight = graph.add_constant(data) if weight_constant else graph.add_input("w", TensorType(f32, data.shape))
    graph.mark_output(graph.add(Linear(), graph.add(Reshape((2, columns)), image), weight))
    return graph


def test_the_weights_columns_follow_the_image(apply):
    graph = _classifier()
    outcome = apply(flatten_channels_last, graph)
    assert [node.op.name for node in outcome.graph.nodes] == ["max_pool", "relu", "permute", "reshape", "linear"]
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(interpret(outcome.graph, [x])[0], interpret(graph, [x])[0], rtol=1e-5)
    assert len(outcome.done) == 1


def test_no_copy_is_left(apply):
    kernels = [n for n in optimize(_classifier()).nodes if n.op.name == "region"]
    assert len(kernels) == 2


@pytest.mark.parametrize(
    "graph", [_classifier(pool=False), _classifier(size=2)], ids=["an input is not channels-last", "one pixel"]
)
def test_nothing_to_do(apply, graph):
    assert len(apply(flatten_channels_last, graph).report) == 0


def test_weights_that_are_no_constant_are_refused(apply):
    outcome = apply(flatten_channels_last, _classifier(weight_constant=False))
    assert outcome.refused == ["flatten before linear is in channel order: the weights are no constant"]
