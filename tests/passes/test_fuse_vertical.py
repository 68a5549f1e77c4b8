from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jitrt.graph import Graph, TensorType, Value, f16, f32, interpret
from jitrt.graph.op import Trait
from jitrt.graph.ops import (
    Add,
    Cast,
    Linear,
    Mul,
    Neg,
    Permute,
    Region,
    Relu,
    Sigmoid,
    Slice,
    Softmax,
)
from jitrt.kernels.base import accepts
from jitrt.passes import PassContext, one_anchor
from jitrt.passes.fuse_vertical import fuse_vertical
from jitrt.passes.layout import layout


class _Net:
    def __init__(self, dtype=f32):
        self.graph = Graph("net")
        self.dtype = dtype
        self.x = self.graph.add_input("x", TensorType(dtype, (2, 4)))

    def __call__(self, op, *operands, name=None) -> Value:
        return self.graph.add(op, *operands, name=name, loc=f"model.py:{len(self.graph.nodes)}")

    def linear(self, x, name=None):
        return self(Linear(), x, self.graph.add_constant(np.ones((4, 4), self.dtype.numpy)), name=name)

    def fuse(self, *outputs: Value, accepts: Callable[[Graph], str | None] = one_anchor):
        """([ops of each node left], decisions done, decisions not done)."""
        self.graph.mark_output(*outputs)
        before = self.graph.clone()
        layout(self.graph, PassContext())
        context = PassContext(accepts=accepts, pass_name="fuse_vertical")
        fuse_vertical(self.graph, context)
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in before.inputs]
        for a, b in zip(interpret(self.graph, inputs, exact=True), interpret(before, inputs, exact=True)):
            np.testing.assert_allclose(a, b, rtol=1e-5)
        kernels = [
            "+".join(n.op.name for n in node.op.body.nodes) if isinstance(node.op, Region) else node.op.name
            for node in self.graph.nodes
        ]
        report = context.report
        return kernels, [d.text for d in report if d.applied], [d.text for d in report if not d.applied]


def test_bias_scale_residual_and_activation_join_their_anchor():
    net = _Net()
    y = net(Add(), net.linear(net.x), net.graph.add_constant(np.ones(4, np.float32)))
    y = net(Mul(), y, net.graph.scalar(2.0, f32))
    y = net(Relu(), net(Add(), net.x, y))
    kernels, done, refused = net.fuse(y)
    assert kernels == ["linear+add+mul+add+relu"]
    assert done == ["linear + add + mul + add + relu in one kernel"]
    assert not refused


def test_what_ends_at_another_anchor_says_so():
    net = _Net()
    kernels, _, refused = net.fuse(net(Softmax(1), net(Relu(), net.linear(net.x))))
    assert kernels == ["linear+relu", "softmax"]
    assert refused == ["fusion ends before softmax: a kernel has one anchor"]


def test_branches_that_join_again_come_along():
    net = _Net()
    y = net.linear(net.x)
    silu = net(Mul(), y, net(Sigmoid(), y))
    assert net.fuse(net(Relu(), silu))[0] == ["linear+sigmoid+mul+relu"]


def test_an_add_of_two_anchors_goes_to_the_later():
    net = _Net()
    a, b = net.linear(net.x), net.linear(net.x)
    kernels, _, refused = net.fuse(net(Relu(), net(Add(), a, b)))
    assert kernels == ["linear", "linear+add+relu"]
    assert refused == ["add runs in the kernel of the later linear"]


def test_two_anchors_never_share_a_kernel():
    net = _Net()
    assert net.fuse(net.linear(net(Relu(), net.linear(net.x))))[0] == ["linear+relu", "linear"]


def test_fusion_ends_where_others_read_the_result():
    net = _Net()
    y = net(Relu(), net.linear(net.x))
    kernels, _, refused = net.fuse(net(Add(), net.linear(y), y), net(Neg(), y))
    assert kernels[0] == "linear+relu"
    assert "fusion ends at relu: its result is read by add, linear, neg" in refused


def test_fusion_ends_at_an_output():
    net = _Net()
    y = net.linear(net.x)
    kernels, _, refused = net.fuse(y, net(Relu(), y))
    assert kernels == ["linear", "relu"]
    assert refused == ["fusion ends at linear: its result is an output of the graph"]


def test_what_lies_between_branches_may_not_be_an_output():
    net = _Net()
    y = net.linear(net.x)
    gate = net(Sigmoid(), y)
    kernels, _, refused = net.fuse(net(Mul(), y, gate), gate)
    assert kernels == ["linear", "sigmoid", "mul"]
    assert refused == ["fusion ends at linear: its result is read by mul, sigmoid"]


def test_an_epilogue_does_not_change_the_shape():
    net = _Net()
    wide = net.graph.add_input("wide", TensorType(f32, (3, 2, 4)))
    kernels, _, refused = net.fuse(net(Add(), net.linear(net.x), wide))
    assert kernels == ["linear", "add"]
    assert refused == ["add broadcasts the result to a larger shape"]


def test_a_kernel_that_refuses_stops_the_growth_and_says_why():
    def no_sigmoid(body: Graph) -> str | None:
        return "no sigmoid here" if any(n.op.name == "sigmoid" for n in body.nodes) else one_anchor(body)

    net = _Net()
    kernels, _, refused = net.fuse(net(Sigmoid(), net(Relu(), net.linear(net.x))), accepts=no_sigmoid)
    assert kernels == ["linear+relu", "sigmoid"]
    assert refused == ["sigmoid not fused with linear: no sigmoid here"]


def test_a_prologue_is_what_only_this_anchor_reads():
    net = _Net()
    gated = net(Mul(), net.x, net(Sigmoid(), net.x))
    kernels, done, _ = net.fuse(net(Relu(), net(Softmax(1), gated)))
    assert kernels == ["sigmoid+mul+softmax+relu"]
    assert done == ["sigmoid + mul + softmax + relu in one kernel"]


def test_a_prologue_comes_whole_or_not_at_all():
    def casts_only(body: Graph) -> str | None:
        return "mul cannot run first" if body.nodes[0].op.name in ("mul", "sigmoid") else one_anchor(body)

    net = _Net()
    gated = net(Relu(), net(Mul(), net.x, net(Sigmoid(), net.x)))
    kernels, _, refused = net.fuse(net(Softmax(1), gated), accepts=casts_only)
    assert kernels == ["sigmoid", "mul", "relu", "softmax"]
    assert refused == ["sigmoid + mul + relu not fused with softmax: mul cannot run first"]


def test_what_a_product_would_compute_again_and_again_is_left_to_a_rule():
    net = _Net()
    y = net.linear(net(Relu(), net.x))
    assert net.fuse(net(Add(), y, net(Neg(), net.x)))[0] == ["relu", "linear+neg+add"]


def test_what_feeds_two_anchors_is_no_prologue():
    net = _Net()
    y = net(Relu(), net.x)
    assert net.fuse(net.linear(y), net.linear(y))[0] == ["relu", "linear", "linear"]


def test_a_residual_computed_for_this_region_alone_comes_along():
    net = _Net()
    y = net(Add(), net.linear(net.x), net(Neg(), net.x))
    assert net.fuse(y)[0] == ["linear+neg+add"]


def _cast_for_two(accepts=one_anchor, also: bool = False):
    net = _Net(f16)
    net.graph.inputs[0].type = TensorType(f32, (2, 4))
    half = net(Cast(f16), net.x)
    outputs = [net.linear(half), net.linear(half)]
    return net.fuse(*outputs, *([net(Neg(), half)] if also else []), accepts=accepts)


def test_a_cast_of_an_input_goes_into_all_its_readers():
    assert _cast_for_two()[0] == ["cast+linear", "cast+linear"]


def test_a_cast_of_an_input_that_some_reader_cannot_take_stays():
    def bare(body: Graph) -> str | None:
        return "runs alone" if len(body.nodes) > 1 else None

    kernels, _, refused = _cast_for_two(bare)
    assert kernels == ["cast", "linear", "linear"]
    assert refused == ["cast of an input with 2 readers stays a kernel: runs alone"]
    assert _cast_for_two(also=True)[0] == ["cast", "linear", "linear", "neg"]


def _rows_evenly_spaced(body: Graph) -> str | None:
    for node in body.nodes:
        if node.has(Trait.ANCHOR) and not node.inputs[0].type.is_dense:
            return "rows are not evenly spaced"
    return one_anchor(body)


def test_operands_are_copied_where_no_kernel_reads_them_as_they_lie():
    net = _Net()
    tokens = net.graph.add_input("tokens", TensorType(f32, (2, 5, 4)))
    rest = net(Slice((0, 1, 0), (2, 5, 4), (1, 1, 1)), tokens)
    kernels, _, refused = net.fuse(net.linear(rest), accepts=_rows_evenly_spaced)
    assert kernels == ["slice", "contiguous", "linear"]
    assert refused == ["a copy before linear: rows are not evenly spaced"]


def test_a_constant_is_stored_as_a_kernel_reads_it():
    """A transposed one that is an output too keeps its order in memory, in which its rows are not evenly spaced."""
    net = _Net()
    turned = net(Permute((0, 2, 1)), net.graph.add_constant(np.ones((2, 4, 5), np.float32)))
    y = net(Add(), net.linear(turned), net.graph.add_input("z", TensorType(f32, (2, 5, 4))))
    kernels, _, refused = net.fuse(y, turned, accepts=accepts)
    assert kernels == ["linear+add", "contiguous"]
    assert refused == []


def test_no_kernel_at_all_is_reported():
    net = _Net()
    kernels, _, refused = net.fuse(net(Softmax(1), net.x), accepts=lambda body: "nobody can")
    assert kernels == ["softmax"]
    assert refused == ["no kernel for softmax: nobody can"]


def test_a_view_between_stops_fusion():
    net = _Net()
    y = net(Permute((1, 0)), net.linear(net.x))
    assert net.fuse(net(Neg(), y))[0] == ["linear", "permute", "neg"]
