from __future__ import annotations

import gc
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from jitrt.plan.dtypes import ITEMSIZE, numpy_dtype
from jitrt.plan.schema import Binding
from jitrt.runtime import dlpack
from jitrt.runtime.dlpack import CPU, CUDA, DeviceArray, contiguous, import_array, is_array


@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
@pytest.mark.parametrize(("shape", "strides"), [((2, 3), (1, 2)), ((), ()), ((5,), (1,))])
def test_a_device_array_comes_back_as_it_went(dtype, shape, strides):
    memory = object()
    array = DeviceArray(Binding("y", dtype, shape, strides), 0x7000, 3, memory)
    back = import_array(array, stream=5)
    assert (back.address, back.shape, back.strides, back.dtype, back.device) == (
        0x7000,
        shape,
        strides,
        dtype,
        (CUDA, 3),
    )


def test_a_capsule_nobody_took_gives_its_memory_back():
    class Memory:
        pass

    memory = Memory()
    array = DeviceArray(Binding("y", "f32", (2,), (1,)), 0x7000, 0, memory)
    capsule = array.__dlpack__(stream=1, max_version=(1, 0))
    assert len(dlpack._exported) == 1
    del capsule
    gc.collect()
    assert not dlpack._exported


def test_a_capsule_somebody_took_lives_until_its_deleter_is_called():
    """numpy takes CPU capsules only, so the device is said to be the CPU, and the address is a real one."""
    values = np.arange(6, dtype=np.float32)
    array = DeviceArray(Binding("y", "f32", (2, 3), (3, 1)), values.ctypes.data, 0, values)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dlpack, "CUDA", CPU)
        taken = np.from_dlpack(array)
    np.testing.assert_array_equal(taken, values.reshape(2, 3))
    del array
    gc.collect()
    assert len(dlpack._exported) == 1
    np.testing.assert_array_equal(taken, values.reshape(2, 3))
    del taken
    gc.collect()
    assert not dlpack._exported


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "i64", "i32", "i16", "i8", "u8", "b8"])
def test_numpy_arrays_are_read(dtype):
    values = np.ones((3, 4), numpy_dtype(dtype))[:, ::2]
    got = import_array(values, stream=0)
    assert (got.shape, got.strides, got.dtype, got.device) == ((3, 2), (4, 2), dtype, (CPU, 0))
    assert got.address == values.ctypes.data


def test_torch_bfloat16_is_read():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 3, dtype=torch.bfloat16)
    got = import_array(tensor, stream=0)
    assert (got.dtype, got.address) == ("bf16", tensor.data_ptr())


def test_the_default_stream_is_one():
    asked = []

    class Array(DeviceArray):
        def __dlpack__(self, stream=None):
            asked.append(stream)
            return super().__dlpack__()

    array = Array(Binding("y", "f32", (2,), (1,)), 0x7000, 0, None)
    import_array(array, stream=0)
    import_array(array, stream=0x99)
    assert asked == [1, 0x99]


def test_cuda_array_interface_both_ways():
    array = DeviceArray(Binding("y", "i16", (2, 3), (4, 1)), 0x7000, 0, None)
    face = array.__cuda_array_interface__
    assert face == {"shape": (2, 3), "typestr": "<i2", "data": (0x7000, False), "strides": (8, 2), "version": 3}
    got = import_array(SimpleNamespace(__cuda_array_interface__=face), stream=0)
    assert (got.address, got.shape, got.strides, got.dtype) == (0x7000, (2, 3), (4, 1), "i16")
    bare = SimpleNamespace(__cuda_array_interface__={**face, "strides": None})
    assert import_array(bare, stream=0).strides == (3, 1)


def test_what_has_no_name_here():
    complex_face = {"shape": (2,), "typestr": "<c8", "data": (0x7000, False), "version": 3}
    assert import_array(SimpleNamespace(__cuda_array_interface__=complex_face), stream=0).dtype is None
    assert import_array(np.ones(2, np.complex64), stream=0).dtype is None


def test_bfloat16_has_no_cuda_array_interface():
    array = DeviceArray(Binding("y", "bf16", (2,), (1,)), 0x7000, 0, None)
    assert not hasattr(array, "__cuda_array_interface__")
    assert is_array(array)
    assert np.dtype(ml_dtypes.bfloat16).itemsize == ITEMSIZE["bf16"]


def test_is_array():
    assert is_array(np.ones(2))
    assert not is_array([1.0])


def test_contiguous():
    assert contiguous((2, 3, 4)) == (12, 4, 1)
    assert contiguous(()) == ()


def test_says_what_it_is():
    array = DeviceArray(Binding("y", "f16", (2, 3), (3, 1)), 0x7000, 1, None)
    assert repr(array) == "DeviceArray(shape=(2, 3), dtype=f16, cuda:1)"
