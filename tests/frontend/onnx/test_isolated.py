"""ONNX's own C++ may crash, hang or take all memory: the process that asks does not."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import onnx
import pytest
from onnx import TensorProto, helper, parser

from jitrt.errors import ImportFailure, UnsupportedOpError
from jitrt.frontend.onnx import import_onnx, isolated, worker
from jitrt.frontend.onnx.bodies import standard_body
from jitrt.frontend.onnx.registry import Unsupported
from jitrt.graph import DType, Graph, TensorType

REFUSED = (ImportFailure, UnsupportedOpError)


def layer_norm(axis: int) -> onnx.ModelProto:
    text = f"net (float[2,3] x) => (y, m, i) {{ y, m, i = LayerNormalization <axis = {axis}> (x, x) }}"
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


@pytest.fixture
def fresh() -> Iterator[isolated._Worker]:
    worker = isolated._Worker()
    yield worker
    worker.stop()


def test_types_are_inferred() -> None:
    output = isolated.inferred(layer_norm(-1)).graph.output[0]
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [2, 3]


def test_bodies_are_made() -> None:
    node = helper.make_node("LayerNormalization", ["x", "x"], ["y"], axis=-1)
    value = Graph().add_input("x", TensorType(DType.f32, (2, 3)))
    body = standard_body(node, [value, value], "", 17)
    assert body is not None and len(body.node) > 5


def test_what_onnx_refuses_is_said() -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "net", [info], [onnx.ValueInfoProto(name="y")]))
    with pytest.raises(Unsupported, match="Incompatible dimensions"):
        isolated.inferred(model)


@pytest.mark.parametrize("axis", [1 << 31, -(1 << 31)])
def test_a_crash_is_an_answer(axis: int) -> None:
    """ONNX's shape inference ends its process for such an axis (1.23), or refuses it; the next question is fine."""
    with pytest.raises(Unsupported):
        isolated.inferred(layer_norm(axis))
    test_types_are_inferred()


@pytest.mark.parametrize("axis", [1 << 31, 60, -60, 3, -3])
def test_axes_out_of_range(axis: int) -> None:
    """Refused where no step on the host may stand in; where one may, ONNX is asked, and this process goes on."""
    gather = f"net (float[2,3] x, int64[2,1] i) => (y) {{ y = GatherND <batch_dims = {axis}> (x, i) }}"
    for model in (layer_norm(axis), parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {gather}')):
        with pytest.raises(REFUSED):
            import_onnx(model)
        with suppress(*REFUSED):
            import_onnx(model, fallback=True)


def test_a_question_that_takes_for_ever(fresh: isolated._Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "SECONDS", 0.05)  # less than the process takes to start
    with pytest.raises(Unsupported, match="does not come to an end"):
        fresh.ask(b"")
    assert fresh.process is None


def test_a_process_that_died_meanwhile(fresh: isolated._Worker) -> None:
    process = fresh.started()
    process.kill()
    process.wait()
    with pytest.raises(Unsupported, match="crashes on it"):
        fresh.ask(bytes(1 << 20))
    assert fresh.started().pid != process.pid


def test_an_interrupted_question_is_not_answered_to_the_next(
    fresh: isolated._Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "_WORKER", fresh)
    os.kill(fresh.started().pid, signal.SIGSTOP)  # so that it answers late
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        isolated.inferred(layer_norm(0))
    assert fresh.process is None
    test_types_are_inferred()


def test_ctrl_c_is_for_the_process_that_asks(fresh: isolated._Worker) -> None:
    assert os.getpgid(fresh.started().pid) != os.getpgid(0)


def test_a_forked_process_starts_its_own(fresh: isolated._Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fresh.started()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    second = fresh.started()
    assert second.pid != first.pid
    first.kill()
    first.communicate()


def test_messages() -> None:
    stream = io.BytesIO()
    worker.write(stream, b"abc")
    worker.write(stream, b"")
    stream.seek(0)
    assert [worker.read(stream) for _ in range(3)] == [b"abc", b"", None]
