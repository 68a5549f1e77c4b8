"""jitrt.bench.measure: statistics, timing with a timer that can be trusted, and the error that decides."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import pytest
import torch

from jitrt.bench import measure as m


class FakeTimer:
    """A device on which every call takes 100 us of work, by a count of the calls made."""

    def __init__(self) -> None:
        self.calls = 0
        self.waits = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x

    def mark(self) -> int:
        return self.calls

    def between(self, first: int, second: int) -> float:
        return 100.0 * (second - first)

    def wait(self) -> None:
        self.waits += 1


X = (torch.zeros(1),)


def test_statistics() -> None:
    stats = m.Stats.of([float(i) for i in range(1, 101)])
    assert (stats.min, stats.max, stats.mean, stats.median) == (1, 100, 50.5, 50.5)
    assert (stats.p90, stats.p95, stats.p99, stats.spread) == (91, 96, 100, 50)
    assert m.Stats.of([7.0]).p99 == 7.0
    with pytest.raises(ValueError, match="no samples"):
        m.Stats.of([])


def test_measure_divides_by_the_calls_it_made() -> None:
    device = FakeTimer()
    timing = m.measure(device, X, device, seconds=0.02)
    assert timing.back_to_back.median == pytest.approx(100)
    assert timing.back_to_back.spread == 0
    assert timing.gpu_compute.median == 100
    assert timing.queries == pytest.approx(10_000)
    assert timing.enqueue.median <= timing.latency.median
    assert device.waits > 10


def test_the_host_timer_sees_real_time() -> None:
    timing = m.measure(lambda x: time.sleep(0.002), X, m.HostTimer(), seconds=0.1)
    assert 2000 <= timing.back_to_back.median < 20_000
    assert timing.latency.min >= 2000


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (torch.tensor([3.0, 4.0]), 0.0),
        (torch.tensor([3.0, 4.5]), 0.1),
        (torch.tensor([3.0, math.nan]), math.inf),
        (torch.tensor([3.0, math.inf]), math.inf),
        ((torch.tensor([3.0, 4.0]),), 0.0),
    ],
)
def test_relative_error(found: Any, expected: float) -> None:
    assert m.relative_error(found, torch.tensor([3.0, 4.0])) == pytest.approx(expected)


def test_relative_error_takes_the_worst_of_several_outputs_and_numpy() -> None:
    reference = {"a": torch.ones(4), "b": torch.ones(4)}
    found = {"a": torch.ones(4).numpy(), "b": torch.full((4,), 1.25).half()}
    assert m.relative_error(found, reference) == pytest.approx(0.25)


def test_relative_error_refuses_outputs_that_do_not_correspond() -> None:
    with pytest.raises(ValueError, match="2 outputs, expected 1"):
        m.relative_error([torch.ones(1), torch.ones(1)], torch.ones(1))
    with pytest.raises(ValueError, match="shape"):
        m.relative_error(torch.ones(2), torch.ones(3))


def test_device_state_is_read_off_nvidia_smis_line() -> None:
    state = m.parse_state("NVIDIA H200, 580.95.05, 1980, 3201, 34, [N/A]\n")
    assert (state.name, state.driver, state.sm_clock, state.memory_clock) == ("NVIDIA H200", "580.95.05", 1980, 3201)
    assert math.isnan(state.power)


def test_no_nvidia_smi_is_no_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert m.device_state() is None


def test_repeat_follows_the_calls_length() -> None:
    """A long call is measured alone, a short one in bunches of about 2 ms."""
    device = FakeTimer()
    counts = []
    ticks = itertools.count()

    def call(x: torch.Tensor) -> None:
        next(ticks)
        device(x)

    original = device.mark
    device.mark = lambda: counts.append(device.calls) or original()  # type: ignore[func-returns-value,method-assign]
    m.measure(call, X, device, seconds=0.001, samples=5)
    bunches = {b - a for a, b in itertools.pairwise(counts)}
    assert 20 in bunches  # 2000 us / 100 us
