from __future__ import annotations

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, Value, f32, interpret
from jitrt.graph.op import Op
from jitrt.graph.ops import Concat, Conv, Permute, Region, Relu, Reshape, Slice, Softmax
from jitrt.passes import PassContext, one_anchor, optimize
from jitrt.passes.pair_copies import pair_copies
from jitrt.passes.pipeline import PIPELINE
from jitrt.passes.storage import owns_storage


class Net:
    """ShuffleNet's unit on (2, 8, 3, 4)."""

    def __init__(self) -> None:
        self.graph, self.rng = Graph("net"), np.random.default_rng(0)
        self.x = self.conv(self.graph.add_input("x", TensorType(f32, (2, 8, 3, 4))), 8)

    def __call__(self, op: Op, *operands: Value, name: str | None = None) -> Value:
        return self.graph.add(op, *operands, name=name)

    def conv(self, x: Value, filters: int) -> Value:
        w = self.rng.standard_normal((filters, x.type.shape[1], 1, 1)).astype(np.float32)
        return self(Relu(), self(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, self.graph.add_constant(w)))

    def half(self, x: Value, number: int) -> Value:
        n, c, h, w = x.type.shape
        return self(Slice((0, number * c // 2, 0, 0), (n, (number + 1) * c // 2, h, w), (1, 1, 1, 1)), x)

    def shuffle(self, x: Value) -> Value:
        n, c, h, w = x.type.shape
        apart = self(Permute((0, 2, 1, 3, 4)), self(Reshape((n, 2, c // 2, h, w)), x))
        return self(Reshape((n, c, h, w)), apart)

    def unit(self, x: Value, *, swapped: bool = False) -> Value:
        halves = [self.half(x, 0), self.conv(self.half(x, 1), 4)]
        return self.shuffle(self(Concat(1), *(halves[::-1] if swapped else halves)))


BEFORE = tuple(step for step in PIPELINE if step.name != "pair_copies")


def kernels(graph: Graph) -> list[str]:
    """The ops of every region."""
    return ["+".join(n.op.name for n in node.op.body.nodes) for node in graph.nodes if isinstance(node.op, Region)]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_shuffle_copies_nothing(swapped: bool) -> None:
    net = Net()
    net.graph.mark_output(net.conv(net.unit(net.unit(net.x), swapped=swapped), 8))
    context = PassContext()
    optimized = optimize(net.graph, context)
    assert kernels(optimized) == ["conv+relu", *["conv+relu", "conv+relu+reshape+concat"][1:] * 2, "conv+relu"]
    done = [d.text for d in context.report.of("pair_copies")]
    assert done == ["the copy of a concat's operand is written together with the other half"] * 2
    pair = [n for n in optimized.nodes if isinstance(n.op, Region)][1]
    assert pair.output.type.shape == (2, 2, 4, 3, 4)
    assert owns_storage(pair.output)
    assert pair.output.type.strides == (96, 1, 2, 32, 8)
    x = np.random.default_rng(1).standard_normal((2, 8, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(interpret(optimized, [x])[0], interpret(net.graph, [x])[0], rtol=1e-5, atol=1e-5)


def test_before_it_there_were_copies() -> None:
    net = Net()
    net.graph.mark_output(net.conv(net.unit(net.x), 8))
    assert kernels(optimize(net.graph, passes=BEFORE)).count("contiguous") == 1


def test_a_kernel_that_takes_no_pair_keeps_the_copy() -> None:
    net = Net()
    net.graph.mark_output(net.conv(net.unit(net.x), 8))

    def accepts(body: Graph) -> str | None:
        return "no pairs today" if any(n.op.name == "concat" for n in body.nodes) else one_anchor(body)

    context = PassContext(accepts=accepts)
    optimized = optimize(net.graph, context)
    assert kernels(optimized).count("contiguous") == 1
    assert [d.text for d in context.report.of("pair_copies", False)] == [
        "the copy of an operand stays a kernel: no pairs today"
    ]


def plain(net: Net) -> Value:
    """Nothing is shuffled: both halves are runs of memory anyway."""
    return net(Concat(1), net.half(net.x, 0), net.conv(net.half(net.x, 1), 4))


def read(net: Net) -> Value:
    """What was computed is read elsewhere too."""
    other = net.conv(net.half(net.x, 1), 4)
    net.graph.mark_output(net(Softmax(1), other))
    return net.shuffle(net(Concat(1), net.half(net.x, 0), other))


def computed(net: Net) -> Value:
    """Both halves are computed, and written where they belong."""
    return net.shuffle(net(Concat(1), net.conv(net.half(net.x, 0), 4), net.conv(net.half(net.x, 1), 4)))


def three(net: Net) -> Value:
    """Groups of three."""
    parts = [net(Reshape((2, 1, 4, 3, 4)), v) for v in (net.half(net.x, 0), net.half(net.x, 1), net.conv(net.x, 4))]
    return net(Reshape((2, 12, 3, 4)), net(Permute((0, 2, 1, 3, 4)), net(Concat(1), *parts)))


@pytest.mark.parametrize("make", [plain, read, computed, three])
def test_what_is_no_pair_stays(make, apply) -> None:  # type: ignore[no-untyped-def]
    net = Net()
    net.graph.mark_output(net(Softmax(1), make(net)))
    assert len(apply(pair_copies, optimize(net.graph, passes=BEFORE)).report) == 0
