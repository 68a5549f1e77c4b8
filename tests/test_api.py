"""The package's face: lazy names, checked options, and `jitrt.compile` up to the engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import jitrt
from jitrt.errors import (
    ImportFailure,
    InputError,
    JitrtWarning,
    NoGpuError,
    OptionError,
    TargetError,
    UnsupportedOpError,
)
from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Relu
from jitrt.request import Request

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


def test_importing_loads_neither_torch_nor_triton() -> None:
    code = "import jitrt, sys; jitrt.load; print([m for m in ('torch', 'triton', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_can_be_fetched_or_is_unknown() -> None:
    for name in ("jit", "compile", "load", "verify", "Engine"):
        assert callable(getattr(jitrt, name))
    assert jitrt.errors.JitrtError
    assert {"jit", "compile", "load", "explain"} <= set(dir(jitrt))
    with pytest.raises(AttributeError, match="'jitrt' has no attribute 'compiled'"):
        _ = jitrt.compiled


# -- options -----------------------------------------------------------------------------------------------------------

GOOD: list[dict[str, Any]] = [
    {"precision": "bf16"},
    {"target": "reference"},
    {"target": "sm_90"},
    {"target": ["sm_90"]},
    {"tune": "heuristic"},
    {"tune": "90s"},
    {"outputs": ["relu"]},
    {"strict": True, "cache": False, "workspace_limit": 1 << 20},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"precison": "fp16"}, "unknown option 'precison'; did you mean 'precision'"),
    ({"zzz": 1}, "unknown option 'zzz'; there are precision, target"),
    ({"precision": "int4"}, "precision is 'int4'; it can be fp32"),
    ({"tune": "soon"}, "tune is 'soon'"),
    ({"tune": "0s"}, "tune is '0s'"),
    ({"outputs": "relu"}, "outputs is 'relu'; give a sequence"),
    ({"without": "parallel"}, "without is 'parallel'; give a sequence of names"),
    ({"without": ["nothing"]}, "without names 'nothing'; what can be left out is fuse_horizontal"),
    ({"outputs": [3]}, "outputs is .3.; give a sequence"),
    ({"strict": 1}, "strict is 1; it can be True or False"),
    ({"cache": "no"}, "cache is 'no'; it can be True or False"),
    ({"workspace_limit": -1}, "workspace_limit is -1"),
    ({"workspace_limit": "1G"}, "workspace_limit is '1G'"),
    ({"calibration": [1]}, "calibration is given"),
    ({"dynamic_shapes": {"x": 1}}, "dynamic_shapes is given.*jitrt.jit"),
]


@pytest.mark.parametrize("options", GOOD, ids=str)
def test_good_options_are_taken(options: dict[str, Any]) -> None:
    request = Request.of(options)
    assert {name: getattr(request, name) for name in options} == options


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_bad_options_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        jitrt.jit(**options)
    assert isinstance(caught.value, ValueError)
    if not message.startswith("unknown"):
        with pytest.raises(OptionError, match=message):
            jitrt.compile(small(), (X,), **options)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("sm_12", "unknown target 'sm_12'; jitrt builds for sm_80, sm_90, sm_100"),
        ("cuda", "unknown target 'cuda'"),
        ([], "target is empty; name an architecture"),
        (["sm_90", "tpu"], "unknown target 'tpu'"),
    ],
)
def test_a_target_that_cannot_be_is_refused(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        jitrt.compile(small(), (X,), target=target)


def test_one_file_for_two_architectures(tmp_path: Path) -> None:
    engine = jitrt.compile(small(), (X,), target=["sm_80", "sm_90", "sm_80"], tune="heuristic")
    path = tmp_path / "both.plan"
    engine.save(path)
    assert "sm_80, sm_90" in repr(engine)
    file = jitrt.verify(path)
    assert [one.plan.arch for one in file.every] == [80, 90]
    alone = jitrt.compile(small(), (X,), target="sm_90", tune="heuristic")
    assert file.fitting(90).plan == alone.plan
    with pytest.raises(NoGpuError, match="built for sm_80, sm_90"):
        engine(X)


# -- compile -----------------------------------------------------------------------------------------------------------


def test_compile_for_the_reference_target() -> None:
    model = small()
    engine = jitrt.compile(model, (X,), target="reference")
    torch.testing.assert_close(engine(X), model(X), rtol=1e-4, atol=1e-5)


def test_one_tensor_may_stand_for_a_tuple_of_one() -> None:
    assert jitrt.compile(small(), X, target="reference").plan.inputs[0].shape == tuple(X.shape)
    assert jitrt.compile(small(), [X.numpy()], target="reference").plan.inputs[0].dtype == "f32"


def test_an_empty_batch_has_no_kernels() -> None:
    with pytest.raises(InputError, match=r"is empty \(shape \(0, .*skip the call for an empty batch, or use target="):
        jitrt.compile(small(), (X[:0],), target="sm_90")
    engine = jitrt.compile(small(), (X[:0],), target="reference")
    assert engine(X[:0]).shape[0] == 0


def test_half_precision_is_another_engine() -> None:
    model = small()
    engine = jitrt.compile(model, (X,), target="reference", precision="fp16")
    error = engine.compare(model, X).worst
    assert 1e-6 < error < 5e-3
    assert engine(X).dtype == torch.float32  # inputs and outputs keep their dtype


def test_results_nest_as_json_does() -> None:
    def model(x: torch.Tensor, pair: Any) -> Any:
        return {"sum": x + pair[0], "rest": (x, [pair[1], None])}

    engine = jitrt.compile(model, (X, (X + 1, X + 2)), target="reference")
    result = engine(X, X + 1, X + 2)
    assert list(result) == ["sum", "rest"]
    assert isinstance(result["rest"], list)
    assert result["rest"][1][1] is None
    assert torch.equal(result["rest"][1][0], X + 2)


def test_named_outputs_replace_the_models_own() -> None:
    engine = jitrt.compile(small(), (X,), target="reference", outputs=["relu", "linear"])
    assert [x.shape for x in engine(X)] == [(2, 4, 4, 4), (2, 5)]


def test_a_graph_is_a_model() -> None:
    graph = Graph("mine")
    graph.mark_output(graph.add(Relu(), graph.add_input("x", TensorType(f32, (3,)))))
    engine = jitrt.compile(graph, target="reference")
    assert np.array_equal(engine(np.array([-1, 0, 2], np.float32)), [0, 0, 2])


def onnx_model(dims: Any) -> onnx.ModelProto:
    """a = relu(x + y) and b = x + y."""
    nodes = [helper.make_node("Add", ["x", "y"], ["b:0"]), helper.make_node("Relu", ["b:0"], ["a"])]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name in ("x", "y", "a", "b:0")]
    return helper.make_model(helper.make_graph(nodes, "onnx model", ports[:2], ports[2:]))


def test_an_onnx_model_is_a_path_bytes_or_a_proto(tmp_path: Path) -> None:
    proto, path = onnx_model((2, 3)), tmp_path / "m.onnx"
    onnx.save(proto, path)
    x = torch.randn(2, 3)
    for model in (path, str(path), path.read_bytes(), proto):
        engine = jitrt.compile(model, target="reference")
        a, b = engine(x, -2 * x)
        torch.testing.assert_close((a, b), (torch.relu(-x), -x))
    assert [binding.name for binding in engine.plan.inputs] == ["x", "y"]


def test_dynamic_dims_take_an_example_and_outputs_their_names() -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(OptionError, match=r"leaves shapes open: x \[n, 3\], y \[n, 3\]"):
        jitrt.compile(onnx_model(("n", 3)), target="reference")
    for inputs in ({"y": (4, 3), "x": x}, (x, x), (torch.ones(4, 3), (4, 3))):
        engine = jitrt.compile(onnx_model(("n", 3)), inputs, target="reference", outputs=["b:0"])
        np.testing.assert_array_equal(engine(x, x), 2 * x)
    with pytest.raises(OptionError, match=r"there is no 'c'.*the outputs are a, b:0"):
        jitrt.compile(onnx_model((2, 3)), target="reference", outputs=["c"])
    with pytest.raises(OptionError, match="outputs is empty; name at least one of a, b:0"):
        jitrt.compile(onnx_model((2, 3)), target="reference", outputs=[])
    engine = jitrt.compile(onnx_model((2, 3)), target="reference", outputs=["b:0", "a"])
    assert [binding.name for binding in engine.plan.outputs] == ["b:0", "a"]


def test_outputs_of_an_onnx_model_are_any_of_its_values_and_the_rest_is_left_out() -> None:
    model = onnx_model((2, 3))
    model.graph.node.append(helper.make_node("Strange", ["a"], ["z"], domain="lab"))
    model.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (2, 3)))
    model.opset_import.append(helper.make_opsetid("lab", 1))
    with pytest.raises(UnsupportedOpError, match="lab::Strange"):
        jitrt.compile(model, target="reference")
    x = np.ones((2, 3), np.float32)
    inner = jitrt.compile(model, target="reference", outputs=["a", "x", "a"])
    assert [np.array_equal(found, wanted) for found, wanted in zip(inner(x, x), (2 * x, x, 2 * x))] == [True] * 3
    assert jitrt.explain(model, outputs=["a"]).layers.total() == 2


def test_an_example_that_is_channels_last_makes_an_input_that_is() -> None:
    x, shape = X.contiguous(memory_format=torch.channels_last), tuple(X.shape)
    model = onnx_model(("n", 3, 6, 6))
    for inputs, strides in (
        ((x, X), [x.stride(), X.stride()]),
        ((X.numpy(), x.numpy()), [X.stride(), x.stride()]),
        ((shape, x), [X.stride(), x.stride()]),
    ):
        engine = jitrt.compile(model, inputs, target="reference")
        assert [binding.strides for binding in engine.plan.inputs] == strides
        torch.testing.assert_close(engine(x, X)[1], 2 * X)


def test_an_onnx_model_becomes_a_plan(tmp_path: Path) -> None:
    engine = jitrt.compile(onnx_model((2, 3)), target="sm_90", tune="heuristic", precision="fp16", cache=False)
    engine.save(tmp_path / "m.plan")
    plan = jitrt.verify(tmp_path / "m.plan").plan
    assert [(b.name, b.dtype) for b in (*plan.inputs, *plan.outputs)] == [
        ("x", "f32"),
        ("y", "f32"),
        ("a", "f32"),
        ("b:0", "f32"),
    ]
    assert jitrt.explain(onnx_model((2, 3))).kernels.total() == 2


@pytest.mark.filterwarnings("error")
def test_numbers_that_become_part_of_an_engine_are_named() -> None:
    inputs = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 3)),
        helper.make_tensor_value_info("size", onnx.TensorProto.INT64, (1,)),
    ]
    node = helper.make_node("Reshape", ["x", "size"], ["y"])
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("n",))
    model = helper.make_model(helper.make_graph([node], "g", inputs, [output]))
    x = np.ones((2, 3), np.float32)
    with pytest.warns(JitrtWarning, match="numbers in 'size'.*it takes x") as caught:
        engine = jitrt.compile(model, (x, np.array([6])), target="reference")
    assert caught[0].filename == __file__
    assert engine(x).shape == (6,)


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        (3, (X,), OptionError, "model is of type int"),
        ("nowhere.onnx", (), ImportFailure, "cannot read nowhere.onnx: No such file"),
        ("built.plan", (), ImportFailure, "built.plan is a plan, not a model: jitrt.load loads it"),
        (torch.relu, 3, OptionError, r"inputs is of type int; give a tuple of example arguments, such as \(x,\)"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jitrt.compile(model, inputs, target="reference")
