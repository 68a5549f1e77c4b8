"""Convolutions that compute their input on the way in, at the networks' sizes: every candidate against the reference,
and whether the rule's judge finds them faster than two kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from torch import nn
from torch.nn import functional as F

import jitrt
from jitrt.bench.measure import relative_error
from jitrt.graph import Graph, TensorType, bf16, f16, f32
from jitrt.graph.ops import Cast, Linear, Mul
from jitrt.kernels.base import Problem
from jitrt.testing import make_problem
from tests.gpu.candidates import check_candidates
from tests.kernels.convolutions import computed_problem

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


def gated_linear() -> Problem:
    body = Graph("region")
    x, gate = (body.add_input(name, TensorType(f16, (8, rows, 768))) for name, rows in (("x", 197), ("gate", 1)))
    w = body.add_input("w", TensorType(f16, (384, 768)))
    body.mark_output(body.add(Linear(), body.add(Cast(f16), body.add(Mul(), x, gate)), w))
    return make_problem(body, weights=["w"])


NORM = "scale, shift and relu"
PROBLEMS = {
    "DenseNet, batch 1, 56x56": computed_problem(NORM, (1, 128, 56, 56), 128, gap=128),
    "DenseNet, batch 1, 7x7": computed_problem(NORM, (1, 992, 7, 7), 128, gap=32),
    "DenseNet, batch 64, 14x14": computed_problem(NORM, (64, 512, 14, 14), 128, gap=512),
    "MobileNetV3, batch 1": computed_problem("gate", (1, 672, 14, 14), 112, residual=True),
    "EfficientNet, batch 8": computed_problem("gate before its activation", (8, 480, 14, 14), 80, residual=True),
    "EfficientNet, batch 128": computed_problem("gate", (128, 96, 56, 56), 24),
    "a gated linear layer": gated_linear(),
    "bfloat16, odd channels": computed_problem(NORM, (2, 90, 14, 14), 72, gap=6, dtype=bf16),
    "tf32": computed_problem(NORM, (1, 256, 14, 14), 128, dtype=f32, tf32=True),
}


def test_every_candidate_is_right() -> None:
    check_candidates(PROBLEMS)


def _dense_layer() -> nn.Module:
    layer = nn.Sequential(
        nn.BatchNorm2d(512), nn.ReLU(), nn.Conv2d(512, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU()
    )
    for module in (layer[0], layer[3]):
        nn.init.uniform_(module.weight, 0.5, 1.5)  # type: ignore[union-attr, arg-type]
        nn.init.uniform_(module.bias)  # type: ignore[union-attr, arg-type]
    return layer


class _Excited(nn.Module):
    """Squeeze, excite, project, as in EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite, self.project = nn.Conv2d(480, 20, 1), nn.Conv2d(20, 480, 1), nn.Conv2d(480, 80, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return self.project(x * self.excite(gate).sigmoid())


@pytest.mark.parametrize(
    ("make", "shape"),
    [(_dense_layer, (1, 512, 14, 14)), (_Excited, (8, 480, 14, 14))],
    ids=["DenseNet", "EfficientNet"],
)
def test_the_judge_times_it_against_two_kernels(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    model = make().eval().cuda()
    x = torch.randn(shape, device="cuda").to(memory_format=torch.channels_last)
    with torch.no_grad():
        reference = model(x)
    engine = jitrt.compile(model.half(), (x.half(),), precision="fp16", tune="4s", cache=False)
    error = relative_error(engine(x.half()).float(), reference)
    decisions: Any = engine.plan.notes["decisions"]  # type: ignore[union-attr]
    told = [d["text"] for d in decisions if d["pass_name"] == "fuse_prologue"]
    print(f"{told}, error {error:.1e}")
    assert len(told) == 1 and " us instead of " in told[0]
    assert error < 5e-3
