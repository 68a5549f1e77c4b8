"""Plugins in the ordinary search, with Triton's interpreter in the place of the GPU."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import planted_plugins
import pytest

import jitrt
from jitrt.codegen.compile import Binary
from jitrt.codegen.target import Target, target_of
from jitrt.errors import KernelError, PluginError
from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Relu
from jitrt.kernels.base import Problem
from jitrt.runtime.fake_driver import H200
from jitrt.testing import make_problem, run_interpreted
from jitrt.tune.candidates import Candidate
from jitrt.tune.compile_pool import Compiled
from jitrt.tune.rig import Job, Outcome
from jitrt.tune.select import select
from jitrt.tune.timing_cache import Record
from jitrt.tune.verify import make_trial


class NoCompiler:
    """Compiles nothing, at once."""

    workers = 1

    def submit(self, problem: Problem, candidate: Candidate, target: Target) -> Future[Compiled]:
        future: Future[Compiled] = Future()
        future.set_result(Compiled((Binary(b"", "k", 0, 4, (1, 1, 1), 0, 32, 0),)))
        return future

    def close(self) -> None: ...


class Interpreter:
    """Verifies as the GPU worker does; a candidate's time is the number of its programs."""

    device = H200

    def start(self) -> None: ...

    def measure(self, job: Job) -> Outcome:
        trial = make_trial(job.problem)
        tactic, template = job.candidate.tactic, job.candidate.template
        try:
            got = run_interpreted(job.problem, tactic, trial.operands, job.target, template=template)
        except KernelError as error:
            return Outcome(Record(reason=str(error)))
        reason = trial.check(got)
        grid = job.candidate.lower(job.problem, job.target).calls[0].grid
        return Outcome(Record(reason=reason) if reason else Record(float(grid[0])))

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))


def region(name: str, *shapes: tuple[int, ...]) -> Problem:
    """A plugin and a relu after it, or in a region of its own if it takes no epilogue."""
    plugin = jitrt.plugins.find(name)
    body = Graph("region")
    values = [body.add_input(n, TensorType(f32, shape)) for n, shape in zip(plugin.operands, shapes, strict=True)]
    result = body.add(plugin.op(), *values)
    body.mark_output(result if plugin.row_major else body.add(Relu(), result))
    return make_problem(body)


def tune(problem: Problem, source: str = "measured") -> str:
    (choice,) = select([problem], target_of(90), mode="exhaustive", compiler=NoCompiler(), measurer=Interpreter())
    assert choice.source == source
    return str(choice.tactic)


def test_the_best_of_its_configurations_wins_and_is_remembered() -> None:
    problem = region("planted::swish_add", (3, 300), (3, 300))
    assert tune(problem) == "planted::swish_add(BLOCK=1024, num_warps=8)"
    assert tune(problem, "cache") == "planted::swish_add(BLOCK=1024, num_warps=8)"


def test_a_wrong_kernel_is_refused_with_every_reason() -> None:
    with pytest.raises(PluginError) as refusal:
        tune(region("planted::wrong", (3, 100)))
    text = str(refusal.value)
    assert "no candidate of a region with planted::wrong is right by the reference" in text
    for config in planted_plugins.CONFIGS:
        settings = ", ".join(f"{key}={value}" for key, value in config.items())
        assert f"planted::wrong({settings}): wrong numbers at 1 of 300 elements (first at [0, 77]: expected " in text
    assert ", got 1000), off by" in text


def test_a_kernel_that_writes_out_of_bounds_is_refused() -> None:
    with pytest.raises(PluginError, match=r"planted::beyond\(BLOCK=256\).*: the kernel wrote .* outside"):
        tune(region("planted::beyond", (240,)))
