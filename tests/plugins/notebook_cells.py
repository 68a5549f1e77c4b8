"""Cells of a notebook, without one."""

from __future__ import annotations

import itertools
import linecache
from typing import Any

_numbers = itertools.count(1)


class Notebook:
    """Runs cells as IPython does: each a file that exists in `linecache` alone, all in one namespace."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(self, text: str) -> None:
        name = f"<cell {next(_numbers)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), self.namespace)
