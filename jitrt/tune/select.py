"""Choose a tactic for every problem: what caches and the table know of it, then a search (jitrt/tune/loop.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target
from jitrt.kernels.base import Problem, Tactic, Template, templates
from jitrt.tune.budget import Budget, Clock
from jitrt.tune.candidates import candidates_of
from jitrt.tune.compile_pool import CompilePool, Compiler
from jitrt.tune.cost import weight
from jitrt.tune.kernel_cache import KernelCache
from jitrt.tune.loop import Listener, Tuning
from jitrt.tune.measure import GpuMeasurer, Measurer
from jitrt.tune.progress import Event, Progress, Reporter
from jitrt.tune.recall import Recall
from jitrt.tune.search import Search
from jitrt.tune.shipped import Table, shipped
from jitrt.tune.timing_cache import Record

__all__ = ["Choice", "Event", "Progress", "attempt", "select"]

_NEAR = 1.2  # times the best: may yet be faster in the network
_RIVALS = 3

Source = Literal["measured", "cache", "table", "heuristic"]


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
    measure: bool = True,
    refused: Mapping[str, Mapping[Tactic, Record]] = MappingProxyType({}),
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
    after Ctrl-C, is given up: None. ("heuristic" and "exhaustive" have no time to be over.) Without `measure` a problem
    of which nothing good is known takes the first tactic that compiles and was not refused before, unverified;
    `refused`, by the problem's key, are those that the cache does not know, as they may do better next time."""
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
        for key, records in refused.items():
            if key in searches:
                searches[key].recall(records, offered)
        if compiler is None:
            kernels = KernelCache(folder) if use_cache else None
            compiler = stack.enter_context(closing(CompilePool(None, kernels, reporter.note)))
        if not measure:
            measurer = recall = None  # what is not verified is not remembered
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


def _choice(search: Search, measured: bool) -> Choice | None:
    winner = search.winner
    if winner is None or not search.settled:
        return None
    verified = measured or (winner in search.cached and search.records[winner].microseconds is not None)
    microseconds = search.records[winner].microseconds or 0.0
    tried = tuple((t, r.microseconds or 0.0 if r.reason is None else r.reason) for t, r in search.records.items())
    binaries, source = search.binaries[winner], _source(search, verified)
    return Choice(winner, binaries, microseconds, source, tried, search.why, _rivals(search), verified)


def _source(search: Search, verified: bool) -> Source:
    if search.winner in search.cached and not search.ordered:
        return "cache"
    if search.winner in search.listed:
        return "table"
    return "measured" if verified and not search.ordered else "heuristic"


def _rivals(search: Search) -> tuple[tuple[Tactic, float], ...]:
    """The tactics that took little longer than the winner. Most of them are not verified: they did not win."""
    if search.best is None:
        return ()
    timed = [(t, r.microseconds or 0.0) for t, r in search.records.items() if r.reason is None and t != search.winner]
    near = [(tactic, microseconds) for tactic, microseconds in timed if microseconds <= _NEAR * search.best]
    return tuple(sorted(near, key=lambda pair: pair[1])[:_RIVALS])
