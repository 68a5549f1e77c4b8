"""The rig that candidates run in, one after another, inside the GPU worker.

A candidate is timed; one about to win is verified, also on large numbers and NaN.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target
from jitrt.errors import DriverError, JitrtError
from jitrt.kernels.base import Problem, templates
from jitrt.knobs import knobs
from jitrt.runtime.driver import cuda_driver
from jitrt.runtime.seam import LOST, Driver
from jitrt.tune.bench import Bench
from jitrt.tune.candidates import Candidate
from jitrt.tune.session import Session
from jitrt.tune.timing_cache import Record
from jitrt.tune.verify import Trial, make_trial
from jitrt.tune.worker import time_limit

_SESSION_SHARE = 0.5  # of the free memory, for buffers of problems at hand
_OUT_OF_MEMORY = 2
_THREADS = 8  # at most, or half the cores, that make trials while the GPU is busy
_MOST_TRIALS = 32


@dataclass(frozen=True)
class Job:
    """One candidate to verify and time. `best` is the time to beat in microseconds, if there is one; a candidate that
    keeps the GPU for more than `patience` seconds hangs. `coming` are problems whose first candidates come soon.
    Nobody waits for the outcome longer than `limit` seconds."""

    problem: Problem
    candidate: Candidate
    binaries: tuple[Binary, ...]
    target: Target
    best: float | None = None
    patience: float = 10.0
    coming: tuple[Problem, ...] = ()
    limit: float = math.inf


@dataclass(frozen=True)
class Outcome:
    """What came of a job. `lasting` says that it will be the same next time (a worker's death may not be), `fatal` that
    the worker's CUDA context is lost."""

    record: Record
    lasting: bool = True
    fatal: bool = False


class Rig:
    """Sessions of the problems at hand on one GPU, those used longest ago given up for room."""

    def __init__(self, driver: Driver):
        self.driver = driver
        with driver.active():
            self._stream = driver.create_stream()
            self._room = int(driver.memory_info()[0] * _SESSION_SHARE)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._threads = ThreadPoolExecutor(max(2, min(_THREADS, knobs().compile_workers // 2)), "jitrt-trials")
        self._trials: OrderedDict[str, tuple[Future[Trial], Future[Trial]]] = OrderedDict()  # plain and special

    def measure(self, job: Job) -> Outcome:
        """Verify, then time. Never raises for what the candidate does."""
        self._expect(job.coming)
        try:
            with self.driver.active():
                return self._hear(job)
        except DriverError as error:
            full = error.code == _OUT_OF_MEMORY
            return Outcome(Record(reason=f"crashed: {error}"), lasting=not full, fatal=error.code in LOST)

    def close(self) -> None:
        """Give everything back."""
        self._threads.shutdown(cancel_futures=True)
        with self.driver.active():
            self._forget_all()
            self.driver.destroy_stream(self._stream)

    def _expect(self, problems: Sequence[Problem]) -> None:
        """Start on the trials of problems: their references take the host longer than a candidate takes the GPU."""
        for problem in problems:
            if problem.key not in self._sessions and problem.key not in self._trials:
                plain = self._threads.submit(make_trial, problem)
                self._trials[problem.key] = plain, self._threads.submit(_special, problem, plain)
        while len(self._trials) > _MOST_TRIALS:  # of problems that never came
            for trial in self._trials.popitem(last=False)[1]:
                trial.cancel()

    def _hear(self, job: Job) -> Outcome:
        """A wrong candidate gets a second hearing on fresh buffers: an earlier one may have written where nothing
        watches. So may this one, hence fresh buffers again for the next."""
        try:
            outcome = self._measure(job)
        except DriverError as error:
            if error.code != _OUT_OF_MEMORY or not self._sessions:
                raise
            self._forget_all()
            outcome = self._measure(job)
        if outcome.record.reason is not None:
            self._renew(job.problem)
            outcome = self._measure(job)
        if outcome.record.reason is not None:
            self._renew(job.problem)
        return outcome

    def _measure(self, job: Job) -> Outcome:
        session = self._session(job.problem)
        lowered = job.candidate.lower(job.problem, job.target)
        with closing(Bench(session, lowered, job.binaries)) as bench:
            with time_limit(job.patience):
                # Timing costs less than verifying, and who cannot win need not be right.
                microseconds, slower = bench.time(job.best)
                if slower or (job.best is not None and microseconds >= job.best):
                    return Outcome(Record(microseconds, slower=True))
                reason = bench.verify(session.trial, session.blocks[0])
            if reason is not None:
                return Outcome(Record(reason=reason))
            if not job.candidate.template.spreads_nonfinite(job.problem):
                trial, block = session.special()
                with time_limit(job.patience):
                    reason = bench.verify_once(trial, block)
                if reason is not None:
                    return Outcome(Record(reason=f"on large numbers and NaN: {reason}"))
        return Outcome(Record(microseconds))

    def _session(self, problem: Problem) -> Session:
        key = problem.key
        if key in self._sessions:
            self._sessions.move_to_end(key)
            return self._sessions[key]
        plain, special = self._trials.pop(key, (None, None))
        session = Session(self.driver, problem, self._stream, plain.result() if plain else None, special)
        self._sessions[key] = session
        while len(self._sessions) > 1 and sum(s.nbytes for s in self._sessions.values()) > self._room:
            self._sessions.popitem(last=False)[1].close()
        return session

    def _forget_all(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _renew(self, problem: Problem) -> None:
        """Fresh buffers for a problem, with the same numbers in them."""
        old = self._sessions.pop(problem.key)
        old.close()
        self._sessions[problem.key] = Session(self.driver, problem, self._stream, old.trial)


def _special(problem: Problem, plain: Future[Trial]) -> Trial:
    """On a thread: the trial with large numbers and NaN. The other one, asked for before, is made or being made."""
    return make_trial(problem, special=True, like=plain.result())


_rigs: dict[int, Rig] = {}


def prepare(index: int) -> None:
    """In the GPU worker, before the first job: what that would have to wait for. Whoever sends it hears of errors."""
    templates()  # with Triton
    with contextlib.suppress(JitrtError):
        _rig(index)


def measure(index: int, job: Job) -> Outcome:
    """In the GPU worker: `Rig.measure` on GPU number `index`."""
    return _rig(index).measure(job)


def _rig(index: int) -> Rig:
    if index not in _rigs:
        _rigs[index] = Rig(cuda_driver(index))
    return _rigs[index]
