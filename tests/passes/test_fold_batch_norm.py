from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f16, f32, interpret, verify
from jitrt.graph.ops import Add, BatchNorm, Conv, ConvTranspose, Div, Linear, Matmul, Mul, Relu, Sub
from jitrt.passes import PassContext
from jitrt.passes.fold_batch_norm import fold_batch_norm

_RNG = np.random.default_rng(5)


class _Net:
    """A graph of one input, a layer and what follows it."""

    def __init__(self, layer: str = "conv", dtype=f32, groups: int = 1):
        self.graph = Graph("net")
        self.dtype = dtype
        shape = (2, 4, 3, 3) if layer == "conv" else (2, 4)
        self.x = self.graph.add_input("x", TensorType(dtype, shape))
        weight = {"conv": (4, 4 // groups, 3, 3), "linear": (4, 4), "matmul": (4, 4)}[layer]
        op = {"conv": Conv((1, 1), ((1, 1), (1, 1)), (1, 1), groups), "linear": Linear(), "matmul": Matmul()}[layer]
        self.channel = (4, 1, 1) if layer == "conv" else (4,)
        self.weight = self.constant(*weight, name="layer.weight")
        self.y = self.graph.add(op, self.x, self.weight, loc="model.py:7")

    def constant(self, *shape, name=None):
        return self.graph.add_constant(_RNG.uniform(0.5, 1.5, shape).astype(self.dtype.numpy), name)

    def then(self, op, *operands):
        self.y = self.graph.add(op, self.y, *operands, loc="model.py:8")
        return self

    def norm(self):
        return self.then(BatchNorm(), *(self.constant(4) for _ in range(4)))

    def fold(self, *outputs):
        """(ops left, report) after the pass; the answers must agree."""
        self.graph.mark_output(*(outputs or (self.y,)))
        before = self.graph.clone()
        context = PassContext(pass_name="fold_batch_norm")
        fold_batch_norm(self.graph, context)
        verify(self.graph)
        inputs = [_RNG.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in before.inputs]
        tolerance = 1e-5 if self.dtype == f32 else 2e-2
        for a, b in zip(interpret(self.graph, inputs, exact=True), interpret(before, inputs, exact=True)):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        return [node.op.name for node in self.graph.nodes], context.report


@pytest.mark.parametrize("layer", ["conv", "linear", "matmul"])
def test_folds_into_the_layer_before(layer):
    ops, report = _Net(layer).norm().fold()
    assert ops == [layer, "add"]
    (decision,) = report
    assert decision.applied
    assert decision.location == "model.py:7"
    assert decision.text == f"batch_norm folded into the weights of {layer}"


def test_folds_through_a_bias_and_everything_affine_after():
    net = _Net()
    net.then(Add(), net.constant(*net.channel)).norm()
    net.then(Mul(), net.constant(*net.channel)).then(Sub(), net.constant()).then(Div(), net.constant(1, *net.channel))
    net.y = net.graph.add(Sub(), net.constant(*net.channel), net.y)
    ops, _ = net.then(Relu()).fold()
    assert ops == ["conv", "add", "relu"]


def test_a_scale_alone_needs_no_add():
    net = _Net("linear")
    ops, _ = net.then(Mul(), net.constant(4)).fold()
    assert ops == ["linear"]


def test_grouped_convolutions_and_16_bit_weights():
    assert _Net(groups=4).norm().fold()[0] == ["conv", "add"]
    assert _Net(dtype=f16).norm().fold()[0] == ["conv", "add"]


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_transposed_convolutions(groups):
    graph = Graph("net")
    rng = np.random.default_rng(0)
    x = graph.add_input("x", TensorType(f32, (2, 6, 4)))
    w = graph.add_constant(rng.uniform(0.5, 1.5, (6, 12 // groups, 3)).astype(np.float32))
    y = graph.add(ConvTranspose((2,), ((1, 1),), (1,), (1,), groups), x, w)
    statistics = (graph.add_constant(rng.uniform(0.5, 1.5, 12).astype(np.float32)) for _ in range(4))
    graph.mark_output(graph.add(BatchNorm(), y, *statistics))
    image = rng.standard_normal((2, 6, 4)).astype(np.float32)
    (before,) = interpret(graph, [image], exact=True)
    fold_batch_norm(graph, PassContext())
    assert [node.op.name for node in graph.nodes] == ["conv_transpose", "add"]
    np.testing.assert_allclose(interpret(graph, [image], exact=True)[0], before, rtol=1e-5, atol=1e-5)


def test_a_bias_alone_is_left_alone():
    net = _Net()
    ops, report = net.then(Add(), net.constant(*net.channel)).fold()
    assert ops == ["conv", "add"]
    assert not list(report)


def test_weights_that_others_use_are_copied():
    net = _Net("linear")
    other = net.graph.add(Linear(), net.x, net.weight)
    net.norm()
    ops, _ = net.fold(net.y, other)
    assert sorted(ops) == ["add", "linear", "linear"]
    assert len([v for v in net.graph.constants.values() if v.type.rank == 2]) == 2


def test_refused_when_the_layer_has_other_readers():
    net = _Net()
    raw = net.y
    net.norm()
    ops, report = net.fold(net.y, raw)
    assert ops == ["conv", "mul", "add"]
    (decision,) = report
    assert not decision.applied
    assert decision.text == (
        "batch_norm not folded, computed as multiply and add: conv has other readers, or is an output"
    )


def test_refused_when_the_weights_are_no_constant():
    net = _Net()
    weight = net.graph.add_input("w", net.weight.type)
    net.graph.replace_uses(net.weight, weight)
    ops, report = net.norm().fold()
    assert ops == ["conv", "mul", "add"]
    assert report.decisions[0].text.endswith("the weights of conv are no constant")


def test_refused_without_a_layer_before():
    net = _Net()
    net.y = net.x
    ops, report = net.norm().fold()
    assert ops == ["conv", "mul", "add"]  # the convolution is dead and goes with the next pass
    assert report.decisions[0].text.endswith("it reads an input of the graph")

    net = _Net()
    _, report = net.then(Relu()).norm().fold()
    assert report.decisions[0].text.endswith("it follows relu, which has no weights")


def test_refused_when_the_weights_would_overflow():
    net = _Net("linear", dtype=f16)
    ops, report = net.then(Mul(), net.graph.add_constant(np.full(4, 6e4, np.float16))).fold()
    assert ops == ["linear", "mul"]
    assert [d.text for d in report] == ["mul not folded: the weights of linear would overflow"]


def test_refused_along_another_dimension():
    graph = Graph("net")
    x = graph.add_input("x", TensorType(f32, (2, 3, 4)))
    y = graph.add(Linear(), x, graph.add_constant(np.ones((4, 4), np.float32)))
    y = graph.add(BatchNorm(), y, *(graph.add_constant(np.ones(3, np.float32)) for _ in range(4)))
    graph.mark_output(y)
    context = PassContext()
    fold_batch_norm(graph, context)
    assert [node.op.name for node in graph.nodes] == ["linear", "mul", "add"]
    assert context.report.decisions[0].text.endswith("its channels are not the filters of linear")


def test_statistics_that_are_no_constants_are_computed():
    graph = Graph("net")
    x = graph.add_input("x", TensorType(f32, (2, 4, 3, 3)))
    statistics = [graph.add_input(f"s{i}", TensorType(f32, (4,))) for i in range(4)]
    graph.mark_output(graph.add(BatchNorm(), x, *statistics))
    inputs = [_RNG.uniform(0.5, 1.5, v.type.shape).astype(np.float32) for v in graph.inputs]
    expected = interpret(graph, inputs)
    context = PassContext()
    fold_batch_norm(graph, context)
    verify(graph)
    assert not any(isinstance(node.op, BatchNorm) for node in graph.nodes)
    assert context.report.decisions[0].text.endswith("its statistics are no constants")
    np.testing.assert_allclose(interpret(graph, inputs)[0], expected[0], rtol=1e-5, atol=1e-6)
