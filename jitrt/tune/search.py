"""The state of tuning one problem: what is left to try, what came of the rest, and which tactic leads."""

from __future__ import annotations

from collections.abc import Mapping

from jitrt.codegen.compile import Binary
from jitrt.kernels.base import Problem, Tactic, Template
from jitrt.tune.candidates import Candidate
from jitrt.tune.shipped import Advice
from jitrt.tune.timing_cache import Record

_NONE = Advice()
SPILLS = "spills"  # how the reason of a candidate that was refused for spilling begins


class Search:
    """One distinct problem. `number` is where it first occurs, `weight` what its launches cost together.

    With `ordered` the first candidate in order that may run wins; else the fastest. `winner` is the tactic to use as
    things stand, None if there is none yet. What `advice` says need not be tried waits until all else is done, and
    without `generous` time for good, unless nothing that is `listed` in it is right.
    """

    def __init__(
        self,
        number: int,
        problem: Problem,
        candidates: list[Candidate],
        *,
        ordered: bool,
        advice: Advice = _NONE,
        generous: bool = False,
    ):
        self.number, self.problem, self.ordered = number, problem, ordered
        self.weight = 0.0
        self.why = "the timing cache was not asked"
        self.records: dict[Tactic, Record] = {}
        self.cached: set[Tactic] = set()  # whose records come from the timing cache
        self.waiting: set[Tactic] = set()  # submitted, no record yet
        self.last_resort: set[Tactic] = set()  # tried again although they spill
        self.binaries: dict[Tactic, tuple[Binary, ...]] = {}  # the winner's, if it was compiled
        self.winner: Tactic | None = None
        self.listed = {c.tactic for c in candidates} & set(advice.tactics)
        self._done, self._generous = advice.searched, generous
        self._candidates = candidates

    def recall(self, known: Mapping[Tactic, Record], templates: Mapping[str, Template]) -> None:
        """Take over what the timing cache knows, with tactics that a longer search found good but this one left out."""
        self.records |= known
        self.cached |= set(known)
        kept = {c.tactic for c in self._candidates}
        if not self.ordered:
            good = [t for t, record in known.items() if record.wins and t not in kept]
            self._candidates += [Candidate(tactic, templates[tactic.template]) for tactic in good]
        self.winner = self._find_winner()

    def conclude(self, candidate: Candidate, record: Record, binaries: tuple[Binary, ...]) -> None:
        """Note what came of a candidate. Only the winner's binaries are kept."""
        tactic = candidate.tactic
        self.waiting.discard(tactic)
        self.cached.discard(tactic)
        self.records[tactic] = record
        self.winner = self._find_winner()
        if self.winner == tactic:
            self.binaries = {tactic: binaries}

    def recalls(self, tactic: Tactic) -> bool:
        """Whether this is the winner, and the timing cache says so."""
        return tactic == self.winner and tactic in self.cached

    def supply(self, binaries: tuple[Binary, ...]) -> None:
        """Take the binaries of a winner that the timing cache named."""
        assert self.winner is not None
        self.waiting.discard(self.winner)
        self.binaries = {self.winner: binaries}

    @property
    def best(self) -> float | None:
        """The time to beat in microseconds, where times decide."""
        return self.records[self.winner].microseconds if self.winner and not self.ordered else None

    @property
    def settled(self) -> bool:
        """There is a winner, and its binaries are at hand."""
        return self.winner in self.binaries

    def untried(self) -> list[Candidate]:
        """Candidates nothing is known of and that are worth a try, in order."""
        left = [c for c in self._candidates if self._unknown(c.tactic) and c.tactic not in self.waiting]
        return left if self._generous else self._worthwhile(left)

    @property
    def searched(self) -> bool:
        """Whether only candidates are left that the table says need not be tried."""
        return not self._worthwhile(self.untried())

    def _worthwhile(self, candidates: list[Candidate]) -> list[Candidate]:
        records = [self.records.get(tactic) for tactic in self.listed]
        if all(record is not None and record.reason is not None for record in records):
            return candidates  # nothing is listed, or nothing of it is right
        return [c for c in candidates if c.tactic in self.listed or c.tactic.template not in self._done]

    def needed(self) -> Candidate | None:
        """What must be compiled whatever the budget: a winner known from the cache; for want of a winner the next one
        in order, or when all are used up one that spills. None if nothing must, or nothing is left."""
        if self.settled or self.waiting:
            return None
        if self.winner is not None:
            return next(c for c in self._candidates if c.tactic == self.winner)
        untried = self.untried()
        if untried:
            return untried[0]
        for candidate in self._candidates:
            spills = (self.records[candidate.tactic].reason or "").startswith(SPILLS)
            if spills and candidate.tactic not in self.last_resort:
                self.last_resort.add(candidate.tactic)
                return candidate
        return None

    def _find_winner(self) -> Tactic | None:
        if not self.ordered:
            fit = [t for t, record in self.records.items() if record.wins]
            return min(fit, key=lambda t: self.records[t].microseconds or 0.0, default=None)
        for candidate in self._candidates:
            if self._unknown(candidate.tactic):
                return None
            if self.records[candidate.tactic].wins:
                return candidate.tactic
        return None

    def _unknown(self, tactic: Tactic) -> bool:
        record = self.records.get(tactic)
        if record is None:
            return True
        if not record.slower:
            return False
        if self.ordered:  # times do not decide
            return tactic in self.cached
        # What it was slower than may be gone.
        best = self.best
        return best is None or (record.microseconds or 0.0) < best
