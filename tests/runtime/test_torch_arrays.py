from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from jitrt.errors import GradientError, InputError
from jitrt.plan.schema import Binding
from jitrt.runtime import Engine

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
    monkeypatch.setitem(sys.modules, "torch", module)
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
