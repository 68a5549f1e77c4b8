"""Random networks out of the blocks that networks are made of, with what no architect would do: operands that are other
values of the same type, results of the middle as outputs, weights that are inputs, layers that are there twice.

Every optional fusion is applied, or some, or none, with the kernels that jitrt has; the meaning stays, and a memory of
bytes agrees. To look for longer: `python -m tests.properties.test_random_networks 1000 2000` (first seed, last seed).
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.errors import ShapeError
from jitrt.graph import Graph, Layout, TensorType, Value, f32, interpret, verify
from jitrt.graph.op import Op
from jitrt.graph.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    Linear,
    MaxPool,
    Mul,
    Pad,
    Permute,
    ReduceMean,
    Relu,
    Reshape,
    Resize,
    Sigmoid,
    Silu,
    Slice,
    Sub,
)
from jitrt.graph.types import channels_last
from jitrt.kernels.base import accepts, supports
from jitrt.passes import PassContext, Proposal, Verdict, optimize
from tests.passes.nets import verdict
from tests.properties.test_random_graphs import run_in_memory

_LARGEST = 9000  # elements of a value


class _Network:
    """A graph under construction, and the images made so far."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        self.graph = Graph("random")
        shape = (self.one_of(1, 1, 2, 3), self.one_of(1, 3, 4, 8, 12), self.one_of(1, 2, 5, 8), self.one_of(1, 3, 7, 8))
        layout = Layout(channels_last(shape)) if self.chance.random() < 0.4 else None
        self.images = [self.graph.add_input("x", TensorType(f32, shape, layout))]
        self.kept: list[Value] = []  # that will be outputs

    def one_of(self, *choices: int) -> int:
        return self.chance.choice(choices)

    def constant(self, *shape: int, least: int = -16) -> Value:
        """Multiples of 1/16, of which as many as there are in a filter sum to about 1."""
        numbers = np.random.default_rng(self.chance.getrandbits(32)).integers(least, 17, shape) / 16
        scale = 2.0 ** -round(math.log2(max(1, math.prod(shape[1:]))) / 2)
        return self.graph.add_constant((numbers * scale).astype(np.float32))

    def add(self, op: Op, *operands: Value) -> Value:
        """Raises ShapeError for a result that is too large, or empty, too."""
        (type,) = op.infer(*(v.type for v in operands))
        if not 0 < type.numel <= _LARGEST:
            raise ShapeError(f"{type} is not wanted")
        made = self.graph.add(op, *operands)
        if type.rank == 4 and self.chance.random() < 0.04:
            self.images.append(made)  # read elsewhere too, or an output
        return made

    def image(self) -> Value:
        return self.images[-1] if self.chance.random() < 0.6 else self.chance.choice(self.images)

    def activated(self, x: Value) -> Value:
        op = self.chance.choice([Relu(), Relu(), Clamp(0.0, 6.0), Silu(), None])
        return x if op is None else self.add(op, x)

    def conv(self, x: Value, filters: int, size: int = 1, *, stride: int = 1, groups: int = 1) -> Value:
        """With a bias, a batch norm, an activation, or without; a filter as large as the image at the most."""
        c, pad = x.type.shape[1], (size // 2, size // 2)
        y = self.add(
            Conv((stride, stride), (pad, pad), (1, 1), groups), x, self.constant(filters, c // groups, size, size)
        )
        if self.chance.random() < 0.6:
            y = self.add(Add(), *self.chance.sample([y, self.constant(filters, 1, 1)], 2))
        if self.chance.random() < 0.4:
            mean, weight, bias = (self.constant(filters) for _ in range(3))
            y = self.add(BatchNorm(), y, weight, bias, mean, self.constant(filters, least=4))
        return self.activated(y)

    def joined(self, parts: Sequence[Value]) -> Value:
        return self.add(Concat(1), *parts)

    def channels(self, x: Value, start: int, stop: int, step: int = 1) -> Value:
        return self.add(Slice.along(x.type.shape, 1, start, stop, step), x)


def _siblings(n: _Network) -> Value:
    """Convolutions of one tensor, alike or not, some of which go on; some are outputs, some in a concat twice."""
    x, size = n.image(), n.one_of(1, 1, 3)
    branches = [n.conv(x, n.one_of(1, 2, 4, 8), size) for _ in range(n.one_of(2, 3, 4))]
    n.kept += [y for y in branches if n.chance.random() < 0.1]
    branches = [n.conv(y, n.one_of(2, 4), 3) if n.chance.random() < 0.4 else y for y in branches]
    pool = n.chance.choice([MaxPool((3, 3), (1, 1), (1, 1)), AvgPool((3, 3), (1, 1), (1, 1), False, False)])
    extra = [x, n.conv(n.add(pool, x), 4), n.constant(*x.type.shape), n.channels(x, 0, 1), n.chance.choice(branches)]
    return n.joined([*branches, *n.chance.sample(extra, n.one_of(0, 1, 2))])


def _dense(n: _Network) -> Value:
    parts = [n.image()]
    for _ in range(n.one_of(1, 2, 3)):
        parts.append(n.conv(n.conv(n.joined(parts), 4), n.one_of(1, 3, 4), 3))
        if n.chance.random() < 0.2:
            parts = [n.joined(parts)]  # a concat of concats
    return n.joined(parts)


def _shuffled(n: _Network) -> Value:
    x = n.image()
    (batch, _, h, w), half = x.type.shape, x.type.shape[1] // 2
    kept, changed = n.channels(x, 0, half), n.conv(n.channels(x, half, 2 * half), half)
    y = n.joined(n.chance.sample([kept, n.conv(changed, half, 3, groups=half)], 2))
    split = n.add(Permute((0, 2, 1, 3, 4)), n.add(Reshape((batch, 2, half, h, w)), y))
    return n.add(Reshape((batch, 2 * half, h, w)), split)


def _parts(n: _Network) -> Value:
    """Parts of the channels, each on its own way, together again in another order."""
    x = n.image()
    c = x.type.shape[1]
    cuts = n.chance.choice([[(0, c - 1, 1), (c - 1, c, 1)], [(0, c, 2), (1, c, 2)], [(0, c - 1, 1), (1, c, 1)]])
    parts = [n.channels(x, *cut) for cut in cuts]
    ways: list[Callable[[Value], Value]] = [lambda y: y, n.activated, lambda y: n.conv(y, y.type.shape[1], 3)]
    return n.joined(n.chance.sample([n.chance.choice(ways)(part) for part in parts], 2))


def _residual(n: _Network) -> Value:
    x = n.image()
    c = x.type.shape[1]
    y = n.conv(n.conv(n.conv(x, n.one_of(4, 8)), 8, 3, groups=n.one_of(1, 4)), c)
    other = x if n.chance.random() < 0.7 else n.conv(x, c)
    return n.activated(n.add(n.chance.choice([Add(), Add(), Mul(), Sub()]), *n.chance.sample([y, other], 2)))


def _excited(n: _Network) -> Value:
    x = n.image()
    c = x.type.shape[1]
    mean = n.add(n.chance.choice([AdaptiveAvgPool((1, 1)), ReduceMean((2, 3), True)]), x)
    gate = n.add(Sigmoid(), n.conv(n.conv(mean, n.one_of(1, 4)), c))
    return n.conv(n.add(Mul(), *n.chance.sample([x, gate], 2)), n.one_of(3, 8))


def _separable(n: _Network) -> Value:
    x = n.image()
    c = x.type.shape[1]
    deep = n.conv(x, c, n.one_of(3, 5), stride=n.one_of(1, 2), groups=c)
    n.kept += [deep] if n.chance.random() < 0.1 else []
    return n.conv(deep, n.one_of(4, 8))


def _pooled(n: _Network) -> Value:
    x, size, stride, ceil = n.image(), n.one_of(1, 2, 3), n.one_of(1, 2, 3), n.chance.random() < 0.4
    window = (size, size), (stride, stride), (size // 2, size // 2), ceil
    dilation = n.one_of(1, 1, 2)
    x = n.conv(x, 8, 3, stride=n.one_of(1, 2)) if n.chance.random() < 0.5 else x
    op = n.chance.choice([MaxPool(*window, (dilation, dilation)), AvgPool(*window, n.chance.random() < 0.5)])
    return n.add(op, x)


def _other(n: _Network) -> Value:
    x = n.image()
    h, w = x.type.shape[2:]
    ops = [
        Pad(((0, 0), (0, n.one_of(0, 1)), (1, 0), (1, 2))),
        Resize((2 * h, w + 1), n.chance.choice(["nearest", "linear"])),
    ]
    return n.conv(n.add(n.chance.choice(ops), x), 4, n.one_of(1, 3))


def _classified(n: _Network) -> None:
    x = n.image()
    mean = n.add(ReduceMean((2, 3), False), x)
    for _ in range(n.one_of(1, 2)):
        scores = n.add(Linear(), mean, n.constant(5, x.type.shape[1]))
        n.kept.append(n.add(Add(), scores, n.constant(5)))


_BLOCKS = (
    _siblings,
    _siblings,
    _dense,
    _shuffled,
    _parts,
    _residual,
    _excited,
    _separable,
    _pooled,
    _other,
    _classified,
)


def network(seed: int) -> Graph:
    n = _Network(seed)
    for _ in range(n.one_of(1, 2, 3, 5)):
        try:
            made = n.chance.choice(_BLOCKS)(n)
        except ShapeError:
            continue  # too small an image for it, or too large a result
        n.images += [] if made is None else [made]  # at the end, where it is likeliest to be read
    for _ in range(n.one_of(0, 0, 1, 2, 4)):
        _disturb(n)
    outputs = [*n.kept, n.images[-1], *n.chance.sample(n.images, n.one_of(0, 1) * min(2, len(n.images)))]
    n.graph.mark_output(*n.chance.sample(outputs, len(outputs)))
    verify(n.graph)
    return n.graph


def _disturb(n: _Network) -> None:
    graph = n.graph
    if not graph.nodes:
        return
    at = n.chance.randrange(len(graph.nodes))
    node = graph.nodes[at]
    index = n.chance.randrange(len(node.inputs))
    operand = node.inputs[index]
    match n.one_of(0, 1, 1, 2, 3):
        case 0:
            n.kept.append(node.outputs[0])
        case 1:
            earlier = [*graph.inputs, *(v for before in graph.nodes[:at] for v in before.outputs)]
            alike = [v for v in earlier if v.type.logical() == operand.type.logical()]
            if alike:
                graph.set_input(node, index, n.chance.choice(alike))
        case 2 if operand.is_constant and not isinstance(node.op, BatchNorm):
            graph.set_input(node, index, graph.add_input("w", operand.type))
        case 3 if node.output.uses:
            reader, place = n.chance.choice(node.output.uses)
            graph.set_input(reader, place, graph.append(node.op, node.inputs, before=graph.nodes[at + 1]).output)


def _some(seed: int) -> Callable[[Sequence[Proposal]], list[Verdict]]:
    chance = random.Random(seed)
    return lambda proposals: [verdict(chance.random() < 0.5)([one])[0] for one in proposals]


def check(seed: int) -> None:
    graph = network(seed)
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(-32, 33, v.type.shape).astype(np.float32) / 16 for v in graph.inputs]
    expected = interpret(graph, inputs, exact=True)
    for judge in (verdict(True), verdict(False), _some(seed)):
        context = PassContext("fp32", accepts, judge, supports=partial(supports, target=TARGETS[90]))
        optimized = optimize(graph, context)
        for actual, wanted in zip(interpret(optimized, inputs, exact=True), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(initial=1))
        assert [v.type.strides for v in optimized.outputs] == [v.type.strides for v in graph.outputs]
        for actual, wanted in zip(run_in_memory(optimized, inputs), interpret(optimized, inputs), strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max(initial=1))


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_optimising_a_network_preserves_what_it_computes(first: int) -> None:
    for seed in range(first, first + 10):
        check(seed)


if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            check(number)
        except Exception as error:
            print(f"seed {number}: {type(error).__name__}: {str(error)[:300]}", flush=True)
