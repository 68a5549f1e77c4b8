from __future__ import annotations

import threading

import numpy as np
import pytest

from jitrt.errors import InputError
from jitrt.runtime import ExecutionContext


def test_runs_on_device_memory_without_copy_or_wait(engine, driver, x, expected):
    context = ExecutionContext(engine)
    with driver.active():
        stream = driver.create_stream()
        given, *outputs = (driver.alloc(x.nbytes) for _ in range(3))
        driver.upload(given, x.ctypes.data, x.nbytes)
        driver.calls.clear()
        context.run([given], outputs, stream)
        assert set(driver.calls) <= {"launch", "create_graph", "add_kernel", "instantiate", "encode_tensor_map"}
        driver.calls.clear()
        context.run([given], outputs, stream)
        assert dict(driver.calls) == {"launch": 1}
        assert driver.launches[-1][0] == stream
        for address, want in zip(outputs, expected(x)):
            np.testing.assert_array_equal(driver.array(address, x.shape, "f32"), want)


def test_a_wrong_number_of_addresses(engine):
    with pytest.raises(InputError, match=r"1 input\(s\) and 2 output\(s\), got 1 and 1 addresses"):
        ExecutionContext(engine).run([1], [2], 0)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([1024 + 8], [4096, 8192], r"'x' is at address 0x408; kernels rely on a multiple of 16"),
        ([1024], [4096, 8192 + 4], r"is at address 0x2004"),
        ([1024], [1024, 8192], r"output '\w+' shares memory with 'x'"),
        ([1024], [4096, 4096 + 112], r"output '\w+' shares memory with '\w+'.*memory of its own"),
    ],
    ids=["input", "output", "in place", "outputs"],
)
def test_addresses_that_kernels_cannot_work_with(engine, inputs, outputs, message):
    with pytest.raises(InputError, match=message):
        ExecutionContext(engine).run(inputs, outputs, 0)


def test_host_arrays_go_through_buffers_that_stay(engine, driver, x):
    context = ExecutionContext(engine)
    context(x)
    driver.calls.clear()
    context(2 * x)
    assert dict(driver.calls) == {"upload": 1, "launch": 1, "download": 2, "synchronize": 1}


def test_host_arrays_run_on_a_stream_of_the_contexts_own(engine, driver, x):
    one, other = ExecutionContext(engine), ExecutionContext(engine)
    one(x)
    one(x)
    other(x)
    streams = [stream for stream, _ in driver.launches]
    assert streams[0] == streams[1] != 0
    assert streams[2] not in (0, streams[0])


def test_a_stream_of_the_callers(engine, driver, x):
    with driver.active():
        stream = driver.create_stream()
    engine.context(stream)(x)
    assert driver.launches[-1][0] == stream


def test_contexts_have_memory_of_their_own(engine, driver, x, expected):
    """A run of one does not disturb what another has half done: here its zeros and its arena."""
    one, other = ExecutionContext(engine), ExecutionContext(engine)
    one(x)
    spaces = [(c.addresses.arena, c.addresses.zeros, c.addresses.scratch) for c in (one, other)]
    assert not set(spaces[0]) & set(spaces[1])
    assert one.addresses.constants == other.addresses.constants
    with driver.active():
        before = driver.array(one.addresses.arena, (768,), "u8").copy()
        other(3 * x)
        np.testing.assert_array_equal(driver.array(one.addresses.arena, (768,), "u8"), before)


def test_calls_of_one_context_from_two_threads_follow_one_another(engine, expected):
    context = ExecutionContext(engine)
    failures = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(20):
            given = random.standard_normal((4, 8)).astype(np.float32)
            if not all(map(np.array_equal, context(given), expected(given))):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_close_frees_it_all_but_what_is_shared(engine, driver, x):
    _ = engine.loaded
    before = driver.leaks()
    context = ExecutionContext(engine)
    context(x)
    assert driver.leaks() != before
    context.close()
    context.close()
    assert driver.leaks() == before
