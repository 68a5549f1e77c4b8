"""Measuring candidates in a process of its own, which owns its CUDA context and may die with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from jitrt.plan.schema import PlanFile
from jitrt.runtime.driver import cuda_driver
from jitrt.runtime.seam import Device
from jitrt.tune import rig
from jitrt.tune.contest import time_plans
from jitrt.tune.rig import Job, Outcome
from jitrt.tune.timing_cache import Record
from jitrt.tune.worker import Worker, WorkerFailure

LIMIT = 300.0  # seconds for one candidate, the host's reference included; the GPU's part has its own, shorter limit


class Measurer(Protocol):
    """What `select` needs of a GPU."""

    @property
    def device(self) -> Device: ...

    def start(self) -> None:
        """Get ready: there is something to measure."""

    def measure(self, job: Job) -> Outcome: ...

    def close(self) -> None: ...


class GpuMeasurer:
    """Measures on GPU number `index` of this machine, giving each candidate `patience` seconds of it, or what its job
    says. Raises NoGpuError if there is no such GPU."""

    def __init__(self, index: int = 0, patience: float | None = None):
        self.device = cuda_driver(index).device
        self._index = index
        self._patience = patience
        # References are made on several threads there, and other processes compile: no threads for each product.
        variables = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        prepare = f"from jitrt.tune.rig import prepare; prepare({index})"
        self._worker = Worker("GPU worker", variables, prepare)

    def start(self) -> None:
        """Start the worker, whose imports and CUDA context take longer than the first candidate takes to compile."""
        self._worker.start()

    def measure(self, job: Job) -> Outcome:
        """Verify a candidate, then time it. Never raises for what the candidate does."""
        if self._patience is not None:
            job = replace(job, patience=self._patience)
        try:
            outcome: Outcome = self._worker.call(rig.measure, self._index, job, limit=min(LIMIT, job.limit))
        except WorkerFailure as failure:
            return Outcome(Record(reason=str(failure)), lasting=False)
        if outcome.fatal:
            self._worker.kill()
        return outcome

    def contest(self, files: Sequence[PlanFile]) -> list[float]:
        """Microseconds of one run of each plan. Raises WorkerFailure if they cannot be timed."""
        try:
            times: list[float] = self._worker.call(time_plans, self._index, files, limit=LIMIT)
        except WorkerFailure:
            self._worker.kill()
            raise
        return times

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
