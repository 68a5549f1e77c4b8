"""How long to tune, and which problem gets the next candidate."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jitrt.errors import OptionError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_MINUTE = 60.0
_KEEP = 24  # candidates a problem in the first minute


@dataclass(frozen=True)
class Budget:
    """`seconds` for all problems together (None: no limit; 0: first guesses only) and candidates a problem to `keep`
    (None: all)."""

    seconds: float | None
    keep: int | None

    @property
    def generous(self) -> bool:
        """Whether to search on where the shipped table has an answer: what it knows took a search of a minute."""
        return self.seconds is None or self.seconds > _MINUTE

    @classmethod
    def parse(cls, mode: str | float) -> Budget:
        """A budget from "heuristic", "exhaustive", "60s", "2m", "1.5h" or a number of seconds. Raises OptionError.

        >>> Budget.parse("2m")
        Budget(seconds=120.0, keep=48)
        """
        if mode == "heuristic":
            return cls(0.0, 2 * _KEEP)
        if mode == "exhaustive":
            return cls(None, None)
        match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", str(mode).strip())
        try:
            seconds = float(match[1]) * _UNITS[match[2]] if match else -1.0
        except (KeyError, ValueError):
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise OptionError(f"tune is {mode!r}; give a time such as '60s' or '2m', 'heuristic' or 'exhaustive'")
        return cls(seconds, max(1, round(_KEEP * max(1.0, seconds / _MINUTE))))


class Clock:
    """Time since tuning began, now or when `began` says, and when it must end."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic, began: float | None = None):
        self._now = now
        self._start = now() if began is None else began
        self.seconds = seconds

    @property
    def elapsed(self) -> float:
        return self._now() - self._start

    @property
    def over(self) -> bool:
        return self.seconds is not None and self.elapsed >= self.seconds

    def remaining(self, done: int, total: int) -> float | None:
        """Seconds to go: at today's pace for `total` candidates, but no longer than the budget. None: unknown yet."""
        if done >= total:
            return 0.0
        pace = self.elapsed * (total - done) / done if done else None
        if self.seconds is None:
            return pace
        left = max(0.0, self.seconds - self.elapsed)
        return left if pace is None else min(left, pace)


def next_share(weights: Mapping[int, float], given: Mapping[int, int]) -> int:
    """Which of `weights` gets the next candidate, so that candidates end up in proportion to weights (d'Hondt's rule).
    Ties go to the lower number. `given` counts what each has had."""
    return max(weights, key=lambda key: (weights[key] / (given[key] + 1), -key))
