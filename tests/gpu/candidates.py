"""Every candidate of a problem on the GPU, verified as tuning does it."""

from __future__ import annotations

from collections.abc import Mapping

from jitrt.codegen.target import target_of
from jitrt.kernels.base import Problem, Template
from jitrt.tune.cost import floor_seconds
from jitrt.tune.progress import Event
from jitrt.tune.select import select


def check_candidates(problems: Mapping[str, Problem], offered: Mapping[str, Template] | None = None) -> None:
    """Assert that no candidate, of these templates or of all, is refused, except those that spill registers; prints the
    fastest of each problem."""
    events: list[Event] = []
    target = target_of(90)
    choices = select(
        list(problems.values()), target, mode="exhaustive", device=0, progress=events.append, offered=offered
    )
    refused = [e.text for e in events if e.record is not None and e.record.reason is not None]
    for (name, problem), choice in zip(problems.items(), choices, strict=True):
        floor = floor_seconds(problem, target) * 1e6
        print(f"{name:45} {choice.microseconds:8.2f} us  floor {floor:7.2f}  {choice.tactic}")
    print("\n".join(refused))
    assert not [text for text in refused if "spill" not in text]
