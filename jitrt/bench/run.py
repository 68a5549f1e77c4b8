"""`jitrt bench`: models, batches and contestants in one process, on the same inputs."""

from __future__ import annotations

import contextlib
import copy
import datetime
import gc
import importlib.metadata
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import jitrt
from jitrt.bench.measure import (
    Call,
    CudaTimer,
    DeviceState,
    Inputs,
    Timer,
    Timing,
    device_state,
    measure,
    relative_error,
)
from jitrt.bench.onnx_model import TORCH_DTYPES, OnnxModel
from jitrt.bench.peers import Contestant
from jitrt.bench.report import US, WITHOUT, Gains, Outcome, Report
from jitrt.bench.roofline import Roofline
from jitrt.errors import OptionError
from jitrt.graph.dtype import DType
from jitrt.hybrid import HybridEngine
from jitrt.plan.file import open_plan
from jitrt.plan.schema import Binding, Plan
from jitrt.reference import ReferenceEngine

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32}
TOOLS = ("jitrt", "torch", "triton", "torchvision", "onnxruntime", "numpy", "cuda-bindings")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A model to bench: float32, eval mode, on the CPU, or an ONNX file. `inputs(batch)` gives it float32 (or integer)
    inputs, or those of the file's types."""

    name: str
    model: nn.Module | OnnxModel
    inputs: Callable[[int], Inputs]


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


def source_of(model: nn.Module | OnnxModel, precision: str, inputs: Inputs) -> Any:
    """What jitrt compiles: a copy of a PyTorch model in the dtype to run in, an ONNX file as it is."""
    if isinstance(model, OnnxModel):
        return model.source
    return copy.deepcopy(model).eval().to(inputs[0].device, DTYPES[precision])


def inputs_of(subject: Subject, batch: int, precision: str, device: str) -> Inputs:
    """A subject's inputs on the device, in the dtype to run in; those of an ONNX file have a type of their own."""
    wide = subject.inputs(batch)
    if isinstance(subject.model, OnnxModel):
        return tuple(x.to(device) for x in wide)
    return tuple(place(x, DTYPES[precision], device) for x in wide)


def check_request(batches: Sequence[int], precision: str) -> None:
    """Raise OptionError for an unknown precision or a batch that is no positive number."""
    if precision not in DTYPES:
        raise OptionError(f"unknown precision {precision!r}; choose one of {', '.join(DTYPES)}")
    if not batches or min(batches) < 1:
        raise OptionError(f"batches are {list(batches)}; give positive numbers")


def bench_models(
    subjects: Sequence[Subject],
    batches: Sequence[int],
    precision: str,
    contestants: Sequence[Contestant],
    *,
    device: str = "cuda",
    timer: Timer | None = None,
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
    with torch.no_grad(), settings(precision):
        for subject, batch in itertools.product(subjects, batches):
            say(f"{subject.name}, batch {batch}, {precision}")
            contest = _Contest(subject, batch, precision, device, timer or CudaTimer(), seconds, say)
            try:
                found, engine, interrupted = contest.run(contestants)
                outcomes += found
                if interrupted:
                    raise KeyboardInterrupt
                if isinstance(plan := getattr(engine, "plan", None), Plan):
                    told: Any = plan.notes.get("gains", ())
                    gains.append(Gains(subject.name, batch, tuple(told)))
                if layers and engine is not None:
                    rooflines += _rooflines(subject.name, batch, engine, contest.inputs(), say)
                del engine
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
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
    for path in paths:
        plan = open_plan(path)[0].plan
        inputs = tuple(random_input(binding, device) for binding in plan.inputs)
        start = time.perf_counter()
        engine = (load or jitrt.load)(path)
        loaded = time.perf_counter() - start
        batch = plan.inputs[0].shape[0] if plan.inputs and plan.inputs[0].shape else 1
        nothing = Outcome(path, batch, plan.inputs[0].dtype if plan.inputs else "-", "jitrt")
        failures: dict[str, str] = {}
        rounds: dict[str, _Rounds] = {"jitrt": []}
        _timed({"jitrt": engine}, inputs, timer or CudaTimer(), seconds, failures, rounds)
        outcomes.append(_outcome(nothing, rounds["jitrt"], loaded, float("nan"), failures.get("jitrt")))
        if layers and "jitrt" not in failures:
            rooflines += _rooflines(path, batch, engine, inputs, say)
    return make_report(outcomes, rooflines=tuple(rooflines))


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


_Rounds = list[tuple[Timing, DeviceState | None]]


def _timed(
    calls: dict[str, Call],
    inputs: Inputs,
    timer: Timer,
    seconds: float,
    failures: dict[str, str],
    rounds: dict[str, _Rounds],
) -> None:
    """Two rounds, the contestants in turns, into `rounds`; one that fails gets an entry in `failures` and no further
    turn."""
    for _ in range(2):
        for name, call in calls.items():
            if name in failures:
                continue
            with caught(failures, name):
                rounds[name].append((measure(call, inputs, timer, seconds=seconds), device_state()))
            _check_context(failures, name, timer)


def _outcome(nothing: Outcome, rounds: _Rounds, built: float, error: float, failure: str | None) -> Outcome:
    """`nothing`, filled in with what was found: of two rounds, or of one if the second was interrupted."""
    if failure is not None:
        return replace(nothing, failure=failure)
    (first, state), (last, _) = rounds[0], rounds[-1]
    repeat = last.back_to_back.median - first.back_to_back.median
    return replace(nothing, build_seconds=built, error=error, timing=first, repeat=repeat, state=state)


@dataclass(frozen=True)
class _Contest:
    """One model at one batch."""

    subject: Subject
    batch: int
    precision: str
    device: str
    timer: Timer
    seconds: float
    say: Say

    def inputs(self) -> Inputs:
        return inputs_of(self.subject, self.batch, self.precision, self.device)

    def run(self, contestants: Sequence[Contestant]) -> tuple[list[Outcome], Any, bool]:
        """What was found, jitrt's engine, if it ran, and whether Ctrl-C cut the timing short."""
        inputs = self.inputs()
        reference = self._reference(inputs)
        calls: dict[str, Call] = {}
        built: dict[str, float] = {}
        errors: dict[str, float] = {}
        failures: dict[str, str] = {}
        for contestant in contestants:
            self.say(f"  preparing {contestant.name}")
            with caught(failures, contestant.name):
                start = time.perf_counter()
                call = contestant.prepare(self.subject.model, inputs)
                found = call(*inputs)
                self.timer.wait()
                built[contestant.name] = time.perf_counter() - start
                errors[contestant.name] = relative_error(found, reference)
                calls[contestant.name] = call
            _check_context(failures, contestant.name, self.timer)
        self.say("  timing")
        rounds: dict[str, _Rounds] = {name: [] for name in calls}
        interrupted = False
        try:
            _timed(calls, inputs, self.timer, self.seconds, failures, rounds)
        except KeyboardInterrupt:
            interrupted = True
        outcomes = [
            _outcome(
                Outcome(self.subject.name, self.batch, self.precision, name),
                rounds.get(name, []),
                built.get(name, 0.0),
                errors.get(name, 0.0),
                failures.get(name),
            )
            for name in (contestant.name for contestant in contestants)
            if rounds.get(name) or name in failures
        ]
        return outcomes, None if US in failures else calls.get(US), interrupted

    def _reference(self, inputs: Inputs) -> Any:
        """PyTorch in float32 (no tf32) on the very inputs the others get; of an ONNX file what that has."""
        if isinstance(self.subject.model, OnnxModel):
            return self.subject.model.reference(inputs)
        model = copy.deepcopy(self.subject.model).eval().to(self.device)
        with settings("fp32"):
            return model(*(x.float() if x.is_floating_point() else x for x in inputs))


@contextlib.contextmanager
def caught(failures: dict[str, str], name: str) -> Iterator[None]:
    """Anything a contestant raises becomes its reported failure: one line, with the kind of error."""
    try:
        yield
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


def place(x: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    """On the device, in the dtype, images channels_last: the layout every contestant likes best."""
    x = x.to(device, dtype) if x.is_floating_point() else x.to(device)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def random_input(binding: Binding, device: str) -> torch.Tensor:
    """Normal floats, or zeros and ones, lying as the binding says."""
    dtype = TORCH_DTYPES[DType(binding.dtype)]
    made = torch.empty_strided(binding.shape, binding.strides, dtype=dtype, device=device)
    return made.normal_() if dtype.is_floating_point else made.random_(0, 2)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
