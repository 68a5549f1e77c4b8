"""ONNX files on the command line: what every command makes of MODEL and --shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import jitrt as package
from jitrt.cli.onnx_subject import OnnxFile
from jitrt.cli.shapes import named_shapes, shape_text
from jitrt.cli.subject import load_subject, prepared
from jitrt.errors import OptionError
from jitrt.frontend.onnx import Model
from jitrt.frontend.onnx.registry import importers


def write(path: Path, *inputs: tuple[str, Sequence[Any]], op: str = "Relu", domain: str = "") -> Path:
    """A model of one operator a input."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name, _ in inputs]
    nodes = [helper.make_node(op, [name], [f"{name}_out"], f"node_{name}", domain=domain) for name, _ in inputs]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("lab", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ports, outputs), opset_imports=opsets), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write(tmp_path / "image.onnx", ("x", ("N", 3, "H", "W")))


@pytest.fixture
def batched(tmp_path: Path) -> Path:
    return write(tmp_path / "batched.onnx", ("x", ("N", 3)), ("y:0", (4,)))


# -- --shapes --------------------------------------------------------------------------------------------------------


def test_named_shapes_as_trtexec_writes_them() -> None:
    assert named_shapes(["x:8x3x224x224,ids:0:8x77", "'in:put':1", "s:scalar"]) == {
        "x": (8, 3, 224, 224),
        "ids:0": (8, 77),
        "in:put": (1,),
        "s": (),
    }
    assert named_shapes([]) == {}
    assert [shape_text(shape) for shape in ((8, 3), ())] == ["8x3", "scalar"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8x3", "--shapes has '8x3'; write an input's name, a colon and its dims"),
        ("x:", "--shapes has 'x:'"),
        ("x:1x-1", "--shapes has 'x:1x-1'"),
        ("x:1,", "--shapes has ''"),
        ("x:1,x:2", "--shapes has 'x' twice; a plan has one shape"),
    ],
)
def test_shapes_that_are_none(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        named_shapes([text])


def file(path: Path, *shapes: str, named: Sequence[str] = ()) -> OnnxFile:
    found = load_subject(str(path), shapes, named)
    assert isinstance(found, OnnxFile)
    return found


def test_shapes_of_an_onnx_file(image: Path, batched: Path) -> None:
    assert file(image, named=["x:8x3x5x5"]).shapes() == {"x": (8, 3, 5, 5)}
    assert file(image, "1x3x5x5").shapes(4) == {"x": (4, 3, 5, 5)}  # --batch stands for the first dim of --shape
    assert file(batched).shapes(7) == {"x": (7, 3), "y:0": (4,)}
    assert file(batched, named=["x:2x3"]).notes(1) == []
    assert file(batched).notes(7) == ["x [N, 3] is built for 7x3; --batch or --shapes for another"]
    model, inputs = prepared(file(batched), 2, "fp16")
    assert isinstance(model, Model)
    assert inputs == {"x": (2, 3), "y:0": (4,)}


@pytest.mark.parametrize(
    ("which", "shapes", "named", "batch", "message"),
    [
        ("image", (), (), 1, r"leaves shapes open: x \[N, 3, H, W\]; give --shapes x:1x3x\?x\?"),
        ("image", (), ("x:1x4x5x5",), 1, r"'x': dimension 1 of x \[N, 3, H, W\] is 3, not 4"),
        ("image", (), ("z:1x4x5x5",), 1, "--shapes names 'z'; the inputs of .* are x"),
        ("image", ("1x3x4x4", "1x3"), (), 1, r"2 times --shape, but .* takes 1 input\(s\): x"),
        ("image", (), ("x:1x3x5x5",), 2, "--batch is 2, but the batch of .* is fixed"),
    ],
)
def test_shapes_that_do_not_fit(
    image: Path, which: str, shapes: Sequence[str], named: Sequence[str], batch: int, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        file(image, *shapes, named=named).shapes(batch)


# -- build, run, explain, inspect ------------------------------------------------------------------------------------


def test_build_hands_over_the_shapes(
    jitrt: Any, batched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Engine:
        def save(self, path: Path) -> None:
            Path(path).write_bytes(b"a plan")

    def compile(model: Any, inputs: Any, **options: Any) -> Engine:
        seen.append((inputs, options["precision"], options.get("strict", False)))
        return Engine()

    monkeypatch.setitem(package.__dict__, "compile", compile)
    output = tmp_path / "m.plan"
    status, _, err = jitrt("build", batched, "--fp16", "--shapes", "x:8x3", "-o", output)
    assert (status, output.read_bytes()) == (0, b"a plan")
    assert "leaves" not in err
    status, _, err = jitrt("build", batched, "--batch", "2", "-o", output)
    assert "x [N, 3] is built for 2x3; --batch or --shapes for another" in err
    assert seen == [({"x": (8, 3), "y:0": (4,)}, "fp16", True), ({"x": (2, 3), "y:0": (4,)}, "fp32", True)]


def test_build_refuses_what_no_plan_can_hold_before_it_tunes(
    jitrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(importers(), ("", "Abs"))
    path = write(tmp_path / "abs.onnx", ("x", (2, 3)), op="Abs")
    status, _, err = jitrt("build", path, "--target", "sm_90", "-o", tmp_path / "m.plan")
    assert (status, (tmp_path / "m.plan").exists()) == (1, False)
    assert "a plan runs on the GPU alone" in err
    assert "Abs (x1, first at node_x (Abs)): no importer" in err


def test_run_builds_and_runs_a_model(jitrt: Any, batched: Path, tmp_path: Path) -> None:
    status, out, _ = jitrt("run", batched, "--shapes", "x:2x3")
    assert status == 0
    assert "x_out" in out
    assert "2x3" in out
    x, y = np.float64([[-1, 0, 1]]), np.float32([1, -1, 1, -1])
    for name, array in (("x.npy", x), ("y.npy", y)):
        np.save(tmp_path / name, array)
    words = ("--input", tmp_path / "x.npy", "--input", tmp_path / "y.npy", "--output", tmp_path / "out.npy")
    assert jitrt("run", batched, *words)[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.float32([[0, 0, 1]]))
    status, _, err = jitrt("run", batched, "--input", tmp_path / "x.npy")
    assert (status, "1 times --input, but" in err, "takes 2: x, y:0" in err) == (2, True, True)


def test_a_plan_takes_no_shapes_and_a_model_is_no_plan(jitrt: Any, plan_path: Path, image: Path) -> None:
    assert "is a plan and has its own; leave it out" in jitrt("run", plan_path, "--shapes", "x:1")[2]
    assert "is a model, not a plan; jitrt doctor looks at it" in jitrt("inspect", image)[2]


def test_explain_shows_an_onnx_file(jitrt: Any, image: Path) -> None:
    status, out, _ = jitrt("explain", image, "--shapes", "x:1x3x4x4", "--graph")
    assert status == 0
    assert "node_x" in out


# -- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_of_a_model_that_is_all_there(jitrt: Any, image: Path) -> None:
    status, out, _ = jitrt("doctor", image)
    assert status == 0
    assert "input x leaves N, H, W open (taken here: 1x3x224x224); a plan has one shape" in out
    assert "every node is an op of the graph; --kernels asks for their kernels too" in out
    assert f"next: jitrt build {image} --fp16 --shapes x:1x3x224x224 -o" in out
    status, out, _ = jitrt("doctor", image, "--shapes", "x:1x3x8x8", "--json")
    found = json.loads(out)
    assert (status, found["supported"], found["dynamic"]) == (0, True, {"x": ["N", "H", "W"]})
    assert (found["shapes"], found["guessed"], found["nodes"]) == ({"x": [1, 3, 8, 8]}, [], 1)


def test_doctor_of_a_model_that_falls_back(jitrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(importers(), ("", "Abs"))
    image = write(tmp_path / "abs.onnx", ("x", ("N", 3)), op="Abs")
    status, out, _ = jitrt("doctor", image)
    assert status == 1
    assert "fall back to the host" in out
    assert "node_x (Abs)" in out
    assert "jitrt.compile and jitrt.onnx run it, 1 of its nodes on the host, 100.0% of the work; strict=True and" in out
    assert json.loads(jitrt("doctor", image, "--json")[1])["host_share"] == 1.0


def test_doctor_of_a_model_that_cannot_be(jitrt: Any, tmp_path: Path) -> None:
    inputs = [(f"x{i}", (2,)) for i in range(7)]
    status, out, _ = jitrt("doctor", write(tmp_path / "odd.onnx", *inputs, op="Odd", domain="lab"))
    assert status == 1
    assert "lab::Odd" in out
    assert "node_x4 (Odd)" in out
    assert "and 2 more" in out
    assert "node_x5" not in out
    assert "jitrt cannot build this model: 7 of its nodes are not supported" in out


def test_doctor_asks_the_kernels(jitrt: Any, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "every node is an op and has a kernel" in jitrt("doctor", image, "--shapes", "x:1x3x8x8", "--kernels")[1]
    monkeypatch.setattr("jitrt.hybrid.uncovered", lambda graph, *_: {graph.nodes[0]: "no template\nat all"})
    status, out, _ = jitrt("doctor", image, "--shapes", "x:1x3x8x8", "--kernels")
    assert status == 1
    assert "no template" in out
    assert "at all" not in out
    assert "run it, 1 of its nodes on the host; strict=True and jitrt build" in out


def test_doctor_refuses(jitrt: Any, image: Path) -> None:
    for words, message in (
        (("--json",), "are about a model; name an ONNX file"),
        (("/nowhere/m.onnx",), "there is no file /nowhere/m.onnx; doctor takes an ONNX file"),
        ((image, "--shapes", "z:1"), "the model has no input 'z'"),
    ):
        status, _, err = jitrt("doctor", *words)
        assert (status, message in err) == (2, True), err


def test_doctor_loads_neither_torch_nor_triton(image: Path) -> None:
    code = (
        "import sys; from jitrt.cli import main; status = main(['doctor', sys.argv[1]]);"
        "print(status, [m for m in ('torch', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(image)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


# -- bench -----------------------------------------------------------------------------------------------------------


def test_bench_of_an_onnx_file(jitrt: Any, batched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jitrt.bench import onnx_model
    from jitrt.bench import run as bench
    from jitrt.bench.measure import HostTimer

    real = bench.bench_models
    monkeypatch.setattr("jitrt.cli.bench._need_gpu", lambda: None)
    monkeypatch.setattr(bench, "CudaTimer", HostTimer)
    monkeypatch.setattr(bench, "bench_models", lambda *args, **more: real(*args, **{**more, "device": "cpu"}))
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None)
    compile = package.compile

    def on_the_host(model: Any, inputs: Any, *, precision: str, tune: str, without: Any) -> Any:
        return compile(model, inputs, precision=precision, target="reference")

    monkeypatch.setitem(package.__dict__, "compile", on_the_host)
    status, out, _ = jitrt("bench", batched, "--batch", "2", "--seconds", "0.01")
    assert status == 0
    assert "OptionError: onnxruntime is not installed; pip install onnxruntime-gpu" in out
    status, _, err = jitrt("bench", batched, "--vs", "eager")
    assert (status, "eager runs PyTorch models, of which there is none here" in err) == (2, True)
