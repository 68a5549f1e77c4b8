"""The pipeline as a whole, cross-building for sm_90: no GPU needed."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitrt import compiler
from jitrt.codegen.target import target_of
from jitrt.compiler import Options
from jitrt.errors import CompileError, NoGpuError, OptionError, TargetError, TuningError
from jitrt.graph import Graph, TensorType, f16, f64
from jitrt.graph.ops import Add, Conv, MaxPool, Relu, Slice
from jitrt.kernels.base import Problem
from jitrt.plan.schema import Plan, PlanFile
from jitrt.plan.verify import problems
from jitrt.plan_cache import PlanCache, plan_key
from jitrt.tune.select import Choice
from jitrt.tune.tuner import Tuner
from jitrt.tune.worker import WorkerFailure

SAME = ((1, 1), (1, 1))
HEURISTIC = Options(precision="fp16", tune="heuristic", without=("join_conv_pool",))


def small_network(*, seed: int = 0) -> Graph:
    """conv + bias + relu and a pool."""
    rng = np.random.default_rng(seed)
    graph = Graph("small")
    x = graph.add_input("x", TensorType(f16, (1, 16, 8, 8)))

    def conv(value, filters):  # type: ignore[no-untyped-def]
        shape = (filters, value.type.shape[1], 3, 3)
        w = graph.add_constant(rng.standard_normal(shape).astype(np.float16))
        bias = graph.add_constant(rng.standard_normal((filters, 1, 1)).astype(np.float16))
        return graph.add(Relu(), graph.add(Add(), graph.add(Conv((1, 1), SAME, (1, 1)), value, w), bias))

    value = conv(x, 32)
    graph.mark_output(graph.add(MaxPool((2, 2), (2, 2), (0, 0)), value))
    return graph


def test_a_plan_is_whole_and_says_what_it_is() -> None:
    engine = compiler.build(small_network(), HEURISTIC, target="sm_90")
    plan = engine.plan
    assert list(problems(engine.file)) == []
    assert plan.arch == 90
    assert [layer.kind for layer in plan.layers] == ["conv", "max_pool"]
    assert plan.layers[0].text == "conv+add+relu"
    assert plan.layers[0].flops >= 2 * 32 * 64 * 16 * 9
    assert {c.shape for c in plan.constants} == {(32, 16, 3, 3), (32, 1, 1)}
    assert plan.notes["tactics"] == {"measured": 0, "table": 0, "of": 2}
    assert {layer.source for layer in plan.layers} == {"the cost model"}
    with pytest.raises(NoGpuError):
        engine(np.zeros((1, 16, 8, 8), np.float16))


def forked_network() -> Graph:
    """A convolution that a pool and a convolution read, each for a result of its own."""
    graph = small_network()
    (pool,) = [node for node in graph.nodes if isinstance(node.op, MaxPool)]
    w = graph.add_constant(np.random.default_rng(1).standard_normal((16, 32, 3, 3)).astype(np.float16))
    graph.mark_output(graph.add(Conv((1, 1), SAME, (1, 1)), pool.inputs[0], w))
    return graph


def waits(plan: Plan) -> list[tuple[int, ...]]:
    return [launch.after for launch in plan.launches]


def test_branches_wait_only_for_what_they_read() -> None:
    graph = forked_network()
    assert waits(compiler.build(graph, HEURISTIC, target="sm_90").plan) == [(), (0,), (0,)]
    serial = replace(HEURISTIC, parallel=False)
    assert waits(compiler.build(graph, serial, target="sm_90").plan) == [(), (0,), (1,)]


def test_a_second_build_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiler.build(small_network(seed=1), HEURISTIC, target="sm_90")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the plan was built again")

    monkeypatch.setattr(compiler, "build_plan", never)
    assert compiler.build(small_network(seed=1), HEURISTIC, target="sm_90").plan == first.plan
    with pytest.raises(AssertionError):
        compiler.build(small_network(seed=2), HEURISTIC, target="sm_90")
    monkeypatch.setenv("JITRT_TABLE", "0")  # which may choose other tactics
    with pytest.raises(AssertionError):
        compiler.build(small_network(seed=1), HEURISTIC, target="sm_90")


def test_a_damaged_plan_in_the_cache_is_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = compiler.build(small_network(), HEURISTIC, target="sm_90").file
    cache = PlanCache(tmp_path)
    cache.put("k", file)
    assert cache.get("k") is not None
    path = next(tmp_path.rglob("*.plan"))
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING, "jitrt"):
        assert cache.get("k") is None
    assert "built anew" in caplog.text
    assert not path.exists()


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = compiler.build(small_network(), HEURISTIC, target="sm_90").file
    (tmp_path / "plans").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "jitrt"):
        assert PlanCache(tmp_path).get("k") is None
        PlanCache(tmp_path).put("k", file)
    assert f"the plan cache {tmp_path / 'plans'}: File exists: make it writable, or set JITRT_CACHE_DIR" in caplog.text


def test_a_full_disk_costs_no_result_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write ends in the disk being full. The user still gets the engine, and a line on what to do; whatever is
    left in the cache is whole."""
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refuse)
    logged: list[str] = []
    monkeypatch.setattr("jitrt.plan_cache._log.warning", lambda text, *values: logged.append(text % values))
    engine = compiler.build(small_network(seed=3), HEURISTIC, target="sm_90")
    assert list(problems(engine.file)) == []
    (line,) = logged
    assert "the plan is not kept in the cache: cannot write" in line
    assert "No space left on device; free 1 MiB, or set JITRT_CACHE_DIR to another folder" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_key_tells_weights_and_options_apart() -> None:
    from jitrt.codegen.target import target_of

    chip = target_of(90)
    keys = {
        plan_key(small_network(seed=seed), repr(options), chip, device)
        for seed in (1, 2)
        for options in (HEURISTIC, Options("fp16", "60s"))
        for device in ("one", "other")
    }
    assert len(keys) == 8


def test_targets_that_cannot_be() -> None:
    with pytest.raises(TargetError, match="sm_80, sm_90, sm_100"):
        compiler.build(small_network(), HEURISTIC, target="sm_75")
    with pytest.raises(TargetError, match="target is empty"):
        compiler.build(small_network(), HEURISTIC, target=[])


def test_regions_without_a_kernel_are_all_named() -> None:
    graph = Graph("wide")
    x = graph.add_input("x", TensorType(f64, (1, 4, 8, 8)))
    w = graph.add_constant(np.zeros((4, 4, 3, 3)))
    first = graph.add(Conv((1, 1), SAME, (1, 1)), x, w, loc="model.py:3")
    graph.mark_output(graph.add(Conv((1, 1), SAME, (1, 1)), first, w, loc="model.py:4"))
    with pytest.raises(CompileError, match=r"(?s)2 region.*model.py:3.*f64.*model.py:4"):
        compiler.build(graph, Options(tune="heuristic"), target="sm_90")


def test_an_empty_output_is_refused() -> None:
    graph = Graph("nothing")
    x = graph.add_input("x", TensorType(f16, (2, 3)))
    graph.mark_output(graph.add(Relu(), x), graph.add(Slice((0, 0), (2, 0), (1, 1)), x, name="none"))
    with pytest.raises(CompileError, match=r"output %none is empty \(shape \(2, 0\)\).*leave it out"):
        compiler.build(graph, Options(tune="heuristic"), target="sm_90")


def test_workspace_limit() -> None:
    graph = Graph("deep")
    x = graph.add_input("x", TensorType(f16, (1, 512, 7, 7)))
    w = graph.add_constant(np.zeros((512, 512, 3, 3), np.float16))
    graph.mark_output(graph.add(Conv((1, 1), SAME, (1, 1)), x, w))
    with pytest.raises(OptionError, match="workspace_limit=1024"):
        compiler.build(graph, Options("fp16", "heuristic", workspace_limit=1024), target="sm_90")


def test_one_value_returned_twice_is_one_output() -> None:
    graph = small_network()
    graph.mark_output(graph.outputs[0])
    structure = [{"output": 0}, {"again": {"output": 1}}]
    plan = compiler.build(graph, HEURISTIC, target="sm_90", structure=structure).plan
    assert len(plan.outputs) == 1
    assert plan.structure == [{"output": 0}, {"again": {"output": 0}}]
    unstructured = compiler.build(graph, HEURISTIC, target="sm_90").plan
    assert unstructured.structure == [{"output": 0}, {"output": 0}]


def test_without_its_rules_a_graph_is_built_whose_joined_kernel_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Tuner.select

    def select(self: Tuner, problems: Sequence[Problem], **options: Any) -> list[Choice]:
        if any(len(problem.anchors) > 1 for problem in problems):
            raise TuningError("no candidate survives for this region:\n  each with its reason")
        return whole(self, problems, **options)

    monkeypatch.setattr(Tuner, "select", select)
    options = Options("fp16", "heuristic", cache=False)
    with caplog.at_level(logging.WARNING, "jitrt"):
        plan = compiler.build(small_network(), options, target="sm_90").plan
    told = "all rules are left out, since with them a region has no kernel: no candidate survives for this region:"
    assert told in caplog.text
    assert [layer.kind for layer in plan.layers] == ["conv", "max_pool"]
    assert told in [decision["text"] for decision in plan.notes["decisions"]]  # type: ignore[attr-defined]
    monkeypatch.setattr(Tuner, "select", lambda *_, **__: (_ for _ in ()).throw(TuningError("nothing survives")))
    with pytest.raises(TuningError, match="nothing survives"):
        compiler.build(small_network(), options, target="sm_90")


class _Timed(Tuner):
    """Plans take what `microseconds` says; tactics are first guesses, as without a GPU."""

    measures = True  # type: ignore[assignment]

    def __init__(self, microseconds: Any):
        super().__init__(target_of("sm_90"), mode="heuristic", cache=False)
        self.microseconds = microseconds

    def _mode(self, share: float) -> str:
        return "heuristic"

    def contest(self, files: Sequence[PlanFile]) -> list[float]:
        return self.microseconds(files)  # type: ignore[no-any-return]


@pytest.mark.parametrize("parallel_wins", [True, False])
def test_branches_run_side_by_side_only_where_that_is_faster(parallel_wins: bool) -> None:
    optimized = compiler.optimize_graph(forked_network(), HEURISTIC)
    with _Timed(lambda files: [5.0, 6.0] if parallel_wins else [6.0, 5.0]) as tuner:
        plan = compiler.build_plan(optimized, tuner, HEURISTIC).plan
    assert waits(plan) == [(), (0,), (0,) if parallel_wins else (1,)]
    (told,) = optimized.report.of("parallel")
    assert told.applied == parallel_wins
    assert f"{5.0 if parallel_wins else 6.0} us side by side" in told.text
    assert told.text in [decision["text"] for decision in plan.notes["decisions"]]  # type: ignore[attr-defined]


def test_branches_that_cannot_be_timed_run_side_by_side_and_the_report_says_so() -> None:
    def dies(files: Sequence[PlanFile]) -> list[float]:
        raise WorkerFailure("the GPU worker died of SIGKILL")

    optimized = compiler.optimize_graph(forked_network(), HEURISTIC)
    with _Timed(dies) as tuner:
        compiler.build_plan(optimized, tuner, HEURISTIC)
    (told,) = optimized.report.of("parallel")
    assert "could not be timed: the GPU worker died of SIGKILL" in told.text


def test_a_tuner_without_a_gpu_times_no_plans() -> None:
    with Tuner(target_of("sm_90"), cache=False) as tuner, pytest.raises(WorkerFailure, match="no GPU to time plans on"):
        tuner.contest([])
