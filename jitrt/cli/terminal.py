"""Printing, the same way in every command."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, ConsoleRenderable, RichCast
from rich.table import Table
from rich.text import Text

from jitrt.errors import OptionError
from jitrt.knobs import knobs
from jitrt.runtime.report import nbytes_text as size

__all__ = ["check_writable", "console", "line", "show", "size", "table"]

PIPE_WIDTH = 200  # columns where nobody's window sets them


def console(*, stderr: bool = False) -> Console:
    """Where commands print."""
    found = Console(stderr=stderr, no_color=not knobs().color, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


def table(
    title: str | None, header: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()
) -> Table:
    """A table; `right` lists the columns of numbers. Cells are plain text: brackets in them mean nothing."""
    made = Table(title=title, title_justify="left", title_style="bold", show_header=any(header))
    for index, name in enumerate(header):
        made.add_column(name, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def line(text: str) -> Text:
    """A line of plain text, for `Console.print`."""
    return Text(text)


def show(thing: object) -> None:
    """Print something that knows how to show itself: richly if it can, as its text otherwise."""
    if isinstance(thing, RichCast | ConsoleRenderable):
        console().print(thing)
    else:
        print(thing)


def check_writable(option: str, path: str) -> None:
    """Raise OptionError unless a file can be written at `path`: before the work whose result goes there."""
    target = Path(path)
    if not target.parent.is_dir():
        raise OptionError(f"{option} is {path}, but there is no folder {target.parent}")
    if target.is_dir():
        raise OptionError(f"{option} is {path}, which is a folder; name a file in it")
    if not os.access(target.parent, os.W_OK):
        raise OptionError(f"{option} is {path}, but {target.parent} cannot be written; choose another folder")
