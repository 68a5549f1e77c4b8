"""Convolutions that compute their input on the way in, at the networks' sizes: every candidate against the reference,
and whether the rule's judge finds them faster than two kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from torch import nn
from torch.nn import functional as F

import jitrt
from jitrt.bench.measure import relative_error
from jitrt.codegen.target import target_of
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32
from jitrt.graph.graph import Value
from jitrt.graph.ops import Add, Cast, Conv, Linear, Mul, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from jitrt.tune.cost import floor_seconds
from jitrt.tune.progress import Event
from jitrt.tune.select import select

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))


def nhwc(type: TensorType, gap: int = 0) -> TensorType:
    n, c, h, w = type.shape
    return type.with_layout(Layout(channels_last((n, c + gap, h, w))))


def dense(batch: int, channels: int, size: int, gap: int = 0, dtype: DType = f16, tf32: bool = False) -> Problem:
    """DenseNet's first half layer: relu(conv(relu(x * scale + shift)) + bias), x a slice of a concat."""
    body = Graph("region")
    x = body.add_input("x", nhwc(TensorType(dtype, (batch, channels, size, size)), gap))
    scale, shift = (body.add_input(name, TensorType(dtype, (channels, 1, 1))) for name in ("scale", "shift"))
    value = body.add(Relu(), body.add(Add(), body.add(Mul(), x, scale), shift))
    return _convolved(body, value, 128, dtype, (False, True, True, True, True), tf32)


def excited(
    batch: int, channels: int, size: int, filters: int, residual: bool = True, activation: bool = False
) -> Problem:
    """conv(x * gate) + bias (+ residual), the gate before or after its activation."""
    body = Graph("region")
    x = body.add_input("x", nhwc(TensorType(f16, (batch, channels, size, size))))
    gate = body.add_input("gate", nhwc(TensorType(f16, (batch, channels, 1, 1))))
    value = body.add(Mul(), body.add(Sigmoid(), gate) if activation else gate, x)
    weights = (False, False, True, True, *[False] * residual)
    return _convolved(body, value, filters, f16, weights, residual=residual)


def _convolved(
    body: Graph,
    value: Value,
    filters: int,
    dtype: DType,
    weights: tuple[bool, ...],
    tf32: bool = False,
    residual: bool = False,
) -> Problem:
    channels = value.type.shape[1]
    w = body.add_input("w", nhwc(TensorType(dtype, (filters, channels, 1, 1))))
    y = body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1, tf32), body.add(Cast(dtype), value), w)
    y = body.add(Add(), y, body.add_input("bias", TensorType(dtype, (filters, 1, 1))))
    if residual:
        y = body.add(Add(), y, body.add_input("residual", nhwc(y.type.logical())))
    y = body.add(Relu(), y)
    y.type = nhwc(y.type.logical())
    body.mark_output(y)
    return Problem(body, weights, (16,) * (len(weights) + 1))


def gated_linear() -> Problem:
    body = Graph("region")
    x, gate = (body.add_input(name, TensorType(f16, (8, rows, 768))) for name, rows in (("x", 197), ("gate", 1)))
    w = body.add_input("w", TensorType(f16, (384, 768)))
    body.mark_output(body.add(Linear(), body.add(Cast(f16), body.add(Mul(), x, gate)), w))
    return Problem(body, (False, False, True), (16,) * 4)


PROBLEMS = {
    "DenseNet, batch 1, 56x56": dense(1, 128, 56, 128),
    "DenseNet, batch 1, 7x7": dense(1, 992, 7, 32),
    "DenseNet, batch 64, 14x14": dense(64, 512, 14, 512),
    "MobileNetV3, batch 1": excited(1, 672, 14, 112),
    "EfficientNet, batch 8": excited(8, 480, 14, 80, activation=True),
    "EfficientNet, batch 128": excited(128, 96, 56, 24, residual=False),
    "a gated linear layer": gated_linear(),
    "bfloat16, odd channels": dense(2, 90, 14, 6, bf16),
    "tf32": dense(1, 256, 14, 0, f32, tf32=True),
}


def test_every_candidate_is_right() -> None:
    events: list[Event] = []
    target = target_of(90)
    choices = select(list(PROBLEMS.values()), target, mode="exhaustive", device=0, progress=events.append)
    refused = [e.text for e in events if e.record is not None and e.record.reason is not None]
    for (name, problem), choice in zip(PROBLEMS.items(), choices, strict=True):
        floor = floor_seconds(problem, target) * 1e6
        print(f"{name:38} {choice.microseconds:8.2f} us  floor {floor:7.2f}  {choice.tactic}")
    print("\n".join(refused))
    assert not [text for text in refused if "spill" not in text]


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
    engine = jitrt.compile(model.half(), (x.half(),), precision="fp16", tune="6s", cache=False)
    error = relative_error(engine(x.half()).float(), reference)
    decisions: Any = engine.plan.notes["decisions"]  # type: ignore[union-attr]
    told = [d["text"] for d in decisions if d["pass_name"] == "fuse_prologue"]
    print(f"{told}, error {error:.1e}")
    assert len(told) == 1 and " us instead of " in told[0]
    assert error < 5e-3
