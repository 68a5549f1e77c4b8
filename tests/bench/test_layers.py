"""The layer benchmark: which regions it finds, what both sides are given, and its sums. No GPU: kernels are interpreted
graphs and cuDNN is what it means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import jitrt.bench.layers as bench
from jitrt.bench.convolutions import layers_of
from jitrt.bench.layers import Convolutions, LayerTimes, bench_layers, library, sets_for
from jitrt.bench.measure import Inputs, Stats, Timing
from jitrt.bench.report import Report, to_markdown
from jitrt.bench.subject import Subject
from jitrt.codegen.compile import Binary
from jitrt.codegen.target import TARGETS
from jitrt.compiler import optimize_graph
from jitrt.frontend.torch import arrays, import_torch
from jitrt.graph import Graph, interpret
from jitrt.kernels.base import Problem, templates
from jitrt.plan.schema import PlanFile
from jitrt.planner import Options
from jitrt.tune.candidates import candidates_of
from jitrt.tune.select import Choice


class Net(nn.Module):
    """Two equal residual blocks, a projection, a swish, a group, and a gate that no fused call has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)])
        self.projection = nn.Conv2d(16, 32, 1, bias=False)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.swish = nn.Conv2d(32, 16, 1)
        self.gated = nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(block(x) + x)
        x = torch.relu(self.grouped(self.projection(x)))
        x = nn.functional.silu(self.swish(x))
        return torch.relu(self.gated(x) * x.mean((2, 3), keepdim=True)[:, :8])


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    return Subject("net", Net().eval(), lambda batch: (torch.randn(batch, 3, 16, 16),))


@pytest.fixture(scope="module")
def graph(subject: Subject) -> Graph:
    assert isinstance(subject.model, nn.Module)
    return import_torch(subject.model, subject.inputs(1)).graph


@pytest.fixture
def no_gpu(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> list[PlanFile]:
    """Everything that needs a GPU, faked; the list gets the plans that would have been timed."""
    made: list[PlanFile] = []
    given: list[tuple[Problem, Any]] = []
    copies = bench.copies

    class Tuner:
        def __init__(self, *_: Any, **__: Any):
            self.seen: list[Problem] = []

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            return None

        def select(self, problems: list[Problem]) -> list[Choice]:
            found = [candidates_of(problem, TARGETS[90], templates(), 1)[0] for problem in problems]
            counts = [len(c.lower(problem, TARGETS[90]).calls) for c, problem in zip(found, problems, strict=True)]
            binary = Binary(b"cubin", "k", 0, 4, (1, 1, 1), 0, 0, 0)
            return [
                Choice(c.tactic, (binary,) * count, 1.0, "measured", (), "")
                for c, count in zip(found, counts, strict=True)
            ]

    def remembered(problem: Problem, weights: Any, *rest: Any) -> PlanFile:
        given.append((problem, weights))
        return copies(problem, weights, *rest)

    def our_graph(file: PlanFile, inputs: Inputs) -> tuple[Any, torch.Tensor]:
        made.append(file)
        problem, weights = given[-1]
        waiting = (arrays.to_numpy(x) for x in inputs)
        operands = [next(waiting) if data is None else data for data in weights[0]]
        (output,) = interpret(problem.body, operands, exact=True)
        return (lambda: None), torch.from_numpy(output)

    def measure(call: Any, inputs: Inputs, timer: Any, *, seconds: float) -> Timing:
        call(*inputs)
        return Timing(*[Stats.of([320.0])] * 4)

    monkeypatch.setattr(bench, "import_model", lambda *_: (graph.clone(), None))
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "resolve", lambda target: (TARGETS[90], 0, ""))
    monkeypatch.setattr(bench, "Tuner", Tuner)
    monkeypatch.setattr(bench, "copies", remembered)
    monkeypatch.setattr(bench, "our_graph", our_graph)
    monkeypatch.setattr(bench, "graphed", lambda forward, inputs: forward)
    return made


def test_every_convolution_is_found_once_with_its_count(subject: Subject, no_gpu: list[PlanFile]) -> None:
    said: list[str] = []
    found = bench_layers(subject, 1, "fp32", device="cpu", say=said.append)
    by_text = {layer.text: (layer.epilogue, layer.count) for layer in found.layers}
    assert by_text == {
        "3x3/2 3 -> 16, 16x16": ("bias + relu", 1),
        "3x3 16 -> 16, 8x8": ("bias + residual + relu", 2),
        "1x1 16 -> 32, 8x8": ("-", 1),
        "3x3 32 -> 32, 32 groups, 8x8": ("bias + relu", 1),
        "1x1 32 -> 16, 8x8": ("bias + silu", 1),
    }
    assert found.left_out == ("1 x an epilogue with more than a bias, a residual and an activation",)
    assert "net, batch 1, fp32: 5 distinct convolutions" in said


def test_both_sides_compute_the_same_where_cudnn_can(subject: Subject, no_gpu: list[PlanFile]) -> None:
    found = bench_layers(subject, 1, "fp32", device="cpu")
    errors = {layer.epilogue: layer.error for layer in found.layers if "groups" not in layer.text}
    assert {epilogue for epilogue, error in errors.items() if error is None} == {"-", "bias + silu"}
    assert all(error < 1e-5 for error in errors.values() if error is not None)
    assert {(layer.ours, layer.theirs, layer.spread) for layer in found.layers} == {(10.0, 10.0, 0.0)}


def test_buffers_rotate_and_the_graph_is_long(subject: Subject, no_gpu: list[PlanFile]) -> None:
    bench_layers(subject, 1, "fp32", device="cpu")
    for file in no_gpu:
        plan = file.plan
        assert len(plan.layers) == len(plan.outputs) == 16  # sets, as these are small
        assert {launch.layer for launch in plan.launches} == set(range(16))
        kernels = len(plan.launches) // 32
        assert len(plan.launches) == 32 * kernels
        assert [launch.after for launch in plan.launches] == [(n - 1,) if n else () for n in range(32 * kernels)]
        weights = [constant for constant in plan.constants if len(constant.shape) == 4]
        assert len(weights) == 16  # of each set its own


def test_a_layer_that_fails_is_left_out_with_its_error(
    subject: Subject, no_gpu: list[PlanFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(layer: Any, operands: Any) -> torch.Tensor:
        if layer.residual is not None:
            raise RuntimeError("cuDNN has no engine")
        return library(layer, operands)

    monkeypatch.setattr(bench, "library", fails)
    found = bench_layers(subject, 1, "fp32", device="cpu")
    assert len(found.layers) == 4
    assert "3x3 16 -> 16, 8x8: RuntimeError: cuDNN has no engine" in found.left_out


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.ZeroPad2d((0, 1, 0, 1)), "not 2-d, or padded on one side"),
        (nn.Identity(), None),
    ],
)
def test_what_cudnn_cannot_be_asked_for_has_its_reason(module: nn.Module, reason: str | None) -> None:
    model = nn.Sequential(module, nn.Conv2d(8, 8, 2), nn.ReLU()).eval()
    graph = import_torch(model, (torch.randn(1, 8, 6, 6),)).graph
    found, reasons = layers_of(optimize_graph(graph, Options("fp32")).graph)
    assert (list(reasons), len(found)) == (([reason], 0) if reason else ([], 1))


def test_sets() -> None:
    l2 = 60 << 20
    assert [sets_for(nbytes, l2) for nbytes in (0, 1 << 10, 20 << 20, 1 << 30)] == [16, 16, 6, 2]


def test_sums_count_a_layer_as_often_as_it_occurs() -> None:
    twice = LayerTimes("3x3 64 -> 64, 56x56", "bias + relu", 2, 10.0, 15.0, 0.1, 5.0, "conv2d BLOCK_M=64", 1e-3)
    once = LayerTimes("1x1 64 -> 256, 56x56", "bias", 1, 30.0, 20.0, 0.1, 10.0, "conv1x1", None)
    found = Convolutions("resnet50", 8, "fp16", (twice, once), ("3 x something before the convolution",))
    assert found.sums() == (50.0, 50.0, 20.0)
    rows = found.rows()
    assert [row[0] for row in rows] == [once.text, twice.text, "sum"]
    assert [row[7] for row in rows] == ["0.67x", "1.50x", "1.00x"]
    assert {len(row) for row in rows} == {len(found.headings())}
    text = to_markdown(Report("2026-01-02T03:04:05+00:00", None, "Linux", {}, (), convolutions=(found,)))
    assert "3 convolutions, each alone on rotated buffers, sum to 50 us by jitrt, 50 us by cuDNN" in text
    assert "- left out: 3 x something before the convolution" in text
