"""Average pools and 1x1 convolutions that change places."""

from __future__ import annotations

import pytest

from jitrt.graph import Graph, TensorType, Value, f32
from jitrt.graph.ops import AvgPool, Conv, MaxPool, Mul, Relu
from jitrt.passes.reorder_pools import reorder_pools
from tests.passes.nets import Net

BRANCH = """
    graph g(%x: f32[1,3,4,5]) {
      const %w: f32[2,3,1,1] = [[[[1.0]], [[-2.0]], [[0.5]]], [[[3.0]], [[0.0]], [[1.5]]]]
      %0 = avg_pool(%x) <kernel=(3, 3), stride=(1, 1), padding=(1, 1), #usual> : f32[1,3,4,5]
      %y = conv(%0, %w) <#single> : f32[1,2,4,5]
      return %y
    }"""
CONVOLVED_FIRST = """
    graph g(%x: f32[1,3,4,5]) {
      const %w: f32[2,3,1,1] = [[[[1.0]], [[-2.0]], [[0.5]]], [[[3.0]], [[0.0]], [[1.5]]]]
      %0 = conv(%x, %w) <#single> : f32[1,2,4,5]
      %y = avg_pool(%0) <kernel=(3, 3), stride=(1, 1), padding=(1, 1), #usual> : f32[1,2,4,5]
      return %y
    }"""


def spelled(text: str) -> str:
    text = text.replace("#usual", "ceil_mode=False, count_include_pad=True, dilation=()")
    return text.replace("#single", "stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, tf32=False")


def test_fewer_channels_are_pooled(rewrites):
    outcome = rewrites(reorder_pools, spelled(BRANCH), spelled(CONVOLVED_FIRST))
    assert outcome.done == [
        "conv before avg_pool: 40 elements between them instead of 60, 20 pixels multiplied instead of 20"
    ]


class _Net(Net):
    def pair(self, first: object, second: object) -> Graph:
        """The input, one after the other; each an AvgPool or the number of a convolution's filters."""
        y = self.x
        for step in (first, second):
            y = self.convolved(y, step) if isinstance(step, int) else self(step, y)
        self.graph.mark_output(y)
        return self.graph

    def convolved(self, x: Value, filters: int, taps: int = 1, **others: int) -> Value:
        groups = others.pop("groups", 1)
        margin = others.pop("margin", 0)
        step = others.pop("step", 1)
        weight = self.weight(filters, x.type.shape[1] // groups, *[taps] * (x.type.rank - 2))
        dims = x.type.rank - 2
        return self(Conv((step,) * dims, ((margin, margin),) * dims, (1,) * dims, groups), x, weight)


def order(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


HALVED = AvgPool((2, 2), (2, 2), (0, 0))


@pytest.mark.parametrize(
    "pool",
    [
        AvgPool((3, 3), (1, 1), (1, 1), count_include_pad=False),
        AvgPool((3, 3), (1, 1), (1, 1), ceil_mode=True),
        AvgPool((3, 2), (1, 1), (1, 1), dilation=(1, 2)),
    ],
)
def test_whatever_the_windows(apply, pool):
    net = _Net(2, 6, 7, 8)
    assert order(apply(reorder_pools, net.pair(pool, 4)).graph) == ["conv", "avg_pool"]


def test_in_one_and_three_dimensions(apply):
    assert order(apply(reorder_pools, _Net(2, 6, 9).pair(AvgPool((3,), (1,), (1,)), 4)).graph) == ["conv", "avg_pool"]
    cube = AvgPool((2, 2, 2), (2, 2, 2), (0, 0, 0))
    assert order(apply(reorder_pools, _Net(1, 4, 4, 6, 4).pair(2, cube)).graph) == ["avg_pool", "conv"]


def test_fewer_pixels_are_convolved(apply):
    outcome = apply(reorder_pools, _Net(2, 8, 6, 6).pair(4, HALVED))
    assert order(outcome.graph) == ["avg_pool", "conv"]
    assert outcome.done == [
        "avg_pool before conv: 144 elements between them instead of 288, 18 pixels multiplied instead of 72"
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (4, AvgPool((3, 3), (1, 1), (1, 1))),  # 8 channels instead of 4 would be pooled
        (AvgPool((3, 3), (1, 1), (1, 1)), 9),  # 9 instead of 8
        (AvgPool((3, 3), (1, 1), (1, 1)), 8),  # nothing gained
        (1, HALVED),  # fewer pixels to multiply, but more between
        (HALVED, 1),  # the other way round
    ],
)
def test_not_where_it_is_more_work(rewrites, first, second):
    outcome = rewrites(reorder_pools, _Net(2, 8, 6, 6).pair(first, second))
    assert outcome.refused[0].startswith("no ")


def test_a_norm_stays_where_it_is_computed_on_the_way(rewrites):
    """DenseNet's transition."""
    net = _Net(2, 8, 6, 6)
    normed = net(Relu(), net(Mul(), net.x, net.weight(8, 1, 1)))
    net.graph.mark_output(net(HALVED, net.convolved(normed, 4)))
    assert "on the way into it" in rewrites(reorder_pools, net.graph).refused[0]


def test_only_what_commutes(rewrites):
    for taps, others in ((3, {"margin": 1}), (1, {"step": 2}), (1, {"margin": 1}), (1, {"groups": 2})):
        net = _Net(1, 8, 6, 6)
        y = net.convolved(net(AvgPool((3, 3), (1, 1), (1, 1)), net.x), 2, taps, **others)
        net.graph.mark_output(y)
        assert rewrites(reorder_pools, net.graph).done == []
    assert rewrites(reorder_pools, _Net(1, 8, 6, 6).pair(MaxPool((3, 3), (1, 1), (1, 1)), 2)).done == []


def test_not_where_others_read_what_is_between(rewrites):
    net = _Net(1, 8, 6, 6)
    pooled = net(AvgPool((3, 3), (1, 1), (1, 1)), net.x)
    net.graph.mark_output(net.convolved(pooled, 2), net(Relu(), pooled))
    assert rewrites(reorder_pools, net.graph).done == []


def test_the_pooled_value_is_no_weight(rewrites):
    graph = Graph("g")
    x, w = graph.add_input("x", TensorType(f32, (1, 8, 4, 4))), graph.add_input("w", TensorType(f32, (2, 8, 2, 2)))
    filters = graph.add(AvgPool((2, 2), (2, 2), (0, 0)), w)
    graph.mark_output(graph.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1), x, filters))
    assert rewrites(reorder_pools, graph).done == []
