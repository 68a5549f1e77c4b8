"""Which line of the user's program a torch node comes from: "model.py:12 (layer1.0.conv1)"."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch.fx import traceback as fx_traceback
from torch.overrides import TorchFunctionMode

from jitrt.frontend.lines import JITRT, short_name

_KEY = "jitrt_line"
_NOT_THE_USERS = (str(Path(str(torch.__file__)).parent) + os.sep, JITRT, "<")
_TYPED_IN = "<ipython-input-"  # how IPython in a terminal names what is typed; a notebook's cells look like files
_FRAME = re.compile(r'File "(.+?)", line (\d+)')


def _is_users(filename: str) -> bool:
    return filename.startswith(_TYPED_IN) or not filename.startswith(_NOT_THE_USERS)


class _RecordLines(TorchFunctionMode):
    """Marks every torch node with the innermost line outside torch and jitrt that led to it.

    torch.export records stack frames too, but of functions called `forward` only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not _is_users(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None or not _is_below_mark(frame):
            return func(*args, **(kwargs or {}))
        with fx_traceback.annotate({_KEY: f"{short_name(frame.f_code.co_filename)}:{frame.f_lineno}"}):
            return func(*args, **(kwargs or {}))


def _is_below_mark(frame: FrameType) -> bool:
    """Whether jitrt called `frame`, through `run_user_code`: the frames above are whoever called jitrt."""
    caller = frame.f_back
    while caller is not None:
        if caller.f_code is run_user_code.__code__:
            return True
        caller = caller.f_back
    return False


@contextmanager
def recording() -> Iterator[None]:
    """While active, tracing leaves the user's lines on the nodes; the traced code must be called by `run_user_code`."""
    with fx_traceback.preserve_node_meta(), _RecordLines():
        yield


def run_user_code(call: Any, args: Any, kwargs: Any) -> Any:
    """Call the user's code. Its frame on the stack tells the user's frames from those of jitrt's caller."""
    return call(*args, **kwargs)


def location(node: torch.fx.Node) -> str:
    """Where a node comes from, as "file.py:12 (module.path)"; either part may be missing."""
    custom = node.meta.get("custom") or {}
    line = custom.get(_KEY) or _last_line(node.stack_trace or "")
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed([entry[0] for entry in stack.values()]), "")
    module = module_path(path)
    return f"{line} ({module})" if line and module else line or module


def module_path(path: str) -> str:
    """A module's name as its owner knows it, without the wrapper that tracing puts around it."""
    path = re.sub(r"^([LG]\['[^']*'\]|L__self__)(\.|$)", "", path)
    return re.sub(r"^(root|captured\.self|captured)(\.|$)", "", path)


def _last_line(stack: str) -> str:
    """The innermost of the user's lines in a formatted stack trace."""
    frames = [(name, line) for name, line in _FRAME.findall(stack) if _is_users(name)]
    return f"{short_name(frames[-1][0])}:{frames[-1][1]}" if frames else ""


def users_line(trace: TracebackType | None) -> str:
    """The innermost of the user's lines in an exception's traceback, with its text, or ""."""
    frames = [frame for frame in traceback.extract_tb(trace) if _is_users(frame.filename)]
    if not frames:
        return ""
    return f"{short_name(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name}: {frames[-1].line}"
