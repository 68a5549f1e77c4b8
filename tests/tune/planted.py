"""Problems, and functions and templates for a worker to import, most of which misbehave on purpose."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType, SimpleNamespace

from jitrt.codegen.compile import Binary
from jitrt.codegen.source import define
from jitrt.codegen.target import Target
from jitrt.graph import Graph, Layout, TensorType, f16
from jitrt.graph.graph import Graph as Body
from jitrt.graph.ops import Linear, Relu
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, Workspace, Zeros
from jitrt.runtime.fake_driver import H200
from jitrt.runtime.seam import Device
from jitrt.tune.candidates import Candidate
from jitrt.tune.compile_pool import Compiled
from jitrt.tune.rig import Job, Outcome
from jitrt.tune.timing_cache import Record
from jitrt.tune.worker import time_limit


def relu_problem(*shape: int, out_strides: tuple[int, ...] | None = None) -> Problem:
    """y = relu(x) in float16, y with other strides than row-major if given."""
    body = Graph("region")
    y = body.add(Relu(), body.add_input("x", TensorType(f16, shape)))
    if out_strides:
        y.type = y.type.with_layout(Layout(out_strides))
    body.mark_output(y)
    return Problem(body, (False,), (16, 16))


def linear_problem(rows: int, columns: int, filters: int) -> Problem:
    """y = x @ w.T in float16."""
    body = Graph("region")
    x, w = (
        body.add_input("x", TensorType(f16, (rows, columns))),
        body.add_input("w", TensorType(f16, (filters, columns))),
    )
    body.mark_output(body.add(Linear(), x, w))
    return Problem(body, (False, True), (16, 16, 16))


class Listed(Template):
    """Accepts everything and offers the configurations it was made with; its kernel is no Triton function."""

    name = "listed"

    def __init__(self, count: int = 3, name: str = "listed", grids: Sequence[int] = (), refuses: str | None = None):
        self.count, self.grids, self.refuses = count, list(grids), refuses
        self.name = name  # type: ignore[misc]

    def accepts(self, body: Body) -> str | None:
        return self.refuses

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return [{"choice": i} for i in range(self.count)]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        grid = self.grids[config["choice"]] if self.grids else 1000
        function = SimpleNamespace(arg_names=["y", "x"], __name__=self.name)
        return Lowered((KernelCall(function, {"y": Result(), "x": Operand(0)}, {}, (grid, 1, 1)),))


class Generous(Listed):
    """A call that is given everything there is: y, x, 64 bytes of workspace, 16 of zeros; a program an element."""

    constexprs: Mapping[str, bool] = MappingProxyType({})

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        arguments = {"y": Result(), "x": Operand(0), "workspace": Workspace(), "zeros": Zeros()}
        function = SimpleNamespace(arg_names=list(arguments), __name__="generous")
        call = KernelCall(function, arguments, self.constexprs, (problem.output.type.numel, 1, 1))
        return Lowered((call,), workspace_bytes=64, zeros_bytes=16)


class Dependent(Generous):
    """Waits for its predecessor by itself."""

    constexprs = MappingProxyType({"DEPENDENT": True})


class AtOnce:
    """A compiler that takes no time."""

    workers = 1

    def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]:
        done: Future[Compiled] = Future()
        done.set_result(Compiled((Binary(b"cubin", "k", 0, 4, (1, 1, 1), 0, 32, 0),)))
        return done

    def close(self) -> None: ...


class Packs(Listed):
    """Wants operand 1 transposed."""

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        arguments = {"y": Result(), "x": Operand(0), "w": Operand(1)}
        function = SimpleNamespace(arg_names=list(arguments), __name__="packs")
        return Lowered((KernelCall(function, arguments, {}, (1, 1, 1)),), pack={1: lambda w: w.T})


def last_words() -> None:
    """End the process like a compiler that gives up."""
    print("ptxas fatal: out of ideas", file=sys.stderr, flush=True)
    os._exit(3)


def prepared() -> str:
    """What a worker did before its first call."""
    return str(sys.prepared)  # type: ignore[attr-defined]


def modules() -> list[str]:
    """What a worker has imported; this module imports no Triton by itself."""
    return list(sys.modules)


def hang() -> None:
    """Take longer than the limit it set itself."""
    with time_limit(0.2):
        time.sleep(60)


def in_time() -> str:
    """Stay within the limit, and live on after it."""
    with time_limit(0.2):
        pass
    time.sleep(0.3)
    return "in time"


class BadCompile(Template):
    """A kernel that the compiler refuses, crashes on, never finishes, or compiles."""

    name = "bad_compile"

    def accepts(self, body: Body) -> str | None:
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return [{"kind": kind} for kind in ("syntax", "crash", "raise", "forever", "fine")]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        kind = config["kind"]
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "forever":
            time.sleep(600)
        if kind == "raise":
            raise KeyError("no such thing")
        body = "no_such_function(x)" if kind == "syntax" else "tl.maximum(tl.load(x), 0)"
        function = define(f"@triton.jit\ndef tiny(y, x):\n    tl.store(y, {body})\n", "tiny")
        return Lowered((KernelCall(function, {"y": Result(), "x": Operand(0)}, {}, (1, 1, 1), num_warps=1),))


def other_device() -> Device:
    """Like the fake H200, with another driver."""
    return dataclasses.replace(H200, driver_version=H200.driver_version + 10)


def measure_by_choice(index: int, job: Job) -> Outcome:
    """In place of the rig: what happens is named by the job's `best`, given as a number."""
    kind = int(job.best or 0)
    if kind == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == 2:
        with time_limit(job.patience):
            time.sleep(60)
    if kind == 3:
        return Outcome(Record(reason=f"crashed in process {os.getpid()}"), fatal=True)
    if kind == 4:
        raise ValueError("the rig is broken")
    return Outcome(Record(float(os.getpid())))
