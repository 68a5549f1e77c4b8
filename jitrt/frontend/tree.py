"""Nested arguments and results: taken apart into tensors, described as JSON, put together again."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jitrt.errors import InputError


@dataclass(frozen=True)
class Tree:
    """A nested value taken apart.

    leaves     the tensors, in depth-first order.
    paths      a name for each leaf: its path from the root, joined by "_".
    structure  lists and dicts as JSON knows them, with {"output": i} where leaf i was; other values stand as they are.
    key        hashable; equal for values that differ in their leaves alone. Other values count by type and value.
    build      the nested value again, with its own tuples and dataclasses, around other leaves.
    """

    leaves: tuple[Any, ...]
    paths: tuple[str, ...]
    structure: Any
    key: Hashable
    build: Callable[[Sequence[Any]], Any]


class Call(NamedTuple):
    """The arguments of a call, as one nested value."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_Part = tuple[Any, Hashable, Callable[[Sequence[Any]], Any]]


def flatten(value: Any, is_leaf: Callable[[Any], bool], root: str = "", what: str = "argument") -> Tree:
    """Take `value` apart: lists, tuples, named tuples, mappings and dataclasses are nodes, `is_leaf` finds the tensors.

    Raises InputError, which calls `value` a `what`, for any other value that has no hash.
    """
    leaves: list[Any] = []
    paths: list[str] = []

    def join(path: str, name: object) -> str:
        return f"{path}_{name}" if path else str(name)

    def walk(item: Any, path: str) -> _Part:
        if is_leaf(item):
            index = len(leaves)
            leaves.append(item)
            paths.append(path)
            return {"output": index}, "leaf", lambda out: out[index]
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return branch(item, {f.name: getattr(item, f.name) for f in dataclasses.fields(item) if f.init}, path)
        if isinstance(item, Mapping):
            return branch(item, item, path)
        if isinstance(item, (list, tuple)):
            names = getattr(item, "_fields", range(len(item)))
            parts = [walk(child, join(path, name)) for name, child in zip(names, item, strict=True)]
            make = getattr(type(item), "_make", type(item)) if isinstance(item, tuple) else _refill(item, "extend")
            key = (type(item), tuple(part[1] for part in parts))
            return [part[0] for part in parts], key, lambda out: make([part[2](out) for part in parts])
        try:
            hash(item)
        except TypeError:
            raise InputError(
                f"{what}{path and ' '}{path} is a {type(item).__name__}, which is no tensor and cannot be compared by "
                "value; use tensors, numbers, strings, or lists, tuples, dicts and dataclasses of them"
            ) from None
        # Of floats 0 is -0, which is another number, and NaN is not NaN.
        return item, (type(item), repr(item) if isinstance(item, float | complex) else item), lambda out: item

    def branch(item: Any, children: Mapping[Any, Any], path: str) -> _Part:
        parts = {name: walk(child, join(path, name)) for name, child in children.items()}
        key = (type(item), tuple((name, part[1]) for name, part in parts.items()))
        is_record = dataclasses.is_dataclass(item)
        make: Callable[..., Any] = (
            type(item) if is_record or not isinstance(item, MutableMapping) else _refill(item, "update")
        )

        def build(out: Sequence[Any]) -> Any:
            built = {name: part[2](out) for name, part in parts.items()}
            return make(**built) if is_record else make(built)

        return {str(name): part[0] for name, part in parts.items()}, key, build

    structure, key, build = walk(value, root)
    return Tree(tuple(leaves), tuple(paths), structure, key, build)


def _refill(item: Any, fill: str) -> Callable[[Any], Any]:
    """What makes another list or mapping like `item` of other contents: copied empty, since a class may be made from
    anything (a defaultdict is)."""
    if type(item) in (dict, list):
        return type(item)
    empty = copy.copy(item)
    empty.clear()

    def make(contents: Any) -> Any:
        made = copy.copy(empty)
        getattr(made, fill)(contents)
        return made

    return make
