"""`jitrt.onnx` on a GPU: sessions, and bindings to memory that is there already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import jitrt.onnx as ort
from jitrt.bench.onnx_model import onnx_subject
from jitrt.bench.peers import peers_named
from jitrt.bench.run import Jitrt, bench_models
from jitrt.cli import main
from jitrt.frontend.onnx import read_model

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(0)
W = RNG.standard_normal((16, 3, 3, 3)).astype(np.float32)
X = RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)


def model(path: Path) -> Path:
    """Convolution, relu and mean over a batch that is open."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 16, 16))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 16))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(W, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def expected(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(torch.nn.functional.conv2d(x.double(), torch.from_numpy(W).double(), padding=1)).mean((2, 3))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    return ort.InferenceSession(model(tmp_path_factory.mktemp("onnx") / "m.onnx"), tune="heuristic", cache=False)


def test_the_gpu_is_the_default(session: ort.InferenceSession) -> None:
    assert session.get_providers() == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert ort.get_device() == "GPU"
    for batch in (2, 1):
        (y,) = session.run(None, {"x": X[:batch]})
        np.testing.assert_allclose(y, expected(torch.from_numpy(X[:batch])), rtol=1e-4, atol=1e-5)
    assert len(session.engines) == 2


def test_torch_tensors_are_bound_by_address(session: ort.InferenceSession) -> None:
    x, y = torch.from_numpy(X).cuda(), torch.zeros(2, 16, device="cuda")
    binding = session.io_binding()
    binding.bind_input("x", "cuda", 0, np.float32, tuple(x.shape), x.data_ptr())
    binding.bind_output("y", "cuda", 0, np.float32, tuple(y.shape), y.data_ptr())
    for _ in range(2):
        torch.cuda.synchronize()
        session.run_with_iobinding(binding)
        torch.testing.assert_close(y.cpu().double(), expected(x.cpu()), rtol=1e-4, atol=1e-5)
        x.mul_(-1)


def test_values_stay_on_the_gpu(session: ort.InferenceSession) -> None:
    value = ort.OrtValue.ortvalue_from_numpy(X, "cuda", 0)
    np.testing.assert_array_equal(value.numpy(), X)
    (y,) = session.run_with_ort_values(["y"], {"x": value})
    assert (y.device_name(), y.shape(), y.data_type()) == ("cuda", [2, 16], "tensor(float)")
    there = torch.from_dlpack(y)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu().double(), expected(torch.from_numpy(X)), rtol=1e-4, atol=1e-5)
    again = ort.OrtValue.from_dlpack(torch.from_numpy(X).cuda())
    np.testing.assert_array_equal(session.run_with_ort_values(["y"], {"x": again})[0].numpy(), y.numpy())


def test_half_precision_and_the_reference(session: ort.InferenceSession, tmp_path: Path) -> None:
    half = ort.InferenceSession(
        model(tmp_path / "m.onnx"), providers=[("TensorrtExecutionProvider", {"trt_fp16_enable": True})]
    )
    slow = ort.InferenceSession(model(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (a,), (b,), (c,) = (each.run(None, {"x": X}) for each in (half, session, slow))
    assert a.dtype == np.float32
    assert 0 < np.linalg.norm(a - c) / np.linalg.norm(c) < 3e-3
    np.testing.assert_allclose(b, c, rtol=1e-4, atol=1e-5)


def test_the_bench_times_a_file(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    subject = onnx_subject(str(path), read_model(path), lambda batch: {"x": (batch, 3, 16, 16)})
    contestants = [Jitrt("fp16", "heuristic"), *peers_named("all", ["onnx"], "fp16")]
    ours, theirs = bench_models([subject], [2], "fp16", contestants, seconds=0.05).outcomes
    assert ours.failure is None
    assert ours.error < 3e-3
    assert theirs.failure is None or "onnxruntime" in theirs.failure


def test_the_command_line(tmp_path: Path) -> None:
    path, plan = str(model(tmp_path / "m.onnx")), str(tmp_path / "m.plan")
    assert main(["build", path, "--fp16", "--shapes", "x:2x3x16x16", "--tune", "heuristic", "-o", plan]) == 0
    assert main(["run", plan]) == 0
    assert main(["run", path]) == 0
