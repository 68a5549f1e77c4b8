"""What a person sees while a model is tuned: one line that moves on a terminal, and notes that stay."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from jitrt.knobs import knobs

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from jitrt.tune.progress import Event, Progress


class TuningProgress:
    """Shows tuning events on stderr: a bar with counts and the time left where stderr is a terminal, and everywhere the
    notes ("interrupted: keeping what was measured"). Use as a context manager and pass it as `progress`. Events go on
    to `also`; `interrupted` says whether Ctrl-C cut the tuning short."""

    def __init__(self, also: Progress | None = None) -> None:
        self.interrupted = False
        self._also = also
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> TuningProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            console = Console(stderr=True, no_color=not knobs().color)
            columns = (TextColumn("tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        if self._also is not None:
            self._also(event)
        self.interrupted |= event.kind == "note" and event.text.startswith("interrupted")
        if event.kind == "note":
            print(f"jitrt: {event.text}", file=sys.stderr)
        if self._bar is None or self._task is None:
            return
        left = "" if event.remaining is None else f"about {event.remaining:.0f} s left; Ctrl-C keeps what is tuned"
        if event.kind == "network":
            left = f"{event.text}; {left}"
        self._bar.update(self._task, completed=event.done, total=event.total or None, description=left)
