"""The fake driver must refuse what would be wrong on a GPU: here it does."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest

from jitrt.errors import DriverError
from jitrt.runtime.seam import KernelNode


def test_calls_without_a_current_context(driver):
    with pytest.raises(DriverError, match="no context is current"):
        driver.alloc(16)
    with driver.active():
        with driver.active():
            driver.free(driver.alloc(16))
        driver.free(driver.alloc(16))
        failures = []

        def elsewhere() -> None:
            try:
                driver.alloc(16)
            except DriverError as error:
                failures.append(error.code)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert failures == [201]


def test_memory_misuse(driver):
    with driver.active():
        address = driver.alloc(100)
        driver.array(address + 96, (1,), "i32")
        for first, shape in ((address + 100, (1,)), (address + 97, (1,)), (address - 4, (2,)), (0, (1,))):
            with pytest.raises(DriverError, match="CUDA error 700"):
                driver.array(first, shape, "i32")
        with pytest.raises(DriverError, match="not inside one allocation"):
            driver.fill(address, 0, 101)
        with pytest.raises(DriverError, match="not inside one allocation"):
            driver.copy(address, address + 50, 51)
        driver.free(address)
        with pytest.raises(DriverError, match="is not allocated"):
            driver.free(address)
        with pytest.raises(DriverError, match="out of memory"):
            driver.alloc(1 << 50)
        with pytest.raises(DriverError, match="0 bytes"):
            driver.alloc(0)
    assert driver.leaks() == {}


def test_copies(driver):
    data, back = np.arange(8, dtype=np.float32), np.empty(8, np.float32)
    with driver.active():
        one, other = driver.alloc(32), driver.alloc(32)
        driver.upload(one, data.ctypes.data, 32)
        driver.copy(other, one, 32)
        driver.download(back.ctypes.data, other, 32)
        np.testing.assert_array_equal(back, data)
        driver.fill(other, 0, 16)
        np.testing.assert_array_equal(driver.array(other, (8,), "f32"), [0, 0, 0, 0, 4, 5, 6, 7])
        assert driver.memory_info()[0] == driver.device.memory_bytes - 64


def test_streams_and_events(driver):
    with driver.active():
        stream, event = driver.create_stream(), driver.create_event()
        with pytest.raises(DriverError, match="never recorded"):
            driver.elapsed(event, event)
        driver.record(event, stream)
        driver.wait(0, event)
        assert driver.elapsed(event, event) == 0
        driver.destroy_stream(stream)
        driver.destroy_event(event)
        for call in (lambda: driver.synchronize(stream), lambda: driver.destroy_stream(stream)):
            with pytest.raises(DriverError, match="there is no stream"):
                call()
        with pytest.raises(DriverError, match="the event is gone"):
            driver.destroy_event(event)


def test_modules(driver):
    with driver.active():
        with pytest.raises(DriverError, match="image is invalid"):
            driver.load_module(b"")
        module = driver.load_module(b"cubin")
        with pytest.raises(DriverError, match="no function 'nothing'"):
            driver.function(module, "nothing")
        with pytest.raises(DriverError, match="shared memory"):
            driver.function(module, "add", shared_bytes=1 << 20)
        driver.unload_module(module)
        with pytest.raises(DriverError, match="there is no module"):
            driver.function(module, "add")
        with pytest.raises(DriverError, match="there is no module"):
            driver.unload_module(module)


def test_graphs(driver):
    with driver.active():
        module = driver.load_module(b"cubin")
        words = [ctypes.c_uint64(0x7F0000000000) for _ in range(4)]
        arguments = (ctypes.c_void_p * 6)(*(ctypes.addressof(word) for word in (*words, words[0], words[0])))
        function = driver.function(module, "scale")
        node = KernelNode(function, (3, 1, 1), (32, 1, 1), 0, ctypes.addressof(arguments))
        graph = driver.create_graph()
        with pytest.raises(DriverError, match="no whole clusters"):
            driver.add_kernel(graph, KernelNode(*node_parts(node), (2, 1, 1)), [], programmatic=False)
        bigger = KernelNode(function, (1, 1, 1), (32, 1, 1), 99, node.arguments)
        with pytest.raises(DriverError, match="not allowed that much"):
            driver.add_kernel(graph, bigger, [], programmatic=False)
        added = driver.add_kernel(graph, node, [], programmatic=False)
        executable = driver.instantiate(graph)
        with pytest.raises(DriverError, match="still uses the module"):
            driver.unload_module(module)
        with pytest.raises(DriverError, match="CUDA error 700"):
            driver.launch(executable, 0)  # the kernel reads what nobody allocated
        driver.destroy_executable(executable)
        for call in (
            lambda: driver.launch(executable, 0),
            lambda: driver.destroy_executable(executable),
        ):
            with pytest.raises(DriverError, match="there is no executable graph"):
                call()
        with pytest.raises(DriverError, match="not in this executable graph"):
            driver.patch(executable, added, node)
        driver.destroy_graph(graph)
        with pytest.raises(DriverError, match="there is no graph"):
            driver.destroy_graph(graph)
        driver.unload_module(module)
    assert driver.leaks() == {}


def node_parts(node: KernelNode) -> tuple:
    return node.function, node.grid, node.block, node.shared_bytes, node.arguments


def test_parameters_out_of_line(driver):
    """A parameter that is not aligned to its size is not where a GPU would look for it."""
    with driver.active():
        buffer = ctypes.create_string_buffer(64)
        start = -(-ctypes.addressof(buffer) // 16) * 16
        arguments = (ctypes.c_void_p * 6)(*[start] * 6)
        arguments[1] = start + 4
        function = driver.function(driver.load_module(b"cubin"), "scale")
        node = KernelNode(function, (1, 1, 1), (32, 1, 1), 0, ctypes.addressof(arguments))
        with pytest.raises(DriverError, match="a parameter of 8 bytes"):
            driver.add_kernel(driver.create_graph(), node, [], programmatic=False)
