from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, Value, f32
from jitrt.graph.ops import (
    Add,
    Concat,
    Conv,
    ConvTranspose,
    Expand,
    LayerNorm,
    Linear,
    Matmul,
    MaxPool,
    Mul,
    Permute,
    ReduceMean,
    Relu,
    Reshape,
    Slice,
    Softmax,
)
from jitrt.graph.types import Layout, channels_last, row_major
from jitrt.passes.layout import layout

NHWC = channels_last((2, 4, 5, 6))
NCHW = row_major((2, 4, 5, 6))


class _Net:
    def __init__(self, *shapes: tuple[int, ...], declared: Layout | None = None):
        self.graph = Graph("net")
        self.inputs = [self.graph.add_input(f"x{i}", TensorType(f32, s, declared)) for i, s in enumerate(shapes)]

    def __call__(self, op, *operands, name=None) -> Value:
        return self.graph.add(op, *operands, name=name)

    def constant(self, *shape) -> Value:
        return self.graph.add_constant(np.ones(shape, np.float32))

    def conv(self, x: Value, name=None) -> Value:
        channels = x.type.shape[1]
        dims = x.type.rank - 2
        op = Conv((1,) * dims, ((1, 1),) * dims, (1,) * dims)
        return self(op, x, self.constant(channels, channels, *((3,) * dims)), name=name)


def _named(graph: Graph) -> dict[str, Value]:
    return {v.name: v for v in graph.values()}


def test_what_a_convolution_writes_is_channels_last_and_so_is_what_follows(apply):
    net = _Net((2, 4, 5, 6))
    y = net(Relu(), net.conv(net.inputs[0], name="conv"), name="relu")
    pooled = net(MaxPool((2, 2), (1, 1), (0, 0)), y, name="pool")
    net.graph.mark_output(net(ReduceMean((2,), False), pooled))
    values = _named(apply(layout, net.graph).graph)
    assert values["x0"].type.strides == NCHW
    assert values["conv"].type.strides == values["relu"].type.strides == NHWC
    assert values["pool"].type.strides == channels_last((2, 4, 4, 5))
    (weight,) = (v for v in values.values() if v.is_constant)
    assert weight.type.strides == channels_last((4, 4, 3, 3))
    assert all(v.type.layout is not None for v in values.values())


def test_the_weights_of_a_transposed_convolution_have_their_channels_innermost(apply):
    net = _Net((2, 4, 5, 6))
    op = ConvTranspose((2, 2), ((0, 0), (0, 0)), (0, 0), (1, 1))
    net.graph.mark_output(net(Relu(), net(op, net.inputs[0], net.constant(4, 3, 2, 2), name="up")))
    values = _named(apply(layout, net.graph).graph)
    assert values["up"].type.strides == channels_last((2, 3, 10, 12))
    (weight,) = (v for v in values.values() if v.is_constant)
    assert weight.type.strides == (1, 16, 8, 4)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 3, 3, 3)])
def test_other_ranks_too(apply, shape):
    net = _Net(shape)
    net.graph.mark_output(net(Relu(), net.conv(net.inputs[0], name="conv")))
    assert _named(apply(layout, net.graph).graph)["conv"].type.strides == channels_last(shape)


def test_a_reduction_keeps_the_order_of_what_is_left(apply):
    net = _Net((2, 4, 5, 6))
    net(ReduceMean((2,), False), net.conv(net.inputs[0]), name="mean")
    net.graph.mark_output(net(Relu(), net.graph.nodes[-1].output))
    assert _named(apply(layout, net.graph).graph)["mean"].type.strides == channels_last((2, 4, 6))


def test_outputs_are_row_major_or_as_declared(apply):
    net = _Net((2, 4, 5, 6))
    y = net.conv(net.inputs[0])
    net.graph.mark_output(y)
    assert apply(layout, net.graph).graph.outputs[0].type.strides == NCHW
    y.type = y.type.with_layout(Layout(NHWC))
    assert apply(layout, net.graph).graph.outputs[0].type.strides == NHWC


def test_inputs_keep_their_declared_layout(apply):
    net = _Net((2, 4, 5, 6), declared=Layout(NHWC))
    net.graph.mark_output(net(Relu(), net(Relu(), net.inputs[0], name="y")))
    values = _named(apply(layout, net.graph).graph)
    assert values["x0"].type.strides == values["y"].type.strides == NHWC


def test_what_is_first_written_for_a_convolution_is_turned_around_there(apply):
    net = _Net((2, 4, 5, 6))
    scaled = net(Mul(), net.inputs[0], net.constant(4, 1, 1), name="scaled")
    other = net(Relu(), net.inputs[0], name="other")
    net.graph.mark_output(net(Relu(), net.conv(scaled)), net(Relu(), other))
    values = _named(apply(layout, net.graph).graph)
    assert values["scaled"].type.strides == NHWC
    assert values["other"].type.strides == NCHW


def test_elementwise_follows_its_largest_operand(apply):
    net = _Net((2, 4, 5, 6), (2, 4, 1, 1))
    y = net.conv(net.inputs[0])
    gate = net(Relu(), net.inputs[1])
    net.graph.mark_output(net(Relu(), net(Mul(), gate, y, name="scaled")))
    assert _named(apply(layout, net.graph).graph)["scaled"].type.strides == NHWC


def test_convnext_needs_no_copy(apply):
    net = _Net((2, 4, 5, 6))
    x = net.conv(net.inputs[0])
    last = net(Permute((0, 2, 3, 1)), net.conv(x))
    normal = net(LayerNorm(1), last, net.constant(4), net.constant(4), name="normal")
    mixed = net(Linear(), normal, net.constant(4, 4))
    back = net(Permute((0, 3, 1, 2)), mixed, name="back")
    net.graph.mark_output(net(Relu(), net(Add(), back, x, name="sum")))
    outcome = apply(layout, net.graph)
    values = _named(outcome.graph)
    assert not outcome.refused
    assert values["normal"].type.strides == row_major((2, 5, 6, 4))
    assert values["back"].type.strides == values["sum"].type.strides == NHWC
    assert len(outcome.graph.nodes) == len(net.graph.nodes)


def test_views_of_views_lie_in_the_root(apply):
    net = _Net((2, 6))
    y = net(Relu(), net.inputs[0], name="root")
    a = net(Reshape((2, 2, 3)), y, name="a")
    b = net(Slice((0, 1, 0), (2, 2, 3), (1, 1, 2)), a, name="b")
    c = net(Expand((4, 2, 1, 2)), b, name="c")
    net.graph.mark_output(net(Relu(), c), net(Relu(), y))
    values = _named(apply(layout, net.graph).graph)
    assert values["a"].type.layout == Layout((6, 3, 1), 0, "root")
    assert values["b"].type.layout == Layout((6, 3, 2), 3, "root")
    assert values["c"].type.layout == Layout((0, 6, 3, 2), 3, "root")


def _heads(net: _Net) -> tuple[Value, Value]:
    """Attention's way back: (b, heads, s, d) -> permute -> (b, s, heads * d)."""
    product = net(Matmul(), net.inputs[0], net.inputs[1], name="product")
    return product, net(Reshape((2, 5, 12)), net(Permute((0, 2, 1, 3)), product))


def test_a_value_is_written_in_the_order_its_reshape_needs(apply):
    net = _Net((2, 3, 5, 5), (2, 3, 5, 4))
    _, merged = _heads(net)
    net.graph.mark_output(net(Softmax(1), merged))
    outcome = apply(layout, net.graph)
    assert outcome.done == ["its input is written in the order this reshape needs: no copy"]
    assert _named(outcome.graph)["product"].type.strides == (60, 4, 12, 1)
    assert not any(node.op.name == "contiguous" for node in outcome.graph.nodes)


def test_a_value_others_read_too_is_copied_for_its_reshape(apply):
    net = _Net((2, 3, 5, 5), (2, 3, 5, 4))
    product, merged = _heads(net)
    net.graph.mark_output(net(Softmax(1), merged), net(Relu(), product))
    outcome = apply(layout, net.graph)
    assert outcome.refused == ["a copy before reshape: %product has other readers, which want it as it is"]
    (copy,) = (node for node in outcome.graph.nodes if node.op.name == "contiguous")
    assert copy.output.type.strides == row_major((2, 5, 3, 4))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda net: net.inputs[0], "%x0 is an input of the graph"),
        (
            lambda net: net(Slice((0, 0, 0), (2, 4, 4), (1, 1, 1)), net(Relu(), net.inputs[0], name="y")),
            "it shows part of %y through slice",
        ),
    ],
)
def test_a_reshape_that_needs_a_copy_says_why(apply, make, reason):
    net = _Net((2, 4, 6))
    moved = net(Permute((0, 2, 1)), make(net))
    net.graph.mark_output(net(Relu(), net(Reshape((2, moved.type.numel // 2)), moved)))
    assert apply(layout, net.graph).refused == [f"a copy before reshape: {reason}"]


def test_an_output_that_is_a_view_is_written_directly(apply):
    net = _Net((2, 4, 5, 6))
    y = net(MaxPool((5, 6), (1, 1), (0, 0)), net.inputs[0], name="pool")
    net.graph.mark_output(net(Reshape((2, 4)), y, name="flat"))
    outcome = apply(layout, net.graph)
    values = _named(outcome.graph)
    assert values["flat"].type.layout == Layout((4, 1))
    assert values["pool"].type.layout.storage == "flat"
    assert outcome.done == ["the output reshape is written directly by what computes it"]


def test_an_output_that_is_a_view_of_what_others_read_is_copied(apply):
    net = _Net((2, 4))
    y = net(Relu(), net.inputs[0])
    net.graph.mark_output(net(Permute((1, 0)), y, name="turned"), net(Softmax(1), y))
    outcome = apply(layout, net.graph)
    assert outcome.refused[0].startswith("a copy of the output permute: %0 has other readers")
    assert outcome.graph.outputs[0].name == "turned"
    assert outcome.graph.outputs[0].type.layout == Layout((2, 1))


def test_an_output_that_is_an_input_or_a_constant_is_copied(apply):
    net = _Net((2, 3))
    net.graph.mark_output(net.inputs[0], net.constant(3))
    outcome = apply(layout, net.graph)
    assert [node.op.name for node in outcome.graph.nodes] == ["contiguous", "contiguous"]
    assert outcome.refused == [
        "a copy of an output: it is an input of the graph",
        "a copy of an output: it is a constant of the graph",
    ]


def test_a_view_of_a_constant_is_a_constant_of_the_same_bytes(apply):
    net = _Net((300, 400))
    wide = net(Expand((300, 400)), net.constant(400))
    net.graph.mark_output(net(Matmul(), net.inputs[0], net(Permute((1, 0)), wide)))
    graph = apply(layout, net.graph).graph
    assert [node.op.name for node in graph.nodes] == ["matmul"]
    weight = graph.nodes[0].inputs[1]
    assert weight.is_constant
    assert weight.type.layout == Layout((1, 0))


def test_a_concat_follows_its_operands(apply):
    net = _Net((2, 4, 5, 6))
    both = net(Concat(1), net.conv(net.inputs[0]), net.inputs[0], name="both")
    net.graph.mark_output(net(Relu(), both))
    assert _named(apply(layout, net.graph).graph)["both"].type.strides == channels_last((2, 8, 5, 6))


def test_an_empty_batch(apply):
    net = _Net((0, 4, 5, 6))
    y = net(Permute((0, 2, 3, 1)), net.conv(net.inputs[0]))
    net.graph.mark_output(net(Relu(), net(Reshape((0, 120)), y)))
    assert not apply(layout, net.graph).refused
