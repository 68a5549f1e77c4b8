"""The bench's layers on the GPU: rooflines that add up, and convolutions beside cuDNN's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jitrt.bench.html import to_html
from jitrt.bench.layers import bench_layers
from jitrt.bench.peers import BY_NAME_ONLY, PEERS
from jitrt.bench.report import to_markdown
from jitrt.bench.roofline import BYTES, LATENCY, TENSOR_CORES
from jitrt.bench.run import Jitrt, bench_models, make_report
from jitrt.bench.subject import Subject

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]


class Residual(nn.Module):
    """Two equal residual blocks between a projection and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(64, 128, 1, bias=False)
        self.blocks = nn.ModuleList([nn.Conv2d(128, 128, 3, padding=1) for _ in range(2)])
        self.grouped = nn.Conv2d(128, 128, 3, padding=1, groups=128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.projection(x))
        for block in self.blocks:
            x = torch.relu(block(x) + x)
        return torch.relu(self.grouped(x))


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    return Subject("residual", Residual().eval(), lambda batch: (torch.randn(batch, 64, 28, 28),))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_convolutions_beside_cudnn(subject: Subject, precision: str) -> None:
    found = bench_layers(subject, 8, precision, tune="8s", seconds=0.05)
    print(to_markdown(make_report([], convolutions=(found,))))
    assert found.left_out == ()
    assert sorted(layer.count for layer in found.layers) == [1, 1, 2]
    for layer in found.layers:
        # Small layers sit in L2 for both, so they may be under the floor of their bytes, but not by much.
        assert 0.5 * layer.floor < layer.ours < 100
        assert 0.5 * layer.floor < layer.theirs < 100
    errors = [layer.error for layer in found.layers if layer.error is not None]
    assert len(errors) == 2
    assert all(error < 1e-2 for error in errors)


def test_rooflines_of_a_network(subject: Subject) -> None:
    report = bench_models([subject], [1, 64], "fp16", [Jitrt("fp16", "8s")], seconds=0.2, layers=True)
    assert report.failures() == []
    small, large = report.rooflines
    print(to_markdown(report))
    for line in (small, large):
        assert 0 < line.reached < 1.5
        assert line.achieved == pytest.approx(line.call, rel=0.5)
    assert {layer.bound for layer in small.layers} == {LATENCY}
    assert {layer.bound for layer in large.layers} <= {BYTES, TENSOR_CORES}
    assert to_html(report).count("<svg") == 4  # two contests and two rooflines


def test_memory_in_use() -> None:
    """Of a network whose size is known: 48 MiB of weights in fp16, and 8 MiB of activations between its two layers."""
    side = 4 << 10
    layers = nn.Sequential(nn.Linear(side, side), nn.ReLU(), nn.Linear(side, side // 2)).eval()
    subject = Subject("mlp", layers, lambda batch: (torch.randn(batch, side),))
    peers = [PEERS[name] for name in ("eager", "eager+graph", "compile")]
    report = bench_models([subject], [1024], "fp16", [Jitrt("fp16", "8s"), *peers], seconds=0.1)
    print(to_markdown(report))
    assert report.failures() == []
    mebi = {o.contestant: o.memory.in_use / 2**20 for o in report.outcomes if o.memory is not None}
    assert set(mebi) == {"jitrt", "eager", "eager+graph", "compile"}
    weights, hidden, output = 48, 8, 4
    assert weights + hidden <= mebi["jitrt"] < weights + hidden + output + 8
    workspaces = 64  # at most: cuBLAS's
    assert weights + hidden + output <= mebi["eager"] < weights + 3 * hidden + workspaces
    assert weights + hidden <= mebi["eager+graph"] < weights + 5 * hidden + workspaces
    assert weights + hidden <= mebi["compile"] < 2 * weights + 5 * hidden + workspaces  # freezing keeps what it folds
    for outcome in report.outcomes:
        assert outcome.memory is not None
        assert (
            outcome.memory.lent > 0.9 * outcome.memory.in_use
        )  # the driver agrees: nothing is counted that is not there


@pytest.mark.parametrize("name", BY_NAME_ONLY)
def test_torch_compile_in_other_modes(name: str) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval()
    linear = Subject("linear", model, lambda batch: (torch.randn(batch, 64),))
    (outcome,) = bench_models([linear], [4], "fp16", [PEERS[name]], seconds=0.1).outcomes
    assert outcome.failure is None
    assert outcome.error < 5e-3
