"""The environment, read in this file and nowhere else.

| variable | meaning | default |
|---|---|---|
| `JITRT_CACHE_DIR` | folder of built plans and the timing cache | `jitrt` in the user's cache folder |
| `JITRT_LOG` | `debug`, `info`, `warning` or `error`: what is printed to stderr while building | `warning` |
| `JITRT_COMPILE_WORKERS` | processes that compile candidates in parallel, at least 1 | one a usable core |
| `JITRT_TABLE` | `0`: plans are built as if jitrt came without its table of tactics (`jitrt/tune/tables`) | `1` |
| `NO_COLOR` | any non-empty text: no colours (no-color.org) | unset: colours where the terminal has them |

`knobs()` reads them at each call, so that a test or a notebook may change one and go on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jitrt.errors import OptionError

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Knobs:
    """What the environment said when `knobs()` was called."""

    cache_dir: Path
    log: str
    compile_workers: int
    color: bool
    table: bool


def knobs() -> Knobs:
    """The settings in force now. Raises OptionError, naming the variable, for a value it cannot have.

    >>> knobs().log
    'warning'
    """
    return Knobs(cache_dir(), _log(), _compile_workers(), not os.environ.get("NO_COLOR"), shipped_table())


def cache_dir() -> Path:
    """The cache folder; it need not exist yet."""
    from platformdirs import user_cache_path

    given = os.environ.get("JITRT_CACHE_DIR")
    return Path(given).expanduser() if given else user_cache_path("jitrt", appauthor=False)


def shipped_table() -> bool:
    """Whether the tactics that come with jitrt are tried first. Raises OptionError."""
    text = os.environ.get("JITRT_TABLE", "1")
    if text not in ("0", "1"):
        raise OptionError(f"JITRT_TABLE is {text!r}; set it to 0 or 1")
    return text == "1"


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the environment with `changes`, for a child process."""
    return {**os.environ, **(changes or {})}


def _log() -> str:
    level = os.environ.get("JITRT_LOG", "warning").lower()
    if level not in LOG_LEVELS:
        raise OptionError(f"JITRT_LOG is {level!r}; set it to one of {', '.join(LOG_LEVELS)}")
    return level


def _compile_workers() -> int:
    text = os.environ.get("JITRT_COMPILE_WORKERS")
    if text is None:
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"JITRT_COMPILE_WORKERS is {text!r}; set it to a whole number of processes, at least 1")
    return int(text)
