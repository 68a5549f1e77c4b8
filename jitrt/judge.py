"""Is a rewrite worth it? Build both ways for the GPU here and time them.

The problems of both sides are tuned like any other, so that what the build needs later is known by then; then each
side is assembled to a plan of its own and the plans are timed in turns (jitrt/tune/contest.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jitrt.errors import TuningError
from jitrt.graph.graph import Graph
from jitrt.passes.base import Proposal, Verdict
from jitrt.passes.report import Report
from jitrt.planner import Optimized, Options, plan_of, problems_of

if TYPE_CHECKING:
    from jitrt.tune.select import Choice
    from jitrt.tune.tuner import Tuner

_MARGIN = 0.99  # of the time before: less is noise


class MeasuredJudge:
    """A `jitrt.passes.base.Judge` that measures. Equal proposals, of which deep networks have many, are timed once."""

    def __init__(self, tuner: Tuner, options: Options):
        self._tuner, self._options = tuner, options

    def __call__(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        distinct = {_key(proposal): proposal for proposal in proposals}
        choices = self._tune(graph for p in distinct.values() for graph in (p.before, p.after))
        verdicts = {key: self._verdict(proposal, choices) for key, proposal in distinct.items()}
        return [verdicts[_key(proposal)] for proposal in proposals]

    def _tune(self, graphs: Iterable[Graph]) -> dict[str, Choice]:
        problems = {problem.key: problem for graph in graphs for problem in problems_of(graph)}
        chosen = self._tuner.select(list(problems.values()), last=False) if problems else []
        return dict(zip(problems, chosen, strict=True))

    def _verdict(self, proposal: Proposal, choices: dict[str, Choice]) -> Verdict:
        plans = []
        for graph in (proposal.before, proposal.after):
            chosen = [choices[problem.key] for problem in problems_of(graph)]
            plans.append(plan_of(Optimized(graph, graph, Report()), chosen, self._tuner.target, self._options))
        try:
            before, after = self._tuner.contest(plans)
        except TuningError as error:
            return Verdict(0.0, f"could not be timed: {error}")
        gain = before - after if after < _MARGIN * before else min(0.0, before - after)
        return Verdict(gain, f"{after:.1f} us instead of {before:.1f}")


def _key(proposal: Proposal) -> tuple[str, ...]:
    """The problems on both sides: what decides the times."""
    sides = (proposal.before, proposal.after)
    return tuple(key for graph in sides for key in ("side", *(problem.key for problem in problems_of(graph))))
