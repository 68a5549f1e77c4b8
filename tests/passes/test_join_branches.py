from __future__ import annotations

import pytest

from jitrt.graph import Graph, Value
from jitrt.graph.ops import Concat, Region, Slice, Softmax
from jitrt.graph.types import Layout
from jitrt.kernels.base import accepts
from jitrt.passes import Verdict, judged
from jitrt.passes.eliminate_concat import eliminate_concat
from jitrt.passes.join_branches import JoinBranches
from jitrt.passes.storage import storage_of
from tests.passes.nets import Net

join_branches = judged(JoinBranches())


class _Net(Net):
    def __init__(self) -> None:
        super().__init__(2, 3, 6, 6)

    def concat(self, *values: Value) -> Value:
        return self(Concat(1), *values, name="joined")

    def run(self, apply, *outputs: Value, then=(), **context):
        outcome = apply(join_branches, self.fused(*outputs, accepts=accepts), accepts=accepts, **context)
        for step in then:
            outcome = apply(step, outcome.graph, accepts=accepts)
        return outcome, {v.name: v for v in outcome.graph.values()}


def kernels(graph: Graph) -> list[str]:
    regions = [node for node in graph.nodes if isinstance(node.op, Region)]
    return ["+".join(n.op.name for n in node.op.body.nodes if n.op.name not in ("add", "relu")) for node in regions]


def test_all_branches_of_a_concat(apply):
    """The concat itself becomes the kernel's result: nothing is left to write in place."""
    net = _Net()
    joined = net.concat(net.conv(net.x, 4, 1), net.conv(net.x, 5, 3))
    outcome, _ = net.run(apply, net(Softmax(1), joined), then=(eliminate_concat,))
    assert kernels(outcome.graph) == ["conv+conv+concat", "softmax"]


def test_views_of_a_concat_are_views_of_the_kernel_s_result(apply):
    """The concat is gone, and its storage goes by its name still."""
    net = _Net()
    joined = net.concat(net.conv(net.x, 4, 1), net.conv(net.x, 5, 3))
    half = net(Slice.along(joined.type.shape, 1, 2, 7), joined, name="half")
    outcome, values = net.run(apply, net(Softmax(1), half), then=(eliminate_concat,))
    assert kernels(outcome.graph) == ["conv+conv+concat", "softmax"]
    assert storage_of(values["half"]) == "joined" and "joined" in values


def test_neighbours_lie_in_the_larger_concat(apply):
    """Inception's module: two branches and the pool's projection behind a pool that stands apart."""
    net = _Net()
    first = net.pool(net.x)
    joined = net.concat(first, net.conv(net.x, 4, 1), net.conv(net.conv(net.x, 2), 5, 3), net.conv(net.pool(net.x), 6))
    outcome, values = net.run(apply, net(Softmax(1), joined), then=(eliminate_concat,))
    assert kernels(outcome.graph)[-2:] == ["conv+conv+conv+concat", "softmax"]
    group = next(
        n for n in outcome.graph.nodes if isinstance(n.op, Region) and n.op.body.outputs[0].type.shape[1] == 15
    )
    assert storage_of(group.output) == "joined"
    assert group.output.type.layout == Layout(values["joined"].type.strides, 3, "joined")


@pytest.mark.parametrize("what", ["read elsewhere", "pool between", "depthwise", "one branch", "other axis"])
def test_what_is_not_joined(apply, what):
    net = _Net()
    a, b = net.conv(net.x, 3), net.conv(net.x, 3, 3)
    outputs = []
    if what == "read elsewhere":
        outputs.append(net(Softmax(1), a))
    if what == "depthwise":
        b = net.conv(net.x, 3, 3, groups=3)
    operands = {"pool between": (a, net.pool(net.x), b), "one branch": (a, net.pool(net.x))}.get(what, (a, b))
    joined = net(Concat(2), *operands) if what == "other axis" else net.concat(*operands)
    outcome, _ = net.run(apply, *outputs, net(Softmax(1), joined))
    assert outcome.done == []
    assert not any("concat" in kernel for kernel in kernels(outcome.graph))


@pytest.mark.parametrize(("images", "size", "alone"), [(1, 35, False), (8, 12, False), (8, 13, True)])
def test_many_pixels_must_be_measured(images: int, size: int, alone: bool) -> None:
    net = Net(images, 3, size, size)
    joined = net(Concat(1), net.conv(net.x, 4, 1), net.conv(net.x, 5, 3))
    _, _, refused = net.optimized(net(Softmax(1), joined), signed="join_branches", faster=None)
    assert refused == (
        [
            f"not done: 2 branches of a concat in one launch: 2 kernels become 1 (not measured), and of "
            f"{images * size * size} pixels they were slower together"
        ]
        if alone
        else []
    )


def test_the_judge_has_the_last_word(apply):
    net = _Net()
    joined = net.concat(net.conv(net.x, 4, 1), net.conv(net.x, 5, 3))
    seen = []

    def slower(proposals):
        seen.extend(proposals)
        return [Verdict(-2.0, "9.0 us instead of 7.0") for _ in proposals]

    outcome, _ = net.run(apply, net(Softmax(1), joined), judge=slower)
    assert outcome.refused[-1] == "not done: 2 branches of a concat in one launch: 9.0 us instead of 7.0"
    assert [len(kernels(graph)) for graph in (seen[0].before, seen[0].after)] == [2, 1]
