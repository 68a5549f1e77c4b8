"""One build's tuning: several selections that share a time budget, the processes and what was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from jitrt.codegen.target import Target
from jitrt.kernels.base import Problem, templates
from jitrt.knobs import cache_dir
from jitrt.plan.schema import PlanFile
from jitrt.tune.budget import Budget, Clock
from jitrt.tune.candidates import Candidate
from jitrt.tune.compile_pool import CompilePool, Compiler
from jitrt.tune.cost import weight
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.measure import GpuMeasurer, Job
from jitrt.tune.progress import Event, Progress, Reporter
from jitrt.tune.select import Choice, select
from jitrt.tune.worker import WorkerFailure

_AT_ONCE = 1e-3  # seconds: what is needed and no more
_LEAST = 2.0  # seconds of a selection, so that no verdict rests on first guesses alone
_SHARE = 0.4  # of the time left at most, for a selection that others follow
_FINISH = 0.1  # of the time: to end what has begun, and to put the plan together


class Tuner:
    """Selects tactics for one build, on GPU `device` or, without one, by the cost model. A context manager.

    `mode` is the time that the build may take ("60s"), "heuristic" or "exhaustive". Timings and binaries are kept
    in the user's cache, or with `cache=False` for as long as this object lives. `compiler` takes the place of processes
    of its own.
    """

    def __init__(
        self,
        target: Target,
        device: int | None = None,
        *,
        mode: str | float = "60s",
        cache: bool = True,
        progress: Progress | None = None,
        compiler: Compiler | None = None,
    ):
        self.target = target
        self._budget = Budget.parse(mode)
        seconds = self._budget.seconds
        self._clock = Clock(None if seconds is None else (1 - _FINISH) * seconds)
        self._progress = progress
        self._interrupted = False
        self._laps: dict[str, float] = {}
        self._stack = ExitStack()
        self._measurer = None if device is None else self._stack.enter_context(closing(GpuMeasurer(device)))
        self._folder = cache_dir() if cache else Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        note = Reporter(self._hear, self._clock).note
        own = None if compiler else CompilePool(None, KernelCache(self._folder), note)
        if own is not None:
            self._stack.enter_context(closing(own))
        self._compiler = compiler or own

    @property
    def measures(self) -> bool:
        """Whether there is a GPU, and time, to measure anything."""
        return self._measurer is not None and self._budget.seconds != 0

    @property
    def over(self) -> bool:
        """The time is spent, or somebody pressed Ctrl-C."""
        return self._interrupted or self._clock.over

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of each part of the build that has ended."""
        return dict(self._laps)

    def lap(self, part: str) -> None:
        """A part of the build has ended."""
        self._laps[part] = self._laps.get(part, 0.0) + self._clock.elapsed - sum(self._laps.values())

    def select(
        self,
        problems: Sequence[Problem],
        *,
        others: Sequence[Problem] | None = None,
        share: float = 1.0,
        at_once: bool = False,
    ) -> list[Choice]:
        """As `jitrt.tune.select.select`, in a share of the time that is left; or, if there are `others` to come, in the
        share of it that these problems are of all, in seconds of their rooflines. With `at_once`, by what is known: of
        a problem that nothing is known of only the first guess is tried."""
        if others is not None:
            mine, theirs = (sum(weight(problem, self.target) for problem in some) for some in (problems, others))
            share = min(_SHARE, mine / (mine + theirs))
        return select(
            problems,
            self.target,
            mode=_AT_ONCE if at_once and self.measures else self._mode(share),
            folder=self._folder,
            progress=self._hear,
            compiler=self._compiler,
            measurer=self._measurer,
        )

    def rivals(self, problem: Problem, choice: Choice) -> Callable[[], list[Choice]]:
        """Starts to compile the tactics that came close to a choice; what is returned waits for them."""
        assert self._compiler is not None
        offered = templates()
        candidates = [Candidate(tactic, offered[tactic.template]) for tactic, _ in choice.rivals]
        compiling = [self._compiler.submit(problem, candidate, self.target) for candidate in candidates]

        def compiled() -> list[Choice]:
            done = [
                replace(choice, tactic=tactic, microseconds=microseconds, binaries=future.result().binaries)
                for (tactic, microseconds), future in zip(choice.rivals, compiling, strict=True)
            ]
            return [other for other in done if other.binaries]

        return compiled

    def verify(self, problem: Problem, choice: Choice) -> str | None:
        """None if a choice's kernels are right in every way that a winner's must be, else what is wrong with them."""
        if self._measurer is None:
            return "there is no GPU to verify it on"
        candidate = Candidate(choice.tactic, templates()[choice.tactic.template])
        return self._measurer.measure(Job(problem, candidate, choice.binaries, self.target)).record.reason

    def tell(self, text: str, done: int = 0, total: int = 0) -> None:
        """News of what is tried outside of a selection."""
        left = None if self._clock.seconds is None else max(0.0, self._clock.seconds - self._clock.elapsed)
        self._hear(Event("network", text, done, total, self._clock.elapsed, left))

    def interrupt(self, text: str) -> None:
        """Somebody pressed Ctrl-C: what can be left out is left out from now on. `text` begins with "interrupted"."""
        self._hear(Event("note", text, 0, 0, self._clock.elapsed, 0.0))

    def contest(self, files: Sequence[PlanFile]) -> list[float]:
        """Microseconds of one run of each plan. Raises WorkerFailure if they could not be timed."""
        if self._measurer is None:
            raise WorkerFailure("there is no GPU to time plans on")
        return self._measurer.contest(files)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Tuner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hear(self, event: Event) -> None:
        # Ctrl-C during one selection is meant for all of them.
        self._interrupted |= event.kind == "note" and event.text.startswith("interrupted")
        if self._progress is not None:
            self._progress(event)

    def _mode(self, share: float) -> str | float:
        if not self.measures:
            return "heuristic"
        if self._interrupted:
            return _AT_ONCE
        if self._clock.seconds is None:
            return "exhaustive"
        return max(_LEAST, share * (self._clock.seconds - self._clock.elapsed))
