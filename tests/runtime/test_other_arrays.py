from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from jitrt.errors import InputError
from jitrt.plan.schema import Binding
from jitrt.runtime.dlpack import CPU, CUDA, DeviceArray


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


def test_outputs_go_back_to_a_library_that_its_arrays_do_not_name(engine, driver, x, monkeypatch):
    """CuPy before 14: arrays without `__array_namespace__`, of a type of the package, which has `from_dlpack`."""
    library = ModuleType("library")
    library.from_dlpack = lambda array: ("theirs", array.shape)
    monkeypatch.setitem(sys.modules, "library", library)
    theirs = type("ndarray", (Array,), {"__module__": "library._core.core"})
    assert engine(theirs(driver, x)) == (("theirs", (4, 8)), ("theirs", (4, 8)))


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
