"""One model at one batch: the contestants prepared, checked and weighed, then timed in turns."""

from __future__ import annotations

import contextlib
import copy
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from jitrt.bench.measure import (
    Call,
    DeviceState,
    DoesNotApply,
    Inputs,
    Timer,
    Timing,
    device_state,
    measure,
    relative_error,
)
from jitrt.bench.memory import Gauge, Memory, Meter
from jitrt.bench.onnx_model import OnnxModel
from jitrt.bench.outcome import UNFIT, Outcome
from jitrt.bench.peers import Contestant
from jitrt.bench.report import US
from jitrt.bench.subject import Subject, inputs_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Instruments:
    """What is measured with: a clock, for how many seconds a run, and what tells memory, where there is such a
    thing."""

    timer: Timer
    seconds: float
    gauge: Gauge | None = None

    def meter(self) -> Meter | None:
        return Meter.start(self.gauge) if self.gauge is not None else None


@dataclass
class Entry:
    """A contestant that is ready, and what was found of it until now."""

    call: Call
    build_seconds: float
    error: float
    memory: Memory | None = None
    rounds: list[tuple[Timing, DeviceState | None]] = field(default_factory=list)

    def outcome(self, nothing: Outcome) -> Outcome:
        """`nothing`, filled in: of two rounds, or of one if the second was interrupted."""
        (first, state), (last, _) = self.rounds[0], self.rounds[-1]
        return replace(
            nothing,
            build_seconds=self.build_seconds,
            error=self.error,
            memory=self.memory,
            timing=first,
            repeat=last.back_to_back.median - first.back_to_back.median,
            state=state,
        )


def time_in_turns(
    entries: dict[str, Entry], inputs: Inputs, instruments: Instruments, failures: dict[str, str]
) -> None:
    """Two rounds, the contestants in turns; one that fails gets an entry in `failures` and no further turn."""
    for _ in range(2):
        for name, entry in entries.items():
            if name in failures:
                continue
            with caught(failures, name):
                timing = measure(entry.call, inputs, instruments.timer, seconds=instruments.seconds)
                entry.rounds.append((timing, device_state()))
            _check_context(failures, name, instruments.timer)


@dataclass(frozen=True)
class Contest:
    """One model at one batch."""

    subject: Subject
    batch: int
    precision: str
    device: str
    instruments: Instruments
    say: Say

    def inputs(self) -> Inputs:
        return inputs_of(self.subject, self.batch, self.precision, self.device)

    def run(self, contestants: Sequence[Contestant]) -> tuple[list[Outcome], Any, bool]:
        """What was found, jitrt's engine, if it ran, and whether Ctrl-C cut the timing short."""
        inputs = self.inputs()
        reference = self._reference(inputs)
        entries: dict[str, Entry] = {}
        failures: dict[str, str] = {}
        # jitrt last: for some 15 s after cuDNN has tried its algorithms a GPU may be a tenth slower at the same clock,
        # for everybody, and a build takes longer than that.
        for contestant in sorted(contestants, key=lambda one: one.name == US):
            self.say(f"  preparing {contestant.name}")
            with caught(failures, contestant.name):
                entries[contestant.name] = self._prepare(contestant, inputs, reference)
            _check_context(failures, contestant.name, self.instruments.timer)
        self.say("  timing")
        interrupted = False
        try:
            time_in_turns(entries, inputs, self.instruments, failures)
        except KeyboardInterrupt:
            interrupted = True
        outcomes = []
        for name in (contestant.name for contestant in contestants):
            nothing = Outcome(self.subject.name, self.batch, self.precision, name)
            if name in failures:
                outcomes.append(replace(nothing, failure=failures[name]))
            elif entries[name].rounds:
                outcomes.append(entries[name].outcome(nothing))
        ran = US in entries and US not in failures
        return outcomes, entries[US].call if ran else None, interrupted

    def _prepare(self, contestant: Contestant, inputs: Inputs, reference: Any) -> Entry:
        meter = self.instruments.meter()
        start = time.perf_counter()
        call = contestant.prepare(self.subject.model, inputs)
        found = call(*inputs)
        self.instruments.timer.wait()
        entry = Entry(call, time.perf_counter() - start, relative_error(found, reference))
        del found  # the next call's output would be beside it
        if meter is not None:
            entry.memory = meter.read(call, inputs)
        return entry

    def _reference(self, inputs: Inputs) -> Any:
        """PyTorch in float32 (no tf32) on the very inputs the others get; of an ONNX file what that has."""
        if isinstance(self.subject.model, OnnxModel):
            return self.subject.model.reference(inputs)
        model = copy.deepcopy(self.subject.model).eval().to(self.device)
        with settings("fp32"):
            return model(*(x.float() if x.is_floating_point() else x for x in inputs))


def release() -> None:
    """Give back what compilers and allocators kept of a contest that is over. Not before: a compiled module of
    PyTorch's that runs after a reset is compiled anew, without the freezing it was prepared with. And not later: the
    next batch size would count against Dynamo's limit of recompilations."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def caught(failures: dict[str, str], name: str) -> Iterator[None]:
    """Anything a contestant raises becomes its reported failure: one line, with the kind of error, or why the model is
    not its kind."""
    try:
        yield
    except DoesNotApply as error:
        failures[name] = UNFIT + str(error)
    except Exception as error:  # whatever a compiler or library throws must not end the others' run
        text = str(error).strip().splitlines() or [""]
        failures[name] = f"{type(error).__name__}: {text[0][:300]}"


def _check_context(failures: dict[str, str], name: str, timer: Timer) -> None:
    """After a failure: raise RuntimeError, naming the contestant, if the CUDA context is lost to everybody."""
    if name not in failures:
        return
    try:
        timer.wait()
    except RuntimeError as error:
        raise RuntimeError(f"{name} took the CUDA context with it: {failures[name]}") from error


@contextlib.contextmanager
def settings(precision: str) -> Iterator[None]:
    """cuDNN chooses by measurement; tf32 only where it was asked for. Put back afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, precision == "tf32", precision == "tf32"
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
