"""`jitrt.explain` on a model with parallel branches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import jitrt
from jitrt.codegen.target import TARGETS
from jitrt.compiler import Options, optimize_graph
from jitrt.errors import GraphError, OptionError
from jitrt.explanation import Explanation
from jitrt.graph import DType, Graph, TensorType, Value, f32
from jitrt.graph.ops import Add, Conv, Relu
from jitrt.planner import forecast
from jitrt.runtime.report import nbytes_text
from jitrt.testing import plan_interpreted


class Inception(nn.Module):
    """Two branches joined by a concat, behind a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.left = nn.Conv2d(8, 8, 1)
        self.right = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return torch.cat([self.left(x), self.right(x)], 1).relu().mean((2, 3))


@pytest.fixture(scope="module")
def explanation():  # type: ignore[no-untyped-def]
    return jitrt.explain(Inception().eval(), (torch.randn(1, 3, 16, 16),), precision="fp16")


def test_counts(explanation) -> None:  # type: ignore[no-untyped-def]
    assert explanation.layers["conv"] == 4
    assert explanation.layers["batch_norm"] == 1
    assert sum(count * kind.count("conv") for kind, count in explanation.kernels.items()) == 4
    assert f"{explanation.kernels.total()} kernels after" in explanation.count()
    assert "     4 conv" in explanation.count()
    assert explanation.layers["concat"] == 1
    assert explanation.launches >= explanation.kernels.total()
    assert f"kernels after, {explanation.launches} launches" in explanation.count()


def test_without(explanation) -> None:  # type: ignore[no-untyped-def]
    """The end of a rule's name will do."""
    x = torch.randn(1, 3, 16, 16)
    left_out = jitrt.explain(Inception().eval(), x, precision="fp16", without=["branches", "parallel"])
    assert explanation.report.of("join_branches", applied=True)
    assert not left_out.report.of("join_branches")
    assert left_out.kernels.total() > explanation.kernels.total()
    with pytest.raises(OptionError, match=r"without names 'vertical'; what can be left out is fuse_hor.*, parallel"):
        jitrt.explain(Inception().eval(), x, without=["vertical"])


def test_the_arena_is_the_one_a_build_without_a_gpu_would_plan() -> None:
    """With workspace, and a residual that the sum is written over."""
    graph = Graph("residual")
    x = graph.add_input("x", TensorType(f32, (1, 256, 4, 4)))

    def conv(value: Value, size: int) -> Value:
        w = graph.add_constant(np.full((256, 256, size, size), 0.01, np.float32))
        return graph.add(Conv((1, 1), ((size // 2,) * 2,) * 2, (1, 1)), value, w)

    start = graph.add(Relu(), conv(x, 1), name="start")
    total = graph.add(Relu(), graph.add(Add(), conv(conv(start, 3), 3), start), name="sum")
    graph.mark_output(conv(total, 1))
    optimized = optimize_graph(graph, Options("fp16"))
    explanation = Explanation.of(optimized)
    chosen, uncovered = forecast(optimized.graph, TARGETS[90])
    planned = plan_interpreted(graph, Options("fp16"))
    assert [tactic for _, tactic in planned.layers] == [tactic for tactic, _ in chosen.values()]
    assert not uncovered
    assert planned.plan.notes["memory"] == explanation.memory.to_json()
    assert explanation.memory.workspace
    assert explanation.memory.in_place.over == {"sum": "start"}
    assert "1 results lie where an operand lay that died with them" in str(explanation)


def test_regions_without_a_kernel_are_named() -> None:
    graph = Graph("wide")
    x = graph.add_input("x", TensorType(DType.f64, (1, 4, 8, 8)))
    w = graph.add_constant(np.ones((4, 4, 1, 1)))
    graph.mark_output(graph.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), graph.add(Relu(), x), w))
    explanation = Explanation.of(optimize_graph(graph, Options()))
    assert len(explanation.uncovered) == 1
    assert "no kernel for %" in explanation.count()
    assert explanation.kernels.total() == explanation.launches + 1


def test_says_what_was_done(explanation) -> None:  # type: ignore[no-untyped-def]
    text = repr(explanation)
    assert "batch_norm folded" in text
    assert "fuse_vertical" in text
    assert f"activations: {nbytes_text(explanation.memory.arena_bytes)} in one arena" in text


def test_lists_the_kernels_in_order(explanation) -> None:  # type: ignore[no-untyped-def]
    rows = explanation.table.rows
    assert len(rows) == explanation.kernels.total()
    stem = rows[0]
    assert "conv 3x3" in stem[1]
    assert stem[2] == "f16[1,8,16,16]"
    assert stem[3].startswith("test_explanation.py:")
    lines = str(explanation).splitlines()
    assert lines[-1].split()[0] == rows[-1][0]


def test_draws_branches_before_and_after(explanation) -> None:  # type: ignore[no-untyped-def]
    before, after = explanation.module()
    assert before.count("conv 1x1") == 2
    assert "bias + relu" in after
    with pytest.raises(GraphError, match="1 modules"):
        explanation.module(1)


def test_html_escapes_and_counts(explanation) -> None:  # type: ignore[no-untyped-def]
    html = explanation._repr_html_()
    assert f"become {explanation.kernels.total()} kernels" in html
    assert "<script" not in html


def test_refuses_an_unknown_precision() -> None:
    with pytest.raises(OptionError, match="fp8"):
        jitrt.explain(nn.ReLU(), (torch.randn(2),), precision="fp8")
