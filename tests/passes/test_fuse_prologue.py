"""Prologue fusion: what the graph becomes, that it means the same, and where it does not happen."""

from __future__ import annotations

from typing import Any

import pytest

from jitrt.graph import DType, Layout, TensorType, Value, f16, f32, parse
from jitrt.graph.ops import Add, Concat, Linear, Mul, ReduceMean, Region, Relu, Sigmoid, Slice
from jitrt.graph.text import to_text
from jitrt.graph.types import channels_last
from jitrt.kernels.base import accepts
from jitrt.passes import PassContext
from jitrt.passes.pipeline import optimize
from tests.passes import nets

Outcome = tuple[list[str], list[str], list[str]]


class Net(nets.Net):
    """A channels-last image on its way through 1x1 convolutions."""

    def __init__(self, dtype: DType = f32):
        shape = (2, 8, 6, 6)
        super().__init__(*shape, dtype=dtype, declared=Layout(channels_last(shape)))

    def conv(self, x: Value, filters: int = 8, size: int = 1, *, relu: bool = False, **options: Any) -> Value:
        return super().conv(x, filters, size, relu=relu, **options)

    def norm(self, x: Value) -> Value:
        """relu(x * scale + shift), by the channel."""
        scale, shift = self.weight(x.type.shape[1], 1, 1), self.weight(x.type.shape[1], 1, 1)
        return self(Relu(), self(Add(), self(Mul(), x, scale), shift))

    def optimized(self, *outputs: Value, signed: str = "fuse_prologue", **options: Any) -> Outcome:
        return super().optimized(*outputs, signed=signed, **options)


NORM = "mul + add + relu"


def test_a_dense_layer_normalises_on_the_way_into_its_convolution() -> None:
    """DenseNet: the input is a slice of the concat that grows from layer to layer."""
    net = Net()
    features = net.pool(net.x)
    for _ in range(2):
        narrow = net(Relu(), net.conv(net.norm(features), 12))
        features = net(Concat(1), features, net.conv(narrow, 4, 3))
    kernels, done, refused = net.optimized(net(ReduceMean((2, 3)), features))
    layer = ["mul+add+relu+cast+conv+add+relu", "conv+add"]
    assert kernels == ["max_pool", *layer, *layer, "reduce_mean"]
    assert done == [f"{NORM} computed on the way into conv + add + relu: faster"] * 2
    assert not refused


def test_the_region_there_is_then() -> None:
    net = Net()
    net.graph.mark_output(net.conv(net.norm(net.x)))
    (region,) = optimize(net.graph, PassContext(accepts=accepts, judge=nets.verdict(True))).nodes
    x, vector = "f32[2,8,6,6]{288,1,48,8}", "f32[8,1,1]{1,1,1}"
    conv = "stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, tf32=False"
    expected = f"""
        graph region(%i0: {x}, %i1: {vector}, %i2: {vector}, %i3: f32[8,8,1,1]{{8,1,8,8}}, %i4: {vector}) {{
          %0 = mul(%i0, %i1) : {x}
          %1 = add(%0, %i2) : {x}
          %2 = relu(%1) : {x}
          %3 = cast(%2) <dtype='f32'> : {x}
          %4 = conv(%3, %i3) <{conv}> : {x}
          %5 = add(%4, %i4) : f32[2,8,6,6]{{288,36,6,1}}
          return %5
        }}"""
    assert isinstance(region.op, Region)
    assert to_text(region.op.body, locations=False) == to_text(parse(expected), locations=False)


@pytest.mark.parametrize("dtype", [f32, f16], ids=str)
def test_squeeze_and_excite_scales_on_the_way_into_its_convolution(dtype: DType) -> None:
    net = Net(dtype=dtype)
    x = net(Relu(), net.conv(net.x, 8, 3, groups=8))
    gate = net(Sigmoid(), net.conv(net(Relu(), net.conv(net(ReduceMean((2, 3), True), x), 4)), 8))
    kernels, done, _ = net.optimized(net(Add(), net.conv(net(Mul(), gate, x), 8), net.x))
    squeeze = ["reduce_mean+conv+add+relu", "conv+add+sigmoid"]
    assert kernels == ["conv+add+relu", *squeeze, "mul+cast+conv+add+add"]
    assert done == ["mul computed on the way into conv + add + add: faster"]


def test_an_activation_of_the_gate_comes_along() -> None:
    net = Net()
    gate = net(Sigmoid(), net.graph.add_input("gate", TensorType(f32, (2, 8, 1, 1))))
    assert net.optimized(net.conv(net(Mul(), net.x, gate)))[0] == ["sigmoid+mul+cast+conv+add"]


def test_before_a_linear_layer() -> None:
    net = Net()
    tokens = net.graph.add_input("tokens", TensorType(f32, (2, 5, 8)))
    scaled = net(Mul(), tokens, net.graph.add_input("gate", TensorType(f32, (2, 1, 8))))
    assert net.optimized(net(Linear(), scaled, net.weight(3, 8)))[0] == ["mul+cast+linear"]


def test_the_result_keeps_its_name_and_the_line_of_the_convolution() -> None:
    net = Net()
    y = net.conv(net.norm(net.x))
    anchor = y.producer.inputs[0].producer  # type: ignore[union-attr]
    net.graph.rename(y, "answer")
    net.graph.mark_output(y)
    last = optimize(net.graph, PassContext(accepts=accepts)).nodes[-1]
    assert (last.output.name, last.loc) == ("answer", anchor.loc)  # type: ignore[union-attr]


def test_it_stays_two_kernels_where_one_is_slower() -> None:
    net = Net()
    kernels, _, refused = net.optimized(net.conv(net.norm(net.x)), faster=False)
    assert kernels == ["mul+add+relu", "conv+add"]
    assert refused == [f"not done: {NORM} computed on the way into conv + add: slower"]


def test_a_norm_of_few_pixels_must_be_measured() -> None:
    net = Net()
    kernels, _, refused = net.optimized(net.conv(net.norm(net.x)), faster=None)
    assert kernels == ["mul+add+relu", "conv+add"]
    assert refused[0].endswith("2 kernels become 1 (not measured), and of 72 pixels two were faster")
    shape = (1, 8, 65, 65)
    large = nets.Net(*shape, dtype=f32, declared=Layout(channels_last(shape)))
    y = large(Relu(), large(Add(), large(Mul(), large.x, large.weight(8, 1, 1)), large.weight(8, 1, 1)))
    kernels, _, _ = large.optimized(large.conv(y, 8, 1), faster=None, signed="fuse_prologue")
    assert len(kernels) == 1


def test_a_scale_need_not_be() -> None:
    net = Net()
    kernels, done, _ = net.optimized(net.conv(net(Mul(), net.x, net.weight(2, 8, 1, 1))), faster=None)
    assert len(kernels) == len(done) == 1


def _refusal(net: Net, *outputs: Value) -> str:
    kernels, done, refused = net.optimized(*outputs)
    assert not done and any(k.endswith("relu") and not k.startswith("conv") for k in kernels)
    assert all(text.startswith(f"{NORM} not computed on the way into ") for text in refused)
    return refused[0].partition(": ")[2]


def test_what_several_read_is_computed_once() -> None:
    """A residual network with its norms before its convolutions."""
    net = Net()
    y = net.norm(net.x)
    reason = _refusal(net, net(ReduceMean((2, 3)), net.conv(y)), net(ReduceMean((2, 3)), y))
    assert reason == "its result is read by 1 more"


def test_a_residual_that_the_convolution_reads_too_is_computed_once() -> None:
    net = Net()
    y = net.norm(net.x)
    assert _refusal(net, net(Add(), net.conv(y), y)).startswith("what is before the convolution is read after it too")


def test_an_output_of_the_graph_is_needed_in_memory() -> None:
    net = Net()
    y = net.norm(net.x)
    assert _refusal(net, net.conv(y), y) == "its result is an output of the graph"


def test_what_is_read_through_a_view_stays() -> None:
    net = Net()
    y = net(Slice((0, 2, 0, 0), (2, 8, 6, 6), (1, 1, 1, 1)), net.norm(net.x))
    assert _refusal(net, net.conv(y)) == "its result is read through a slice"


def test_every_tap_of_a_larger_filter_would_compute_it_again() -> None:
    net = Net()
    assert "a 3x3 convolution would compute" in _refusal(net, net.conv(net.norm(net.x), 8, 3))


def test_a_strided_convolution_reads_part_of_it() -> None:
    net = Net()
    assert "with a stride" in _refusal(net, net.conv(net.norm(net.x), 8, stride=2))


def test_groups_have_a_kernel_of_their_own() -> None:
    net = Net()
    assert "grouped" in _refusal(net, net.conv(net.norm(net.x), 8, groups=2))


def test_a_pool_is_no_product() -> None:
    net = Net()
    kernels, done, refused = net.optimized(net.pool(net.norm(net.x)))
    assert kernels == ["mul+add+relu", "max_pool"] and not done and not refused
