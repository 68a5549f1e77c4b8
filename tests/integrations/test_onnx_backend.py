"""jitrt as ONNX's backend: devices, specialisation, single nodes, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.base import Backend, BackendRep

from jitrt.errors import FallbackError, ImportFailure, InputError, OptionError, TargetError
from jitrt.graph import Graph
from jitrt.integrations import onnx_backend
from jitrt.integrations.onnx_backend import JitrtRep
from jitrt.request import Request

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(*nodes: onnx.NodeProto, inputs: dict[str, tuple[int, list[object]]], outputs: list[str]) -> onnx.ModelProto:
    ins = [helper.make_tensor_value_info(name, *info) for name, info in inputs.items()]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", ins, outs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)])


def doubled() -> onnx.ModelProto:
    return model(
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Neg", ["x"], ["a.b"]),
        inputs={"x": (TensorProto.FLOAT, ["n", 3])},
        outputs=["y", "a.b"],
    )


def reshaped() -> onnx.ModelProto:
    return model(
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
        inputs={"x": (TensorProto.FLOAT, ["n", 3]), "shape": (TensorProto.INT64, ["r"])},
        outputs=["y"],
    )


def test_it_is_a_backend() -> None:
    assert issubclass(onnx_backend.JitrtBackend, Backend)
    rep = onnx_backend.prepare(doubled())
    assert isinstance(rep, BackendRep)
    outputs = rep.run([X])
    np.testing.assert_array_equal(outputs.y, 2 * X)
    np.testing.assert_array_equal(outputs[1], -X)
    np.testing.assert_array_equal(rep.run({"x": X})[0], 2 * X)
    np.testing.assert_array_equal(rep.run(X)["a.b"], -X)


def test_run_model_and_run_node() -> None:
    np.testing.assert_array_equal(onnx_backend.run_model(doubled(), [X])[0], 2 * X)
    node = helper.make_node("Clip", ["x", "", "high"], ["y"])
    (y,) = onnx_backend.run_node(node, [X, np.float32(2)], opset_version=13)
    np.testing.assert_array_equal(y, np.minimum(X, 2))
    with pytest.raises(InputError, match="Clip takes 2"):
        onnx_backend.run_node(node, [X])


class Counting:
    """A build that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Graph, request: Request) -> object:
        self.count += 1
        return onnx_backend.build(graph, request)


def test_a_build_for_each_signature() -> None:
    build = Counting()
    rep = JitrtRep(doubled(), Request(target="reference"), build)
    for rows in (2, 4, 2, 4):
        x = np.ones((rows, 3), np.float32)
        np.testing.assert_array_equal(rep.run([x])[0], 2 * x)
    assert build.count == 2
    rep.close()
    rep.run([X])
    assert build.count == 3


def test_a_build_for_each_value_that_sizes_depend_on() -> None:
    build = Counting()
    rep = JitrtRep(reshaped(), Request(target="reference"), build)
    for shape in ([3, 2], [6, 1], [3, 2]):
        assert rep.run([X, np.array(shape)])[0].shape == tuple(shape)
    assert build.count == 2


def test_only_the_last_builds_are_kept() -> None:
    build = Counting()
    rep = JitrtRep(doubled(), Request(target="reference"), build)
    for rows in (*range(1, 10), 9, 1):
        rep.run([np.ones((rows, 3), np.float32)])
    assert build.count == 10


def test_steps_on_the_host_are_named_or_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitrt.frontend.onnx.importer.importer_of", lambda domain, name, opset: None)
    odd = model(
        helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=2.5),
        inputs={"x": (TensorProto.FLOAT, [2, 3])},
        outputs=["y"],
    )
    rep = onnx_backend.prepare(odd)
    assert rep.steps == ()
    np.testing.assert_array_equal(rep.run([X])[0], X > 2.5)
    assert [step.operator for step in rep.steps] == ["ai.onnx.ml::Binarizer"]
    with pytest.raises(FallbackError, match="Binarizer"):
        onnx_backend.prepare(odd, strict=True).run([X])


def test_devices() -> None:
    assert onnx_backend.supports_device("CPU")
    assert onnx_backend.is_compatible(doubled(), "CPU")
    assert not onnx_backend.supports_device("TPU")
    assert not onnx_backend.supports_device("CUDA:1")
    with pytest.raises(TargetError, match="'TPU'"):
        onnx_backend.prepare(doubled(), "TPU")


def test_cuda_is_there_if_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: int) -> None:
        raise TargetError("none here")

    monkeypatch.setattr("jitrt.runtime.driver.cuda_driver", missing)
    assert not onnx_backend.supports_device("CUDA")
    monkeypatch.setattr("jitrt.runtime.driver.cuda_driver", lambda device: object())
    assert onnx_backend.supports_device("CUDA")
    assert onnx_backend.prepare(doubled(), "CUDA").request == Request(tune="heuristic")


@pytest.mark.parametrize(
    ("options", "complaint"), [({"tunes": "60s"}, "did you mean 'tune'"), ({"outputs": ["y"]}, "outputs is given")]
)
def test_unknown_options(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        onnx_backend.prepare(doubled(), **options)


def test_a_sequence_is_no_input() -> None:
    graph = helper.make_graph(
        [helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)],
        "g",
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    rep = onnx_backend.prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    with pytest.raises(InputError, match=r"input 's' is a seq\(tensor\(float\)\)"):
        rep.run([[X, X]])


def test_wrong_inputs() -> None:
    rep = onnx_backend.prepare(doubled())
    with pytest.raises(InputError, match="takes 1"):
        rep.run([X, X])
    with pytest.raises(InputError, match="'x' is missing"):
        rep.run([])
    with pytest.raises(OptionError, match="run takes no"):
        rep.run([X], device="CPU")
    with pytest.raises((ImportFailure, OptionError)):
        rep.run([X.astype(np.float64)])
