"""ONNX files on the bench, on the CPU: which peers can run them, and what their answers are held against."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from jitrt.bench import onnx_model
from jitrt.bench.measure import HostTimer
from jitrt.bench.onnx_model import OnnxModel, OnnxRuntime, onnx_subject
from jitrt.bench.peers import BY_NAME_ONLY, PEERS, peers_named
from jitrt.bench.run import Jitrt, bench_models
from jitrt.bench.subject import Subject
from jitrt.errors import NoGpuError, OptionError
from jitrt.frontend.onnx import read_model

INSTALLED = importlib.util.find_spec("onnxruntime") is not None


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """y = relu(x) + table[tokens]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4))
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT32, ("N",))
    table = helper.make_tensor("table", TensorProto.FLOAT, (2, 4), range(8))
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Gather", ["table", "tokens"], ["t"]),
        helper.make_node("Add", ["r", "t"], ["y"]),
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 4))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x, tokens], [y], [table]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    return onnx_subject(str(path), read_model(path), lambda batch: {"x": (batch, 4), "tokens": (batch,)})


def expected(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) + torch.arange(8.0).reshape(2, 4)[tokens.long()]


def bench(subject: Subject, *contestants: Any, precision: str = "fp16") -> Any:
    return bench_models([subject], [3], precision, contestants, device="cpu", timer=HostTimer(), seconds=0.01)


def test_inputs_have_the_types_of_the_file_and_the_answer_is_the_files(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None)
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Spy:
        name: str = "spy"

        def prepare(self, model: Any, inputs: Any) -> Any:
            seen.extend(inputs)
            assert isinstance(model, OnnxModel)
            return expected

    (outcome,) = bench(subject, Spy()).outcomes
    assert (outcome.failure, outcome.error) == (None, 0)
    assert [(x.dtype, tuple(x.shape)) for x in seen] == [(torch.float32, (3, 4)), (torch.int32, (3,))]


def test_who_cannot_run_it_says_so(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None)
    found = bench(subject, *PEERS.values(), OnnxRuntime("fp32"), Jitrt("fp16", "heuristic")).outcomes
    failures = {outcome.contestant: outcome.failure for outcome in found}
    for name in PEERS:
        assert failures[name] == "does not apply: it runs PyTorch models; this is an ONNX file"
    assert failures["onnxruntime"] == "OptionError: onnxruntime is not installed; pip install onnxruntime-gpu"
    with pytest.raises(OptionError, match="runs ONNX files; this is a PyTorch model"):
        OnnxRuntime("fp32").prepare(nn.Linear(2, 3), (torch.ones(1, 2),))


def test_jitrt_builds_it_from_the_file(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def compile(model: Any, inputs: Any, **options: Any) -> Any:
        seen.update(options, inputs=inputs, model=model)
        raise NoGpuError("none")

    monkeypatch.setitem(__import__("jitrt").__dict__, "compile", compile)
    (outcome,) = bench(subject, Jitrt("fp16", "heuristic")).outcomes
    assert outcome.failure == "NoGpuError: none"
    assert isinstance(subject.model, OnnxModel)
    assert (seen["model"], seen["precision"]) == (subject.model.source, "fp16")
    assert seen["inputs"][0].dtype == torch.float32


def test_peers_of_the_models_there_are() -> None:
    def named(text: str, *kinds: str) -> list[str]:
        return [peer.name for peer in peers_named(text, kinds)]

    assert named("all", "onnx") == ["onnxruntime"]
    assert named("all", "torch", "onnx") == [*(name for name in PEERS if name not in BY_NAME_ONLY), "onnxruntime"]
    assert named("onnxruntime,eager", "torch", "onnx") == ["onnxruntime", "eager"]
    with pytest.raises(
        OptionError, match="eager runs PyTorch models, of which there is none here; compare with onnxrun"
    ):
        named("eager", "onnx")
    with pytest.raises(
        OptionError, match="onnxruntime runs ONNX files, of which there is none here; compare with eager"
    ):
        named("onnxruntime", "torch")


@pytest.mark.skipif(not INSTALLED, reason="onnxruntime is not installed")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_onnx_runtime_runs_it(subject: Subject, precision: str, tolerance: float) -> None:
    (outcome,) = bench(subject, OnnxRuntime(precision), precision=precision).outcomes
    assert outcome.failure is None
    assert outcome.error < tolerance
    call = OnnxRuntime(precision).prepare(subject.model, subject.inputs(3))
    for batch in (3, 5):
        inputs = subject.inputs(batch)
        torch.testing.assert_close(call(*inputs)[0], expected(*inputs), rtol=1e-2, atol=1e-2)
    call(*inputs)
    with pytest.raises(OptionError, match="no CUDA provider"):
        OnnxRuntime(precision).prepare(subject.model, (torch.empty(1, device="meta").as_subclass(_OnGpu),))


class _OnGpu(torch.Tensor):
    device = torch.device("cuda", 0)  # type: ignore[assignment]
