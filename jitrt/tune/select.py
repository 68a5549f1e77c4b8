"""Choose a tactic for every problem: the main loop of tuning.

Compiling and measuring overlap: while the compile pool works through the candidates, this process hands each finished
one to the GPU worker. First every problem gets a winner; from then on the budget goes to the problems in proportion to
what they cost. Results are cached as they come, so that nothing is lost whenever it ends. After its time a search goes
on only for problems that have no tactic yet, and with `patience` not for long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target
from jitrt.errors import PluginError, TuningError
from jitrt.kernels.base import Problem, Tactic, Template, templates
from jitrt.tune.budget import Budget, Clock, next_share
from jitrt.tune.candidates import Candidate, candidates_of, over_limits, spilled
from jitrt.tune.compile_pool import Compiled, CompilePool, Compiler
from jitrt.tune.cost import weight
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.measure import GpuMeasurer, Job, Measurer, Outcome
from jitrt.tune.progress import Event, Progress, Reporter
from jitrt.tune.recall import Recall
from jitrt.tune.search import SPILLS, Search
from jitrt.tune.shipped import Table, shipped
from jitrt.tune.timing_cache import Record

__all__ = ["Choice", "Event", "Progress", "select"]

_NEAR = 1.2  # times the best: may yet be faster in the network
_RIVALS = 3
_AHEAD = 16  # problems that the GPU worker prepares for; if it heard of all at once it could not keep them
_STUCK = 3.0  # seconds that a measurement may take beyond the last moment, before the GPU worker is given up

Source = Literal["measured", "cache", "table", "heuristic"]
Listener = Callable[[Problem, Tactic, Record], None]


@dataclass(frozen=True)
class Choice:
    """What was chosen for a problem. `microseconds` is 0 if it was never timed. `tried` lists every tactic that
    something is known of, with its microseconds or the reason it was refused; `source` "table" says that the shipped
    table named the tactic, which was measured here if `microseconds` says so; `cache` is one line on why the timing
    cache had, or had not, an answer. `rivals` are the few tactics that came close, best first, not all of
    them verified. The tactic itself is, on the GPU at hand, if `verified` says so."""

    tactic: Tactic
    binaries: tuple[Binary, ...]
    microseconds: float
    source: Source
    tried: tuple[tuple[Tactic, float | str], ...]
    cache: str
    rivals: tuple[tuple[Tactic, float], ...] = ()
    verified: bool = True


def select(
    problems: Sequence[Problem],
    target: Target,
    *,
    mode: str | float = "60s",
    device: int | None = None,
    use_cache: bool = True,
    folder: Path | None = None,
    progress: Progress | None = None,
    on_candidate: Listener | None = None,
    offered: Mapping[str, Template] | None = None,
    compiler: Compiler | None = None,
    measurer: Measurer | None = None,
    table: Table | None = None,
) -> list[Choice]:
    """A tactic for each problem; equal problems are tuned once.

    `mode` is a time for all of them together ("60s", or seconds), "exhaustive", or "heuristic": the first candidate of
    each that compiles without spills and, on a GPU, is right. Without a `device` nothing can be measured and any mode
    is "heuristic". Ctrl-C ends the search, keeps what was measured, and returns as soon as every problem has a tactic
    that was verified; a second one interrupts that too. `folder` is the cache's (by default the user's); `offered` are
    the templates, by default all of jitrt.kernels; `compiler` and `measurer` take the place of this machine's cores and
    GPU, `table` that of the shipped one, whose tactics are tried first: where it has the problem itself, the rest only
    in more than a minute, when everything else has been tried.

    Raises TuningError if no candidate of a problem survives, with every reason (PluginError if there is a plugin in
    it), OptionError for another `mode` and NoGpuError if there is no such device.
    """
    chosen = attempt(
        problems,
        target,
        mode=mode,
        device=device,
        use_cache=use_cache,
        folder=folder,
        progress=progress,
        on_candidate=on_candidate,
        offered=offered,
        compiler=compiler,
        measurer=measurer,
        table=table,
    )
    return [choice for choice in chosen if choice is not None]  # without patience there is one for each


def attempt(
    problems: Sequence[Problem],
    target: Target,
    *,
    patience: float | None = None,
    mode: str | float = "60s",
    device: int | None = None,
    use_cache: bool = True,
    folder: Path | None = None,
    progress: Progress | None = None,
    on_candidate: Listener | None = None,
    offered: Mapping[str, Template] | None = None,
    compiler: Compiler | None = None,
    measurer: Measurer | None = None,
    table: Table | None = None,
) -> list[Choice | None]:
    """As `select`, but with `patience` a problem that has no verified tactic so many seconds after the time is over, or
    after Ctrl-C, is given up: None. ("heuristic" and "exhaustive" have no time to be over.)"""
    budget = Budget.parse(mode)
    with ExitStack() as stack:
        if measurer is None and device is not None:
            measurer = stack.enter_context(closing(GpuMeasurer(device)))
        if measurer is None:
            budget = Budget.parse("heuristic")
        clock = Clock(budget.seconds)
        reporter = Reporter(progress, clock)
        offered = offered or templates()
        recall = None
        if use_cache and measurer is not None:
            recall = stack.enter_context(closing(Recall(measurer.device, target, offered, reporter.note, folder)))
        searches = _plan(problems, target, budget, offered, recall, table or shipped(target.arch))
        if compiler is None:
            kernels = KernelCache(folder) if use_cache else None
            compiler = stack.enter_context(closing(CompilePool(None, kernels, reporter.note)))
        tuning = Tuning(searches, target, compiler, measurer, recall, clock, reporter, on_candidate, patience)
        tuning.run()
        return [_choice(searches[problem.key], measurer is not None) for problem in problems]


def _plan(
    problems: Sequence[Problem],
    target: Target,
    budget: Budget,
    offered: Mapping[str, Template],
    recall: Recall | None,
    table: Table,
) -> dict[str, Search]:
    """One search for each distinct problem, with what the cache and the table know of it."""
    searches: dict[str, Search] = {}
    for number, problem in enumerate(problems):
        if problem.key not in searches:
            advice = table.advice(problem, target)
            candidates = candidates_of(problem, target, offered, budget.keep, advice)
            ordered, generous = budget.seconds == 0, budget.generous
            searches[problem.key] = Search(
                number, problem, candidates, ordered=ordered, advice=advice, generous=generous
            )
            if recall is not None:
                searches[problem.key].recall(recall.records(problem), offered)
                searches[problem.key].why = recall.why(problem)
        searches[problem.key].weight += weight(problem, target)
    return searches


def _choice(search: Search, verified: bool) -> Choice | None:
    winner = search.winner
    if winner is None or not search.settled:
        return None
    microseconds = search.records[winner].microseconds or 0.0
    tried = tuple((t, r.microseconds or 0.0 if r.reason is None else r.reason) for t, r in search.records.items())
    binaries, source = search.binaries[winner], _source(search)
    return Choice(winner, binaries, microseconds, source, tried, search.why, _rivals(search), verified)


def _source(search: Search) -> Source:
    if search.winner in search.cached and not search.ordered:
        return "cache"
    if search.winner in search.listed:
        return "table"
    return "heuristic" if search.ordered else "measured"


def _rivals(search: Search) -> tuple[tuple[Tactic, float], ...]:
    """The tactics that took little longer than the winner. Most of them are not verified: they did not win."""
    if search.best is None:
        return ()
    timed = [(t, r.microseconds or 0.0) for t, r in search.records.items() if r.reason is None and t != search.winner]
    near = [(tactic, microseconds) for tactic, microseconds in timed if microseconds <= _NEAR * search.best]
    return tuple(sorted(near, key=lambda pair: pair[1])[:_RIVALS])


class Tuning:
    """The loop of one call of `select`."""

    def __init__(
        self,
        searches: Mapping[str, Search],
        target: Target,
        compiler: Compiler,
        measurer: Measurer | None,
        recall: Recall | None,
        clock: Clock,
        reporter: Reporter,
        on_candidate: Listener | None,
        patience: float | None = None,
    ):
        # The most expensive problems first: theirs are the first candidates, and the first news.
        self._searches = sorted(searches.values(), key=lambda search: -search.weight)
        self._target, self._compiler, self._measurer, self._recall = target, compiler, measurer, recall
        self._clock, self._reporter, self._on_candidate = clock, reporter, on_candidate
        self._pending: dict[Future[Compiled], tuple[Search, Candidate]] = {}
        self._patience = patience
        self._interrupted: float | None = None  # when
        self._told: set[int] = set()  # problems that the GPU worker has heard of
        self._heard: set[int] = set()  # those that it has measured something of

    def run(self) -> None:
        """Tune until the budget is spent and every problem has a winner, or patience is at its end. Raises TuningError
        if a problem cannot have any."""
        known = sum(search.winner is not None for search in self._searches)
        todo = sum(_candidates_left(search) for search in self._searches)
        self._reporter.total = todo
        told = f"{len(self._searches)} distinct problems, {known} known from the timing cache"
        if listed := sum(bool(search.listed) for search in self._searches):
            told += f", {listed} in the shipped table"
        self._reporter.start(f"{told}, {todo} candidates to try")
        if self._measurer is not None and todo:
            self._measurer.start()
        while True:
            try:
                self._submit()
                if not self._pending:
                    break
                left = self._left
                if left <= 0:
                    self._give_up()
                    break
                wait(self._pending, timeout=min(0.2, left), return_when=FIRST_COMPLETED)
                self._finish_one()
            except KeyboardInterrupt:
                if self._interrupted is not None:
                    raise
                self._interrupted = self._clock.elapsed
                self._reporter.note("interrupted: keeps what was measured, finishes problems that have no tactic yet")
        settled = sum(search.settled for search in self._searches)
        few = "" if settled == len(self._searches) else f" of {len(self._searches)}"
        self._reporter.end(f"{settled}{few} problems have their tactic")

    @property
    def _over(self) -> bool:
        return self._interrupted is not None or self._clock.over

    @property
    def _left(self) -> float:
        """Seconds to the last moment, at which problems without a tactic are given up."""
        over = self._interrupted if self._interrupted is not None else self._clock.seconds or None
        if over is None or self._patience is None:
            return math.inf
        return over + self._patience - self._clock.elapsed

    def _give_up(self) -> None:
        """Let go of everything."""
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def _submit(self) -> None:
        """Keep the pool busy: first with what is needed, then, as the budget allows, with a share for each problem."""
        over = self._over
        if over:
            self._abandon()
        for search in self._searches:
            # A winner from the cache is compiled when nothing more can take its place.
            if search.winner is not None and not over and search.untried():
                continue
            needed = search.needed()
            if needed is not None:
                self._send(search, needed)
            elif search.winner is None and not search.waiting:
                raise _nothing_left(search)
        # Twice as many as run at once, so that the pool has work while a measurement keeps this process.
        while not over and len(self._pending) < 2 * self._compiler.workers:
            shares = {s.number: s for s in self._searches if s.untried()}
            if not shares:
                return
            shares = {number: s for number, s in shares.items() if not s.searched} or shares
            weights = {number: s.weight for number, s in shares.items()}
            given = {number: len(s.records) + len(s.waiting) for number, s in shares.items()}
            chosen = shares[next_share(weights, given)]
            self._send(chosen, chosen.untried()[0])

    def _send(self, search: Search, candidate: Candidate) -> None:
        search.waiting.add(candidate.tactic)
        future = self._compiler.submit(search.problem, candidate, self._target)
        self._pending[future] = search, candidate

    def _abandon(self) -> None:
        """Let go of everything that is not needed for a winner."""
        for future, (search, candidate) in list(self._pending.items()):
            if search.settled:
                future.cancel()
                search.waiting.discard(candidate.tactic)
                del self._pending[future]

    def _finish_one(self) -> None:
        """Conclude one candidate that was compiled, if there is one: what need not be measured goes first, then
        problems without a winner, then the order of submission. Only one, so that the pool gets new work in between."""
        done = [item for item in self._pending.items() if item[0].done()]
        if not done:
            return

        def turn(item: tuple[Future[Compiled], tuple[Search, Candidate]]) -> int:
            _, (search, candidate) = item
            return 0 if search.recalls(candidate.tactic) else 1 if search.winner is None else 2

        future, (search, candidate) = min(done, key=turn)
        if not (self._over and search.settled):
            self._conclude(search, candidate, future.result())
        search.waiting.discard(candidate.tactic)
        del self._pending[future]

    def _conclude(self, search: Search, candidate: Candidate, compiled: Compiled) -> None:
        tactic = candidate.tactic
        refusal = self._refuse(search, candidate, compiled)
        if refusal is None and search.recalls(tactic):
            search.supply(compiled.binaries)
            return
        outcome = refusal or self._measure(search, candidate, compiled.binaries)
        search.conclude(candidate, outcome.record, compiled.binaries)
        if outcome.lasting and self._recall is not None:
            self._recall.put(search.problem, tactic, outcome.record)
        self._reporter.candidate(search.number, tactic, outcome.record)
        if self._on_candidate is not None:
            self._on_candidate(search.problem, tactic, outcome.record)

    def _refuse(self, search: Search, candidate: Candidate, compiled: Compiled) -> Outcome | None:
        """What the compiler has against a candidate."""
        if compiled.reason is not None:
            return Outcome(Record(reason=compiled.reason), lasting=compiled.lasting)
        reason = over_limits(compiled.binaries, self._target)
        spills = spilled(compiled.binaries)
        if reason is None and spills and candidate.tactic not in search.last_resort:
            reason = f"{SPILLS} {spills} bytes of registers a thread"
        return Outcome(Record(reason=reason)) if reason is not None else None

    def _measure(self, search: Search, candidate: Candidate, binaries: tuple[Binary, ...]) -> Outcome:
        if self._measurer is None:
            return Outcome(Record())
        # What the table names is verified in full though it be slower: it may yet be faster in the network.
        best = None if candidate.tactic in search.listed else search.best
        coming = self._coming(search)
        limit = max(0.0, self._left) + _STUCK
        return self._measurer.measure(
            Job(search.problem, candidate, binaries, self._target, best, coming=tuple(coming.values()), limit=limit)
        )

    def _coming(self, search: Search) -> dict[int, Problem]:
        """What the GPU worker is to prepare for while it measures `search`: the next few problems, each once, as one
        travels there at some cost."""
        self._told.add(search.number)
        self._heard.add(search.number)
        room = max(0, _AHEAD - len(self._told - self._heard))
        unknown = {s.number: s.problem for s, _ in self._pending.values() if s.number not in self._told}
        coming = dict(itertools.islice(unknown.items(), room))
        self._told |= set(coming)
        return coming


def _candidates_left(search: Search) -> int:
    """How many candidates are to be tried, if the budget lasts and they are right."""
    if search.ordered:
        return 0 if search.winner is not None else 1
    return len(search.untried())


def _nothing_left(search: Search) -> TuningError | PluginError:
    reasons = "\n".join(f"  {tactic}: {record.reason}" for tactic, record in search.records.items())
    plugins = sorted({node.op.name for node in search.problem.body.nodes if "::" in node.op.name})
    if plugins:
        return PluginError(
            f"no candidate of a region with {', '.join(plugins)} is right by the reference that it was declared with:\n"
            f"{reasons}\n{search.problem.body}\nCorrect its kernel, or its reference; "
            f"jitrt.testing.check_plugin({plugins[0]!r}, ...) tries it in the interpreter, on shapes of your choice."
        )
    return TuningError(
        f"no candidate survives for this region:\n{reasons}\n{search.problem.body}\n"
        "Please report it with this text. Until it is mended, torch.compile(model, backend='jitrt') leaves what jitrt "
        "cannot build to PyTorch."
    )
