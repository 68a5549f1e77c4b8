from __future__ import annotations

import pytest

from jitrt.graph import DType, Graph, TensorType, Value, f16, f32
from jitrt.graph.ops import Add, Concat, Conv, Linear, MaxPool, Mul, Region, Relu, Sigmoid, Slice, Softmax
from jitrt.graph.types import Layout
from jitrt.passes import Verdict, judged
from jitrt.passes.eliminate_concat import eliminate_concat
from jitrt.passes.fuse_horizontal import FuseHorizontal
from jitrt.passes.storage import storage_of
from tests.passes.nets import Net

fuse_horizontal = judged(FuseHorizontal())


class _Net(Net):
    def __init__(self, channels: int = 3, dtype: DType = f32):
        super().__init__(2, channels, 6, 6, dtype=dtype)

    def run(self, apply, *outputs: Value, then=(), **context):
        outcome = apply(fuse_horizontal, self.fused(*outputs), **context)
        for step in then:
            outcome = apply(step, outcome.graph)
        return outcome, {v.name: v for v in outcome.graph.values()}


def kernels(graph: Graph) -> list[str]:
    return [
        "+".join(n.op.name for n in node.op.body.nodes) + str(node.output.type.shape[1])
        for node in graph.nodes
        if isinstance(node.op, Region)
    ]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_siblings_become_one(apply, count):
    net = _Net()
    siblings = [net.conv(net.x, 2 + i, name=f"s{i}") for i in range(count)]
    outcome, values = net.run(apply, *(net(Softmax(1), s) for s in siblings))
    wide = sum(range(2, 2 + count))
    assert kernels(outcome.graph)[0] == f"conv+add+relu{wide}"
    assert len(kernels(outcome.graph)) == 1 + count
    start = 0
    for i in range(count):
        view = values[f"s{i}"]
        assert isinstance(view.producer.op, Slice)
        assert view.type.layout == Layout((36 * wide, 1, 6 * wide, wide), start, storage_of(view))
        start += 2 + i
    assert outcome.done == [f"{count} sibling convolutions in one wide kernel: {count} kernels become 1 (not measured)"]


def test_linears_with_and_without_a_per_channel_scale(apply):
    net = _Net()
    x = net.graph.add_input("rows", TensorType(f32, (4, 8)))

    def head(width):
        y = net(Linear(), x, net.weight(width, 8))
        return net(Softmax(1), net(Mul(), y, net.weight(width)))

    outcome, _ = net.run(apply, head(3), head(6), net(Relu(), net.x))
    assert kernels(outcome.graph)[0] == "linear+mul9"


def test_a_sibling_at_the_edge_of_a_concat_lies_there_already(apply):
    """GoogLeNet's module: nothing is copied, and the wide kernel writes across the concat's edge."""
    net = _Net()
    one, reduce3, reduce5 = net.conv(net.x, 4, name="one"), net.conv(net.x, 2, name="r3"), net.conv(net.x, 3, name="r5")
    three, five = net.conv(reduce3, 5, 3, name="three"), net.conv(reduce5, 6, 5, name="five")
    joined = net(Concat(1), one, three, five, name="joined")
    outcome, values = net.run(apply, net(Softmax(1), joined), then=(eliminate_concat,))
    assert kernels(outcome.graph) == ["conv+add+relu9", "conv+add+relu5", "conv+add+relu6", "softmax15"]
    whole = storage_of(values["joined"])
    row = 2 + 3 + 4 + 5 + 6
    offsets = {"r3": 0, "r5": 2, "joined": 5, "three": 9, "five": 14}
    for name, offset in offsets.items():
        assert values[name].type.layout == Layout((36 * row, 1, 6 * row, row), offset, whole)


def test_one_in_the_middle_of_a_concat_stays_apart(apply):
    net = _Net()
    a, b, c = (net.conv(net.x, n, name=f"s{n}") for n in (2, 3, 4))
    joined = net(Concat(1), net(MaxPool((1, 1), (1, 1), (0, 0)), net.x), a)
    outcome, _ = net.run(apply, *(net(Softmax(1), v) for v in (joined, b, c)))
    assert "conv+add+relu7" in kernels(outcome.graph)
    assert "not merged with its siblings: its result goes into a concat, and not as the first of its operands" in (
        outcome.refused
    )


def test_an_output_stays_apart(apply):
    net = _Net()
    a, b = net.conv(net.x, 2), net.conv(net.x, 3)
    outcome, _ = net.run(apply, a, net(Softmax(1), b))
    assert "not merged with its siblings: its result is an output of the graph" in outcome.refused
    assert len(kernels(outcome.graph)) == 3


@pytest.mark.parametrize("other", [{"size": 3}, {"stride": 2}], ids=str)
def test_siblings_that_differ_are_not_merged(apply, other):
    net = _Net()
    a, b = net.conv(net.x, 2), net.conv(net.x, 2, **other)
    outcome, _ = net.run(apply, net(Softmax(1), a), net(Sigmoid(), net(Softmax(1), b)))
    assert outcome.done == []


def test_epilogues_that_differ_are_not_merged(apply):
    net = _Net()
    a, b = net.conv(net.x, 2), net(Sigmoid(), net.conv(net.x, 2, relu=False))
    outcome, _ = net.run(apply, net(Softmax(1), a), net(Softmax(1), b))
    assert outcome.done == []
    assert "2 kinds of siblings are not merged: their epilogues differ" in outcome.refused


def bare(net: _Net, filters: int) -> Value:
    return net(Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1), net.x, net.weight(filters, 3, 1, 1))


@pytest.mark.parametrize("dtype", [f32, f16])
def test_a_bias_and_a_relu_that_some_lack(apply, dtype):
    """Inception-v3: what is pooled after the convolution is bounded after that."""
    net = _Net(dtype=dtype)
    siblings = [net.conv(net.x, 2), bare(net, 3), net.conv(net.x, 4, relu=False), net(Relu(), bare(net, 5))]
    outcome, _ = net.run(apply, *(net(Softmax(1), s) for s in siblings))
    assert kernels(outcome.graph)[0] == "conv+add+maximum14"
    assert len(kernels(outcome.graph)) == 5


def test_nobody_is_bounded_where_none_was(apply):
    net = _Net()
    outcome, _ = net.run(apply, net(Softmax(1), net.conv(net.x, 2, relu=False)), net(Softmax(1), bare(net, 3)))
    assert kernels(outcome.graph) == ["conv+add5", "softmax2", "softmax3"]


def test_a_bias_that_is_no_constant_of_the_channels_keeps_a_sibling_apart(apply):
    net = _Net()
    a, b = net.conv(net.x, 2), net(Add(), bare(net, 2), net.weight(1, 6))
    outcome, _ = net.run(apply, net(Softmax(1), a), net(Softmax(1), b))
    assert outcome.done == []


def test_linears_of_which_one_has_no_bias(apply):
    """Whisper's keys."""
    net = _Net()
    x = net.graph.add_input("rows", TensorType(f32, (4, 8)))
    heads = [net.linear(x, 3), net(Linear(), x, net.weight(5, 8)), net.linear(x, 3)]
    outcome, _ = net.run(apply, *(net(Softmax(1), head) for head in heads), net(Relu(), net.x))
    assert kernels(outcome.graph)[0] == "linear+add11"


def test_a_residual_keeps_a_sibling_apart(apply):
    """What it adds lies elsewhere, channel by channel."""
    net = _Net()
    a, b = net.conv(net.x, 3), net.conv(net.x, 3)
    outcome, _ = net.run(apply, net(Softmax(1), net(Add(), a, net.x)), net(Softmax(1), b))
    assert outcome.done == []


def test_the_judge_has_the_last_word(apply):
    net = _Net()
    a, b = net.conv(net.x, 2), net.conv(net.x, 3)
    seen = []

    def slower(proposals):
        seen.extend(proposals)
        return [Verdict(-1.0, "9.0 us instead of 8.0") for _ in proposals]

    outcome, _ = net.run(apply, net(Softmax(1), a), net(Softmax(1), b), judge=slower)
    assert outcome.refused[-1] == "not done: 2 sibling convolutions in one wide kernel: 9.0 us instead of 8.0"
    assert len(kernels(outcome.graph)) == 4
    (proposal,) = seen
    assert [kernels(g) for g in (proposal.before, proposal.after)] == [
        ["conv+add+relu2", "conv+add+relu3"],
        ["conv+add+relu5"],
    ]


def test_siblings_that_add_what_they_read_stay_apart(apply):
    """Their input would have to be as wide as their results together."""
    net = _Net()
    a, b = (net(Add(), net.conv(net.x, 3, relu=False), net.x) for _ in range(2))
    outcome, _ = net.run(apply, net(Softmax(1), a), net(Softmax(1), b))
    assert outcome.done == []
    assert kernels(outcome.graph) == ["conv+add+add3", "conv+add+add3", "softmax3", "softmax3"]


@pytest.mark.parametrize("what", ["an output", "part of another"])
def test_a_concat_that_has_its_place_already_keeps_its_operand_apart(apply, what):
    net = _Net()
    a, b, c = (net.conv(net.x, n, name=f"s{n}") for n in (2, 3, 4))
    joined = net(Concat(1), a, net.pool(net.x))
    outputs = [joined] if what == "an output" else [net(Softmax(1), net(Concat(1), net.pool(net.x), joined))]
    outcome, _ = net.run(apply, *outputs, net(Softmax(1), b), net(Softmax(1), c))
    reason = "not merged with its siblings: the concat it goes into is an output, or part of another concat"
    assert reason in outcome.refused
    assert "conv+add+relu7" in kernels(outcome.graph)


def test_a_reader_without_a_kernel_for_the_strides_keeps_a_sibling_apart(apply):
    def dense_only(body: Graph) -> str | None:
        if body.nodes[0].op.name == "softmax" and not body.inputs[0].type.is_dense:
            return "it reads dense tensors only"
        return None

    net = _Net()
    a, b = net.conv(net.x, 2), net.conv(net.x, 3)
    outcome, _ = net.run(apply, net(Softmax(1), a), net(Softmax(1), b), accepts=dense_only)
    assert outcome.done == []
    assert "not merged with its siblings: no kernel could read it there: it reads dense tensors only" in outcome.refused
