"""The candidates of a problem: configurations of every template that can run it, likeliest winner first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target
from jitrt.errors import TuningError
from jitrt.kernels.base import Lowered, Problem, Tactic, Template
from jitrt.tune.cost import estimate
from jitrt.tune.shipped import Advice, shipped

_HOPELESS = 4.0  # times the best estimate
_RANKED = 2048  # problems whose candidates are remembered


@dataclass(frozen=True)
class Candidate:
    """A tactic and the template object it belongs to, so that a worker needs no registry to lower it."""

    tactic: Tactic
    template: Template = field(compare=False)

    def lower(self, problem: Problem, target: Target) -> Lowered:
        return self.template.lower(problem, dict(self.tactic.config), target)


def candidates_of(
    problem: Problem,
    target: Target,
    templates: Mapping[str, Template],
    keep: int | None,
    advice: Advice | None = None,
) -> list[Candidate]:
    """At most `keep` candidates (None: all), likeliest winner first.

    First come the tactics of `advice`, by default what the shipped table has, as far as templates still offer them.
    Then every template's own order stands; first guesses come before second ones, templates of higher priority first.
    Where several templates compete, those the cost model finds hopeless are left out, a template's first guess
    excepted. Raises TuningError if no template can run the problem, with each one's reason.
    """
    if advice is None:
        advice = shipped(target.arch).advice(problem, target)
    return list(_ranked(_Posed(problem), target, tuple(templates.values()), keep, advice.tactics))


class _Posed:
    """A problem that is equal to any other with the same key: a build asks for its candidates again and again."""

    def __init__(self, problem: Problem):
        self.problem = problem

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Posed) and self.problem.key == other.problem.key

    def __hash__(self) -> int:
        return hash(self.problem.key)


@lru_cache(maxsize=_RANKED)
def _ranked(
    posed: _Posed, target: Target, templates: tuple[Template, ...], keep: int | None, advised: tuple[Tactic, ...]
) -> tuple[Candidate, ...]:
    problem = posed.problem
    lists: list[list[Candidate]] = []
    reasons: list[str] = []
    for template in templates:
        reason = template.accepts(problem.body) or template.supports(problem, target)
        if reason is not None:
            reasons.append(f"{template.name}: {reason}")
            continue
        configs = template.candidates(problem, target)
        lists.append([Candidate(Tactic.make(template, config), template) for config in configs])
    if not any(lists):
        told = "\n  ".join(reasons) or "there are no templates"
        raise TuningError(f"no template runs this region on {target}:\n  {told}\n{problem.body}")
    offered = {c.tactic: c for each in lists for c in each}
    first = {tactic: offered[tactic] for tactic in advised if tactic in offered}
    if len(lists) > 1:
        lists = _without_hopeless(problem, target, [each[:keep] for each in lists])
    pooled = [c for turn in range(max(map(len, lists))) for each in lists for c in each[turn : turn + 1]]
    return tuple([*first.values(), *(c for c in pooled if c.tactic not in first)][:keep])


def _without_hopeless(problem: Problem, target: Target, lists: Sequence[list[Candidate]]) -> list[list[Candidate]]:
    costs = [[estimate(problem, c.lower(problem, target), target) for c in each] for each in lists]
    limit = _HOPELESS * min(cost for each in costs for cost in each)
    return [
        [c for at, (c, cost) in enumerate(zip(each, paid, strict=True)) if at == 0 or cost <= limit]
        for each, paid in zip(lists, costs, strict=True)
    ]


def over_limits(binaries: Sequence[Binary], target: Target) -> str | None:
    """Why these binaries cannot run on `target`, or None."""
    for binary in binaries:
        if binary.shared_bytes > target.shared:
            return f"needs {binary.shared_bytes} bytes of shared memory, a block of {target} has {target.shared}"
        threads = 32 * binary.num_warps
        if binary.registers * threads > 65536:
            return f"needs {binary.registers} registers for each of {threads} threads, an SM has 65536"
    return None


def spilled(binaries: Sequence[Binary]) -> int:
    """Bytes of local memory a thread uses: registers that did not fit."""
    return sum(binary.spills for binary in binaries)
