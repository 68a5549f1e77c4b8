"""`jitrt bench`: models, batches and contestants in one process, on the same inputs."""

from __future__ import annotations

import contextlib
import copy
import datetime
import gc
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import jitrt
from jitrt.bench.measure import Call, CudaTimer, Inputs, Timer, device_state, measure, relative_error
from jitrt.bench.peers import Contestant
from jitrt.bench.report import Outcome, Report
from jitrt.errors import OptionError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32}
TOOLS = ("jitrt", "torch", "triton", "torchvision", "numpy", "cuda-bindings")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A model to bench: float32, eval mode, on the CPU. `inputs(batch)` gives it float32 (or integer) inputs."""

    name: str
    model: nn.Module
    inputs: Callable[[int], Inputs]


@dataclass(frozen=True)
class Jitrt:
    """Us, as a contestant."""

    precision: str
    tune: str = "60s"
    name: str = "jitrt"

    def prepare(self, model: nn.Module, inputs: Inputs) -> Call:
        dtype, device = DTYPES[self.precision], inputs[0].device
        ours = copy.deepcopy(model).eval().to(device, dtype)
        engine: Call = jitrt.compile(ours, inputs, precision=self.precision, tune=self.tune)
        return engine


def bench_models(
    subjects: Sequence[Subject],
    batches: Sequence[int],
    precision: str,
    contestants: Sequence[Contestant],
    *,
    device: str = "cuda",
    timer: Timer | None = None,
    seconds: float = 2.0,
    say: Say = lambda line: None,
) -> Report:
    """Time every contestant on every model and batch, and check each answer against PyTorch in float32.

    All contestants of one model and batch are prepared first and then timed twice in turns, so that the difference
    between two equal runs is known. One that fails is reported with its error; the others go on. `say` is told what
    happens. Raises OptionError for an unknown precision or a batch that is no positive number.
    """
    if precision not in DTYPES:
        raise OptionError(f"unknown precision {precision!r}; choose one of {', '.join(DTYPES)}")
    if not batches or min(batches) < 1:
        raise OptionError(f"batches are {list(batches)}; give positive numbers")
    outcomes: list[Outcome] = []
    with torch.no_grad(), _settings(precision):
        for subject in subjects:
            for batch in batches:
                say(f"{subject.name}, batch {batch}, {precision}")
                contest = _Contest(subject, batch, precision, device, timer or CudaTimer(), seconds, say)
                outcomes += contest.run(contestants)
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
    return Report(
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=device_state(),
        host=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        tools={name: version for name in TOOLS if (version := _version(name))},
        outcomes=tuple(outcomes),
    )


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

    def run(self, contestants: Sequence[Contestant]) -> list[Outcome]:
        wide = self.subject.inputs(self.batch)
        inputs = tuple(_place(x, DTYPES[self.precision], self.device) for x in wide)
        reference = self._reference(inputs)
        ready: dict[str, tuple[Call, float, float]] = {}
        failures: dict[str, str] = {}
        for contestant in contestants:
            self.say(f"  preparing {contestant.name}")
            with _caught(failures, contestant.name):
                start = time.perf_counter()
                call = contestant.prepare(self.subject.model, inputs)
                found = call(*inputs)
                self.timer.wait()
                built = time.perf_counter() - start
                ready[contestant.name] = (call, built, relative_error(found, reference))
        rounds: dict[str, list[Any]] = {name: [] for name in ready}
        for _ in range(2):
            for name, (call, _, _) in ready.items():
                with _caught(failures, name):
                    if name not in failures:
                        timing = measure(call, inputs, self.timer, seconds=self.seconds)
                        rounds[name].append((timing, device_state()))
        return [self._outcome(c.name, ready, rounds, failures) for c in contestants]

    def _reference(self, inputs: Inputs) -> Any:
        """PyTorch in float32 (no tf32) on the very inputs the others get."""
        model = copy.deepcopy(self.subject.model).eval().to(self.device)
        with _settings("fp32"):
            return model(*(x.float() if x.is_floating_point() else x for x in inputs))

    def _outcome(self, name: str, ready: Any, rounds: Any, failures: dict[str, str]) -> Outcome:
        nothing = Outcome(self.subject.name, self.batch, self.precision, name)
        if name in failures:
            return replace(nothing, failure=failures[name])
        _, built, error = ready[name]
        (first, state), (second, _) = rounds[name]
        repeat = second.back_to_back.median - first.back_to_back.median
        return replace(nothing, build_seconds=built, error=error, timing=first, repeat=repeat, state=state)


@contextlib.contextmanager
def _caught(failures: dict[str, str], name: str) -> Iterator[None]:
    """Anything a contestant raises becomes its reported failure: one line, with the kind of error."""
    try:
        yield
    except Exception as error:  # whatever a compiler or library throws must not end the others' run
        text = str(error).strip().splitlines() or [""]
        failures[name] = f"{type(error).__name__}: {text[0][:300]}"


@contextlib.contextmanager
def _settings(precision: str) -> Iterator[None]:
    """cuDNN chooses by measurement; tf32 only where it was asked for. Put back afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, precision == "tf32", precision == "tf32"
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _place(x: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    """On the device, in the dtype, images channels_last: the layout every contestant likes best."""
    x = x.to(device, dtype) if x.is_floating_point() else x.to(device)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
