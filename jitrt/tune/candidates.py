"""The candidates of a problem: configurations of every template that can run it, likeliest winner first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target
from jitrt.errors import TuningError
from jitrt.kernels.base import Lowered, Problem, Tactic, Template
from jitrt.tune.cost import estimate
from jitrt.tune.shipped import Advice, shipped

_HOPELESS = 4.0  # times the best estimate


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
    lists: list[list[Candidate]] = []
    reasons: list[str] = []
    for template in templates.values():
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
    first = {tactic: offered[tactic] for tactic in advice.tactics if tactic in offered}
    if len(lists) > 1:
        lists = _without_hopeless(problem, target, [each[:keep] for each in lists])
    pooled = [c for turn in range(max(map(len, lists))) for each in lists for c in each[turn : turn + 1]]
    return [*first.values(), *(c for c in pooled if c.tactic not in first)][:keep]


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
