"""If, Loop and Scan: what a model decides is decided at the build, and loops are unrolled.

An If whose condition is only known at run time computes both branches and chooses, if their results are alike. A loop
may then stop early, if it collects nothing: what it computes beyond its end is not taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from jitrt.frontend.onnx.elements import dtype_of
from jitrt.frontend.onnx.node import Call, Item
from jitrt.frontend.onnx.ops.shape import stacked
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import Value
from jitrt.graph import ops as g

LONGEST = 1000  # iterations of an unrolled loop

_HOW_OFTEN = "how often a loop runs"


@onnx_op("If")
def if_(n: Call, condition: Value) -> tuple[Item, ...]:
    branches = (n.required("then_branch"), n.required("else_branch"))
    if condition.type.numel != 1:
        n.refuse(f"a condition of {condition.type}")
    known = n.known(condition)
    if known is not None:
        return tuple(_run(n, branches[0] if known.any() else branches[1], []))
    yes, no = (_run(n, branch, []) for branch in branches)
    if _lost(yes) or _lost(no):
        return tuple(yes if _lost(yes) else no)
    if not _alike(yes, no):
        n.need(condition, "which branch, of two whose results have different shapes, is taken")
    return tuple(_choose(n, condition, yes, no))


def _choose(n: Call, condition: Value, yes: Sequence[Item], no: Sequence[Item]) -> Iterator[Item]:
    """The items of one or the other, by a condition that is only known at run time."""
    scalar = n.b.reshape(condition, ())
    for a, b in zip(yes, no, strict=True):
        same = a is b or not isinstance(a, Value) or not isinstance(b, Value)
        yield a if same else n.add(g.Where(), scalar, a, b)  # type: ignore[arg-type]


def _alike(some: Sequence[Item], others: Sequence[Item]) -> bool:
    """Whether all are tensors of equal types, or empty optionals."""
    return len(some) == len(others) and all(
        a is b or (isinstance(a, Value) and isinstance(b, Value) and a.type.logical() == b.type.logical())
        for a, b in zip(some, others, strict=True)
    )


def _run(n: Call, body: onnx.GraphProto, operands: Sequence[Item]) -> list[Item]:
    """The results of a body. What is added after it is the node's own again."""
    results = n.run(body, operands)
    n.b.loc = n.loc
    return results


def _lost(items: Sequence[Item]) -> bool:
    """Whether a body holds something that cannot be imported, which the importer has noted already."""
    return not all(item is None or isinstance(item, Value | list) for item in items)


def _body(n: Call, carried: int, scanned: int, first: int) -> tuple[onnx.GraphProto, int]:
    """The body of a loop, and how many results it collects. Refuses one that does not fit: `first` inputs, or outputs
    one fewer, come before what is carried from iteration to iteration, and `scanned` inputs after it."""
    body = n.required("body")
    collected = len(body.output) - carried - max(first - 1, 0)
    if len(body.input) != first + carried + scanned or collected < 0:
        n.refuse(f"a body of {len(body.input)} inputs and {len(body.output)} outputs for {carried} carried values")
    return body, collected


def _guard(n: Call, turn: int) -> None:
    if turn >= LONGEST:
        n.refuse(f"more than {LONGEST} iterations, and loops are unrolled")


@onnx_op("Loop")
def loop(n: Call, count: Value | None = None, condition: Value | None = None, *carried: Item) -> tuple[Item, ...]:
    body, collects = _body(n, len(carried), 0, 2)
    turns = None if count is None else n.ints(count, _HOW_OFTEN)[0]
    go_on = condition if condition is not None else n.constant(True)
    state, collected = list(carried), [[] for _ in range(collects)]  # type: list[Item], list[list[Value]]
    turn = 0
    while turns is None or turn < turns:
        known = n.known(go_on)
        if known is not None and not known.any():
            break
        if known is None and (turns is None or turns > LONGEST or collects):
            n.need(go_on, _HOW_OFTEN)
        _guard(n, turn)
        results = _run(n, body, [n.constant(turn), go_on, *state])
        if _lost(results):
            return tuple(results[1:])
        again, after = results[0], results[1 : 1 + len(state)]
        if not isinstance(again, Value):
            n.refuse("a body whose condition is no tensor")
        if known is None:
            if not _alike(state, after):
                n.need(go_on, f"{_HOW_OFTEN} that carries values of changing shapes")
            after = list(_choose(n, go_on, after, state))
            again = n.add(g.LogicalAnd(), n.b.reshape(go_on, ()), n.b.reshape(again, ()))
        for parts, item in zip(collected, results[1 + len(state) :], strict=True):
            parts.append(item)  # type: ignore[arg-type]
        state, go_on, turn = after, again, turn + 1
    infos = body.output[1 + len(carried) :]
    return (*state, *(_collected(n, parts, 0, info) for parts, info in zip(collected, infos, strict=True)))


def _collected(n: Call, parts: list[Value], axis: int, info: onnx.ValueInfoProto) -> Value:
    """What a body returned in every iteration, along a new axis; of no iterations, by the type that the body states."""
    if parts:
        return stacked(n, parts, n.axis(axis, parts[0].type.rank + 1))
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
    if None in shape or not info.type.tensor_type.HasField("shape"):
        n.refuse(f"no iterations, and the body does not say what shape {info.name!r} has")
    return n.b.full((0, *shape), 0, dtype_of(info.type.tensor_type.elem_type))  # type: ignore[arg-type]


@onnx_op("Scan", since=9)
def scan(n: Call, *operands: Value) -> tuple[Item, ...]:
    axes = n.attribute("scan_input_axes", [0] * _scanned(n, operands))
    return tuple(_scan(n, list(operands), axes))


@onnx_op("Scan", since=8)
def scan_batch(n: Call, lengths: Value | None, *operands: Value) -> tuple[Item, ...]:
    """The older form: every operand has a batch, the items of which are scanned one by one."""
    if lengths is not None:
        n.refuse("sequences of different lengths")
    results = []
    for item in range(operands[0].type.shape[0]):
        single = [n.b.reshape(n.b.slice(x, 0, item, item + 1), x.type.shape[1:]) for x in operands]
        results.append(_scan(n, single, [0] * _scanned(n, operands)))
        if _lost(results[-1]):
            return tuple(results[-1])
    return tuple(stacked(n, parts, 0) for parts in zip(*results, strict=True))


def _scanned(n: Call, operands: Sequence[Value]) -> int:
    count = n.required("num_scan_inputs")
    if not 1 <= count <= len(operands):
        n.refuse(f"{count} scanned of {len(operands)} inputs")
    return int(count)


def _scan(n: Call, operands: list[Value], axes: Sequence[int]) -> list[Item]:
    """A body for every slice of the scanned operands: the last state, and what was collected."""
    first = len(operands) - len(axes)
    state, scanned = list[Item](operands[:first]), operands[first:]
    body, collects = _body(n, first, len(axes), 0)
    axes = [n.axis(axis, x.type.rank) for axis, x in zip(axes, scanned, strict=True)]
    backwards = n.attribute("scan_input_directions", n.attribute("directions", [0] * len(axes)))
    lengths = {x.type.shape[axis] for x, axis in zip(scanned, axes, strict=True)}
    if len(lengths) != 1:
        n.refuse(f"scanned axes of {sorted(lengths)} elements")
    (length,) = lengths
    collected: list[list[Value]] = [[] for _ in range(collects)]
    for turn in range(length):
        _guard(n, turn)
        parts = []
        for x, axis, back in zip(scanned, axes, backwards, strict=True):
            at = length - 1 - turn if back else turn
            shape = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])
            parts.append(n.b.reshape(n.b.slice(x, axis, at, at + 1), shape))
        results = _run(n, body, [*state, *parts])
        if _lost(results):
            return results
        state = results[:first]
        for made, item in zip(collected, results[first:], strict=True):
            made.append(item)  # type: ignore[arg-type]
    reverse = n.attribute("scan_output_directions", [0] * collects)
    along = n.attribute("scan_output_axes", [0] * collects)
    each = zip(collected, reverse, along, body.output[first:], strict=True)
    return [*state, *(_collected(n, parts[::-1] if back else parts, axis, info) for parts, back, axis, info in each)]


@onnx_op("SequenceMap", since=17)
def sequence_map(n: Call, sequence: list[Value], *others: Item) -> tuple[Item, ...]:
    """The body for every element, with those of other sequences beside it; other tensors are the same for all."""
    body = n.required("body")
    if any(isinstance(other, list) and len(other) != len(sequence) for other in others):
        n.refuse("sequences of different lengths")
    results: list[list[Item]] = []
    for turn, item in enumerate(sequence):
        _guard(n, turn)
        beside = [other[turn] if isinstance(other, list) else other for other in others]
        results.append(_run(n, body, [item, *beside]))
        if _lost(results[-1]):
            return tuple(results[-1])
    return tuple([made[output] for made in results] for output in range(len(body.output)))  # type: ignore[misc]
