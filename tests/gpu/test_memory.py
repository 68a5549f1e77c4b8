"""Results over their operands, and pairs, on the GPU: what the compiler makes of reading and writing one memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton")

from jitrt.codegen.target import Target, target_of
from jitrt.compiler import Options, build
from jitrt.graph import DType, interpret
from jitrt.kernels.base import Config, Problem, templates
from jitrt.tune.cost import floor_seconds
from jitrt.tune.progress import Event
from jitrt.tune.select import select
from tests.kernels.test_in_place import residual
from tests.kernels.test_pairs import pair

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("middle", "wanted"),
    [
        ("conv", {"SPLIT_K": 1, "EARLY": False}),
        ("conv", {"SPLIT_K": 1, "EARLY": True}),
        ("conv", {"SPLIT_K": 2}),
        ("depthwise", {}),
        ("pointwise", {}),
    ],
)
@pytest.mark.parametrize("shape", [(1, 64, 56, 56), (3, 96, 29, 27)], ids=str)
def test_a_sum_over_its_shortcut(
    middle: str, wanted: dict[str, object], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(templates()["conv2d"])
    offered = kind.candidates

    def some(self: object, problem: Problem, target: Target) -> list[Config]:
        found = list(offered(self, problem, target))  # type: ignore[arg-type]
        return [c for c in found if wanted.items() <= c.items()] or found

    monkeypatch.setattr(kind, "candidates", some)
    graph = residual(middle, *shape)
    engine = build(graph, Options("fp16", tune="heuristic", cache=False))
    memory = engine.plan.notes["memory"]
    assert memory["in_place"] == {"sum": "start"}  # type: ignore[index]
    print(next(layer.tactic for layer in engine.plan.layers if layer.name == "sum"))
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = interpret(graph, [x], exact=True)
    for _ in range(20):
        for got, exact in zip(engine.call([x]), expected, strict=True):
            error = np.linalg.norm(got.astype(np.float64) - exact) / np.linalg.norm(exact)
            assert error < 2e-3


PAIRS = {
    "ShuffleNet, stage 2": pair(c=58, k=58, pitch=58, size=(28, 28)),
    "ShuffleNet, stage 3": pair(c=116, k=116, pitch=116, size=(14, 14)),
    "ShuffleNet, stage 4": pair(c=232, k=232, pitch=232, size=(7, 7)),
    "after a depthwise convolution": pair(separable=True, c=116, k=116, pitch=116, size=(14, 14)),
    "float32": pair(DType.f32, c=64, k=64, size=(14, 14)),
}


def test_every_candidate_of_a_pair_is_right() -> None:
    events: list[Event] = []
    target = target_of(90)
    choices = select(list(PAIRS.values()), target, mode="exhaustive", device=0, progress=events.append)
    refused = [e.text for e in events if e.record is not None and e.record.reason is not None]
    for (name, problem), choice in zip(PAIRS.items(), choices, strict=True):
        floor = floor_seconds(problem, target) * 1e6
        print(f"{name:30} {choice.microseconds:8.2f} us  floor {floor:7.2f}  {choice.tactic}")
    assert not [text for text in refused if "spill" not in text], "\n".join(refused)
