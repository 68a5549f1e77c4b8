"""Lines of the user's program: which file a frame is in, and who called jitrt."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

JITRT = str(Path(__file__).parents[1]) + os.sep
_NOT_THE_CALLER = (JITRT, contextlib.__file__)


def short_name(filename: str) -> str:
    """A source file's name without its folder; for a cell of a notebook "In[3]", its number."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    cell = shell.compile.format_code_name(filename) if shell is not None else None
    return cell[1] if cell else Path(filename).name


def callers_line() -> str:
    """The innermost line outside jitrt on the stack, as "file.py:12"; "" if there is none."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_NOT_THE_CALLER):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return f"{short_name(frame.f_code.co_filename)}:{frame.f_lineno}"
