"""What a build asks of its tuner beside selections."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest

from jitrt.codegen.target import target_of
from jitrt.kernels.base import templates
from jitrt.tune.candidates import candidates_of
from jitrt.tune.progress import Event
from jitrt.tune.tuner import Tuner

PROBLEM = planted.relu_problem(8, 8)


def test_rivals_come_compiled_and_with_their_times() -> None:
    with Tuner(target_of("sm_90"), cache=False) as tuner:
        (choice,) = tuner.select([PROBLEM])
        others = [c.tactic for c in candidates_of(PROBLEM, tuner.target, templates(), 4) if c.tactic != choice.tactic]
        rivals = tuner.rivals(PROBLEM, replace(choice, rivals=((others[0], 1.5), (others[1], 2.5))))()
    assert [(rival.tactic, rival.microseconds) for rival in rivals] == [(others[0], 1.5), (others[1], 2.5)]
    assert all(rival.binaries for rival in rivals)


def test_without_a_gpu_nothing_counts_as_verified() -> None:
    with Tuner(target_of("sm_90"), cache=False) as tuner:
        (choice,) = tuner.select([PROBLEM])
        assert tuner.verify(PROBLEM, choice) == "there is no GPU to verify it on"


def test_ctrl_c_outside_of_a_selection_ends_the_time_and_is_heard() -> None:
    heard: list[Event] = []
    with Tuner(target_of("sm_90"), mode="60s", cache=False, progress=heard.append) as tuner:
        assert not tuner.over
        tuner.tell("in the network", 3, 7)
        tuner.interrupt("interrupted: the plan stays as it stands")
        assert tuner.over
    assert [(event.kind, event.text) for event in heard] == [
        ("network", "in the network"),
        ("note", "interrupted: the plan stays as it stands"),
    ]
    assert (heard[0].done, heard[0].total) == (3, 7)
    assert heard[0].remaining == pytest.approx(54.0, abs=5.0)
