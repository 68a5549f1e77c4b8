"""jitrt.bench.memory: what counts as whose, on a made-up device; the real one is in tests/gpu/test_bench.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from jitrt.bench.measure import Call, HostTimer, Inputs
from jitrt.bench.memory import CAPTION, Memory, Meter, Reading, beside_torch, pooled_bytes
from jitrt.bench.onnx_model import BoundSession
from jitrt.bench.report import Report, to_markdown
from jitrt.bench.run import bench_models, bench_plans
from jitrt.bench.subject import Subject
from jitrt.runtime.engine import Engine
from tests.bench.test_report import OURS, report
from tests.cli.plans import tiny_plan

TOTAL = 1 << 20


class Device:
    """A gauge, and the device behind it: an allocator that keeps what it got, and a driver that lends."""

    def __init__(self) -> None:
        self.allocated = self.peak = self.kept = self.shared = self.pooled = self.beside = 0

    def take(self, nbytes: int) -> None:
        self.allocated += nbytes
        self.peak = max(self.peak, self.allocated)
        self.kept = max(0, self.kept - nbytes)

    def drop(self, nbytes: int) -> None:
        self.allocated -= nbytes
        self.kept += nbytes

    def settle(self) -> None:
        self.allocated -= self.shared
        self.kept = self.shared = 0

    def restart(self) -> None:
        self.peak = self.allocated

    def read(self) -> Reading:
        lent = self.allocated + self.kept + self.pooled + self.beside
        return Reading(self.allocated, self.peak, self.pooled, TOTAL - lent)


@dataclass(frozen=True)
class Runner:
    """A contestant on that device. While it is prepared it has `weights` twice and tries large workspaces; every call
    has `activations`, and a workspace of 7 that is shared and stays."""

    device: Device
    name: str
    weights: int = 0
    activations: int = 0
    pool: int = 0
    code: int = 0

    def prepare(self, model: nn.Module, inputs: Inputs) -> Call:
        self.device.take(2 * self.weights + 9000)
        self.device.drop(self.weights + 9000)
        self.device.pooled += self.pool
        self.device.beside += self.code

        def call(*x: torch.Tensor) -> Any:
            if not self.device.shared:
                self.device.take(7)
                self.device.shared = 7
            self.device.take(self.activations)
            self.device.drop(self.activations)
            return model(*x)

        return call


def bench(runners: list[Any], **more: Any) -> Report:
    subject = Subject("tiny", nn.Linear(2, 2), lambda batch: (torch.ones(batch, 2),))
    return bench_models([subject], [1], "fp32", runners, device="cpu", timer=HostTimer(), seconds=0.01, **more)


def test_every_contestant_is_counted_alone() -> None:
    device = Device()
    device.take(500)  # inputs and reference
    runners = [
        Runner(device, "first", weights=1000, activations=200, code=4000),
        Runner(device, "graph", weights=1000, pool=300),
        Runner(device, "large", weights=3000, activations=20),
    ]
    found = {o.contestant: o.memory for o in bench(runners, gauge=device).outcomes}
    assert found["first"] == Memory(1000 + 200 + 7, 1000 + 200 + 7 + 4000)  # its code is lent, and not counted
    assert found["graph"] == Memory(1000 + 300 + 7, 1000 + 300 + 7)
    assert found["large"] == Memory(3000 + 20 + 7, 3000 + 20 + 7)


def test_jitrts_memory_outside_of_torch_is_its_plans() -> None:
    file = tiny_plan()
    device = Device()
    meter = Meter.start(device)
    engine = Called(file)
    memory = engine.inspect().memory
    assert set(memory) == {"arena", "zeros", "scratch", "constants", "cubins"}
    device.beside += 5000
    assert beside_torch(engine) == sum(memory.values()) > 0
    assert meter.read(engine, ()) == Memory(sum(memory.values()), 5000)


class Called(Engine):
    """An engine whose calls do nothing."""

    def __call__(self, *inputs: Any) -> Any:
        return None


def test_of_onnx_runtime_all_that_was_lent_counts() -> None:
    class Session(BoundSession):
        def __init__(self) -> None:
            pass

        def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
            device.beside += 77
            return []

    device = Device()
    assert Meter.start(device).read(Session(), ()) == Memory(77, 77)


def test_only_private_pools_are_held() -> None:
    shared = {"segment_pool_id": (0, 0), "total_size": 100, "allocated_size": 10}
    private = {"segment_pool_id": (0, 3), "total_size": 200, "allocated_size": 50}
    assert pooled_bytes([shared, private, private]) == 300
    assert pooled_bytes([]) == 0


def test_no_gauge_no_figure() -> None:
    (outcome,) = bench([Runner(Device(), "any")]).outcomes
    assert outcome.memory is None


def test_a_plan_alone_is_measured_too(tmp_path: Any) -> None:
    path = str(tmp_path / "tiny.plan")
    engine = Called(tiny_plan())
    engine.save(path)
    options: dict[str, Any] = {"device": "cpu", "timer": HostTimer(), "gauge": Device(), "seconds": 0.01}
    (outcome,) = bench_plans([path], load=lambda _: engine, **options).outcomes
    assert outcome.memory == Memory(beside_torch(engine), 0)


@pytest.mark.parametrize(("memory", "cells"), [(Memory(3 << 20, 2_000_000), "| 3.0 | 1.9 |"), (None, "| - | - |")])
def test_the_long_table_has_it_and_says_what_it_is(memory: Memory | None, cells: str) -> None:
    text = to_markdown(report(replace(OURS, memory=memory)))
    assert "| Memory in use (MiB) | Lent (MiB) |" in text
    assert cells in text
    assert CAPTION in text
