"""`jitrt.onnx`: what a program written for ONNX Runtime finds there. Where that is installed, it is asked too."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import jitrt.onnx as ort
from jitrt.errors import (
    FallbackError,
    FeedError,
    ImportFailure,
    InputError,
    JitrtWarning,
    NoGpuError,
    OptionError,
    UnsupportedOpError,
)
from jitrt.frontend.onnx.registry import importers
from jitrt.onnx.engines import Specialisation
from jitrt.onnx.values import DeviceMemory, value_at
from jitrt.plan.schema import Binding, Kernel, Launch, Layer, Plan, PlanFile, Pointer
from jitrt.runtime import Engine
from jitrt.runtime.driver import cuda_driver
from jitrt.runtime.fake_driver import FakeDriver, FakeKernel

CPU = ["CPUExecutionProvider"]
X = np.arange(-6, 6, dtype=np.float32).reshape(2, 2, 3)


def has_gpu() -> bool:
    try:
        cuda_driver()
    except NoGpuError:
        return False
    return True


def model(dims: Any = ("batch", None, 3), *, meta: bool = False) -> bytes:
    """s = x + y, r = relu(s)."""
    nodes = [helper.make_node("Add", ["x", "y"], ["s"]), helper.make_node("Relu", ["s"], ["r"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, d) for name, d in (("x", dims), ("y", (3,)))]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in "rs"]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, doc_string="a graph")
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    made.producer_name, made.domain, made.doc_string, made.model_version = "us", "example.org", "a model", 3
    helper.set_model_props(made, {"author": "me"})
    return made.SerializeToString()


def reshape(dims: Any = (2, 3)) -> bytes:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
        helper.make_tensor_value_info("shape", TensorProto.INT64, (2,)),
    ]
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("a", "b"))
    made = helper.make_model(helper.make_graph([node], "g", inputs, [output]))
    return made.SerializeToString()


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    return ort.InferenceSession(model(), providers=CPU)


FEED = {"x": X, "y": np.ones(3, np.float32)}

# -- the same program for both ---------------------------------------------------------------------------------------


def tour(rt: Any, data: bytes) -> list[Any]:
    """What a program sees that uses most of the interface on the CPU."""
    options = rt.SessionOptions()
    options.graph_optimization_level = rt.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    rt.set_default_logger_severity(3)
    session = rt.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    seen: list[Any] = [session.get_providers(), session.get_provider_options()]
    for ports in (session.get_inputs(), session.get_outputs(), session.get_overridable_initializers()):
        seen.append([(port.name, port.type, port.shape) for port in ports])
    meta = session.get_modelmeta()
    seen += [meta.producer_name, meta.graph_name, meta.domain, meta.description, meta.graph_description, meta.version]
    seen.append(meta.custom_metadata_map)
    seen += session.run(None, FEED, rt.RunOptions())
    seen += session.run(["s"], {"x": X.tolist(), "y": [0, 0, 1.5]})
    seen += session.run([], FEED) + session.run(["s", "r", "s"], FEED) + session.run(["r"], {**FEED, "x": X[:0]})
    array = FEED["y"].copy()  # theirs does not keep it alive
    y = rt.OrtValue.ortvalue_from_numpy(array)
    seen += [
        y.shape(),
        y.data_type(),
        y.element_type(),
        y.device_name(),
        y.has_value(),
        y.is_tensor(),
        y.numpy().copy(),
    ]
    seen += [y.is_sparse_tensor(), y.is_tensor_sequence(), y.tensor_size_in_bytes()]
    seen += session.run(["r"], {"x": X, "y": y})
    seen += [
        value.numpy() for value in session.run_with_ort_values(["r"], {"x": rt.OrtValue.ortvalue_from_numpy(X), "y": y})
    ]
    made = rt.OrtValue.ortvalue_from_shape_and_type([2, 2, 3], np.float32)
    seen += [made.data_type(), rt.OrtValue.ortvalue_from_shape_and_type([1], TensorProto.FLOAT16).data_type()]
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_ortvalue_input("y", y)
    binding.bind_output("r")
    binding.bind_ortvalue_output("s", made)
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    seen += [*binding.copy_outputs_to_cpu(), made.numpy().copy(), [value.shape() for value in binding.get_outputs()]]
    room = np.zeros((2, 2, 3), np.float32)
    binding.clear_binding_outputs()
    binding.clear_binding_inputs()
    for name, array in FEED.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    binding.bind_output("r", "cpu", 0, np.float32, room.shape, room.ctypes.data)
    session.run_with_iobinding(binding)
    y.update_inplace(FEED["y"] * 2)
    return [*seen, room, y.numpy().copy()]


def test_a_program_for_onnx_runtime_runs() -> None:
    seen = tour(ort, model())
    assert seen[:5] == [
        CPU,
        {CPU[0]: {}},
        [("x", "tensor(float)", ["batch", None, 3]), ("y", "tensor(float)", [3])],
        [(name, "tensor(float)", ["batch", None, 3]) for name in "rs"],
        [],
    ]
    assert seen[5:12] == ["us", "graph", "example.org", "a model", "a graph", 3, {"author": "me"}]
    np.testing.assert_array_equal(seen[12], np.maximum(X + 1, 0))
    np.testing.assert_array_equal(seen[13], X + 1)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_onnx_runtime_says_the_same() -> None:
    theirs = importlib.import_module("onnxruntime")
    ours, expected = tour(ort, model()), tour(theirs, model())
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert type(a) is type(b)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, strict=True)
        else:
            assert a == b


def test_it_is_fetched_when_it_is_asked_for() -> None:
    code = (
        "import jitrt, sys; light = [m for m in ('torch', 'triton', 'onnx') if m in sys.modules];"
        "jitrt.onnx.InferenceSession; print(light, [m for m in ('torch', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


# -- running ---------------------------------------------------------------------------------------------------------


def test_shapes_are_built_for_when_they_come_and_the_last_are_kept() -> None:
    session = ort.InferenceSession(model(), providers=CPU, specialisations=2)
    assert session.engines == []
    for batch in (1, 2, 1, 3, 1):
        assert session.run(["r"], {**FEED, "x": X[:1].repeat(batch, 0)})[0].shape == (batch, 2, 3)
    assert [engine.plan.inputs[0].shape[0] for engine in session.engines] == [3, 1]


def test_a_static_model_is_built_at_once_and_free_dims_can_be_fixed() -> None:
    assert len(ort.InferenceSession(model((2, 2, 3)), providers=CPU).engines) == 1
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 4)
    session = ort.InferenceSession(model(("batch", 2, 3)), options, providers=CPU)
    assert session.get_inputs()[0].shape == [4, 2, 3]
    assert len(session.engines) == 1
    with pytest.raises(FeedError, match=r"dimension 0 of x .4, 2, 3. is 4, not 2"):
        session.run(None, FEED)


def test_numbers_that_decide_what_is_built_make_an_engine_each() -> None:
    session = ort.InferenceSession(reshape(), providers=CPU)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert session.run(None, {"x": x, "shape": np.array([3, 2])})[0].shape == (3, 2)
    assert session.run(None, {"x": x, "shape": np.array([3, 2])})[0].shape == (3, 2)
    assert len(session.engines) == 1
    with pytest.warns(JitrtWarning, match="numbers in input 'shape', and they change") as caught:
        assert session.run(None, {"x": x, "shape": np.array([1, 6])})[0].shape == (1, 6)
    assert caught[0].filename == __file__
    assert session.run(None, {"x": x, "shape": np.array([6, 1])})[0].shape == (6, 1)  # said once
    assert len(session.engines) == 3


def test_threads_share_a_session() -> None:
    session, results = ort.InferenceSession(model(), providers=CPU), []
    threads = [threading.Thread(target=lambda: results.append(session.run(["r"], FEED)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(session.engines) == 1
    assert all(np.array_equal(result, np.maximum(X + 1, 0)) for result in results)


def test_options_of_a_build_are_taken(session: ort.InferenceSession) -> None:
    half = ort.InferenceSession(model(), providers=CPU, precision="fp16")
    (rough,), (exact,) = (s.run(["r"], {**FEED, "x": X + 1e-3}) for s in (half, session))
    assert rough.dtype == np.float32
    assert 0 < abs(rough - exact).max() < 1e-2
    assert "layers" in str(half.profile(FEED)) or half.profile(FEED) is not None
    for options, message in (
        ({"precison": "fp16"}, "unknown option 'precison'; did you mean 'precision'"),
        ({"specialisations": 0}, "specialisations is 0"),
    ):
        with pytest.raises(OptionError, match=message):
            ort.InferenceSession(model(), providers=CPU, **options)


@pytest.mark.parametrize(
    ("outputs", "feed", "message"),
    [
        (["q"], FEED, "there is no output 'q'; the model has r, s"),
        ("r", FEED, r"output_names is 'r'; give a list, \['r'\]"),
        (None, {"x": X}, r"nothing is fed for y \[3\]; fed are: x"),
        (None, {}, r"nothing is fed for x \[batch, \?, 3\], y \[3\]; fed are: no inputs"),
        (None, {**FEED, "z": X}, "there is no input 'z' to feed: the model has none; feed x, y"),
        (None, {**FEED, "x": X.astype(float)}, r"'x' is tensor\(float\), but is fed float64; .*x.astype\('float32'\)"),
        (None, {**FEED, "x": X[0]}, r"'x': it has 3 dimension\(s\), x \[batch, \?, 3\], not 2"),
        (None, {**FEED, "x": X[..., :2]}, r"'x': dimension 2 of x \[batch, \?, 3\] is 3, not 2"),
    ],
)
def test_a_feed_that_does_not_fit(session: ort.InferenceSession, outputs: Any, feed: Any, message: str) -> None:
    with pytest.raises(FeedError, match=message) as caught:
        session.run(outputs, feed)
    assert isinstance(caught.value, ValueError)


def test_a_weight_is_no_input() -> None:
    made = onnx.load_from_string(model())
    made.graph.initializer.append(helper.make_tensor("y", TensorProto.FLOAT, [3], [1.0, 1.0, 1.0]))
    session = ort.InferenceSession(made, providers=CPU)
    assert [port.name for port in session.get_overridable_initializers()] == ["y"]
    np.testing.assert_array_equal(session.run(["s"], {"x": X})[0], X + 1)
    with pytest.raises(FeedError, match="no input 'y' to feed: it is a weight of the file"):
        session.run(None, FEED)


def test_a_model_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ImportFailure, match=r"cannot read /nowhere/m.onnx"):
        ort.InferenceSession("/nowhere/m.onnx", providers=CPU)
    with pytest.raises(ImportFailure, match="no ONNX model"):
        ort.InferenceSession(b"nonsense", providers=CPU)
    node = helper.make_node("Nonsense", ["x"], ["r"], domain="example.org")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,)) for name in "xr"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.org", 1)]
    strange = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]), opset_imports=opsets)
    with pytest.raises(UnsupportedOpError, match=r"example\.org::Nonsense.*\n.*jitrt doctor MODEL lists every node"):
        ort.InferenceSession(strange, providers=CPU)


def test_what_falls_back_is_named_or_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(importers(), ("", "Abs"))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,)) for name in "xr"]
    node = helper.make_node("Abs", ["x"], ["r"], "the_node")
    made = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]))
    with pytest.warns(JitrtWarning, match="Abs"):
        session = ort.InferenceSession(made, providers=CPU)
    np.testing.assert_array_equal(session.run(None, {"x": np.float32([-1, 2])})[0], [1, 2])
    with pytest.raises(FallbackError, match="the_node"):
        ort.InferenceSession(made, providers=CPU, strict=True)


# -- providers and options -------------------------------------------------------------------------------------------


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("providers", "message"),
    [
        (None, "no provider named: no"),
        (["CUDAExecutionProvider"], "CUDAExecutionProvider: no"),
        ([("TensorrtExecutionProvider", {"trt_fp16_enable": True})], "TensorrtExecutionProvider: no"),
        (["CoreMLExecutionProvider"], "CoreMLExecutionProvider: not known here"),
    ],
)
def test_without_a_gpu_it_says_so_once(providers: Any, message: str) -> None:
    with pytest.warns(JitrtWarning, match=f"{message}.*; CPUExecutionProvider runs the optimised graph in num") as seen:
        session = ort.InferenceSession(model(), providers=providers)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert session.get_providers() == CPU
    assert session.run(["r"], FEED)[0].shape == X.shape


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_a_session_that_must_have_a_gpu() -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(NoGpuError, match="forbids to run without a GPU"):
        ort.InferenceSession(model(), options)
    assert ort.get_available_providers() == CPU
    assert ort.get_device() == "CPU"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has a GPU, as far as the choice of providers goes."""
    monkeypatch.setattr("jitrt.onnx.providers._missing_gpu", lambda: None)


@pytest.mark.parametrize(
    ("providers", "chosen", "precision"),
    [
        (None, "CUDAExecutionProvider", "fp32"),
        (["TensorrtExecutionProvider", "CUDAExecutionProvider"], "TensorrtExecutionProvider", "fp32"),
        ([("TensorrtExecutionProvider", {"trt_fp16_enable": True})], "TensorrtExecutionProvider", "fp16"),
        ([("CUDAExecutionProvider", {"use_tf32": 1, "device_id": 0})], "CUDAExecutionProvider", "tf32"),
        (["CoreMLExecutionProvider", "CUDAExecutionProvider"], "CUDAExecutionProvider", "fp32"),
    ],
)
def test_with_a_gpu_it_runs_there(gpu: None, providers: Any, chosen: str, precision: str) -> None:
    session = ort.InferenceSession(model(), providers=providers)
    assert session.get_providers() == [chosen, *CPU]
    assert session._engines._request.precision == precision
    assert session._engines._request.target is None
    session.set_providers(CPU)
    assert session.get_providers() == CPU
    assert session.run(["r"], FEED)[0].shape == X.shape
    assert ort.get_device() == "GPU"


@pytest.mark.parametrize(
    ("providers", "options", "message"),
    [
        ("CUDAExecutionProvider", None, r"give a list of names, such as \['CUDAExecutionProvider'\]"),
        (["CUDAExecutionProvider"], [], "provider_options has 0 entries for 1 providers"),
        (["CUDAExecutionProvider"], [{"device_id": "1"}], "device_id is 1, .* set CUDA_VISIBLE_DEVICES"),
        ([("TensorrtExecutionProvider", {"trt_int8_enable": True})], None, "trt_int8_enable is given, but"),
        (["CUDAExecutionProvider"], [{"user_compute_stream": "123"}], "user_compute_stream is given, but"),
    ],
)
def test_provider_options_that_cannot_be(gpu: None, providers: Any, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ort.InferenceSession(model(), None, providers, options)


def test_session_options_know_their_names() -> None:
    options = ort.SessionOptions()
    with pytest.raises(AttributeError):
        options.intra_op_threads = 3  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="no session configuration entry 'a'"):
        options.get_session_config_entry("a")
    with pytest.raises(OptionError, match=r"lib\.so holds kernels for ONNX Runtime.*@jitrt.plugin"):
        options.register_custom_ops_library("lib.so")
    options.enable_profiling, options.optimized_model_filepath = True, "out.onnx"
    with pytest.warns(
        JitrtWarning, match=r"enable_profiling \(session.profile.*; optimized_model_filepath \(jitrt build"
    ):
        session = ort.InferenceSession(model(), options, providers=CPU)
    assert session.get_session_options() is options


# -- values and bindings ---------------------------------------------------------------------------------------------


def test_what_cannot_be_bound(session: ort.InferenceSession) -> None:
    binding = session.io_binding()
    with pytest.raises(FeedError, match="no input 'q'"):
        binding.bind_cpu_input("q", X)
    with pytest.raises(FeedError, match="no output 'q'"):
        binding.bind_output("q")
    with pytest.raises(OptionError, match="device_type is 'tpu'; it can be 'cpu' or 'cuda'"):
        binding.bind_output("r", "tpu")
    with pytest.raises(FeedError, match="bound to an address; say its element_type and shape"):
        binding.bind_output("r", buffer_ptr=16)
    binding.bind_cpu_input("x", X)
    with pytest.raises(FeedError, match="no output is bound; bind one of r, s"):
        session.run_with_iobinding(binding)
    binding.bind_ortvalue_output("r", ort.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32)))
    with pytest.raises(FeedError, match="nothing is fed for y"):
        session.run_with_iobinding(binding)
    binding.bind_cpu_input("y", FEED["y"])
    with pytest.raises(
        FeedError, match=r"output 'r' is tensor\(float\) \[2, 2, 3\]; it is bound to tensor\(float\) \[3\]"
    ):
        session.run_with_iobinding(binding)
    assert binding.get_outputs() == []


def test_values_come_from_and_go_to_other_libraries() -> None:
    value = ort.OrtValue.from_dlpack(X)
    assert value.data_ptr() == X.ctypes.data
    np.testing.assert_array_equal(np.from_dlpack(value), X)
    assert value_at(0, "cpu", 0, np.float32, (0, 3)).shape() == [0, 3]
    with pytest.raises(InputError, match=r"the value is float32 .*, the array float64"):
        value.update_inplace(np.zeros((2, 2, 3)))
    with pytest.raises(OptionError, match="element_type is 'flaot'"):
        ort.OrtValue.ortvalue_from_shape_and_type([1], "flaot")
    assert repr(value) == "OrtValue(tensor(float), [2, 2, 3], cpu)"


# -- on the GPU, which is one in pure Python here --------------------------------------------------------------------


@pytest.fixture
def on_fake_gpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> tuple[ort.InferenceSession, FakeDriver]:
    """A session whose engine is a plan of one kernel, on a fake GPU."""

    def run(driver: FakeDriver, grid: Any, x: int, y: int, r: int, s: int) -> None:
        total = driver.array(x, (2, 2, 3), "f32") + driver.array(y, (3,), "f32")
        driver.array(s, (2, 2, 3), "f32")[...] = total
        driver.array(r, (2, 2, 3), "f32")[...] = np.maximum(total, 0)

    driver = FakeDriver({"add_relu": FakeKernel(("ptr",) * 4, run)})
    x, r, s = (Binding(name, "f32", (2, 2, 3), (6, 3, 1)) for name in "xrs")
    pointers = (Pointer("input"), Pointer("input", index=1), Pointer("output"), Pointer("output", index=1))
    plan = Plan(
        name="fake",
        arch=90,
        inputs=(x, Binding("y", "f32", (3,), (1,))),
        outputs=(r, s),
        kernels=(Kernel("add_relu", "image", 0, 4),),
        launches=(Launch(0, (1, 1, 1), pointers, (), 0),),
        layers=(Layer("r", "region", "add + relu", "", "fake", 0.0, 0, 0),),
        constants=(),
        arena_bytes=0,
        zeros_bytes=0,
        constants_bytes=0,
    )
    engine = Engine(PlanFile(plan, b"", {"image": b"cubin"}), driver=driver)
    found = Specialisation(engine, ("x", "y"), ("r", "s"))
    monkeypatch.setattr("jitrt.onnx.engines.Engines.of", lambda *_: found)
    monkeypatch.setattr("jitrt.onnx.values.driver_of", lambda device_id=0: driver)
    return ort.InferenceSession(model()), driver


def test_bound_device_memory_is_what_the_kernels_use(on_fake_gpu: tuple[ort.InferenceSession, FakeDriver]) -> None:
    session, driver = on_fake_gpu
    x, y = (ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for array in FEED.values())
    room = ort.OrtValue.ortvalue_from_shape_and_type((2, 2, 3), np.float32, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_input("y", "cuda", 0, np.float32, (3,), y.data_ptr())
    binding.bind_ortvalue_output("r", room)
    binding.bind_output("s", "cuda")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(room.numpy(), np.maximum(X + 1, 0))
    there = binding.get_outputs()[1]
    assert (there.device_name(), there.shape()) == ("cuda", [2, 2, 3])
    np.testing.assert_array_equal(there.numpy(), X + 1)
    copied, allocated = driver.calls["upload"], driver.calls["alloc"]
    x.update_inplace(-X)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[1], 1 - X)
    assert binding.get_outputs()[1].data_ptr() == there.data_ptr()
    assert (driver.calls["upload"] - copied, driver.calls["alloc"]) == (1, allocated)  # that of update_inplace
    binding.bind_ortvalue_input("x", there)  # what came out goes in again, and is not written over
    for _ in range(2):
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[1], 2 - X)
    binding.bind_ortvalue_output("s", there)
    with pytest.raises(InputError, match="'s' shares memory with 'x'"):
        session.run_with_iobinding(binding)
    binding.bind_output("s", "cpu")
    session.run_with_iobinding(binding)
    assert binding.get_outputs()[1].device_name() == "cpu"


def test_arrays_on_the_host_go_to_the_gpu_and_back(on_fake_gpu: tuple[ort.InferenceSession, FakeDriver]) -> None:
    session, _ = on_fake_gpu
    for run in (session.run(None, FEED), [value.numpy() for value in session.run_with_ort_values(None, ortvalues())]):
        np.testing.assert_array_equal(run[0], np.maximum(X + 1, 0))
        np.testing.assert_array_equal(run[1], X + 1)
    binding, given = session.io_binding(), X.copy()
    binding.bind_cpu_input("x", given)
    binding.bind_cpu_input("y", FEED["y"])
    given[:] = 0  # a copy was made when it was bound
    result = np.zeros((2, 2, 3), np.float32)
    binding.bind_output("s", "cpu", 0, np.float32, result.shape, result.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(result, X + 1)


def test_two_outputs_may_be_one_of_the_plan(on_fake_gpu: tuple[ort.InferenceSession, FakeDriver]) -> None:
    session, _ = on_fake_gpu
    found = session._engines.of({})
    plan = replace(found.engine.plan, structure=[{"output": 1}, {"output": 1}])
    object.__setattr__(found, "engine", Engine(replace(found.engine.file, plan=plan), driver=found.engine._driver))
    for array in session.run(None, FEED):
        np.testing.assert_array_equal(array, X + 1)
    binding = session.io_binding()
    for name, array in FEED.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("r", "cuda")
    room = ort.OrtValue.ortvalue_from_shape_and_type((2, 2, 3), np.float32, "cuda", 0)
    binding.bind_ortvalue_output("s", room)
    session.run_with_iobinding(binding)
    for array in (*binding.copy_outputs_to_cpu(), room.numpy()):
        np.testing.assert_array_equal(array, X + 1)


def ortvalues() -> dict[str, ort.OrtValue]:
    return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in FEED.items()}


def test_device_memory_is_given_back(on_fake_gpu: tuple[ort.InferenceSession, FakeDriver]) -> None:
    _, driver = on_fake_gpu
    value = ort.OrtValue.ortvalue_from_numpy(X, "cuda")
    assert isinstance(value.held, DeviceMemory)
    assert driver.leaks()["memory"] == 1
    assert value.__dlpack_device__() == (2, 0)
    assert value.data_type() == "tensor(float)"
    del value
    assert "memory" not in driver.leaks()
