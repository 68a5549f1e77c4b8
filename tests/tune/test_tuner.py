"""What a build asks of its tuner beside selections."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import planted
import pytest

from jitrt.codegen.target import target_of
from jitrt.kernels.base import templates
from jitrt.runtime.fake_driver import H200
from jitrt.tune import loop
from jitrt.tune import tuner as tuner_module
from jitrt.tune.candidates import candidates_of
from jitrt.tune.progress import Event
from jitrt.tune.rig import Job, Outcome
from jitrt.tune.timing_cache import Record
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


def test_the_time_runs_from_where_the_build_began() -> None:
    with Tuner(target_of("sm_90"), mode="60s", cache=False, began=time.monotonic() - 50) as tuner:
        tuner.lap("import")
        assert tuner.spent["import"] == pytest.approx(50, abs=2)
        assert tuner.lasts(1.0) and not tuner.lasts(5.0)
        assert not tuner.judges


class SlowGpu:
    """Takes a tenth of a second for anything; `instead` is called first."""

    device = H200

    def __init__(self, instead: Callable[[], None] = lambda: None):
        self.instead = instead
        self.measured: list[str] = []

    def start(self) -> None: ...

    def measure(self, job: Job) -> Outcome:
        self.instead()
        time.sleep(0.1)
        self.measured.append(job.problem.key)
        return Outcome(Record(5.0, slower=job.best is not None))

    def close(self) -> None: ...


PROBLEMS = [planted.relu_problem(512, 512 * width) for width in range(1, 25)]


def slow_tuner(monkeypatch: pytest.MonkeyPatch, gpu: SlowGpu, heard: list[Event]) -> Tuner:
    monkeypatch.setattr(tuner_module, "GpuMeasurer", lambda index: gpu)
    for name in ("_LEAST", "_PATIENCE", "_LAST_PATIENCE"):
        monkeypatch.setattr(tuner_module, name, 0.3)
    monkeypatch.setattr(loop, "HASTE", 0.3)
    return Tuner(target_of("sm_90"), 0, mode="1s", cache=False, progress=heard.append, compiler=planted.AtOnce())


def test_a_build_of_many_slow_problems_keeps_to_its_time_and_says_what_is_not_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Event] = []
    with slow_tuner(monkeypatch, gpu := SlowGpu(), heard) as tuner:
        start = time.perf_counter()
        chosen = tuner.select(PROBLEMS, share=0.75)
        assert time.perf_counter() - start < 4
        assert tuner.guessed
    verified = [choice.verified for choice in chosen]
    assert 3 <= len(gpu.measured) <= 12
    assert verified == sorted(verified), "those that cost most were verified"
    assert verified.count(True) == len(set(gpu.measured))
    assert all(choice.binaries for choice in chosen)
    assert {choice.source for choice in chosen if not choice.verified} == {"heuristic"}
    (note,) = [event.text for event in heard if event.kind == "note"]
    late = verified.count(False)
    assert note == f"{late} kernels are the likeliest, not verified: the time was over; another build goes on from here"


def test_what_may_be_left_out_is_left_out_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_tuner(monkeypatch, SlowGpu(), []) as tuner:
        chosen = tuner.attempt(PROBLEMS, [])
        assert 3 <= sum(choice is not None for choice in chosen) <= 12
        assert not tuner.guessed
        known = tuner.known(PROBLEMS)
    assert all(choice is not None for choice, before in zip(known, chosen, strict=True) if before is not None)
    assert None in known


def test_ctrl_c_ends_a_build_in_seconds_and_the_second_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    presses = iter([True])

    def press() -> None:
        if next(presses, False):
            raise KeyboardInterrupt

    with slow_tuner(monkeypatch, SlowGpu(press), []) as tuner:
        start = time.perf_counter()
        tuner.attempt(PROBLEMS, [])
        assert tuner.interrupted and tuner.over and not tuner.judges and not tuner.lasts(0.0)
        chosen = tuner.select(PROBLEMS)
        assert time.perf_counter() - start < 4
        assert not all(choice.verified for choice in chosen)
    presses = iter([True, True])
    with slow_tuner(monkeypatch, gpu := SlowGpu(press), []) as tuner, pytest.raises(KeyboardInterrupt):
        tuner.attempt(PROBLEMS, [])
    assert gpu.measured == []


def test_no_guess_is_what_was_refused_in_this_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the cache does not know it, because a worker's death may have another cause."""

    class Hangs(SlowGpu):
        def measure(self, job: Job) -> Outcome:
            time.sleep(0.4)
            self.measured.append(str(job.candidate.tactic))
            return Outcome(Record(reason="the GPU worker hung"), lasting=False)

    with slow_tuner(monkeypatch, gpu := Hangs(), []) as tuner:
        (choice,) = tuner.select(PROBLEMS[:1], share=0.5)
    assert len(gpu.measured) >= 1
    assert not choice.verified
    assert str(choice.tactic) not in gpu.measured
