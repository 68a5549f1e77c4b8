"""The arena drawn in text: every block a row, by its first byte, with a bar over the steps at which it must exist.

    offset  size     0                      56
    0 B     1.5 MiB  ██▌                        %relu
    1.5 MiB 392 KiB    ██████                   %max_pool

A bar that begins where one of the same offset ends took its place: the result was written over its operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import ConsoleRenderable
from rich.text import Text

from jitrt.cli.terminal import line, size

_NAME = 24  # columns at most
_LEVELS = " ▁▂▃▄▅▆▇█"


def lifetimes(memory: Mapping[str, Any], width: int) -> list[ConsoleRenderable]:
    """The plan of an arena, as `MemoryPlan.to_json` has it, in lines of at most `width` columns."""
    blocks = sorted(memory["blocks"], key=lambda b: (b["offset"], b["first"], b["workspace"]))
    if not blocks:
        return [line("the arena is empty: all values are inputs, outputs or constants")]
    steps = 1 + max(b["last"] for b in blocks)
    names = [_name(b, memory["in_place"]) for b in blocks]
    numbers = [(size(b["offset"]), size(b["nbytes"])) for b in blocks]
    left = [max(len("offset"), *(len(n) for n, _ in numbers)), max(len("size"), *(len(n) for _, n in numbers))]
    room = max(8, min(steps, width - sum(left) - 4 - 2 - max(map(len, names))))
    ruler = _ruler(steps, room)
    lines: list[ConsoleRenderable] = [line(f"{'offset'.rjust(left[0])}  {'size'.rjust(left[1])}  {ruler}  value")]
    for block, name, (offset, nbytes) in zip(blocks, names, numbers, strict=True):
        row = Text(f"{offset.rjust(left[0])}  {nbytes.rjust(left[1])}  ", no_wrap=True, overflow="ellipsis")
        row.append(_bar(block, steps, room), style="yellow" if block["workspace"] else "green")
        row.append(f"  {name}")
        lines.append(row)
    lines.append(line(f"{'in use'.rjust(left[0])}  {' ' * left[1]}  {_profile(blocks, memory, steps, room)}"))
    return [*lines, *map(line, summary(memory))]


def summary(memory: Mapping[str, Any]) -> list[str]:
    """Peak against naive and against the lower bound; how many results are in place, and why others are not."""
    arena, naive, bound = memory["arena_bytes"], memory["naive_bytes"], memory["lower_bound_bytes"]
    lines = [
        f"the arena is {size(arena)}: {arena / max(bound, 1):.2f} x the {size(bound)} alive at one time at the most,",
        f"{arena / max(naive, 1):.2f} x the {size(naive)} of all blocks in places of their own",
        f"{len(memory['in_place'])} results took the place of an operand that died with them",
    ]
    reasons = list(memory["not_in_place"].values())
    lines += [f"{reasons.count(r):6} x not: {r}" for r in sorted(set(reasons), key=lambda r: (-reasons.count(r), r))]
    return lines


def _name(block: Mapping[str, Any], in_place: Mapping[str, str]) -> str:
    name = f"%{block['name']}"
    if block["workspace"]:
        name = f"workspace of {name}"
    elif block["name"] in in_place:
        name += f" over %{in_place[block['name']]}"
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _columns(first: int, last: int, steps: int, room: int) -> range:
    """The columns that belong to these steps, the last included: at least one."""
    return range(first * room // steps, ((last + 1) * room - 1) // steps + 1)


def _bar(block: Mapping[str, Any], steps: int, room: int) -> str:
    columns = _columns(block["first"], block["last"], steps, room)
    return (" " * columns.start + ("▒" if block["workspace"] else "█") * len(columns)).ljust(room)


def _ruler(steps: int, room: int) -> str:
    """The first and the last step."""
    end = str(steps - 1)
    return "0" + end.rjust(room - 1) if room > len(end) else "0".ljust(room)


def _profile(blocks: Sequence[Mapping[str, Any]], memory: Mapping[str, Any], steps: int, room: int) -> str:
    """How much of the arena is alive, the most of each column's steps. A place handed over counts once."""
    ends = {b["name"]: b["last"] for b in blocks if not b["workspace"]}
    handed_over = {(old, ends[old]) for old in memory["in_place"].values()}  # at that step it is the other's
    most = [0] * room
    for step in range(steps):
        there = [b for b in blocks if b["first"] <= step <= b["last"]]
        alive = sum(b["nbytes"] for b in there if b["workspace"] or (b["name"], step) not in handed_over)
        for column in _columns(step, step, steps, room):
            most[column] = max(most[column], alive)
    top = max(memory["arena_bytes"], 1)
    return "".join(_LEVELS[-(-alive * (len(_LEVELS) - 1) // top)] for alive in most)
