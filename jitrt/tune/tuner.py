"""One build's tuning: several selections that share a time budget, the processes and what was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType

from jitrt.codegen.target import Target
from jitrt.kernels.base import Problem, Tactic, templates
from jitrt.knobs import cache_dir
from jitrt.plan.schema import PlanFile
from jitrt.tune import loop
from jitrt.tune.budget import Budget, Clock
from jitrt.tune.candidates import Candidate
from jitrt.tune.compile_pool import CompilePool, Compiler
from jitrt.tune.cost import weight
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.measure import GpuMeasurer, Job
from jitrt.tune.progress import Event, Progress, Reporter
from jitrt.tune.select import Choice, attempt
from jitrt.tune.timing_cache import Record
from jitrt.tune.worker import WorkerFailure

_AT_ONCE = 1e-3  # seconds: what is needed and no more
_LEAST = 2.0  # seconds of a selection, so that no verdict rests on first guesses alone
_SHARE = 0.4  # of the time left at most, for a selection that others follow
_FINISH = 0.1  # of the time: to end what has begun, and to put the plan together,
_FINISH_LEAST = 1.5  # for which that many seconds are needed, if there are four times as many
_FUSIONS = 0.5  # of the time, after which no rule is judged any more
_TRIED = 0.15  # of the time left at most, to verify what a network without a rule needs
_PATIENCE = 2.0  # seconds at least, after a part's time, in which problems without a tactic may yet get one,
_LAST_PATIENCE = 15.0  # and after the time of the build: rather late than with a kernel that nobody verified


class Tuner:
    """Selects tactics for one build, on GPU `device` or, without one, by the cost model. A context manager.

    `mode` is the time that the build may take ("60s"), "heuristic" or "exhaustive". Timings and binaries are kept
    in the user's cache, or with `cache=False` for as long as this object lives. `compiler` takes the place of processes
    of its own. The time runs from `began` (`time.monotonic()`), or from now.
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
        began: float | None = None,
    ):
        self.target = target
        self._budget = Budget.parse(mode)
        seconds = self._budget.seconds
        if seconds is not None:
            seconds -= max(_FINISH * seconds, min(_FINISH_LEAST, seconds / 4))
        self._clock = Clock(seconds, began=began)
        self._progress = progress
        self._interrupted: float | None = None  # when
        self._refused: dict[str, dict[Tactic, Record]] = {}  # by the problem's key
        self.guessed = False  # some kernel was chosen that nobody verified, for want of time
        self._laps: dict[str, float] = {}
        self._stack = ExitStack()
        self._measurer = None if device is None else self._stack.enter_context(closing(GpuMeasurer(device)))
        self._folder = cache_dir() if cache else Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        note = Reporter(self._hear, self._clock).note
        own = None if compiler else CompilePool(None, KernelCache(self._folder), note)
        if own is not None:
            self._stack.enter_context(closing(own))
        self._compiler = compiler or own
        if self._measurer is not None and self.measures:
            self._measurer.start()  # while the graph is still being made

    @property
    def measures(self) -> bool:
        """Whether there is a GPU, and time, to measure anything."""
        return self._measurer is not None and self._budget.seconds != 0

    @property
    def over(self) -> bool:
        """The time is spent, or somebody pressed Ctrl-C."""
        return self.interrupted or self._clock.over

    @property
    def interrupted(self) -> bool:
        """Somebody pressed Ctrl-C."""
        return self._interrupted is not None

    @property
    def judges(self) -> bool:
        """Whether there is time to find out if a rewrite is worth it: not once half of it is spent."""
        seconds = self._clock.seconds
        return not self.interrupted and (not seconds or self._clock.elapsed < _FUSIONS * seconds)

    def lasts(self, seconds: float) -> bool:
        """Whether there is time for something that takes so long."""
        return not self.over and (not self._clock.seconds or self._clock.elapsed + seconds <= self._clock.seconds)

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of each part of the build that has ended."""
        return dict(self._laps)

    def lap(self, part: str) -> None:
        """A part of the build has ended."""
        self._laps[part] = self._laps.get(part, 0.0) + self._clock.elapsed - sum(self._laps.values())

    def select(self, problems: Sequence[Problem], *, share: float = 1.0) -> list[Choice]:
        """As `jitrt.tune.select.select`, in a share of the time that is left. All of it, and some seconds, go to
        problems that have no tactic yet; what has none then takes the likeliest that compiles, not `verified`."""
        seconds = self._seconds(share)
        rest = (self._clock.seconds or 0.0) - self._clock.elapsed - (seconds or 0.0)
        chosen = self._attempt(problems, seconds, patience=max(_LAST_PATIENCE, rest))
        left = {problem.key: problem for problem, choice in zip(problems, chosen, strict=True) if choice is None}
        if not left:
            return [choice for choice in chosen if choice is not None]
        self.guessed = True
        reason = "somebody pressed Ctrl-C" if self.interrupted else "the time was over"
        self._note(f"{len(left)} kernels are the likeliest, not verified: {reason}; another build goes on from here")
        guesses = self._attempt(list(left.values()), _AT_ONCE, patience=None, measure=False)
        guessed = dict(zip(left, guesses, strict=True))
        final = [choice or guessed[problem.key] for problem, choice in zip(problems, chosen, strict=True)]
        return [choice for choice in final if choice is not None]

    def attempt(self, problems: Sequence[Problem], others: Sequence[Problem]) -> list[Choice | None]:
        """Verified tactics for problems that may or may not be solved in the end, in the share of the time left that
        they are of all, in seconds of their rooflines; `others` are those to come. None for what takes longer."""
        mine, theirs = (sum(weight(problem, self.target) for problem in some) for some in (problems, others))
        seconds = self._seconds(min(_SHARE, mine / (mine + theirs)))
        if seconds is None or self.interrupted or self._clock.seconds is None:
            return self._attempt(problems, seconds)
        left = max(0.0, _FUSIONS * self._clock.seconds - self._clock.elapsed)
        patience = min(_PATIENCE, left / 3)
        return self._attempt(problems, max(_AT_ONCE, min(seconds, left - patience)), patience=patience)

    def known(self, problems: Sequence[Problem]) -> list[Choice | None]:
        """Tactics by what is known by now: of a problem that nothing is known of the first guess is tried. None for
        what that takes too long."""
        left = max(0.0, (self._clock.seconds or 0.0) - self._clock.elapsed)
        patience = _PATIENCE if self._clock.seconds is None else min(left, max(_PATIENCE, _TRIED * left))
        return self._attempt(problems, _AT_ONCE if self.measures else None, patience=patience)

    def _attempt(
        self,
        problems: Sequence[Problem],
        seconds: float | None,
        *,
        patience: float | None = _PATIENCE,
        measure: bool = True,
    ) -> list[Choice | None]:
        """`seconds`: None for as many as it takes. `patience` ends sooner after Ctrl-C."""
        if self._interrupted is not None and patience is not None:
            patience = max(0.0, self._interrupted + loop.HASTE - self._clock.elapsed)
        mode = ("exhaustive" if self.measures else "heuristic") if seconds is None else seconds
        return attempt(
            problems,
            self.target,
            patience=None if self._measurer is None else patience,
            measure=measure,
            refused=MappingProxyType({}) if measure else self._refused,
            on_candidate=self._note_refusal,
            mode=mode,
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
        self._note(text)

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

    def _note_refusal(self, problem: Problem, tactic: Tactic, record: Record) -> None:
        if record.reason is not None:
            self._refused.setdefault(problem.key, {})[tactic] = record

    def _note(self, text: str) -> None:
        self._hear(Event("note", text, 0, 0, self._clock.elapsed, 0.0))

    def _hear(self, event: Event) -> None:
        """Ctrl-C during one selection is meant for all of them. Raises KeyboardInterrupt at the second."""
        if event.kind == "note" and event.text.startswith("interrupted"):
            if self._interrupted is not None:
                raise KeyboardInterrupt
            self._interrupted = self._clock.elapsed
        if self._progress is not None:
            self._progress(event)

    def _seconds(self, share: float) -> float | None:
        """That a selection may take; None: no limit."""
        if not self.measures:
            return None
        if self._interrupted is not None:
            return _AT_ONCE
        if self._clock.seconds is None:
            return None
        return max(_LEAST, share * (self._clock.seconds - self._clock.elapsed))
