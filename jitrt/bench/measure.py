"""Timing of one callable, in trtexec's words, and the check of its answer.

All times are microseconds of one call. Two questions, two ways to ask:

back to back   many calls enqueued without waiting, between two device events: what a busy server sees. Throughput comes
               from it.
synchronised   one call, then wait for the device, on the host's clock: Latency. The same calls give Enqueue Time (until
               the call returns) and GPU Compute Time (between events before and after it).

The inputs are the same buffers at every call, so a small input sits in the L2 cache, for every contestant alike.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from jitrt.errors import OptionError

Call = Callable[..., Any]
Inputs = tuple[torch.Tensor, ...]


class DoesNotApply(OptionError):
    """What a contestant raises for a model that is not its kind."""


@dataclass(frozen=True)
class Stats:
    """Of many samples, in microseconds. `spread` is the interquartile range."""

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Stats:
        """Raises ValueError if there are no samples."""
        if not samples:
            raise ValueError("no samples")
        ordered = sorted(samples)

        def at(quantile: float) -> float:
            return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]

        return cls(
            ordered[0],
            ordered[-1],
            statistics.fmean(ordered),
            statistics.median(ordered),
            at(0.90),
            at(0.95),
            at(0.99),
            at(0.75) - at(0.25),
        )


@dataclass(frozen=True)
class Timing:
    """What `measure` found. `queries` is calls a second back to back."""

    back_to_back: Stats
    latency: Stats
    enqueue: Stats
    gpu_compute: Stats

    @property
    def queries(self) -> float:
        return 1e6 / self.back_to_back.median


class Timer(Protocol):
    """A device's clock: marks in its queue of work, and the microseconds between two of them."""

    def mark(self) -> Any: ...

    def between(self, first: Any, second: Any) -> float:
        """Microseconds; both marks have been reached."""
        ...

    def wait(self) -> None:
        """Until all enqueued work is done."""
        ...


class CudaTimer:
    """CUDA events on torch's current stream."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        return 1e3 * first.elapsed_time(second)

    def wait(self) -> None:
        torch.cuda.synchronize()


class HostTimer:
    """The host's clock, for work that is done when the call returns: the reference target."""

    def mark(self) -> float:
        return time.perf_counter()

    def between(self, first: float, second: float) -> float:
        return 1e6 * (second - first)

    def wait(self) -> None:
        return None


def measure(call: Call, inputs: Inputs, timer: Timer, *, seconds: float = 1.0, samples: int = 60) -> Timing:
    """Time `call(*inputs)`: about `seconds` for warm-up and measurement together, at least 5 samples of each kind.

    A back-to-back sample is as many calls as fill about two milliseconds, so that the marks' own cost vanishes.
    """
    estimate = _warm_up(call, inputs, timer, seconds / 4)
    repeat = max(1, round(2000 / estimate))
    count = max(5, min(samples, int(seconds / 2 * 1e6 / (estimate * repeat))))
    runs = [_back_to_back(call, inputs, timer, repeat) for _ in range(count)]
    count = max(5, min(10 * samples, int(seconds / 4 * 1e6 / estimate)))
    singles = [_synchronised(call, inputs, timer) for _ in range(count)]
    latency, enqueue, compute = zip(*singles, strict=True)
    return Timing(Stats.of(runs), Stats.of(latency), Stats.of(enqueue), Stats.of(compute))


def relative_error(found: Any, reference: Any) -> float:
    """The largest ‖found − reference‖ / ‖reference‖ over the tensors of two outputs, in float64.

    NaN or infinity in `found` gives infinity. Raises ValueError if the outputs differ in number or shape.
    """
    ours, theirs = pytree.tree_leaves(found), pytree.tree_leaves(reference)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} outputs, expected {len(theirs)}")
    worst = 0.0
    for mine, wanted in zip(ours, theirs, strict=True):
        a, b = torch.as_tensor(mine).double().cpu(), wanted.double().cpu()
        if a.shape != b.shape:
            raise ValueError(f"output shape {tuple(a.shape)}, expected {tuple(b.shape)}")
        if not bool(torch.isfinite(a).all()):
            return float("inf")
        scale = b.norm().item()
        worst = max(worst, (a - b).norm().item() / (scale or 1.0))
    return worst


@dataclass(frozen=True)
class DeviceState:
    """What nvidia-smi says of the GPU: clocks in MHz, temperature in degrees Celsius, power in watts."""

    name: str
    driver: str
    sm_clock: float
    memory_clock: float
    temperature: float
    power: float


_QUERY = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"


def device_state() -> DeviceState | None:
    """The first GPU's state, read and never set; None where nvidia-smi is missing or does not answer."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_state(done.stdout)


def parse_state(line: str) -> DeviceState:
    """One line of the query's answer; a field the driver does not give ("[N/A]") becomes NaN."""
    name, driver, *numbers = (part.strip() for part in line.strip().split(","))
    return DeviceState(name, driver, *(_number(text) for text in numbers))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _warm_up(call: Call, inputs: Inputs, timer: Timer, seconds: float) -> float:
    """Run for `seconds`, at least three calls; returns microseconds a call once warm."""
    for _ in range(3):
        call(*inputs)
    timer.wait()
    start = time.perf_counter()
    estimate = _back_to_back(call, inputs, timer, 1)
    while time.perf_counter() - start < seconds:
        estimate = _back_to_back(call, inputs, timer, max(1, round(2000 / estimate)))
    return max(estimate, 0.1)


def _back_to_back(call: Call, inputs: Inputs, timer: Timer, repeat: int) -> float:
    timer.wait()
    first = timer.mark()
    for _ in range(repeat):
        call(*inputs)
    last = timer.mark()
    timer.wait()
    return max(timer.between(first, last) / repeat, 1e-3)


def _synchronised(call: Call, inputs: Inputs, timer: Timer) -> tuple[float, float, float]:
    """(latency, enqueue, GPU compute) of one call."""
    timer.wait()
    first = timer.mark()
    start = time.perf_counter()
    call(*inputs)
    returned = time.perf_counter()
    last = timer.mark()
    timer.wait()
    done = time.perf_counter()
    return 1e6 * (done - start), 1e6 * (returned - start), timer.between(first, last)
