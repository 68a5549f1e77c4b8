"""Sequences and optionals: lists and None while a model is imported, and nothing at all in the graph."""

from __future__ import annotations

from jitrt.frontend.onnx.node import Call, Item
from jitrt.frontend.onnx.ops.shape import cut, stacked
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value


def _place(n: Call, sequence: list[Value], position: Value, *, end: int) -> int:
    """A known position in a sequence, counted from its start; `end` is one past the last there may be."""
    (at,) = n.ints(position, "the position in a sequence")
    at += len(sequence) * (at < 0)
    if not 0 <= at < end:
        n.refuse(f"position {at} of a sequence of {len(sequence)}")
    return at


@onnx_op("SequenceEmpty")
def sequence_empty(n: Call) -> list[Value]:
    return []


@onnx_op("SequenceConstruct")
def sequence_construct(n: Call, *parts: Value) -> list[Value]:
    return list(parts)


@onnx_op("SequenceAt")
def sequence_at(n: Call, sequence: list[Value], position: Value) -> Value:
    return sequence[_place(n, sequence, position, end=len(sequence))]


@onnx_op("SequenceInsert")
def sequence_insert(n: Call, sequence: list[Value], new: Value, position: Value | None = None) -> list[Value]:
    at = len(sequence) if position is None else _place(n, sequence, position, end=len(sequence) + 1)
    return [*sequence[:at], new, *sequence[at:]]


@onnx_op("SequenceErase")
def sequence_erase(n: Call, sequence: list[Value], position: Value | None = None) -> list[Value]:
    at = len(sequence) - 1 if position is None else _place(n, sequence, position, end=len(sequence))
    return [*sequence[:at], *sequence[at + 1 :]]


@onnx_op("SequenceLength")
def sequence_length(n: Call, sequence: list[Value]) -> Value:
    return n.constant(len(sequence), DType.i64)


@onnx_op("SplitToSequence")
def split_to_sequence(n: Call, x: Value, split: Value | None = None) -> list[Value]:
    """Pieces of the lengths that `split` lists, or all of the one it is, the last shorter; single slices without it."""
    axis = n.axis(n.attribute("axis", 0), x.type.rank)
    size = x.type.shape[axis]
    lengths = [1] if split is None else list(n.ints(split, "the lengths of the pieces"))
    if split is None or split.type.rank == 0:
        each = lengths[0]
        if each <= 0:
            n.refuse(f"pieces of {each} elements")
        n.claim(-(-size // each))
        lengths = [min(each, size - start) for start in range(0, size, each)]
    if sum(lengths) != size or min(lengths, default=0) < 0:
        n.refuse(f"split {lengths} of {x.type} along axis {axis}")
    parts = cut(n, x, axis, lengths)
    if split is not None or n.attribute("keepdims", 1):
        return parts
    return [n.b.reshape(part, (*x.type.shape[:axis], *x.type.shape[axis + 1 :])) for part in parts]


@onnx_op("ConcatFromSequence")
def concat_from_sequence(n: Call, sequence: list[Value]) -> Value:
    if not sequence:
        n.refuse("a concat of an empty sequence")
    new = bool(n.attribute("new_axis", 0))
    axis = n.axis(n.required("axis"), sequence[0].type.rank + new)
    return stacked(n, sequence, axis) if new else n.b.concat(sequence, axis)


@onnx_op("Optional")
def optional(n: Call, item: Item = None) -> Item:
    return item


@onnx_op("OptionalGetElement")
def optional_get_element(n: Call, item: Item) -> Item:
    if item is None:
        n.refuse("the element of an optional that has none")
    return item


@onnx_op("OptionalHasElement")
def optional_has_element(n: Call, item: Item = None) -> Value:
    return n.constant(item is not None)
