"""Damaged models through the front end, many of them: `python -m tests.frontend.onnx.fuzz --cases 1000000`.

A case is a seed model with random damage. It must be imported or refused with a JitrtError, in bounded time and memory.
What else happens is a problem, and the report says by which seed and number it comes back: `--only 1234` runs that one
case again. Cases depend on the number and the seed alone, not on those before.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from jitrt.errors import JitrtError
from jitrt.frontend.onnx import Limits, NeedsInput, import_onnx, read_model
from jitrt.frontend.onnx.checkup import examine
from tests.frontend.onnx.mutations import Mutator
from tests.frontend.onnx.seeds import seeds, write_data

SECONDS = 2.0  # of processor time, for one case: an ordinary one takes a thousandth of it
MEMORY = 1 << 30  # bytes beyond what the process has before
LIMITS = Limits(nodes=3_000, grow=1 << 24)


class TooSlow(BaseException):
    """Raised inside a case that takes for ever; no handler in between must take it for an error of the model."""


@dataclass
class Report:
    """What came of the cases: how many by outcome, those that went wrong, and the slowest."""

    outcomes: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)  # what was behind a refusal, where an importer stumbled
    problems: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)

    def __str__(self) -> str:
        lines = [f"{sum(self.outcomes.values())} cases"]
        lines += [f"  {count:>9} {name}" for name, count in self.outcomes.most_common()]
        lines += ["refusals with a Python error behind them:"] if self.causes else []
        lines += [f"  {count:>9} {name}" for name, count in self.causes.most_common()]
        lines += [f"slowest: {self.slowest[0]:.2f} s (case {self.slowest[1]})", f"{len(self.problems)} problems"]
        return "\n".join([*lines, *self.problems[:20]])


class Fuzzer:
    """Runs numbered cases; `folder` has the file with external data."""

    def __init__(self, folder: Path, seed: int = 0, models: Mapping[str, onnx.ModelProto] | None = None):
        write_data(folder)
        self.folder = folder
        self.seed = seed
        self.models = list((models or seeds()).items())
        self.mutator = Mutator([model for _, model in self.models])

    def case(self, number: int) -> tuple[str, bytes]:
        """The seed model's name and the damaged bytes of a case."""
        rng = random.Random(f"{self.seed}:{number}")
        name, model = self.models[number % len(self.models)]
        return name, self.mutator.mutated(rng, model)

    def run(self, number: int, report: Report) -> None:
        name, data = self.case(number)
        begin = time.process_time()
        try:
            with _alarm(4 * SECONDS):
                outcome, error = self.outcome(data, number)
        except TooSlow:
            outcome, error = f"stopped after {4 * SECONDS} s", None
            report.problems.append(f"case {number} ({name}): {outcome}")
        except BaseException as stray:
            if isinstance(stray, KeyboardInterrupt):
                raise
            outcome, error = f"stray {type(stray).__name__}", stray
            report.problems.append(f"case {number} ({name}): {_last_lines(stray)}")
        took = time.process_time() - begin
        report.outcomes[outcome] += 1
        report.slowest = max(report.slowest, (took, number))
        if took > SECONDS:
            report.problems.append(f"case {number} ({name}): took {took:.1f} s")
        for cause in _causes(error):
            report.causes[type(cause).__name__] += 1
            if isinstance(cause, MemoryError | RecursionError):
                report.problems.append(f"case {number} ({name}): {_last_lines(cause)}")

    def outcome(self, data: bytes, number: int) -> tuple[str, JitrtError | None]:
        """What becomes of a model: "imported", or how it was refused. One in four may fall back to steps on the host,
        one in eight is shown to the doctor."""
        constants: dict[str, Any] = {}
        fallback = number % 4 == 0
        try:
            model = read_model(data, LIMITS, folder=self.folder)
            if number % 8 == 1:
                return ("examined" if examine(model).builds else "examined, would not build"), None
            try:
                import_onnx(model, fallback=fallback)
            except NeedsInput as need:
                constants = {name: _numbers(model.proto, name) for name in need.names}
                import_onnx(model, constants=constants, fallback=fallback)
        except JitrtError as error:
            return type(error).__name__ + (" after NeedsInput" if constants else ""), error
        return "imported", None


def _numbers(model: onnx.ModelProto, name: str) -> Any:
    """Some numbers for an input."""
    tensor = next(info for info in model.graph.input if info.name == name).type.tensor_type
    shape = [min(dim.dim_value, 8) for dim in tensor.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return np.random.default_rng(0).integers(0, 4, shape).astype(dtype)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The Python errors a refusal was raised from."""
    cause = error.__cause__ if error is not None else None
    while cause is not None:
        if not isinstance(cause, JitrtError):
            yield cause
        cause = cause.__cause__


def _last_lines(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:200]} at {where}"


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block once it has taken so much processor time."""

    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def bounded_memory(room: int = MEMORY) -> Iterator[None]:
    """Let the process have `room` bytes more than it has now: an allocation beyond raises MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def suite() -> dict[str, onnx.ModelProto]:
    """The models of ONNX's own test suite that have one node: every operator in every form."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return {case.name: case.model for case in cases if case.model is not None and case.model.ByteSize() < 20_000}


def fuzz(fuzzer: Fuzzer, cases: range, every: int = 0) -> Report:
    """Run the cases of these numbers; with `every`, print the report after each so many."""
    report = Report()
    for number in range(min(len(fuzzer.models), 200)):
        fuzzer.run(number, Report())  # imports what is imported late, before memory is bounded
    with bounded_memory(), np.errstate(all="ignore"):
        for number in cases:
            fuzzer.run(number, report)
            if every and (number + 1) % every == 0:
                print(report, flush=True)
    return report


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=20_000)
    options.add_argument("--first", type=int, default=0, help="the number of the first case")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--suite", action="store_true", help="begin with the models of ONNX's own test suite")
    options.add_argument("--only", type=int, help="one case, with the traceback of whatever it raises")
    given = options.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), given.seed, suite() if given.suite else None)
        if given.only is not None:
            name, data = fuzzer.case(given.only)
            print(name, len(data), "bytes")
            outcome, error = fuzzer.outcome(data, given.only)
            if error is not None:
                traceback.print_exception(error)
            print(outcome)
            return 0
        numbers = range(given.first, given.first + given.cases)
        report = fuzz(fuzzer, numbers, every=10_000)
    print(report)
    return bool(report.problems)


if __name__ == "__main__":
    sys.exit(main())
