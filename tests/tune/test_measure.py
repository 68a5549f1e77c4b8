"""The GPU worker seen from outside: however a measurement ends, the next one runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import planted
import pytest

from jitrt.codegen.target import target_of
from jitrt.errors import NoGpuError
from jitrt.kernels.base import Tactic
from jitrt.runtime.fake_driver import H200
from jitrt.tune import measure as module
from jitrt.tune.candidates import Candidate
from jitrt.tune.measure import GpuMeasurer
from jitrt.tune.rig import Job
from jitrt.tune.select import select

FINE, CRASH, HANG, FATAL, BROKEN = range(5)


def job(kind: int) -> Job:
    candidate = Candidate(Tactic("listed", ()), planted.Listed())
    return Job(planted.relu_problem(4), candidate, (), target_of(90), best=float(kind))


@pytest.fixture
def measurer(monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuMeasurer]:
    monkeypatch.setattr(module, "cuda_driver", lambda index: SimpleNamespace(device=H200))
    monkeypatch.setattr(module, "rig", SimpleNamespace(measure=planted.measure_by_choice))
    made = GpuMeasurer(0, patience=0.3)
    made._worker._prepare = "pass"  # there is no GPU to get ready for
    yield made
    made.close()


def test_every_end_is_survived(measurer: GpuMeasurer) -> None:
    assert measurer.device is H200
    pid = measurer.measure(job(FINE)).record.microseconds
    assert measurer.measure(job(FINE)).record.microseconds == pid, "one process for all"

    crash = measurer.measure(job(CRASH))
    assert crash.record.reason == "the GPU worker died of SIGSEGV"
    assert not crash.lasting

    hang = measurer.measure(job(HANG))
    assert hang.record.reason == "the GPU worker hung: killed at its time limit"
    assert not hang.lasting

    broken = measurer.measure(job(BROKEN))
    assert broken.record.reason == "ValueError: the rig is broken"

    before = measurer.measure(job(FINE)).record.microseconds
    fatal = measurer.measure(job(FATAL))
    assert fatal.record.reason == f"crashed in process {before:.0f}"
    assert fatal.lasting
    assert measurer.measure(job(FINE)).record.microseconds != before, "a lost context is not used again"


def test_no_gpu_is_said_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(index: int) -> object:
        raise NoGpuError("there is no NVIDIA GPU to run on")

    monkeypatch.setattr(module, "cuda_driver", none)
    with pytest.raises(NoGpuError):
        select([planted.relu_problem(4)], target_of(90), device=0)


def test_the_worker_gets_ready_before_its_first_job_and_leaves_errors_to_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cuda_driver", lambda index: SimpleNamespace(device=H200))
    measurer = GpuMeasurer(93)  # which is not there
    try:
        measurer.start()
        assert "triton" in measurer._worker.call(planted.modules, limit=60)
        assert "NoGpuError" in (measurer.measure(job(FINE)).record.reason or "")
    finally:
        measurer.close()
