"""Engines with steps on the host, built for sm_90. Without a GPU a part runs in numpy, behind its engine's surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("triton")

from jitrt import compiler
from jitrt.compiler import Options
from jitrt.errors import CompileError, FallbackError, InputError, JitrtWarning, NoGpuError, TargetError
from jitrt.graph import Graph, Op, TensorType, Trait, f32, interpret
from jitrt.graph.op import Array
from jitrt.graph.ops import Exp, Relu
from jitrt.hybrid import HybridEngine, build_with_fallback, uncovered
from jitrt.reference import ReferenceEngine
from jitrt.request import Request
from jitrt.runtime import Engine
from jitrt.runtime.report import LayerTime, Profile
from jitrt.tune.compile_pool import ThisProcess

OPTIONS = Options(tune="heuristic", cache=False)
X = np.linspace(-2, 2, 8, dtype=np.float32)


@dataclass(frozen=True)
class Median(Op):
    """An op that no kernel takes."""

    name: ClassVar[str] = "planted_median"
    traits: ClassVar[Trait] = Trait.REDUCTION | Trait.ANCHOR

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(types[0].dtype, (1,)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.median(arrays[0], keepdims=True),)


def graph_with(op: Op, times: int = 1) -> Graph:
    g = Graph("planted")
    y = g.add(Relu(), g.add_input("x", TensorType(f32, (8,))), loc="first")
    for turn in range(times):
        y = g.add(Exp(), g.add(op, y, loc=f"line {turn}"), loc=f"after {turn}")
    g.mark_output(y)
    return g


class InNumpy(Engine):
    """A built engine of a part, which runs the graph it was built from."""

    def __init__(self, engine: Engine, graph: Graph):
        super().__init__(engine.file)
        self._graph = graph
        self.closed = False

    def __call__(self, *inputs: Any) -> Any:
        return list(interpret(self._graph, inputs))

    def profile(self, *inputs: Any, repeats: int = 30) -> Profile:
        layers = tuple(LayerTime(layer, 2.0, 1.0) for layer in self.file.plan.layers)
        return Profile("part", "a fake GPU", layers, 2.0, 2.0 * len(layers), 1.0)

    def close(self) -> None:
        self.closed = True


def build_part(part: Graph, options: Options, structure: object) -> Engine:
    made = compiler.build(part, options, target="sm_90", structure=structure, compiler=ThisProcess())
    return InNumpy(made, part)


def build(graph: Graph, **options: Any) -> Any:
    return build_with_fallback(graph, OPTIONS, target="sm_90", build=build_part, **options)


@pytest.fixture(scope="module")
def engine() -> HybridEngine:
    made = build(graph_with(Median()))
    assert isinstance(made, HybridEngine)
    return made


def test_what_has_kernels_is_an_engine_as_ever() -> None:
    assert isinstance(build(graph_with(Relu())), InNumpy)


def test_it_runs_in_parts(engine: HybridEngine) -> None:
    assert [made is None for _, made in engine.parts] == [False, True, False]
    np.testing.assert_allclose(engine(X), np.exp(np.median(np.maximum(X, 0), keepdims=True)), rtol=1e-6)
    assert isinstance(engine(X), np.ndarray)


def test_a_step_has_a_name_a_reason_and_a_place(engine: HybridEngine) -> None:
    (step,) = engine.steps
    assert (step.operator, step.location, step.flops) == ("planted_median", "line 0", 1)
    assert "planted_median" in step.reason
    assert "1 step(s) on the host" in repr(engine)


def test_inspection_names_it(engine: HybridEngine) -> None:
    inspection = engine.inspect()
    assert [layer.kind for layer in inspection.layers] == ["pointwise", "host", "pointwise"]
    assert "1 of them on the host" in repr(inspection)
    assert [launch.layer for launch in inspection.plan.launches] == [0, 2]
    assert inspection.memory["cubins"] > 0


def test_a_profile_costs_it(engine: HybridEngine) -> None:
    profile = engine.profile(X, repeats=3)
    assert profile.device == "a fake GPU and the host"
    spent = {time.layer.kind: time.microseconds for time in profile.layers}
    assert spent["host"] > 0
    assert spent["pointwise"] == 2.0
    assert profile.serial == pytest.approx(sum(time.microseconds for time in profile.layers))
    assert profile.graph > 0
    assert "planted_median" in repr(profile)


def test_it_cannot_be_saved(engine: HybridEngine) -> None:
    with pytest.raises(TargetError, match="planted_median"):
        engine.save("x.plan")


def test_inputs_are_checked(engine: HybridEngine) -> None:
    with pytest.raises(InputError):
        engine(X[:3])
    with pytest.raises(InputError):
        engine()


def test_it_compares_and_closes() -> None:
    made = build(graph_with(Median()))
    assert made.compare(lambda x: np.exp(np.median(np.maximum(x, 0), keepdims=True)), X).worst < 1e-6
    made.close()
    assert all(part.closed for _, part in made.parts if part is not None)


def test_strict_forbids_all_steps_at_once() -> None:
    with pytest.raises(FallbackError) as caught:
        build(graph_with(Median(), times=3), strict=True)
    ((what, _, count, where),) = caught.value.steps
    assert (what, count, where) == ("planted_median", 3, "line 0")
    assert "planted_median (x3) first at line 0" in str(caught.value)


def test_the_reference_target_runs_it_in_its_place() -> None:
    made = build_with_fallback(graph_with(Median()), OPTIONS, target="reference", strict=True)
    assert isinstance(made, ReferenceEngine)
    np.testing.assert_allclose(made(X), np.exp(np.median(np.maximum(X, 0), keepdims=True)), rtol=1e-6)


def test_outputs_and_structure() -> None:
    graph = graph_with(Median(), times=2)
    names = [node.outputs[0].name for node in graph.nodes]
    options = Options(tune="heuristic", cache=False, outputs=(names[2], names[0]))
    made = build_with_fallback(graph, options, target="sm_90", build=build_part, structure={"a": [{"output": 1}]})
    np.testing.assert_array_equal(made(X)["a"][0], np.maximum(X, 0))
    assert len(made.steps) == 1


def test_what_has_no_elements_takes_no_kernel() -> None:
    g = Graph("empty")
    x, none = g.add_input("x", TensorType(f32, (8,))), g.add_input("none", TensorType(f32, (0,)))
    g.mark_output(g.add(Exp(), none), g.add(Relu(), x))
    made = build(g)
    assert made.steps == ()
    nothing, y = made(X, np.empty(0, np.float32))
    assert nothing.shape == (0,)
    np.testing.assert_array_equal(y, np.maximum(X, 0))


def test_without_a_gpu_its_parts_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: int) -> None:
        raise NoGpuError("none here")

    def plain(part: Graph, options: Options, structure: object) -> Engine:
        return compiler.build(part, options, target="sm_90", structure=structure, compiler=ThisProcess())

    monkeypatch.setattr("jitrt.runtime.engine.cuda_driver", missing)
    made = build_with_fallback(graph_with(Median()), OPTIONS, target="sm_90", build=plain)
    with pytest.raises(NoGpuError, match="sm_90"):
        made(X)


def test_other_errors_of_the_build_stay_errors() -> None:
    def broken(part: Graph, options: Options, structure: object) -> Engine:
        raise CompileError("the compiler is broken")

    graph = graph_with(Relu())
    assert uncovered(graph, OPTIONS, "sm_90") == {}
    with pytest.raises(CompileError, match="broken"):
        build_with_fallback(graph, OPTIONS, target="sm_90", build=broken)


# -- as a request ----------------------------------------------------------------------------------------------------


def test_a_request_falls_back_with_a_warning() -> None:
    request = Request(target="sm_90", tune="heuristic", cache=False)
    with pytest.warns(JitrtWarning, match=r"1 step\(s\) run on the host, in numpy: planted_median"):
        made = request.engine(graph_with(Median()), fallback=True)
    assert isinstance(made, HybridEngine)


def test_a_request_without_fallback_lists_what_has_no_kernel() -> None:
    request = Request(target="sm_90", tune="heuristic", cache=False)
    with pytest.raises(CompileError, match="planted_median"):
        request.engine(graph_with(Median()))
    with pytest.raises(FallbackError, match="planted_median"):
        Request(target="sm_90", tune="heuristic", cache=False, strict=True).engine(graph_with(Median()), fallback=True)
