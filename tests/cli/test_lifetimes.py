"""The arena drawn in text."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from jitrt.cli.lifetimes import lifetimes
from tests.cli.plans import tiny_arena


def drawn(memory: dict[str, Any], width: int = 80) -> list[str]:
    out = Console(width=width, no_color=True, force_terminal=False)
    with out.capture() as captured:
        for part in lifetimes(memory, width):
            out.print(part)
    return captured.get().splitlines()


def test_rows_are_sorted_by_offset_and_bars_run_over_the_steps() -> None:
    head, *rows, in_use, bound, naive, in_place, most, least = drawn(tiny_arena())
    assert head.split() == ["offset", "size", "0", "3", "value"]
    start = head.index("0")  # four steps in eight columns
    assert [row[start : start + 8] for row in rows] == ["████████", "▒▒      ", "  ████  ", "    ████"]
    assert [row[start + 10 :] for row in rows] == ["%stem", "workspace of %stem", "%left", "%sum over %left"]
    assert in_use[start:] == "▇▇██████"
    assert bound == "the arena is 3.0 KiB: 1.00 x the 3.0 KiB alive at one time at the most,"
    assert naive == "0.67 x the 4.5 KiB of all blocks in places of their own"
    assert in_place.startswith("1 results took the place")
    assert (most, least) == ("     2 x not: it is read later", "     1 x not: not today")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_the_window(width: int) -> None:
    """However many steps there are, and a bar is never less than a column."""
    memory = tiny_arena()
    memory["blocks"] = [
        {"name": f"v{i}", "nbytes": 256, "first": i, "last": i, "workspace": False, "offset": 256 * (i % 5)}
        for i in range(300)
    ]
    memory["in_place"] = {}
    head, *rest = drawn(memory, width)
    rows = rest[:300]
    assert max(map(len, (head, *rest[:301]))) <= width
    assert [row.split()[0] for row in rows[::60]] == ["0", "256", "512", "768", "1.0"]
    assert {row.count("█") for row in rows} <= {1, 2}  # a step may lie across two columns


def test_long_names_are_cut() -> None:
    memory = tiny_arena()
    memory["blocks"][0]["name"] = memory["blocks"][1]["name"] = "a_name_that_is_much_too_long_for_a_column"
    _, first, second, *_ = drawn(memory)
    assert first.endswith("  %a_name_that_is_much_to…")
    assert second.endswith("  workspace of %a_name_th…")


def test_an_empty_arena() -> None:
    nothing = {"blocks": [], "in_place": {}, "not_in_place": {}}
    assert drawn(nothing) == ["the arena is empty: all values are inputs, outputs or constants"]
