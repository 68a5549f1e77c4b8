"""Where an op is spelled out in others: reading nodes as a polynomial of one value, and putting the op there instead.

A place is the nodes between two values. `above` and `below` list the values that may be its ends, `Reading` says what
it computes, if that is arithmetic with constants; `replace_place` replaces it, if `refuse_place` has no objection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Trait
from jitrt.graph.ops import (
    Abs,
    Add,
    Clamp,
    Div,
    Erf,
    Exp,
    HardSigmoid,
    HardSwish,
    Log,
    Log1p,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    ReduceMean,
    ReduceSum,
    Relu,
    Reshape,
    Rsqrt,
    Sigmoid,
    Silu,
    Sqrt,
    Sub,
    Tanh,
)
from jitrt.passes.algebra import Polynomial, Unreadable, X, apply, clamp, constant, mean, power
from jitrt.passes.base import PassContext
from jitrt.passes.edit import bypass

_DEEPEST = 16  # nodes, one after the other
_INF = math.inf
_OF_ONE: dict[type, Callable[[Polynomial], Polynomial]] = {
    Abs: partial(apply, "abs"),
    Erf: partial(apply, "erf"),
    Exp: partial(apply, "exp"),
    Log: partial(apply, "log"),
    Log1p: partial(apply, "log1p"),
    Sigmoid: partial(apply, "sigmoid"),
    Tanh: partial(apply, "tanh"),
    Neg: lambda p: -p,
    Sqrt: lambda p: power(p, 0.5),
    Rsqrt: lambda p: power(p, -0.5),
    Reciprocal: lambda p: power(p, -1),
    Relu: lambda p: clamp(p, 0.0, _INF),
    HardSigmoid: lambda p: clamp(p + 3, 0.0, 6.0) * (1 / 6),
    HardSwish: lambda p: p * clamp(p + 3, 0.0, 6.0) * (1 / 6),
    Silu: lambda p: p * apply("sigmoid", p),
}
_OF_TWO: dict[type, Callable[[Polynomial, Polynomial], Polynomial]] = {
    Add: lambda p, q: p + q,
    Sub: lambda p, q: p - q,
    Mul: lambda p, q: p * q,
    Div: lambda p, q: p * power(q, -1),
}
_LARGEST = 3.4e38  # the bound of a Clamp that has none

# Numbers in a spelled-out op are as exact as its dtype: 0.044715 in float16 is 0.0447.
TOLERANCE = {DType.f64: 1e-6, DType.f32: 1e-6, DType.f16: 1e-3, DType.bf16: 8e-3}


class Reading:
    """Reads places of one graph; what was read once is kept, as long as the graph stays what it is."""

    def __init__(self) -> None:
        self._readers: dict[Value, _Reader] = {}

    def polynomial(self, root: Value, x: Value) -> Polynomial | None:
        """What `root` is as a polynomial of `x`; None if more than arithmetic with constants lies between, or much."""
        reader = self._readers.setdefault(x, _Reader(x))
        try:
            return reader.value(root)
        except Unreadable:
            return None


class _TooDeep(Unreadable):
    """Raised where a place is deeper than any that is looked for."""


class _Reader:
    def __init__(self, x: Value):
        self.x = x
        self.depth = 0
        self.known: dict[Node, Polynomial | None] = {}

    def value(self, value: Value) -> Polynomial:
        if value is self.x:
            return X
        if value.is_constant:
            return constant(value)
        node = value.producer
        if node is None:
            raise Unreadable
        if self.depth > _DEEPEST:
            raise _TooDeep
        if node not in self.known:
            self.known[node] = self._enter(node)
        polynomial = self.known[node]
        if polynomial is None:
            raise Unreadable
        return polynomial

    def _enter(self, node: Node) -> Polynomial | None:
        self.depth += 1
        try:
            return self._node(node)
        except _TooDeep:  # from here; it may be near enough from elsewhere
            raise
        except Unreadable:
            return None
        finally:
            self.depth -= 1

    def _node(self, node: Node) -> Polynomial:
        op, kind = node.op, type(node.op)
        if len(node.outputs) != 1 or node.output.type.dtype != self.x.type.dtype:
            raise Unreadable
        if kind in _OF_ONE:
            return _OF_ONE[kind](self.value(node.inputs[0]))
        if kind in _OF_TWO:
            return _OF_TWO[kind](self.value(node.inputs[0]), self.value(node.inputs[1]))
        if kind is Pow:
            return power(self.value(node.inputs[0]), self._number(node.inputs[1]))
        if kind in (Maximum, Minimum):
            return self._bounded(node)
        if isinstance(op, Clamp):
            low, high = op.low if op.low > -_LARGEST else -_INF, op.high if op.high < _LARGEST else _INF
            return clamp(self.value(node.inputs[0]), low, high)
        if isinstance(op, Reshape):
            return self._unsqueezed(node)
        return self._reduced(node, node.output)

    def _number(self, value: Value) -> float:
        if value.data is None or value.data.size != 1:
            raise Unreadable
        return float(value.data.item())

    def _bounded(self, node: Node) -> Polynomial:
        values = sorted(node.inputs, key=lambda value: value.is_constant)
        bound = self._number(values[1])
        low, high = (bound, _INF) if isinstance(node.op, Maximum) else (-_INF, bound)
        return clamp(self.value(values[0]), low, high)

    def _unsqueezed(self, node: Node) -> Polynomial:
        """A mean or a sum whose dimensions were dropped and put back."""
        reduced = node.inputs[0].producer
        if reduced is None:
            raise Unreadable
        return self._reduced(reduced, node.output)

    def _reduced(self, node: Node, result: Value) -> Polynomial:
        """A mean or a sum of something in the shape of x, broadcast as if the dimensions it was taken along were kept
        with size 1."""
        if not isinstance(node.op, ReduceMean | ReduceSum) or node.inputs[0].type.shape != self.x.type.shape:
            raise Unreadable
        axes, shape = node.op.axes, self.x.type.shape
        kept = tuple(1 if d in axes else size for d, size in enumerate(shape))
        if _sized_from_left(kept) != _sized_from_left(result.type.shape) or 0 in shape:
            raise Unreadable
        average = mean(self.value(node.inputs[0]), axes)
        count = math.prod(shape[d] for d in axes)
        return average if isinstance(node.op, ReduceMean) else average * float(count)


def _sized_from_left(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones it begins with, which broadcasting adds by itself."""
    first = next((d for d, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


def between(root: Value, x: Value) -> tuple[Node, ...]:
    """The nodes by which `root` is computed from `x`, those that others read first."""
    found: dict[Node, None] = {}

    def visit(value: Value) -> None:
        node = value.producer
        if value is x or node is None or node in found:
            return
        for operand in node.inputs:
            visit(operand)
        found[node] = None

    visit(root)
    return tuple(found)


def above(node: Node, types: tuple[type, ...], steps: int) -> list[Value]:
    """What a node depends on through elementwise nodes and those of `types`, at most so many steps up, far ones first:
    where an op spelled out around the node may begin."""
    found: dict[Value, None] = {}
    level = [node]
    for _ in range(steps):
        values = [value for each in level for value in each.inputs if not value.is_constant and value not in found]
        found.update(dict.fromkeys(values))
        producers = [value.producer for value in values]
        level = [p for p in producers if p is not None and (p.has(Trait.ELEMENTWISE) or isinstance(p.op, types))]
    return [*found][::-1]


def below(node: Node, steps: int) -> list[Value]:
    """The node's result and what elementwise nodes make of it, far ones first: where such an op may end."""
    found: dict[Value, None] = {node.output: None}
    level = [node.output]
    for _ in range(steps):
        readers = dict.fromkeys(user for value in level for user in value.users if user.has(Trait.ELEMENTWISE))
        level = [user.output for user in readers if user.output not in found]
        found.update(dict.fromkeys(level))
    return [*found][::-1]


def refuse_place(graph: Graph, place: Sequence[Node], claims: Mapping[Node, str]) -> str | None:
    """None, or why a place must stay: a rule from outside claims it, or somebody else reads a result in its middle."""
    for node in place:
        if node in claims:
            return f"rule {claims[node]} is written for it"
    for node in place[:-1]:
        if node.output in graph.outputs or any(user not in place for user in node.output.users):
            return f"the result of {node.op.name} is read elsewhere too"
    return None


def replace_place(graph: Graph, place: Sequence[Node], made: Value, name: str, context: PassContext) -> Node:
    """Have a value, which one op `name` computes (or a view of it is), stand for what the nodes of a place make;
    returns its node."""
    root = place[-1]
    many = f"{len(place)} nodes are" if len(place) > 1 else f"{root.op.name} with a number is"
    assert made.producer is not None
    bypass(graph, root, made)
    context.applied(made.producer, f"{many} one {name}")
    for node in reversed(place[:-1]):
        graph.erase(node)
    return made.producer
