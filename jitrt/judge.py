"""Is a rewrite worth it? Build both ways for the GPU here and time them.

The problems of both sides are tuned like any other, so that what the build needs later is known by then; then each
side is assembled to a plan of its own and the plans are timed in turns (jitrt/tune/contest.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jitrt.errors import OptionError, PluginError, TuningError
from jitrt.passes.base import Proposal, Verdict, fewer_kernels
from jitrt.passes.report import Report
from jitrt.planner import Optimized, Options, plan_of, problems_of
from jitrt.tune.cost import weight

if TYPE_CHECKING:
    from jitrt.tune.select import Choice
    from jitrt.tune.tuner import Tuner

_Key = tuple[str, ...]

_MARGIN = 0.99  # of the time before: less is noise
_DOUBTFUL = 0.9  # where the rule has its doubts: what a launch alone gains is not all gained in a network
_MOST = 12  # distinct proposals of one kind that are measured


class MeasuredJudge:
    """A `jitrt.passes.base.Judge` that measures.

    Equal proposals, of which deep networks have many, are timed once, also when they come again. Of more than a dozen
    that differ in sizes alone (DenseNet-121 has 58) a dozen are measured, evenly spread from the first to the last, and
    those in between judged by the nearest: measuring all of them would take the time from tuning what is built in the
    end. What is left when half of the build's time is over, the cheapest places, is judged by the number of kernels.
    """

    def __init__(self, tuner: Tuner, options: Options):
        self._tuner, self._options = tuner, options
        self._known: dict[_Key, Verdict] = {}

    def __call__(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        keys = [_key(proposal) for proposal in proposals]
        distinct = dict(zip(keys, proposals, strict=True))
        nearest = _nearest(distinct)
        new = {key: distinct[key] for key in dict.fromkeys(nearest.values()) if key not in self._known}
        dear_first = sorted(new.items(), key=lambda item: -self._cost(item[1]))
        self._known |= self._measure(dict(dear_first))
        return [_heard(self._known[nearest[key]], nearest[key] == key) for key in keys]

    def _cost(self, proposal: Proposal) -> float:
        return sum(weight(problem, self._tuner.target) for problem in problems_of(proposal.before))

    def _measure(self, proposals: Mapping[_Key, Proposal]) -> dict[_Key, Verdict]:
        verdicts: dict[_Key, Verdict] = {}
        try:
            choices = self._choices(list(proposals.values())) if proposals and self._tuner.judges else {}
            for key, proposal in proposals.items():
                if not self._tuner.judges:
                    break
                verdicts[key] = self._verdict(proposal, choices)
        except KeyboardInterrupt:
            self._tuner.interrupt("interrupted: what was not compared yet is decided by the number of kernels")
        return {key: verdicts.get(key) or _unmeasured(proposal) for key, proposal in proposals.items()}

    def _choices(self, proposals: Sequence[Proposal]) -> dict[str, Choice | None]:
        """The tactics of all problems, by key, None where the time was over; of a proposal with a problem that no
        kernel solves, none. That another kernel would not be right is no reason to build nothing: such proposals are
        found by halves."""
        try:
            return self._tune(proposals)
        except (TuningError, PluginError):
            if len(proposals) == 1:
                return {}
        middle = len(proposals) // 2
        return self._choices(proposals[:middle]) | self._choices(proposals[middle:])

    def _tune(self, proposals: Sequence[Proposal]) -> dict[str, Choice | None]:
        graphs = [graph for proposal in proposals for graph in (proposal.before, proposal.after)]
        problems = {problem.key: problem for graph in graphs for problem in problems_of(graph)}
        if not problems:
            return {}
        rest = [problem for problem in problems_of(proposals[0].whole) if problem.key not in problems]
        chosen = self._tuner.attempt(list(problems.values()), rest)
        return dict(zip(problems, chosen, strict=True))

    def _verdict(self, proposal: Proposal, choices: Mapping[str, Choice | None]) -> Verdict:
        plans = []
        try:
            for graph in (proposal.before, proposal.after):
                problems = problems_of(graph)
                if any(problem.key not in choices for problem in problems):
                    return Verdict(0.0, "no kernel of it compiles and is right")
                chosen = [choice for problem in problems if (choice := choices[problem.key]) is not None]
                if len(chosen) < len(problems):
                    return _unmeasured(proposal)
                plans.append(plan_of(Optimized(graph, graph, Report()), chosen, self._tuner.target, self._options))
            before, after = self._tuner.contest(plans)
        except (OptionError, TuningError) as error:
            return Verdict(0.0, f"could not be timed: {error}")
        margin = _DOUBTFUL if proposal.doubt else _MARGIN
        gain = before - after if after < margin * before else min(0.0, before - after)
        return Verdict(gain, f"{after:.1f} us instead of {before:.1f}")


def _unmeasured(proposal: Proposal) -> Verdict:
    """By the number of kernels, as where there is no GPU."""
    (verdict,) = fewer_kernels([proposal])
    return Verdict(verdict.gain, f"{verdict.text}: the time was over")


def _nearest(distinct: Mapping[_Key, Proposal]) -> dict[_Key, _Key]:
    """For every proposal the one of its kind that is measured in its place: itself, if there are not too many."""
    kinds: dict[str, list[_Key]] = defaultdict(list)
    for key, proposal in distinct.items():
        kinds[proposal.text].append(key)
    nearest = {}
    for keys in kinds.values():
        count = min(_MOST, len(keys))
        picked = [round(i * (len(keys) - 1) / max(1, count - 1)) for i in range(count)]
        for position, key in enumerate(keys):
            nearest[key] = keys[min(picked, key=lambda other: abs(other - position))]
    return nearest


def _heard(verdict: Verdict, itself: bool) -> Verdict:
    return verdict if itself else Verdict(verdict.gain, f"a similar place was measured: {verdict.text}")


def _key(proposal: Proposal) -> _Key:
    """The problems on both sides: what decides the times."""
    sides = (proposal.before, proposal.after)
    return tuple(key for graph in sides for key in ("side", *(problem.key for problem in problems_of(graph))))
