"""Results over their operands, and pairs, on the GPU: what the compiler makes of reading and writing one memory."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")

from jitrt.codegen.target import Target
from jitrt.compiler import Options, build
from jitrt.graph import DType, interpret
from jitrt.kernels.base import Config, Problem, templates
from tests.gpu.candidates import check_candidates
from tests.kernels.test_in_place import residual
from tests.kernels.test_pairs import pair

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


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
    check_candidates(PAIRS)
