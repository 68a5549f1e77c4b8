"""What a candidate is given, and what it must give back: random operands and the region's own reference.

The reference is the region's body in float64. Where that would take long, the batch holds a few distinct items over and
over, in random order: the reference runs once for each distinct item, and still every element of the output is checked.
That a body treats its batch items apart is not taken on trust but tried on the numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from jitrt.errors import GraphError
from jitrt.graph import ops
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.interpret import interpret
from jitrt.graph.op import Array
from jitrt.graph.rebuild import rebuild
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Problem
from jitrt.plugins.op import PluginOp
from jitrt.tune.operands import draw_operands, is_cast_to_integer
from jitrt.tune.tolerance import Tolerance, disagreement, tolerance

REFERENCE_SECONDS = 0.05  # what one reference may cost before the batch is made of repeated items
_CHUNK = 1 << 16  # elements compared bit for bit at a time
_DISTINCT = 1 << 20  # output elements compared as numbers, as far as repeated items can make it so
_ENOUGH = 256  # elements of a concat's operand that are judged by themselves
_SAMPLE = 1 << 24  # bytes of a sample, or more if what must be in it is
_WORTHWHILE = 0.5  # of a batch; a larger sample saves nothing
_COARSE = 10  # times the usual tolerance, for large numbers: they are there for overflow and NaN, not for precision

UNSTEADY = "the reference gives other numbers each time: nothing in it may be random, as dropout in training is"

_DISCONTINUOUS = (
    ops.Equal,
    ops.NotEqual,
    ops.Less,
    ops.LessEqual,
    ops.Greater,
    ops.GreaterEqual,
    ops.Floor,
    ops.Ceil,
    ops.Sign,
    ops.Round,
    ops.FloorDiv,
    ops.Remainder,
    ops.Fmod,
    ops.ArgMax,
    ops.TopK,
)


_Index = tuple[Any, ...]  # of an array: slices, or an ellipsis


@dataclass(frozen=True)
class Trial:
    """Operands of a problem (numpy, logical shapes, declared dtypes) and what its output must be.

    `expected` is float64 (integers as they are). Where `items` is not None, it and the operands numbered in `batched`
    hold the distinct items only, and `items[i]` says which of them index i of the real batch holds; `body` is the
    region for that many. `parts` are indices of what is judged by itself:
    the operands of a concat that the result is, of which a small one could be wrong and hardly change the norm of all.
    """

    operands: tuple[Array, ...]
    batched: frozenset[int]
    body: Graph
    expected: Array
    items: Array | None
    dtype: DType
    bound: Tolerance
    parts: tuple[_Index, ...] = ((...,),)

    def sample(self, nbytes: int) -> Array | None:
        """Places of the batch that stand for all of it, of items of `nbytes` bytes: each distinct item and who comes
        after it, the first and the last, and some between. None if that is no less than all."""
        if self.items is None or not self.dtype.is_float:
            return None
        last = len(self.items) - 1
        kinds = np.unique(self.items, return_index=True)[1]
        spread = np.linspace(0, last, max(4, int(_SAMPLE // max(1, nbytes)))).round().astype(int)
        places = np.unique(np.concatenate([kinds, np.minimum(kinds + 1, last), [0, 1, last - 1, last], spread]))
        return places if len(places) <= _WORTHWHILE * len(self.items) else None

    def at(self, places: Array) -> Trial:
        """The trial of these places of the batch alone, of which there must be one at least for each distinct item."""
        assert self.items is not None
        return replace(self, items=self.items[places])

    def check(self, out: Array) -> str | None:
        """None if `out` (of the problem's logical shape) is right, else what is wrong."""
        reasons = (self._check(out[part], self.expected[part], part) for part in self.parts)
        return next((reason for reason in reasons if reason is not None), None)

    @cached_property
    def slack(self) -> Array:
        """What float32 arithmetic alone is off by, an element of `expected` each. Seldom needed, and it takes as long
        as half of the reference."""
        return _slack(self.body, self.operands, self.expected)

    @cached_property
    def steady(self) -> bool:
        return is_steady(self.body, self.operands, self.expected)

    def _check(self, out: Array, expected: Array, part: _Index) -> str | None:
        if self.items is None:
            return self._disagreement(out, expected, part)
        first = np.unique(self.items, return_index=True)[1]
        reason = self._disagreement(_gather(out, first), expected, part, places=first)
        if reason is not None:
            return reason
        # Equal items mostly come out bit for bit alike; only those that do not are compared as numbers.
        for start, odd in _unlike(out, first[self.items]):
            kinds = self.items[start + odd]
            reason = self._disagreement(out[start + odd], expected[kinds], part, kinds, start + odd)
            if reason is not None:
                return reason
        return None

    def _disagreement(
        self, out: Array, expected: Array, part: _Index, kinds: Array | None = None, places: Array | None = None
    ) -> str | None:
        """Of `part` of all items or, as `expected` holds them, of `kinds`, which lie at `places` of the batch."""
        if disagreement(out, expected, self.dtype, self.bound, items=places) is None:
            return None
        if not self.steady:
            return UNSTEADY
        slack = self.slack[part] if kinds is None else self.slack[part][kinds]
        return disagreement(out, expected, self.dtype, self.bound, slack, places)


def _gather(array: Array, places: Array) -> Array:
    """`array[places]`, in which items lie as they did: indexing by itself makes them row-major, at great cost."""
    order = [0, *sorted(range(1, array.ndim), key=lambda d: -array.strides[d])]
    return array.transpose(order)[places].transpose(np.argsort(order))


def _laid_out(array: Array, type: TensorType) -> Array:
    """`array` in the order in memory that `type` has, densely."""
    order = sorted(range(type.rank), key=lambda d: -type.strides[d])
    return array.transpose(order).copy().transpose(np.argsort(order))


def _unlike(out: Array, twins: Array) -> Iterator[tuple[int, Array]]:
    """(start, offsets from there) of all i for which `out[i]` is not bit for bit `out[twins[i]]`."""
    order = [0, *sorted(range(1, out.ndim), key=lambda d: -out.strides[d])]
    bits = out.view(f"u{out.dtype.itemsize}").transpose(order)  # as it lies in memory, or this takes ten times as long
    step = max(1, _CHUNK // max(1, out[0].size))
    for start in range(0, len(out), step):
        part = bits[start : start + step]
        if step == 1:
            differs = np.array([not np.array_equal(part[0], bits[twins[start]])])
        else:
            differs = (part != bits[twins[start : start + step]]).any(tuple(range(1, out.ndim)))
        if differs.any():
            yield start, np.flatnonzero(differs)


def make_trial(
    problem: Problem, *, special: bool = False, seconds: float = REFERENCE_SECONDS, like: Trial | None = None
) -> Trial:
    """Random operands for a problem and their reference: the same ones at every call.

    With `special` some elements of the activations become large and some NaN; all others, and the weights, stay. If
    there is the trial without, `like`, it is known already whether the items of the batch are apart.
    """
    seed = zlib.crc32(problem.key.encode())
    rng = np.random.default_rng(seed)
    small, batched, count = _shrink(problem, seconds) if like is None else _as_in(like)
    operands = draw_operands(small, problem, rng, special)
    (expected,) = interpret(small, operands, exact=True)
    if count is not None and like is None and not _items_are_apart(problem, batched, operands, expected):
        small, batched, count = problem.body, frozenset(), None
        rng = np.random.default_rng(seed)  # the weights are those of the trial with special numbers, whatever led here
        operands = draw_operands(small, problem, rng, special)
        (expected,) = interpret(small, operands, exact=True)
    items = None
    if count is not None:
        more = rng.integers(0, count, problem.output.type.shape[0] - count)
        items = rng.permutation(np.concatenate([np.arange(count), more]))
    return Trial(
        tuple(operands),
        batched,
        small,
        _laid_out(np.asarray(expected), problem.output.type),
        items,
        problem.output.type.dtype,
        _bound(problem, special),
        _parts(problem.body, expected),
    )


def _as_in(trial: Trial) -> tuple[Graph, frozenset[int], int | None]:
    """What `_shrink` said of another trial's problem, as it turned out."""
    return trial.body, trial.batched, None if trial.items is None else len(trial.expected)


def _parts(body: Graph, expected: Array) -> tuple[_Index, ...]:
    """What of the result the operands of the concat it ends in are, those that are large enough for a norm to mean
    something; and all of it, unless they are."""
    node = body.outputs[0].producer
    if node is None or not isinstance(node.op, ops.Concat) or node.op.axis == 0:
        return ((...,),)
    stops = list(accumulate(value.type.shape[node.op.axis] for value in node.inputs))
    before = (slice(None),) * node.op.axis
    parts = [(*before, slice(start, stop)) for start, stop in zip([0, *stops], stops, strict=False)]
    large: list[_Index] = [part for part in parts if expected[part].size >= _ENOUGH]
    return tuple(large if len(large) == len(parts) else [*large, (...,)])


# -- the reference -----------------------------------------------------------------------------------------------------


def is_steady(body: Graph, operands: Sequence[Array], expected: Array) -> bool:
    """Whether the body gives `expected` again. A plugin's reference may not, and what it then is off by in float32
    would excuse any kernel."""
    if not any(isinstance(node.op, PluginOp) for node in body.nodes):
        return True
    (again,) = interpret(body, operands, exact=True)
    return np.array_equal(again, expected, equal_nan=True)


def _slack(body: Graph, operands: Sequence[Array], exact: Array) -> Array:
    """How far the body in float32 is from the exact result: what no kernel can be blamed for."""
    if body.outputs[0].type.dtype == DType.f64:
        return np.zeros(exact.shape)
    single = rebuild(body, type=lambda v: v.type.with_dtype(DType.f32) if v.type.dtype.is_float else v.type)
    with np.errstate(all="ignore"):
        (rounded,) = interpret(single, operands)
        slack = 4 * np.abs(rounded.astype(np.float64) - exact.astype(np.float64))
    # inf against inf is agreement; a float32 overflow where float64 has a number leaves inf: not judged.
    agree = (rounded == exact) | (np.isnan(rounded) & np.isnan(exact))
    return np.where(agree, 0.0, np.where(np.isnan(slack), np.inf, slack))


def _bound(problem: Problem, special: bool) -> Tolerance:
    bound = bound_of(problem)
    if special:  # exp(80) is exact to five digits at most, and rules the norm
        bound = Tolerance(_COARSE * bound.norm, _COARSE * bound.element)
    jumps = any(_jumps(node) for node in problem.body.nodes)
    return replace(bound, outliers=1e-3) if jumps else bound


def _jumps(node: Node) -> bool:
    """Whether a rounding error on the way in can change the result by much."""
    inexact = any(v.type.dtype.is_float for v in node.inputs)
    return is_cast_to_integer(node) or (inexact and isinstance(node.op, _DISCONTINUOUS))


def bound_of(problem: Problem) -> Tolerance:
    """How far a kernel may be from the exact result. What one anchor hands to the next, and what is computed for one
    and then cast, is rounded to its own type, as it would be on its way through memory."""
    length = max(1, sum(reduction_length(anchor) for anchor in problem.anchors))
    tf32 = any(getattr(node.op, "tf32", False) for node in problem.body.nodes)
    rounded = [problem.output.type.dtype, *(anchor.output.type.dtype for anchor in problem.anchors[:-1])]
    rounded += [v.type.dtype for anchor in problem.anchors for v in anchor.inputs if _is_cast_of_computed(v)]
    return max((tolerance(dtype, length, tf32=tf32) for dtype in rounded), key=lambda bound: bound.norm)


def _is_cast_of_computed(value: Value) -> bool:
    node = value.producer
    return node is not None and isinstance(node.op, ops.Cast) and node.inputs[0].producer is not None


def reduction_length(anchor: Node) -> int:
    """How many elements make one output element of an anchor."""
    out = max(1, anchor.output.type.numel)
    flops = anchor.op.flops([v.type for v in anchor.inputs], [v.type for v in anchor.outputs])
    return max(1, flops // out, anchor.inputs[0].type.numel // out)


# -- a smaller batch ---------------------------------------------------------------------------------------------------


def _shrink(problem: Problem, seconds: float) -> tuple[Graph, frozenset[int], int | None]:
    """(body, indices of the operands that have a batch, distinct items); the count is None for the whole batch."""
    body, output = problem.body, problem.output.type
    size = output.shape[0] if output.rank else 1
    if size < 3 or not output.numel or not _items_are_blocks(output):
        return body, frozenset(), None
    affordable = min(seconds / _seconds(body), _DISTINCT / output.numel)
    count = max(2, int(affordable * size))
    if count >= size:
        return body, frozenset(), None
    for batched in _batch_guesses(problem, size):
        small = with_batch(body, batched, count)
        if small is not None:
            return small, batched, count
    return body, frozenset(), None


def _seconds(body: Graph) -> float:
    """A rough idea of what numpy takes for a body, in float64 and once more in float32."""
    total = 1e-9
    for node in body.nodes:
        flops = node.op.flops([v.type for v in node.inputs], [v.type for v in node.outputs])
        total += flops / 30e9 + sum(v.type.numel for v in (*node.inputs, *node.outputs)) / 0.06e9
    return total


def _batch_guesses(problem: Problem, size: int) -> list[frozenset[int]]:
    rank = problem.output.type.rank
    fits = [
        index
        for index, value in enumerate(problem.body.inputs)
        if not problem.weights[index] and value.type.rank >= rank and value.type.shape[0] == size
    ]
    guesses = [frozenset(fits), frozenset(fits[:1])] if fits else []
    return [guess for guess in guesses if all(_items_are_blocks(problem.body.inputs[i].type) for i in guess)]


def _items_are_blocks(type: TensorType) -> bool:
    """Whether the items of a batch lie in memory one after another, or are all one (stride 0)."""
    item = TensorType(type.dtype, type.shape[1:], Layout(type.strides[1:]))
    return type.strides[0] == 0 or type.strides[0] >= item.span


def with_batch(body: Graph, batched: frozenset[int], count: int) -> Graph | None:
    """`body` with `count` items in the operands `batched` and in the output, or None if its ops do not allow it."""
    small = Graph(body.name)
    mapping: dict[Value, Value] = {}
    for index, value in enumerate(body.inputs):
        type = value.type.logical()
        shape = (count, *type.shape[1:]) if index in batched else type.shape
        mapping[value] = small.add_input(value.name, TensorType(type.dtype, shape))
    for value in body.constants.values():
        assert value.data is not None
        mapping[value] = small.add_constant(value.data, value.name)
    try:
        for node in body.nodes:
            copy = small.append(node.op, [mapping[v] for v in node.inputs], loc=node.loc)
            mapping.update(zip(node.outputs, copy.outputs, strict=True))
    except GraphError:
        return None
    out, want = mapping[body.outputs[0]], body.outputs[0].type
    if out.type.shape != (count, *want.shape[1:]):
        return None
    small.mark_output(out)
    return small


def _items_are_apart(problem: Problem, batched: frozenset[int], operands: Sequence[Array], expected: Array) -> bool:
    """Whether one item alone gives what it gave among the others."""
    single = with_batch(problem.body, batched, 1)
    if single is None:
        return False
    last = [a[-1:] if i in batched else a for i, a in enumerate(operands)]
    (alone,) = interpret(single, last, exact=True)
    return bool(np.allclose(alone, expected[-1:], rtol=1e-9, atol=1e-12, equal_nan=True))
