"""Concats without copies, as whole plans in the interpreter: what lies across an edge, and chunks that join again;
branches into one buffer wait for nothing but what they read."""

from __future__ import annotations

import numpy as np

from jitrt.compiler import Options
from jitrt.graph import Graph, TensorType, Value, f32, interpret
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, AvgPool, Concat, Conv, MaxPool, Relu, Slice
from jitrt.passes.pipeline import RULES
from jitrt.testing import plan_interpreted
from jitrt.testing.plan import Planned

X = np.random.default_rng(7).standard_normal((2, 8, 6, 5)).astype(np.float32)


class Net:
    def __init__(self) -> None:
        self.graph, self.rng = Graph("net"), np.random.default_rng(0)
        self.x = self.graph.add_input("x", TensorType(f32, X.shape))

    def __call__(self, op: Op, *operands: Value, name: str | None = None) -> Value:
        return self.graph.add(op, *operands, name=name)

    def conv(self, x: Value, filters: int, size: int, name: str) -> Value:
        w = self.graph.add_constant(self.array(filters, x.type.shape[1], size, size) / size)
        bias = self.graph.add_constant(self.array(filters, 1, 1))
        padding = ((size // 2, size // 2),) * 2
        return self(Relu(), self(Add(), self(Conv((1, 1), padding, (1, 1)), x, w), bias), name=name)

    def array(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def channels(self, x: Value, start: int, stop: int) -> Value:
        n, _, h, w = x.type.shape
        return self(Slice((0, start, 0, 0), (n, stop, h, w), (1, 1, 1, 1)), x)

    def pool(self, x: Value) -> Value:
        return self(MaxPool((3, 3), (1, 1), (1, 1)), x)


def check(graph: Graph) -> Planned:
    """Right numbers in several orders, and no copy. Every convolution is a launch, whatever the rules would join."""
    planned = plan_interpreted(graph, Options("fp32", without=tuple(rule.name for rule in RULES)))
    (expected,) = interpret(graph, [X], exact=True)
    for seed in range(3):
        np.testing.assert_allclose(planned.run([X], seed=seed)[0], expected, rtol=1e-4, atol=1e-4)
    assert not [layer for layer in planned.plan.layers if "contiguous" in layer.text]
    return planned


def waits(planned: Planned) -> dict[str, set[str]]:
    """The layers that each layer waits for, less those that one of them waits for."""
    names = [planned.plan.layers[launch.layer].name for launch in planned.plan.launches]
    return {name: {names[i] for i in launch.after} for name, launch in zip(names, planned.plan.launches)}


def storages(planned: Planned) -> list[str]:
    """What lies in the arena beside workspace."""
    blocks = planned.plan.notes["memory"]["blocks"]  # type: ignore[index]
    return [block["name"] for block in blocks if not block["workspace"]]


def test_siblings_of_which_one_belongs_to_the_concat() -> None:
    """An inception module after horizontal fusion: `wide` is three siblings in one kernel, of which the last belongs to
    the concat. The readers of its other parts write beside it, in the same storage."""
    net = Net()
    wide = net.conv(net.x, 6 + 3 + 8, 1, "wide")
    left = net.conv(net.channels(wide, 0, 6), 7, 3, "left")
    mid = net.conv(net.channels(wide, 6, 9), 4, 5, "mid")
    right = net.conv(net.pool(net.x), 5, 1, "right")
    big = net(Concat(1), wide, left, mid, right)
    net.graph.mark_output(net.conv(net.channels(big, 9, 33), 6, 1, "out"))
    planned = check(net.graph)
    needed = waits(planned)
    pool = next(name for name in needed if name not in ("wide", "left", "mid", "right", "out"))
    assert needed == {
        "wide": set(),
        "left": {"wide"},
        "mid": {"wide"},
        pool: set(),
        "right": {pool},
        "out": {"left", "mid", "right"},
    }
    assert len(storages(planned)) == 2  # the concat's, and the pool's


def test_chunks_that_are_joined_again() -> None:
    """YOLO's C2f: both halves of a convolution, and two layers made of the second, each of the one before."""
    net = Net()
    y = net.conv(net.x, 8, 1, "y")
    first, second = net.channels(y, 0, 4), net.channels(y, 4, 8)
    third = net.conv(second, 4, 3, "third")
    fourth = net.conv(third, 4, 3, "fourth")
    net.graph.mark_output(net.conv(net(Concat(1), first, second, third, fourth), 6, 1, "out"))
    planned = check(net.graph)
    assert waits(planned) == {"y": set(), "third": {"y"}, "fourth": {"third"}, "out": {"fourth"}}
    assert len(storages(planned)) == 1


def test_half_of_a_value_in_a_concat() -> None:
    """The second half of a convolution is kept, the first worked on: it lies across the edge of the concat."""
    net = Net()
    y = net.conv(net.x, 8, 1, "y")
    worked = net.conv(net.channels(y, 0, 4), 6, 3, "worked")
    net.graph.mark_output(net.conv(net(Concat(1), net.channels(y, 4, 8), worked), 6, 1, "out"))
    planned = check(net.graph)
    assert waits(planned) == {"y": set(), "worked": {"y"}, "out": {"worked"}}


def test_a_pooled_branch_is_convolved_with_its_siblings() -> None:
    """Inception-v3's module: the bare convolution that is pooled afterwards belongs to the wide kernel, and the pool
    writes its part of the concat."""
    net = Net()
    one, reduced = net.conv(net.x, 6, 1, "one"), net.conv(net.x, 5, 1, "reduced")
    pooled = net(AvgPool((3, 3), (1, 1), (1, 1)), net.x)
    joined = net(Concat(1), one, net.conv(reduced, 7, 3, "three"), net.conv(pooled, 4, 1, "right"))
    net.graph.mark_output(net.conv(joined, 6, 1, "out"))
    planned = plan_interpreted(net.graph, Options("fp32"))
    (expected,) = interpret(net.graph, [X], exact=True)
    for seed in range(3):
        np.testing.assert_allclose(planned.run([X], seed=seed)[0], expected, rtol=1e-4, atol=1e-4)

    assert len(planned.plan.launches) == 4, [layer.text for layer in planned.plan.layers]
