"""Settle in the whole network what was settled in its parts.

A kernel is tuned alone, on buffers that no cache holds, and a fusion is judged beside nothing. In the network a launch
finds its input in L2, starts while the one before it ends, and shares the GPU with other branches. So what was close is
run again as it will run: the plan as it stands against the plan with one thing changed, in turns
(jitrt/tune/contest.py). What may change: whether branches run side by side, whether a rule was worth it, and, for the
layers that take longest first, which of the best few tactics a layer gets: a tactic that lost alone was not verified
then, so it is when it wins here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from jitrt.errors import OptionError, PluginError, TuningError
from jitrt.passes.pipeline import rule_names
from jitrt.passes.report import Decision
from jitrt.planner import Optimized, Options, plan_of, problems_of
from jitrt.tune.worker import WorkerFailure

if TYPE_CHECKING:
    from jitrt.plan.schema import PlanFile
    from jitrt.tune.select import Choice
    from jitrt.tune.tuner import Tuner

_MARGIN = 0.997  # of the time before: less is noise
_RULE = 1.5  # seconds it takes to find out what a rule does, as long as no better is known

Optimize = Callable[[Options], Optimized]


@dataclass(frozen=True)
class Draft:
    """A network as it would be built: its graph, a choice for each of its problems, in order, and the plan of them."""

    optimized: Optimized
    choices: tuple[Choice, ...]
    options: Options
    file: PlanFile


@dataclass(frozen=True)
class Gain:
    """What one optimisation does for the whole network: microseconds of a run `with_it` and `without`. A plan's notes
    keep them ("gains")."""

    name: str
    with_it: float
    without: float
    kept: bool


class Refiner:
    """Improves drafts of one network by timing them whole. `optimize` makes its graph anew under other options; without
    it, rules stay as they are. `structure` is that of `plan_of`."""

    def __init__(
        self,
        tuner: Tuner,
        optimize: Optimize | None = None,
        *,
        structure: object = None,
    ):
        self._tuner, self._optimize = tuner, optimize
        self._structure = structure
        self._gains: list[Gain] = []
        self._longest = 0.0  # seconds of a contest so far

    def draft(self, optimized: Optimized, choices: Sequence[Choice], options: Options) -> Draft:
        """The plan that these choices make."""
        file = plan_of(
            optimized, choices, self._tuner.target, options, structure=self._structure, seconds=self._tuner.spent
        )
        return Draft(optimized, tuple(choices), options, file)

    def refine(self, draft: Draft) -> Draft:
        """The best draft found in the tuner's time. Ctrl-C ends the search and keeps what was found."""
        if not self._tuner.measures:
            return draft
        self._best = draft
        try:
            self._best = self._branches(self._best)
            self._rules()
            self._tactics()
        except KeyboardInterrupt:
            self._tuner.interrupt("interrupted: the plan stays as it stands")
        self._tuner.lap("network")
        draft = self._best
        draft = self.draft(draft.optimized, draft.choices, draft.options)  # with all that its report says by now
        notes = {**draft.file.plan.notes, "gains": [asdict(gain) for gain in self._gains]}
        return replace(draft, file=replace(draft.file, plan=replace(draft.file.plan, notes=notes)))

    def _branches(self, draft: Draft) -> Draft:
        """Side by side, if that is faster than one after another. Cheap and worth much: done whatever the time, but not
        after Ctrl-C."""
        if self._tuner.interrupted:
            return draft
        in_line = [(number - 1,) if number else () for number in range(len(draft.file.plan.launches))]
        if [launch.after for launch in draft.file.plan.launches] == in_line:
            return draft
        serial = self.draft(draft.optimized, draft.choices, replace(draft.options, parallel=False))
        report = draft.optimized.report
        try:
            side_by_side, one_by_one = self._times(draft, serial)
        except WorkerFailure as failure:
            text = f"branches run side by side, which could not be timed: {failure}"
            report.add(Decision("parallel", "the plan", "", True, text))
            return draft
        won = side_by_side < one_by_one
        self._gains.append(Gain("parallel", side_by_side, one_by_one, won))
        times = f"{side_by_side:.1f} us side by side, {one_by_one:.1f} us one after another"
        text = f"branches run {'side by side' if won else 'one after another'}: {times}"
        report.add(Decision("parallel", "the plan", "", won, text))
        return draft if won else serial

    def _rules(self) -> None:
        """Without each rule that changed something, where the network is faster so."""
        needs = _RULE
        for rule in rule_names() if self._optimize is not None else ():
            draft = self._best
            if not draft.optimized.report.of(rule, applied=True):
                continue
            if not self._tuner.lasts(needs):
                text = "the network was not timed without it: the time was over"
                draft.optimized.report.add(Decision(rule, "the network", "", True, text))
                continue
            self._tuner.tell(f"the network without {rule}")
            began = time.monotonic()
            self._rule(draft, rule)
            needs = max(needs, time.monotonic() - began)

    def _rule(self, draft: Draft, rule: str) -> None:
        """The network without a rule, if it is faster so."""
        try:
            plain = self._without(draft, rule)
            before, after = self._times(draft, plain)
            if after < _MARGIN * before:
                before, after = self._times(draft, plain)
        except (TuningError, PluginError, OptionError) as error:
            text = f"the network without it could not be timed: {str(error).splitlines()[0]}"
            draft.optimized.report.add(Decision(rule, "the network", "", True, text))
            return
        times = f"{after:.1f} us without it, {before:.1f} us with it"
        self._gains.append(Gain(rule, before, after, kept=after >= _MARGIN * before))
        if after < _MARGIN * before:
            plain.optimized.report.add(Decision(rule, "the network", "", False, f"left out: {times}"))
            self._best = plain
        else:
            draft.optimized.report.add(Decision(rule, "the network", "", True, f"kept: {times}"))

    def _without(self, draft: Draft, rule: str) -> Draft:
        assert self._optimize is not None
        options = replace(draft.options, without=(*draft.options.without, rule))
        optimized = self._optimize(options)
        # What was decided for the network so far holds on.
        for decision in draft.optimized.report.of("parallel"):
            optimized.report.add(decision)
        known = self._tuner.known(problems_of(optimized.graph))
        choices = [choice for choice in known if choice is not None]
        if len(choices) < len(known):
            raise TuningError(f"{len(known) - len(choices)} kernels of it were not verified in time")
        return self.draft(optimized, choices, options)

    def _tactics(self) -> None:
        """The best of a few tactics for each problem, those first that take the most time."""
        draft = self._best
        problems = {problem.key: problem for problem in problems_of(draft.optimized.graph)}
        keys = [problem.key for problem in problems_of(draft.optimized.graph)]
        cost = {key: sum(c.microseconds for k, c in zip(keys, draft.choices, strict=True) if k == key) for key in keys}
        chosen = dict(zip(keys, draft.choices, strict=True))
        hot = sorted((key for key in problems if chosen[key].rivals), key=lambda key: -cost[key])
        coming = {key: self._tuner.rivals(problems[key], chosen[key]) for key in hot if not self._tuner.over}
        first = last = 0.0
        tried = changed = 0
        for key in hot:
            if not self._tuner.lasts(self._longest):
                break
            self._tuner.tell(f"in the network: {tried} of {len(hot)} problems", tried, len(hot))
            rivals = coming[key]()
            try:
                won, times = self._contest(draft, keys, key, rivals)
            except WorkerFailure as failure:
                text = f"{' or '.join(str(c.tactic) for c in rivals)} could not be timed in the network: {failure}"
                draft.optimized.report.add(Decision("refine", *_where(draft, keys, key), False, text))
                continue
            tried += 1
            first, last = first or times[0], times[1]
            if won is not draft:
                wrong = self._tuner.verify(problems[key], won.choices[keys.index(key)])
                if wrong is not None:
                    text = f"{_tactic(won, keys, key)} is faster in the network, but not right: {wrong}"
                    draft.optimized.report.add(Decision("refine", *_where(draft, keys, key), False, text))
                    last = times[0]
                    continue
                changed += 1
                text = f"{_tactic(won, keys, key)} instead of {_tactic(draft, keys, key)}: the network takes "
                text += f"{times[1]:.1f} us instead of {times[0]:.1f}"
                won.optimized.report.add(Decision("refine", *_where(draft, keys, key), True, text))
                self._best = draft = won
        if hot:
            text = f"{tried} of {len(hot)} problems tried with other tactics in the network, {changed} changed: "
            text += f"{last:.1f} us instead of {first:.1f}" if tried else "the time was over"
            draft.optimized.report.add(Decision("refine", "the network", "", changed > 0, text))

    def _contest(
        self, draft: Draft, keys: Sequence[str], key: str, rivals: Sequence[Choice]
    ) -> tuple[Draft, tuple[float, float]]:
        """(the winner, microseconds of the network before and after). A rival must win twice: the fastest of several
        readings is a lucky one."""
        drafts = [self._with(draft, keys, key, rival) for rival in rivals]
        before, *others = self._times(draft, *drafts)
        if not others or min(others) >= _MARGIN * before:
            return draft, (before, before)
        best = drafts[others.index(min(others))]
        before, after = self._times(draft, best)
        return (best, (before, after)) if after < _MARGIN * before else (draft, (before, before))

    def _with(self, draft: Draft, keys: Sequence[str], key: str, choice: Choice) -> Draft:
        choices = [choice if k == key else c for k, c in zip(keys, draft.choices, strict=True)]
        return self.draft(draft.optimized, choices, draft.options)

    def _times(self, *drafts: Draft) -> list[float]:
        # Weights that are the same travel to the worker once: pickle knows an object that it has seen.
        constants = drafts[0].file.constants
        files = [replace(d.file, constants=constants) if d.file.constants == constants else d.file for d in drafts]
        began = time.monotonic()
        try:
            return self._tuner.contest(files)
        finally:
            self._longest = max(self._longest, time.monotonic() - began)


def _where(draft: Draft, keys: Sequence[str], key: str) -> tuple[str, str]:
    """(name, location) of the first layer that solves a problem."""
    layer = draft.file.plan.layers[keys.index(key)]
    return layer.name, layer.location


def _tactic(draft: Draft, keys: Sequence[str], key: str) -> str:
    return str(draft.choices[keys.index(key)].tactic)
