"""Functions and templates for a worker to import that misbehave on purpose."""

from __future__ import annotations

import os
import sys
import time

from jitrt.tune.worker import time_limit


def last_words() -> None:
    """End the process like a compiler that gives up."""
    print("ptxas fatal: out of ideas", file=sys.stderr, flush=True)
    os._exit(3)


def hang() -> None:
    """Take longer than the limit it set itself."""
    with time_limit(0.2):
        time.sleep(60)


def in_time() -> str:
    """Stay within the limit, and live on after it."""
    with time_limit(0.2):
        pass
    time.sleep(0.3)
    return "in time"
