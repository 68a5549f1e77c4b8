from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from jitrt.errors import GradientError, InputError
from jitrt.plan.schema import Binding
from jitrt.runtime import Engine
from jitrt.runtime.arrays import empty_numpy, fits
from jitrt.runtime.dlpack import CPU, CUDA, DeviceArray
from jitrt.runtime.fake_driver import FakeDriver, FakeKernel

# -- numpy -------------------------------------------------------------------------------------------------------------


def test_a_numpy_array_of_other_strides_is_laid_out_anew(engine, x, expected):
    want = expected(x)[0]
    for given in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1][::-1]):
        np.testing.assert_array_equal(engine(given)[0], want)


def test_a_read_only_array(engine, x, expected):
    x.flags.writeable = False
    np.testing.assert_array_equal(engine(x)[0], expected(x)[0])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda x: x[:, :4], r"'x': expected f32 \(4, 8\), got float32 \(4, 4\)"),
        (lambda x: x.astype(np.float64), r"'x': expected f32 \(4, 8\), got float64 \(4, 8\)"),
        (lambda x: x.astype(">f4"), r"'x': expected f32 \(4, 8\), got float32"),
        (lambda x: x[:0], r"'x' is empty \(shape \(0, 8\)\).*skip the call"),
        (lambda x: x.tolist(), r"'x': expected f32 \(4, 8\), got a list"),
        (lambda x: None, r"'x': expected f32 \(4, 8\), got a NoneType"),
    ],
)
def test_a_numpy_array_that_does_not_fit(engine, x, change, complaint):
    with pytest.raises(InputError, match=complaint):
        engine(change(x))


def test_kinds_are_not_mixed(small, driver, x):
    plan = replace(small.plan, inputs=(*small.plan.inputs, replace(small.plan.inputs[0], name="second")))
    engine = Engine(replace(small, plan=plan), driver=driver)
    with pytest.raises(InputError, match=r"'second'.*got a list \(the first input is a numpy array\)"):
        engine(x, x.tolist())


@pytest.mark.parametrize(
    ("shape", "strides", "binding", "answer"),
    [
        ((2, 3), (3, 1), (3, 1), True),
        ((2, 3), (1, 2), (3, 1), False),
        ((1, 3), (99, 1), (3, 1), True),  # the stride of one element says nothing
        ((2, 1, 3), (3, 7, 1), (3, 3, 1), True),
        ((), (), (), True),
    ],
)
def test_fits(shape, strides, binding, answer):
    assert fits(shape, strides, Binding("x", "f32", shape, binding)) is answer


def test_empty_numpy_has_the_bindings_strides():
    array = empty_numpy(Binding("x", "bf16", (1, 3, 2, 2), (12, 1, 6, 3)))
    assert array.dtype == ml_dtypes.bfloat16
    assert array.strides == (24, 2, 12, 6)


def _copy_engine(driver_kind: type[FakeDriver], small: Any, dtype: str) -> Engine:
    """An engine that copies one 4x8 input of a dtype."""

    def copy(driver: FakeDriver, grid: Any, source: int, out: int) -> None:
        driver.array(out, (4, 8), dtype)[...] = driver.array(source, (4, 8), dtype)

    from jitrt.plan.schema import Kernel, Launch, Pointer

    binding = replace(small.plan.inputs[0], dtype=dtype)
    plan = replace(
        small.plan,
        inputs=(binding,),
        outputs=(replace(binding, name="y"),),
        kernels=(Kernel("copy", "cubin.a", 0, 1),),
        launches=(Launch(0, (1, 1, 1), (Pointer("input"), Pointer("output")), (), 0),),
    )
    return Engine(replace(small, plan=plan), driver=driver_kind({"copy": FakeKernel(("ptr", "ptr"), copy)}))


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "b8"])
def test_every_dtype_comes_back_in_the_callers_kind(small, dtype):
    torch = pytest.importorskip("torch")
    from jitrt.plan.dtypes import numpy_dtype
    from jitrt.runtime.arrays import _TORCH_NAMES

    engine = _copy_engine(FakeDriver, small, dtype)
    given = (np.arange(32).reshape(4, 8) % 2).astype(numpy_dtype(dtype))
    out = engine(given)
    assert isinstance(out, np.ndarray)
    assert out.dtype == given.dtype
    np.testing.assert_array_equal(out, given)
    tensor = torch.arange(32).reshape(4, 8).remainder(2).to(getattr(torch, _TORCH_NAMES[dtype]))
    answer = engine(tensor)
    assert answer.dtype is tensor.dtype
    assert torch.equal(answer, tensor)


# -- PyTorch on the CPU ------------------------------------------------------------------------------------------------


def test_torch_on_the_cpu(engine, x, expected):
    torch = pytest.importorskip("torch")
    for given in (torch.from_numpy(x), torch.from_numpy(np.asfortranarray(x)), torch.from_numpy(x)[None][0]):
        y, z = engine(given)
        assert y.device.type == "cpu"
        np.testing.assert_array_equal(y.numpy(), expected(x)[0])
        np.testing.assert_array_equal(z.numpy(), x + 1)
    np.testing.assert_array_equal(engine(torch.from_numpy(x).to_sparse())[0].numpy(), expected(x)[0])


def test_a_torch_tensor_that_wants_a_gradient(engine, x, expected):
    torch = pytest.importorskip("torch")
    given = torch.from_numpy(x).requires_grad_()
    with pytest.raises(GradientError, match=r"'x' requires a gradient.*torch.no_grad\(\)"):
        engine(given)
    with torch.no_grad():
        y, _ = engine(given)
    np.testing.assert_array_equal(y.numpy(), expected(x)[0])
    assert not y.requires_grad


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t[:, :4], r"expected f32 \(4, 8\), got float32 \(4, 4\)"),
        (lambda t: t.half(), r"expected f32 \(4, 8\), got float16 \(4, 8\)"),
        (lambda t: t[:0], r"'x' is empty"),
        (lambda t: t.to("meta"), r"'x' is on meta, expected on cpu; move it with .to\('cpu'\)"),
    ],
)
def test_a_torch_tensor_that_does_not_fit(engine, x, change, complaint):
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match=complaint):
        engine(change(torch.from_numpy(x)))


# -- PyTorch on a GPU, played by a stand-in on the fake driver ---------------------------------------------------------


@dataclass(frozen=True)
class Device:
    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


class Tensor:
    """As much of torch.Tensor as the runtime uses, in the fake driver's memory."""

    layout = "strided"
    is_cuda = True

    def __init__(self, torch, shape, strides, offset=0, device=None, base=None):
        self.torch, self.shape, self.strides, self.dtype = torch, tuple(shape), tuple(strides), "float32"
        self.requires_grad = False
        self.device = device or Device("cuda", 0)
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides))
        if base is None:
            with torch.driver.active():
                base = torch.driver.alloc(4 * extent + offset)
            torch.made.append(self)
        self.base, self.offset = base, offset

    def stride(self):
        return self.strides

    def data_ptr(self):
        return self.base + self.offset

    def detach(self):
        copy = Tensor(self.torch, self.shape, self.strides, self.offset, self.device, self.base)
        copy.requires_grad = False
        return copy

    def array(self):
        return self.torch.driver.array(self.data_ptr(), self.shape, "f32", self.strides)

    def copy_(self, other):
        self.array()[...] = other.array()
        self.torch.copies += 1
        return self


@pytest.fixture
def torch(monkeypatch, driver):
    """A stand-in for torch; `made` are the tensors it allocated, `copies` how many it copied."""
    module = SimpleNamespace(driver=driver, made=[], copies=0, current=0x99, grad=True, used=[])
    module.Tensor, module.Size, module.strided, module.float32 = Tensor, tuple, "strided", "float32"
    module.device = Device
    module.is_grad_enabled = lambda: module.grad
    module.empty_strided = lambda shape, strides, dtype, device: Tensor(module, shape, strides)
    module._C = SimpleNamespace(_cuda_getCurrentRawStream=lambda index: module.current)

    class Use:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            module.used.append(self.stream)
            self.before, module.current = module.current, self.stream

        def __exit__(self, *_):
            module.current = self.before

    module.cuda = SimpleNamespace(
        stream=Use,
        ExternalStream=lambda stream, device: stream,
        current_stream=lambda index: SimpleNamespace(cuda_stream=module.current),
    )
    for stream in (0x99, 0x77):
        driver.adopt_stream(stream)
    monkeypatch.setitem(__import__("sys").modules, "torch", module)
    return module


def on_gpu(torch, values, strides=(8, 1), offset=0, **options):
    tensor = Tensor(torch, values.shape, strides, offset, **options)
    tensor.array()[...] = values
    return tensor


def test_gpu_tensors_are_neither_copied_nor_waited_for(engine, driver, torch, x, expected):
    given = on_gpu(torch, x)
    engine(given)
    torch.made.clear()
    driver.calls.clear()
    y, z = engine(given)
    for got, want in zip((y, z), expected(x)):
        np.testing.assert_array_equal(got.array(), want)
    assert torch.made == [y, z]
    assert torch.copies == 0
    # Outputs are new, so their two nodes are patched; the allocations are torch's own.
    assert dict(driver.calls) == {"alloc": 2, "patch": 2, "launch": 1}
    assert driver.launches[-1][0] == torch.current


def test_every_stream_of_torch_has_a_context(engine, driver, torch, x):
    given = on_gpu(torch, x)
    for stream in (0x99, 0x77, 0x99):
        torch.current = stream
        engine(given)
    assert [stream for stream, _ in driver.launches] == [0x99, 0x77, 0x99]
    assert driver.calls["instantiate"] == 2


def test_without_the_fast_way_to_the_current_stream(engine, driver, torch, x):
    torch._C = SimpleNamespace()
    engine(on_gpu(torch, x))
    assert driver.launches[-1][0] == 0x99


def test_a_context_with_a_stream_of_its_own_allocates_on_it(engine, driver, torch, x):
    engine.context(0x77)(on_gpu(torch, x))
    assert torch.used == [0x77]
    assert driver.launches[-1][0] == 0x77
    engine.context(0x99)(on_gpu(torch, x))
    assert torch.used == [0x77]  # the current stream needs no switch


@pytest.mark.parametrize("layout", [{"strides": (1, 4)}, {"offset": 4}, {"strides": (16, 2)}])
def test_gpu_tensors_of_other_strides_or_alignment_are_laid_out_by_torch(engine, torch, x, expected, layout):
    given = on_gpu(torch, x, **layout)
    np.testing.assert_array_equal(engine(given)[0].array(), expected(x)[0])
    assert torch.copies == 1


def test_a_stride_that_says_nothing_needs_no_copy(small, driver, torch):
    plan = replace(small.plan, inputs=(Binding("x", "f32", (1, 4, 8), (32, 8, 1)),))
    engine = Engine(replace(small, plan=plan), driver=driver)
    given = on_gpu(torch, np.ones((1, 4, 8), np.float32), strides=(7, 8, 1))
    engine(given)
    assert torch.copies == 0


def test_a_tensor_on_another_gpu(engine, torch, x):
    given = on_gpu(torch, x, device=Device("cuda", 1))
    with pytest.raises(InputError, match=r"'x' is on cuda:1, expected on cuda:0; move it with .to\('cuda:0'\)"):
        engine(given)


def test_a_gpu_tensor_that_wants_a_gradient(engine, torch, x, expected):
    given = on_gpu(torch, x)
    given.requires_grad = True
    with pytest.raises(GradientError):
        engine(given)
    torch.grad = False
    np.testing.assert_array_equal(engine(given)[0].array(), expected(x)[0])


def test_no_tensor_among_tensors(small, driver, torch, x):
    plan = replace(small.plan, inputs=(*small.plan.inputs, replace(small.plan.inputs[0], name="second")))
    engine = Engine(replace(small, plan=plan), driver=driver)
    with pytest.raises(InputError, match=r"'second'.*got a ndarray \(the first input is a torch.Tensor\)"):
        engine(on_gpu(torch, x), x)


# -- any other library -------------------------------------------------------------------------------------------------


class Array:
    """An array of a library that speaks DLPack, on the fake GPU or on the CPU."""

    def __init__(self, driver, values, strides=None, offset=0, index=0, kind=CUDA, namespace=None):
        self._kind, self._index, self._values = kind, index, values
        if kind == CUDA:
            binding = Binding("a", "f32", values.shape, strides or (8, 1))
            with driver.active():
                address = driver.alloc(512) + offset
            driver.array(address, values.shape, "f32", binding.strides)[...] = values
            self._array = DeviceArray(binding, address, index, None)
        self.streams = []
        if namespace is not None:
            self.__array_namespace__ = lambda: namespace

    def __dlpack_device__(self):
        return self._kind, self._index

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self._array.__dlpack__() if self._kind == CUDA else self._values.__dlpack__()


def read_back(driver, array):
    with driver.active():
        return driver.array(array.__cuda_array_interface__["data"][0], array.shape, "f32", array.strides)


@pytest.mark.parametrize("layout", [{}, {"strides": (1, 4)}, {"offset": 4}])
def test_an_array_of_another_library_on_the_gpu(engine, driver, x, expected, layout):
    given = Array(driver, x, **layout)
    y, z = engine(given)
    assert isinstance(y, DeviceArray)
    np.testing.assert_array_equal(read_back(driver, y), expected(x)[0])
    np.testing.assert_array_equal(read_back(driver, z), x + 1)
    assert given.streams == [driver.launches[-1][0]]
    assert driver.calls["synchronize"] >= 1


def test_outputs_go_back_to_the_callers_library(engine, driver, x, expected):
    taken = []
    namespace = SimpleNamespace(from_dlpack=lambda array: taken.append(array) or "theirs")
    assert engine(Array(driver, x, namespace=namespace)) == ("theirs", "theirs")
    np.testing.assert_array_equal(read_back(driver, taken[0]), expected(x)[0])


def test_an_array_of_another_library_on_the_cpu(engine, driver, x, expected):
    for values in (x, np.asfortranarray(x)):
        y, _ = engine(Array(driver, values, kind=CPU))
        assert isinstance(y, np.ndarray)
        np.testing.assert_array_equal(y, expected(x)[0])


def test_a_cuda_array_interface_alone(engine, driver, x, expected):
    given = Array(driver, x)
    face = SimpleNamespace(__cuda_array_interface__=given._array.__cuda_array_interface__)
    np.testing.assert_array_equal(read_back(driver, engine(face)[0]), expected(x)[0])


def test_an_array_of_another_library_that_does_not_fit(engine, driver, x):
    with pytest.raises(InputError, match=r"expected f32 \(4, 8\), got f32 \(4, 4\)"):
        engine(Array(driver, x[:, :4]))
    with pytest.raises(InputError, match="is on GPU 1, expected on GPU 0; move it there"):
        engine(Array(driver, x, index=1))


def test_device_memory_of_outputs_goes_with_them(engine, driver, x):
    given = Array(driver, x)
    engine(given)
    before = driver.leaks()["memory"]
    outputs = engine(given)
    assert driver.leaks()["memory"] == before + 2
    del outputs
    assert driver.leaks()["memory"] == before
