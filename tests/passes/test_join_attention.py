"""Two products and the softmax between them, as one region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f16, interpret, verify
from jitrt.graph.graph import anchors_of
from jitrt.graph.ops import Exp, Matmul, Mul, Permute, Region, Softmax
from jitrt.kernels.base import accepts, supports
from jitrt.passes import PassContext, optimize
from jitrt.passes.base import Proposal, Verdict


def net(*, read: str = "", axis: int = 3, between: bool = False, turned: bool = False) -> Graph:
    """softmax(q @ k * 0.5) @ v; `read` names a step whose result is an output too."""
    g = Graph("net")
    q, k, v = (g.add_input(name, TensorType(f16, shape)) for name, shape in SHAPES.items())
    scores = g.add(Mul(), g.add(Matmul(), q, k), g.scalar(0.5, f16))
    weights = g.add(Softmax(axis), scores)
    used = g.add(Exp(), weights) if between else weights
    used = g.add(Permute((1, 0, 2, 3)), used) if turned else used
    g.mark_output(g.add(Matmul(), used, v))
    for name, value in {"scores": scores, "weights": weights}.items():
        if name == read:
            g.mark_output(value)
    return g


SHAPES = {"q": (2, 2, 9, 8), "k": (2, 2, 8, 9), "v": (2, 2, 9, 16)}


def joined(graph: Graph, **more: Any) -> tuple[Graph, list[str]]:
    """The optimised graph, and what the rule did or did not."""
    context = PassContext(accepts=accepts, supports=supports, **more)
    made = optimize(graph, context)
    verify(made)
    return made, [d.text for d in context.report if d.pass_name == "join_attention"]


def test_three_regions_become_one_that_computes_the_same() -> None:
    graph = net()
    made, told = joined(graph)
    (region,) = (node for node in made.nodes if isinstance(node.op, Region))
    assert [type(anchor.op) for anchor in anchors_of(region.op.body)] == [Matmul, Softmax, Matmul]
    assert "two products and the softmax between them in one kernel" in told[0]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float16) for shape in SHAPES.values()]
    (got,), (wanted,) = (interpret(g, arrays, exact=True) for g in (made, graph))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "regions", "told"),
    [
        ({"read": "scores"}, 3, ""),
        ({"read": "weights"}, 3, ""),
        ({"axis": 2}, 3, "the softmax is not over the keys"),
        ({"between": True}, 3, "something stands between the softmax and the product of it"),
        ({"turned": True}, 3, ""),
    ],
)
def test_what_stays_apart(options: dict[str, Any], regions: int, told: str) -> None:
    made, said = joined(net(**options))
    assert sum(isinstance(node.op, Region) for node in made.nodes) == regions
    assert told in " ".join(said)
    assert not any("in one kernel" in text for text in said)


def test_the_judge_decides() -> None:
    def judge(proposals: list[Proposal]) -> list[Verdict]:
        return [Verdict(-1.0, "slower") for _ in proposals]

    made, told = joined(net(), judge=judge)
    assert sum(isinstance(node.op, Region) for node in made.nodes) == 3
    assert told == ["not done: two products and the softmax between them in one kernel: slower"]
    assert sum(isinstance(node.op, Region) for node in joined(net(), without=("join_attention",))[0].nodes) == 3
