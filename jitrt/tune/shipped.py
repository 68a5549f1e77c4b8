"""What is known before anything is measured: for each architecture a table of problems and the tactics that won them.

`tables/sm_90.json` comes with jitrt; `python -m jitrt.tune.table` makes it from timing caches. Its tactics are tried
before all others, and are compiled, verified and timed like them: a table that is wrong costs time, not numbers.

A problem is found in two ways: by its key, or for want of that by its likeness (`likeness`), which is that of the same
convolution or product with another activation behind it, a bias of another type, or operands that are slices of
something larger. On the GPU that the table was measured on both count as searched, and by default nothing else is
tried. Of 67 problems on the H200, each left out of the table in turn, the best of what relatives had to say was 0.4%
slower than the best of all that was timed, 3 of them were more than 3% slower, and the worst 9%. A residual more or
less is not alike: there the worst was 22%.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jitrt.codegen.digests import digest
from jitrt.codegen.target import Target
from jitrt.errors import CacheError
from jitrt.graph.graph import Value
from jitrt.graph.op import Trait
from jitrt.kernels.base import Problem, Tactic
from jitrt.knobs import shipped_table

VERSION = 1  # of the format
_FOLDER = Path(__file__).with_name("tables")
MOST = 3  # tactics of one problem


@dataclass(frozen=True)
class Entry:
    """One problem: its digests, its `text` for people, its best tactics with the microseconds they took, best first,
    and the templates that were `searched`: enough of their candidates were tried."""

    key: str
    likeness: str
    text: str
    searched: tuple[str, ...]
    tactics: tuple[tuple[Tactic, float], ...]


@dataclass(frozen=True)
class Advice:
    """What a table says of a problem: `tactics` to try first, and templates of which nothing else need be tried."""

    tactics: tuple[Tactic, ...] = ()
    searched: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Table:
    """The entries of one architecture, as measured on `device` with `toolchain`."""

    arch: int
    device: str
    toolchain: str
    entries: tuple[Entry, ...]
    _exact: dict[str, Entry] = field(init=False, repr=False, compare=False)
    _alike: dict[str, list[Entry]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_exact", {entry.key: entry for entry in self.entries})
        object.__setattr__(self, "_alike", {})
        for entry in sorted(self.entries, key=lambda entry: not entry.searched):
            if entry.likeness:
                self._alike.setdefault(entry.likeness, []).append(entry)

    def advice(self, problem: Problem, target: Target) -> Advice:
        """What to try first for a problem; nothing, if neither it nor one like it is in the table. What the table says
        of the same with a bias is a first guess, no more."""
        if target.arch != self.arch or not self.entries:
            return Advice()
        itself = self._exact.get(key_of(problem))
        near = self._alike.get(likeness(problem), []) if itself is None else [itself]
        found = near or self._alike.get(likeness(problem, biased=True), [])
        tactics = _in_turns([[tactic for tactic, _ in entry.tactics] for entry in found])
        searched = {name for entry in near for name in entry.searched if target.name == self.device}
        return Advice(tuple(dict.fromkeys(tactics))[:MOST], frozenset(searched))


def shipped(arch: int) -> Table:
    """The table that comes with jitrt for an architecture: one without entries, if there is none or JITRT_TABLE is 0.
    Raises CacheError if it is damaged."""
    return _read(arch) if shipped_table() else _none(arch)


def key_of(problem: Problem) -> str:
    """The digest that stands for exactly this problem."""
    return digest(problem.key)[:16]


def likeness(problem: Problem, *, biased: bool = False) -> str:
    """A digest that problems share if the same tactics should suit them; empty for a problem without an anchor. With
    `biased` that of the problem with a bias, or as it is if it has one.

    It is of the anchors, the shapes and types of what they read and give, the order of dimensions in memory, and
    whether 16 bytes can be loaded at a time; further, how many operands of other ops are as large as the result, and
    whether there are smaller ones. It is not of value names, exact strides, and what the epilogue computes.
    """
    if not problem.anchors:
        return ""
    beside = {v for node in problem.body.nodes if not node.has(Trait.ANCHOR) for v in node.inputs}
    others = [value.type.numel for value in problem.body.inputs if value in beside]
    full = problem.output.type.numel
    lines = [f"{a.op} {' '.join(_kind(v) for v in (*a.inputs, a.output))}" for a in problem.anchors]
    large, small = sum(size >= full for size in others), biased or any(size < full for size in others)
    lines.append(f"{_kind(problem.output)} {large} {small} {min(problem.alignment)}")
    return digest(*lines)[:16]


def write_table(table: Table, path: Path) -> None:
    """One line a problem, in the order of their text, so that two versions can be compared."""
    head: dict[str, Any] = {"version": VERSION, "arch": table.arch, "device": table.device}
    head["toolchain"] = table.toolchain
    entries = sorted(table.entries, key=lambda entry: (entry.text, entry.key))
    lines = ",\n".join(json.dumps(_to_json(entry), ensure_ascii=False) for entry in entries)
    fields = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items())
    path.write_text(f'{{\n{fields} "problems": [\n{lines}\n]}}\n', encoding="utf-8")


def read_table(path: Path) -> Table:
    """The table in a file. Raises CacheError if it is none of this version."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["version"] != VERSION:
            raise ValueError(f"it is of version {held['version']}, this jitrt reads version {VERSION}")
        entries = tuple(_from_json(line) for line in held["problems"])
        return Table(held["arch"], held["device"], held["toolchain"], entries)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        told = f"{path} is no table of tactics ({type(error).__name__}: {error})"
        raise CacheError(f"{told}: install jitrt again, or set JITRT_TABLE=0") from error


@cache
def _read(arch: int) -> Table:
    path = _FOLDER / f"sm_{arch}.json"
    return read_table(path) if path.exists() else _none(arch)


@cache
def _none(arch: int) -> Table:
    return Table(arch, "", "", ())


def _kind(value: Value) -> str:
    """A value's type without exact strides: order in memory, and whether all but the innermost are of 16 bytes."""
    type = value.type
    dims = sorted((-s, d) for d, (n, s) in enumerate(zip(type.shape, type.strides, strict=True)) if n > 1)
    whole = all(s * type.dtype.itemsize % 16 == 0 for s, _ in dims[:-1])
    return f"{type.dtype.value}{list(type.shape)}{[d for _, d in dims]}{whole}"


def _in_turns(lists: Sequence[Sequence[Tactic]]) -> list[Tactic]:
    """The first of each, then the second of each, ..."""
    return [one[turn] for turn in range(max(map(len, lists), default=0)) for one in lists if turn < len(one)]


def _to_json(entry: Entry) -> Mapping[str, Any]:
    tactics = [[round(us, 2), tactic.template, dict(tactic.config)] for tactic, us in entry.tactics]
    return {
        "problem": entry.text,
        "key": entry.key,
        "likeness": entry.likeness,
        "searched": list(entry.searched),
        "tactics": tactics,
    }


def _from_json(line: Mapping[str, Any]) -> Entry:
    tactics = tuple((Tactic(name, tuple(sorted(config.items()))), float(us)) for us, name, config in line["tactics"])
    return Entry(line["key"], line["likeness"], line["problem"], tuple(line["searched"]), tactics)
