"""The loop of tuning: what is compiled next, what is measured next, and when it ends.

Compiling and measuring overlap: while the compile pool works through the candidates, this process hands each finished
one to the GPU worker. First every problem gets a winner; from then on the budget goes to the problems in proportion to
what they cost. Results are cached as they come, so that nothing is lost whenever it ends. After its time a search goes
on only for problems that have no tactic yet, and with `patience` not for long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target
from jitrt.errors import PluginError, TuningError
from jitrt.kernels.base import Problem, Tactic
from jitrt.tune.budget import Clock, next_share
from jitrt.tune.candidates import Candidate, over_limits, spilled
from jitrt.tune.compile_pool import Compiled, Compiler
from jitrt.tune.measure import Job, Measurer, Outcome
from jitrt.tune.progress import Reporter
from jitrt.tune.recall import Recall
from jitrt.tune.search import SPILLS, Search
from jitrt.tune.timing_cache import Record

_AHEAD = 16  # problems that the GPU worker prepares for; if it heard of all at once it could not keep them
HASTE = 2.0  # seconds of patience at most after Ctrl-C
_STUCK = 3.0  # seconds that a measurement may take beyond the last moment, before the GPU worker is given up

Listener = Callable[[Problem, Tactic, Record], None]


class Tuning:
    """The loop of one call of `jitrt.tune.select.attempt`."""

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
        if self._patience is None:
            return math.inf
        if self._interrupted is not None:
            return self._interrupted + min(self._patience, HASTE) - self._clock.elapsed
        return (self._clock.seconds or math.inf) + self._patience - self._clock.elapsed

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
