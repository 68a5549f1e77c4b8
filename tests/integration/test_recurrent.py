"""Recurrent networks as whole plans: what is launched, and, in the interpreter, that it gives PyTorch's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from jitrt import compiler
from jitrt.compiler import Options
from jitrt.frontend.torch import import_torch
from jitrt.graph.ops import Contiguous, Recurrence, Region
from jitrt.testing import plan_interpreted
from jitrt.tune.candidates import Candidate

BOUNDS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
HIDDEN = 24


class Tagger(nn.Module):
    """Two bidirectional layers under a classifier of every step."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layers = nn.GRU(10, HIDDEN, 2, bidirectional=True, batch_first=batch_first)
        self.head = nn.Linear(2 * HIDDEN, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x)[0])


def plain(candidates: Sequence[Candidate]) -> Candidate:
    """The interpreter runs no programs that wait for each other."""
    return next(c for c in candidates if c.tactic.template != "recurrence_resident")


def flat(result: object) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in flat(part)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "shapes", "precision"),
    [
        (Tagger(False), [(4, 2, 10)], "fp32"),
        (Tagger(True), [(2, 4, 10)], "fp16"),
        (nn.LSTM(10, HIDDEN, 2, batch_first=True), [(2, 4, 10)], "bf16"),
        (nn.LSTM(10, HIDDEN, proj_size=9, bidirectional=True), [(4, 2, 10), (2, 2, 9), (2, 2, HIDDEN)], "fp32"),
    ],
)
def test_numbers(model, shapes, precision):
    torch.manual_seed(1)
    x, *states = (torch.randn(shape) for shape in shapes)
    args = (x, tuple(states)) if states else (x,)
    planned = plan_interpreted(import_torch(model.eval(), args).graph, Options(precision=precision), pick=plain)
    got = planned.run([t.numpy() for t in (x, *states)])
    for mine, theirs in zip(got, flat(model(*args)), strict=True):
        error = (torch.from_numpy(mine) - theirs).norm() / theirs.norm()
        assert error < BOUNDS[precision]


@pytest.mark.parametrize("batch_first", [False, True])
def test_nothing_is_copied_between_layers(batch_first):
    """Both directions are one kernel, and each layer reads what the one before wrote, as it lies."""
    graph = import_torch(Tagger(batch_first).eval(), (torch.randn(4, 2, 10),)).graph
    optimized = compiler.optimize_graph(graph, Options())
    bodies = [node.op.body for node in optimized.graph.nodes if isinstance(node.op, Region)]
    assert len(bodies) == 5  # linear, recurrence, linear, recurrence, linear
    assert sum(isinstance(node.op, Recurrence) for body in bodies for node in body.nodes) == 2
    assert not any(isinstance(node.op, Contiguous) for body in bodies for node in body.nodes)


def test_launches_whose_programs_wait_for_each_other_are_cooperative():
    """And what follows them does not start before they end."""
    graph = import_torch(Tagger(False).half().eval(), (torch.randn(4, 2, 10).half(),)).graph
    launches = plan_interpreted(graph).plan.launches
    assert [launch.cooperative for launch in launches] == [False, False, True, False, False, True, False]
    assert [launch.dependent for launch in launches] == [False, True, False, False, True, False, False]
