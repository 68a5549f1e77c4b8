"""A build ends in the time it is given, or when somebody presses Ctrl-C, whatever the GPU takes for a kernel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from jitrt import compiler
from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target, target_of
from jitrt.compiler import Options
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.ops import Linear, Relu, Softmax
from jitrt.kernels.base import Problem
from jitrt.plan.schema import PlanFile
from jitrt.runtime.fake_driver import H200
from jitrt.tune import loop, tuner
from jitrt.tune.candidates import Candidate
from jitrt.tune.compile_pool import Compiled
from jitrt.tune.progress import Event
from jitrt.tune.rig import Job, Outcome
from jitrt.tune.timing_cache import Record, TimingCache


class SlowGpu:
    """A GPU that takes a tenth of a second for anything."""

    device = H200

    def __init__(self, index: int): ...

    def start(self) -> None: ...

    def measure(self, job: Job) -> Outcome:
        time.sleep(0.1)
        return Outcome(Record(5.0, slower=job.best is not None))

    def contest(self, files: Sequence[PlanFile]) -> list[float]:
        time.sleep(0.1)
        return [float(len(file.plan.launches)) for file in files]

    def close(self) -> None: ...


class AtOnce:
    """A compiler that takes no time."""

    workers = 16

    def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]:
        done: Future[Compiled] = Future()
        calls = candidate.lower(problem, target).calls
        done.set_result(
            Compiled(tuple(Binary(b"cubin", f"k{n}", 0, 4, (1, 1, 1), 0, 32, 0) for n in range(len(calls))))
        )
        return done

    def close(self) -> None: ...


def many_layers(count: int) -> Graph:
    """Linear layers of different sizes, one after another, each with a sibling that softmax reads."""
    graph = Graph("layers")
    value = graph.add_input("x", TensorType(f16, (256, 64)))
    for number in range(count):
        size = 64 + 8 * number
        here, there = (np.zeros((size + extra, value.type.shape[1]), np.float16) for extra in (0, 8))
        graph.mark_output(graph.add(Softmax(1), graph.add(Linear(), value, graph.add_constant(there))))
        value = graph.add(Relu(), graph.add(Linear(), value, graph.add_constant(here)))
    graph.mark_output(value)
    return graph


@pytest.mark.parametrize("cut", ["time", "Ctrl-C"])
def test_a_build_with_too_little_time_ends_in_it_and_says_what_it_did_not_do(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no time for all of the layers: the plan holds likely kernels, says so, is not taken for a finished one,
    and what was measured is known to the next build."""
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuner, "GpuMeasurer", SlowGpu)
    for module, name in ((tuner, "_LEAST"), (tuner, "_PATIENCE"), (tuner, "_LAST_PATIENCE"), (loop, "HASTE")):
        monkeypatch.setattr(module, name, 0.3)
    monkeypatch.setattr(compiler, "resolve", lambda target: (target_of("sm_90"), 0, "a slow GPU"))
    apart = ("fuse_horizontal",)  # or the siblings would be judged first
    options, graph = Options("fp16", tune="2s" if cut == "time" else "60s", without=apart), many_layers(12)
    pressed: list[Event] = []

    def press(event: Event) -> None:
        if cut == "Ctrl-C" and event.kind == "candidate" and not pressed:
            pressed.append(event)
            raise KeyboardInterrupt

    start = time.monotonic()
    file = compiler.build(graph, options, compiler=AtOnce(), progress=press).file
    assert time.monotonic() - start < 6
    decisions: list[dict[str, str]] = file.plan.notes["decisions"]  # type: ignore[assignment]
    unverified = [d for d in decisions if d["pass_name"] == "verify"]
    assert 0 < len(unverified) < len(file.plan.layers)
    assert all("is the likeliest, and was not verified" in d["text"] for d in unverified)
    assert not list(tmp_path.glob("**/*.plan")), "a build with more time goes on"
    with closing(TimingCache(tmp_path)) as known:
        assert known.entries()
