"""`jitrt bench`: models, batches and contestants in one process, on the same inputs."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import jitrt
from jitrt.bench.contest import Contest, Entry, Instruments, Say, caught, release, settings, time_in_turns
from jitrt.bench.measure import Call, CudaTimer, Inputs, Timer, device_state
from jitrt.bench.memory import CudaGauge, Gauge
from jitrt.bench.onnx_model import OnnxModel
from jitrt.bench.outcome import Gains, Outcome
from jitrt.bench.peers import Contestant
from jitrt.bench.report import US, WITHOUT, Report
from jitrt.bench.roofline import Roofline
from jitrt.bench.subject import Subject, check_request, random_input, source_of
from jitrt.hybrid import HybridEngine
from jitrt.plan.file import open_plan
from jitrt.plan.schema import Plan
from jitrt.reference import ReferenceEngine

TOOLS = ("jitrt", "torch", "triton", "torchvision", "onnxruntime", "numpy", "cuda-bindings")


@dataclass(frozen=True)
class Jitrt:
    """Us, as a contestant."""

    precision: str
    tune: str = "60s"
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return WITHOUT + ", ".join(self.without) if self.without else US

    def prepare(self, model: nn.Module | OnnxModel, inputs: Inputs) -> Call:
        ours = source_of(model, self.precision, inputs)
        engine: Call = jitrt.compile(ours, inputs, precision=self.precision, tune=self.tune, without=self.without)
        return engine


def bench_models(
    subjects: Sequence[Subject],
    batches: Sequence[int],
    precision: str,
    contestants: Sequence[Contestant],
    *,
    device: str = "cuda",
    timer: Timer | None = None,
    gauge: Gauge | None = None,
    seconds: float = 2.0,
    layers: bool = False,
    say: Say = lambda line: None,
) -> Report:
    """Time every contestant on every model and batch, and check each answer against PyTorch in float32.

    All contestants of one model and batch are prepared first and then timed twice in turns, so that the difference
    between two equal runs is known. One that fails is reported with its error; the others go on. One that takes the
    CUDA context with it, or Ctrl-C, ends the run with what was measured by then: also of contestants that were timed
    once. With `layers` jitrt's engines are profiled too, after all is timed. `say` is told what happens.

    Raises OptionError for an unknown precision or a batch that is no positive number.
    """
    check_request(batches, precision)
    outcomes: list[Outcome] = []
    gains: list[Gains] = []
    rooflines: list[Roofline] = []
    instruments = _instruments(device, timer, gauge, seconds)
    with torch.no_grad(), settings(precision):
        for subject, batch in itertools.product(subjects, batches):
            say(f"{subject.name}, batch {batch}, {precision}")
            contest = Contest(subject, batch, precision, device, instruments, say)
            try:
                found, engine, interrupted = contest.run(contestants)
                outcomes += found
                say(f"  {', '.join(outcome.brief() for outcome in found)}")
                if interrupted:
                    raise KeyboardInterrupt
                if isinstance(plan := getattr(engine, "plan", None), Plan):
                    told: Any = plan.notes.get("gains", ())
                    gains.append(Gains(subject.name, batch, tuple(told)))
                    for _, _, *row in gains[-1].rows():
                        say(f"  {' '.join(row)}")
                if layers and engine is not None:
                    rooflines += _rooflines(subject.name, batch, engine, contest.inputs(), say)
                del engine
                release()
            except KeyboardInterrupt:
                say("  interrupted; the report holds what was measured before")
                break
            except RuntimeError as error:  # a contestant took the CUDA context with it; what was measured is kept
                lost = str(error).splitlines()[0][:300]
                say(f"  {lost}; the remaining models and batches are left out")
                known = {(o.model, o.batch, o.contestant) for o in outcomes}
                missing = [c.name for c in contestants if (subject.name, batch, c.name) not in known]
                outcomes += [Outcome(subject.name, batch, precision, name, failure=lost) for name in missing]
                break
    return make_report(outcomes, gains=tuple(gains), rooflines=tuple(rooflines))


def _rooflines(model: str, batch: int, engine: Any, inputs: Inputs, say: Say) -> list[Roofline]:
    """The roofline of an engine; none, and the reason is said, of one that runs in part on the host, or fails."""
    if isinstance(engine, HybridEngine | ReferenceEngine):
        say("  no roofline: part of it runs on the host")
        return []
    say("  profiling jitrt's layers")
    failures: dict[str, str] = {}
    found = []
    with caught(failures, model):
        found.append(Roofline.of(model, batch, engine.plan, engine.profile(*inputs)))
    for failure in failures.values():
        say(f"  no roofline: {failure}")
    return found


def bench_plans(
    paths: Sequence[str],
    *,
    device: str = "cuda",
    timer: Timer | None = None,
    gauge: Gauge | None = None,
    seconds: float = 2.0,
    layers: bool = False,
    load: Callable[[str], Any] | None = None,
    say: Say = lambda line: None,
) -> Report:
    """Time plan files alone, on random inputs; with `layers` they are profiled too.

    "Build" is the time to load, and there is no error, as there is nothing to compare with. Raises PlanError for a file
    that is no plan.
    """
    outcomes: list[Outcome] = []
    rooflines: list[Roofline] = []
    instruments = _instruments(device, timer, gauge, seconds)
    for path in paths:
        plan = open_plan(path)[0].plan
        inputs = tuple(random_input(binding, device) for binding in plan.inputs)
        meter = instruments.meter()
        start = time.perf_counter()
        entry = Entry((load or jitrt.load)(path), time.perf_counter() - start, float("nan"))
        failures: dict[str, str] = {}
        with caught(failures, US):
            entry.call(*inputs)
            entry.memory = meter.read(entry.call, inputs) if meter is not None else None
        time_in_turns({US: entry}, inputs, instruments, failures)
        batch = plan.inputs[0].shape[0] if plan.inputs and plan.inputs[0].shape else 1
        nothing = Outcome(path, batch, plan.inputs[0].dtype if plan.inputs else "-", US, failure=failures.get(US))
        outcomes.append(nothing if nothing.failure else entry.outcome(nothing))
        if layers and not nothing.failure:
            rooflines += _rooflines(path, batch, entry.call, inputs, say)
    return make_report(outcomes, rooflines=tuple(rooflines))


def _instruments(device: str, timer: Timer | None, gauge: Gauge | None, seconds: float) -> Instruments:
    """Those given, or a GPU's own. No memory is measured on the host."""
    on_gpu = device.startswith("cuda")
    return Instruments(timer or CudaTimer(), seconds, gauge or (CudaGauge() if on_gpu else None))


def make_report(outcomes: Sequence[Outcome], **more: Any) -> Report:
    """The report of a run on this machine, now; `more` are further fields of it."""
    return Report(
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=device_state(),
        host=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        tools={name: version for name in TOOLS if (version := _version(name))},
        outcomes=tuple(outcomes),
        **more,
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
