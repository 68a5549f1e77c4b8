"""The CUDA driver seam and the real cuda-bindings, run against a stub of libcuda.so.1 that is built here.

A GPU's answers come from tests/gpu; this shows on any machine that every call is made with the right arguments.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from jitrt.errors import NoGpuError
from jitrt.knobs import environment
from jitrt.plan.file import write_plan
from jitrt.runtime import driver as driver_module

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> Path:
    """The folder of a libcuda.so.1 that needs no GPU."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    triton = importlib.util.find_spec("triton")
    if compiler is None or triton is None or importlib.util.find_spec("cuda") is None:
        pytest.skip("needs a C compiler, cuda-bindings, and Triton's cuda.h")
    headers = Path(str(triton.origin)).parent / "backends/nvidia/include"
    folder = tmp_path_factory.mktemp("stub")
    command = [compiler, "-w", "-shared", "-fPIC", f"-I{headers}", "-o", folder / "libcuda.so.1", HERE / "libcuda.c"]
    subprocess.run(command, check=True)
    return folder


def run(stub: Path, code: str, **variables: str) -> list[str]:
    """Lines that `code` printed in a process with the stub driver."""
    done = subprocess.run(
        [sys.executable, "-c", "from jitrt.runtime.driver import cuda_driver\n" + code],
        env=environment({"LD_LIBRARY_PATH": str(stub), "PYTHONPATH": str(HERE.parents[1]), **variables}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_describes_the_device(stub):
    lines = run(stub, "d = cuda_driver(0); print(d.device); print(d is cuda_driver(0))")
    assert lines == [
        "Device(index=0, name='Stub GPU', arch=90, sms=132, memory_bytes=151397597184, l2_bytes=62914560, "
        "shared_bytes=232448, bandwidth=4916736000000.0, clock=1980000000.0, driver_version=13000)",
        "True",
    ]


def test_an_engine_runs_on_it(stub, small, tmp_path):
    """Everything between a plan and the driver: graph nodes with their edges, clusters and parameters, patches,
    tensor maps, events."""
    write_plan(tmp_path / "small.plan", small)
    code = f"""
import importlib.util
import numpy as np
from jitrt.runtime import load
spec = importlib.util.spec_from_file_location("conf", {str(HERE / "conftest.py")!r})
conf = importlib.util.module_from_spec(spec); spec.loader.exec_module(conf)
engine = load({str(tmp_path / "small.plan")!r})
x = np.arange(32, dtype=np.float32).reshape(conf.SHAPE)
for given in (x, -x):
    y, z = engine(given)
    np.testing.assert_allclose(y, 5 * (given + conf.WEIGHT), rtol=1e-5)
    np.testing.assert_array_equal(z, given + 1)
d, context = cuda_driver(), engine.context()
with d.active():
    a, b, *outputs = [d.alloc(128) for _ in range(6)]
    d.upload(a, x.ctypes.data, 128); d.copy(b, a, 128); d.fill(b, 0, 64)
context.run([a], outputs[:2], 0); context.run([b], outputs[2:], 0)
back = np.empty_like(x)
with d.active():
    d.download(back.ctypes.data, outputs[3], 128)
np.testing.assert_array_equal(back[2:], x[2:] + 1)
assert (back[:2] == 1).all()
profile = engine.profile(x, repeats=2)
np.testing.assert_allclose([t.microseconds for t in profile.layers], [2, 2, 4, 2], rtol=1e-2)
print(d.function_attributes(engine.loaded.kernels[0].function))
print(*(d.parameter_sizes(kernel.function) for kernel in engine.loaded.kernels))
engine.close()
"""
    lines = run(stub, code, JITRT_STUB_TRACE="1")
    first = lines[: lines.index(next(line for line in lines if line.startswith("increment"))) + 1]
    assert first == [
        "map dtype 7 interleave 0 swizzle 0 promotion 2 fill 0 size 8 box 8 step 1 size 4 box 4 step 1 stride 32",
        "add grid 1 1 1 block 128 1 1 shared 65536 after 0 early 0 cluster 0 0 0 spread 0",
        "scale grid 4 1 1 block 256 1 1 shared 0 after 1 early 0 cluster 2 1 1 spread 1",
        "scale grid 4 1 1 block 256 1 1 shared 0 after 1 early 0 cluster 2 1 1 spread 1",
        "add grid 1 1 1 block 128 1 1 shared 65536 after 2 early 0 cluster 0 0 0 spread 0",
        "increment grid 3 1 1 block 32 1 1 shared 0 after 0 early 0 cluster 0 0 0 spread 0",
    ]
    assert sum(line.startswith("event") for line in lines) == 6  # profiling records between launches
    assert lines[-2] == "FunctionAttributes(registers=64, local_bytes=0, shared_bytes=0, max_threads=0)"
    assert lines[-1] == "(8, 8, 8, 4, 8, 8) (8, 8, 4, 8, 8, 8) (128, 8, 8, 8, 8)"


@pytest.mark.parametrize(("version", "early"), [("13000", 1), ("12020", 0)])
def test_an_old_driver_gets_no_programmatic_edges_and_is_not_asked_for_parameters(stub, version, early):
    code = """
import ctypes
from jitrt.runtime.seam import KernelNode
d = cuda_driver()
with d.active():
    words = ctypes.create_string_buffer(256)
    arguments = (ctypes.c_void_p * 6)(*[ctypes.addressof(words)] * 6)
    node = KernelNode(d.function(d.load_module(b"cubin"), "add"), (1, 1, 1), (32, 1, 1), 0, ctypes.addressof(arguments))
    graph = d.create_graph()
    first = d.add_kernel(graph, node, [], programmatic=True)
    d.add_kernel(graph, node, [first], programmatic=True)
    d.instantiate(graph)
    print(d.parameter_sizes(node.function))
"""
    lines = run(stub, code, JITRT_STUB_TRACE="1", JITRT_STUB_VERSION=version)
    assert f"after 0 early {0}" in lines[0]
    assert f"after {1 - early} early {early}" in lines[1]
    assert lines[2] == ("(8, 8, 8, 4, 8, 8)" if early else "None")


def test_a_cooperative_launch_says_so_to_the_driver(stub):
    code = """
import ctypes
from jitrt.runtime.seam import KernelNode
d = cuda_driver()
with d.active():
    words = ctypes.create_string_buffer(256)
    arguments = (ctypes.c_void_p * 6)(*[ctypes.addressof(words)] * 6)
    function = d.function(d.load_module(b"cubin"), "add")
    node = KernelNode(function, (1, 1, 1), (32, 1, 1), 0, ctypes.addressof(arguments), cooperative=True)
    graph = d.create_graph()
    d.add_kernel(graph, node, [], programmatic=False)
    d.instantiate(graph)
"""
    assert run(stub, code, JITRT_STUB_TRACE="1")[0].endswith("spread 0 cooperative")


@pytest.mark.parametrize(
    ("version", "rows", "cleared"), [("13000", 8, True), ("13000", 99999, False), ("13020", 8, False)]
)
def test_the_bit_that_old_drivers_get_wrong_in_small_tensor_maps(stub, version, rows, cleared):
    code = f"""
d = cuda_driver()
words = memoryview(d.encode_tensor_map(4096, "bf16", ({rows}, 64), (128,), (8, 64), 128)).cast("Q")
print(len(words), words[0], bool(words[1] >> 21 & 1))
"""
    lines = run(stub, code, JITRT_STUB_VERSION=version, JITRT_STUB_TRACE="1")
    assert lines[0].startswith("map dtype 9 interleave 0 swizzle 3 promotion 2 fill 0 size 64 box 64")
    assert lines[1] == f"16 4096 {not cleared}"


def test_the_steps_of_a_tensor_map_are_told_innermost_first(stub):
    code = 'cuda_driver().encode_tensor_map(4096, "f16", (8, 9, 64), (4096, 128), (6, 8, 64), 128, (3, 2, 1))'
    (line,) = run(stub, code, JITRT_STUB_TRACE="1")
    assert line.split("fill 0 ")[1].startswith("size 64 box 64 step 1 size 9 box 8 step 2 size 8 box 6 step 3 ")


def test_what_the_driver_refuses_is_a_driver_error(stub):
    code = """
d = cuda_driver()
from jitrt.errors import DriverError
def attempt(call, *arguments):
    try:
        call(*arguments)
    except DriverError as error:
        print(error.code, error)
with d.active():
    attempt(d.load_module, b"nonsense")
    attempt(d.function, d.load_module(b"cubin"), "nothing")
    attempt(d.alloc, 5000 << 20)
    attempt(d.encode_tensor_map, 8, "f16", (8, 64), (128,), (8, 64), 0)
    attempt(d.destroy_stream, 7)
attempt(d.idle)
"""
    assert run(stub, code) == [
        "200 cuModuleLoadData failed with CUDA error 200 (CUDA_ERROR_STUB: as the stub says)",
        "500 cuModuleGetFunction failed with CUDA error 500 (CUDA_ERROR_STUB: as the stub says)",
        "2 cuMemAlloc failed with CUDA error 2 "
        "(5000 MiB wanted, 1000 of 2000 MiB free; use a smaller batch or free GPU memory)",
        "1 cuTensorMapEncodeTiled failed with CUDA error 1 (CUDA_ERROR_STUB: as the stub says)",
        "400 cuStreamDestroy failed with CUDA error 400 (CUDA_ERROR_STUB: as the stub says)",
        "201 cuCtxSynchronize failed with CUDA error 201 (CUDA_ERROR_STUB: as the stub says)",
    ]


def test_the_context_is_current_inside_active_only(stub):
    code = """
d = cuda_driver()
def current(): return int(d._api.cuCtxGetCurrent()[1])
print(current())
with d.active():
    with d.active():
        print(current() == d._handle)
    print(current() == d._handle)
print(current())
"""
    assert run(stub, code) == ["0", "True", "True", "0"]


@pytest.mark.parametrize(
    ("variables", "device", "complaint"),
    [
        ({"JITRT_STUB_GPUS": "0"}, 0, "there is no NVIDIA GPU to run on (the driver lists none)"),
        ({"JITRT_STUB_INIT": "100"}, 0, "there is no NVIDIA GPU to run on (the driver answers CUDA_ERROR_NO_DEVICE)"),
        ({"JITRT_STUB_GPUS": "2"}, 2, "there is no GPU 2: this machine has 2, counted from 0"),
        ({}, -1, "there is no GPU -1: this machine has 1"),
    ],
)
def test_no_such_gpu(stub, variables, device, complaint):
    code = f"""
from jitrt.errors import NoGpuError
try:
    cuda_driver({device})
except NoGpuError as error:
    print(error)
"""
    (line,) = run(stub, code, **variables)
    assert line.startswith(complaint)


def _bindings(monkeypatch, **contents) -> None:
    """Put a stand-in for cuda.bindings.driver in place, or with no contents make importing it fail."""
    package, bindings, api = ModuleType("cuda"), ModuleType("cuda.bindings"), ModuleType("cuda.bindings.driver")
    api.__dict__.update(contents)
    bindings.driver = api
    for module in (package, bindings, api):
        monkeypatch.setitem(sys.modules, module.__name__, module if contents else None)


def test_without_a_driver_on_the_machine(monkeypatch):
    def init(flags):
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    _bindings(monkeypatch, cuInit=init)
    with pytest.raises(NoGpuError, match=r"no NVIDIA driver is installed.*nvidia-smi.*target='reference'"):
        driver_module.CudaDriver()


def test_without_cuda_bindings(monkeypatch):
    _bindings(monkeypatch)
    with pytest.raises(NoGpuError, match="pip install cuda-bindings"):
        driver_module.CudaDriver()
