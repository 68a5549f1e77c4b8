"""What counts as a layer, and what does not."""

from __future__ import annotations

import numpy as np

from jitrt.graph import DType, Graph, TensorType, Value, f32
from jitrt.graph.layers import count_layers
from jitrt.graph.op import Op
from jitrt.graph.ops import (
    Add,
    BatchNorm,
    Cast,
    Concat,
    Contiguous,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    Permute,
    Relu,
    Reshape,
    Slice,
    Softmax,
)


class Net:
    def __init__(self) -> None:
        self.graph = Graph("net")
        self.x = self.graph.add_input("x", TensorType(f32, (1, 4, 6, 6)))

    def __call__(self, op: Op, *operands: Value) -> Value:
        return self.graph.add(op, *operands)

    def constant(self, *shape: int) -> Value:
        return self.graph.add_constant(np.ones(shape, np.float32))

    def conv(self, x: Value) -> Value:
        return self(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, self.constant(4, x.type.shape[1], 1, 1))


def test_a_classifier() -> None:
    """conv, batch norm, relu, pool, fully connected, softmax, as Caffe has them."""
    net = Net()
    y = net(Add(), net.conv(net.x), net.constant(4, 1, 1))
    y = net(Relu(), net(BatchNorm(), y, *(net.constant(4) for _ in range(4))))
    y = net(Dropout(), net(MaxPool((2, 2), (2, 2), (0, 0)), y))
    y = net(Linear(), net(Reshape((1, 36)), y), net.constant(10, 36))
    net.graph.mark_output(net(Softmax(1), net(Add(), y, net.constant(10))))
    layers = count_layers(net.graph)
    assert layers == dict.fromkeys(("conv", "batch_norm", "relu", "max_pool", "linear", "softmax"), 1)


def test_what_moves_or_renames_is_none() -> None:
    net = Net()
    y = net(Permute((0, 2, 3, 1)), net(Slice((0, 0, 0, 0), (1, 2, 6, 6), (1, 1, 1, 1)), net.x))
    net.graph.mark_output(net(Cast(DType.f16), net(Contiguous(), y)))
    assert not count_layers(net.graph)


def test_a_sum_of_activations_is_one_and_so_is_a_bias_that_is_not_a_layers_own() -> None:
    net = Net()
    y = net.conv(net.x)
    biased = net(Add(), y, net.constant(4, 1, 1))
    net.graph.mark_output(net(Add(), biased, y), net(Add(), net(Relu(), y), net.constant(4, 1, 1)))
    assert count_layers(net.graph) == {"conv": 1, "relu": 1, "add": 3}  # the first bias: its convolution is read twice


def test_nested_concats_are_one() -> None:
    net = Net()
    inner = net(Concat(1), net.conv(net.x), net.conv(net.x))
    net.graph.mark_output(net(Concat(1), inner, net.conv(net.x)))
    assert count_layers(net.graph) == {"conv": 3, "concat": 1}


def test_a_concat_that_others_read_too_or_along_another_axis_is_one_of_its_own() -> None:
    net = Net()
    read = net(Concat(1), net.x, net.x)
    other = net(Concat(2), net.x, net.x)
    net.graph.mark_output(net(Concat(1), read, net.x), net(Relu(), read), net(Concat(1), other, other), other)
    assert count_layers(net.graph) == {"concat": 4, "relu": 1}
