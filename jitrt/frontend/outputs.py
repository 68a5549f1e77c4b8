"""Which of a model's results to compute: names for them, and how what is left nests."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jitrt.errors import OptionError
from jitrt.frontend.tree import Tree
from jitrt.graph.graph import Graph, Value

_NOTHING = object()


def select_outputs(graph: Graph, names: Sequence[str], returned: Tree | None) -> tuple[tuple[str, ...], Any]:
    """The names of the graph's values to compute, and the structure (see `Tree`) to return them in.

    `returned` is how the model's result nests around the graph's outputs. A name is the path of a result in it, keys,
    fields and positions joined by "_" ("logits", "0", "aux_1"), or of a part with several, and all that is left keeps
    its place: a dict of what was named. Other names are of values of the graph; with one of them among the names the
    values stand side by side, in the order named, and have no structure.

    Raises OptionError for a name that is neither.
    """
    places = {} if returned is None else dict(_places(returned.structure, "")) | _leaves(returned)
    nested = returned is not None and returned.structure is not None  # an ONNX model's results have names, no nesting
    if nested and names and all(name in places for name in names):
        assert returned is not None
        kept = sorted({index for name in names for index in places[name]})
        moved = {index: position for position, index in enumerate(kept)}
        return tuple(graph.outputs[index].name for index in kept), _pruned(returned.structure, moved)
    values = {value.name: value for value in graph.values()}
    chosen: list[Value] = []
    for name in names:
        if name not in places and name not in values:
            raise _unknown(name, [p for p in places if p] or [v.name for v in graph.outputs], values)
        chosen += [graph.outputs[i] for i in places[name]] if name in places else [values[name]]
    if not chosen:
        raise OptionError(f"outputs is empty; name at least one of {', '.join(v.name for v in graph.outputs)}")
    return tuple(value.name for value in chosen), None


def _leaves(returned: Tree) -> dict[str, tuple[int, ...]]:
    """Every result by its own path, in which the fields of named tuples have names."""
    return {path: (index,) for index, path in enumerate(returned.paths) if path}


def _is_leaf(part: Any) -> bool:
    return isinstance(part, dict) and set(part) == {"output"} and isinstance(part["output"], int)


def _places(part: Any, path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(path, indices of the outputs below it) of every part of a structure but the whole."""
    if path and (indices := tuple(_indices(part))):
        yield path, indices
    if isinstance(part, dict | list) and not _is_leaf(part):
        for name, child in part.items() if isinstance(part, dict) else enumerate(part):
            yield from _places(child, f"{path}_{name}" if path else str(name))


def _indices(part: Any) -> Iterator[int]:
    if _is_leaf(part):
        yield part["output"]
    elif isinstance(part, dict | list):
        for child in part.values() if isinstance(part, dict) else part:
            yield from _indices(child)


def _pruned(part: Any, moved: Mapping[int, int]) -> Any:
    """A structure with nothing in it but the outputs in `moved`, under their new numbers."""
    if _is_leaf(part):
        return {"output": moved[part["output"]]} if part["output"] in moved else _NOTHING
    if isinstance(part, dict):
        kept = {name: _pruned(child, moved) for name, child in part.items()}
        return {name: child for name, child in kept.items() if child is not _NOTHING} or _NOTHING
    if isinstance(part, list):
        return [child for child in (_pruned(child, moved) for child in part) if child is not _NOTHING] or _NOTHING
    return _NOTHING


def _unknown(name: str, results: Sequence[str], values: Mapping[str, Value]) -> OptionError:
    close = difflib.get_close_matches(name, [*results, *values], n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return OptionError(f"outputs: there is no {name!r}{hint}; the outputs are {', '.join(results)}")
