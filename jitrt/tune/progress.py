"""News of a tuning run, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from jitrt.kernels.base import Tactic
from jitrt.tune.budget import Clock
from jitrt.tune.timing_cache import Record

Kind = Literal["start", "candidate", "note", "end", "network"]


@dataclass(frozen=True)
class Event:
    """One piece of news. `done` of `total` candidates have been tried; `remaining` seconds are to go, None while that
    is unknown; `problem` is the position of the problem concerned.

    start      tuning begins.
    candidate  `tactic` was tried: see `record`; `text` is one line on it.
    note       `text` is something the user should know.
    end        every problem has its tactic.
    network    something is tried in the whole network; `done` and `total` count problems.
    """

    kind: Kind
    text: str
    done: int
    total: int
    elapsed: float
    remaining: float | None
    problem: int | None = None
    tactic: Tactic | None = None
    record: Record | None = None


class Progress(Protocol):
    """Called in the thread that tunes; an exception it raises ends the tuning."""

    def __call__(self, event: Event) -> None: ...


class Reporter:
    """Counts candidates and tells a listener, if there is one."""

    def __init__(self, listener: Progress | None, clock: Clock):
        self._listener, self._clock = listener, clock
        self._done = 0
        self.total = 0

    def candidate(self, problem: int, tactic: Tactic, record: Record) -> None:
        """A candidate was tried."""
        self._done += 1
        self._tell("candidate", f"{tactic}: {describe(record)}", problem, tactic, record)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._tell("note", text)

    def start(self, text: str) -> None:
        self._tell("start", text)

    def end(self, text: str) -> None:
        self._tell("end", text)

    def _tell(
        self,
        kind: Kind,
        text: str,
        problem: int | None = None,
        tactic: Tactic | None = None,
        record: Record | None = None,
    ) -> None:
        if self._listener is None:
            return
        total = max(self.total, self._done)
        remaining = self._clock.remaining(self._done, total)
        self._listener(Event(kind, text, self._done, total, self._clock.elapsed, remaining, problem, tactic, record))


def describe(record: Record) -> str:
    """What came of a candidate, in a few words."""
    if record.reason is not None:
        return record.reason
    if record.microseconds is None:
        return "compiled"
    return f"{record.microseconds:.2f} us" + (", slower" if record.slower else "")
