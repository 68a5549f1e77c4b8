from __future__ import annotations

import gc
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jitrt.errors import DriverError, InputError, NoGpuError, PlanError
from jitrt.knobs import environment
from jitrt.plan.file import write_plan
from jitrt.plan.schema import PlanFile
from jitrt.runtime import Engine, ExecutionContext, load
from jitrt.runtime.fake_driver import H200, FakeDriver


def test_runs_the_plan(engine, x, expected):
    for given in (x, 2 * x):
        y, z = engine(given)
        want_y, want_z = expected(given)
        np.testing.assert_array_equal(y, want_y)
        np.testing.assert_array_equal(z, want_z)
        assert isinstance(y, np.ndarray)


def test_nan_goes_through(engine, x):
    x[1, 2] = np.nan
    y, _ = engine(x)
    assert np.isnan(y).sum() == 1
    assert np.isnan(y[1, 2])


def test_weights_and_kernels_go_to_the_device_once(engine, driver, x):
    engine(x)
    first = driver.calls["load_module"], driver.calls["function"]
    assert first == (2, 3)
    uploads = driver.calls["upload"]
    engine.context()(x)
    assert (driver.calls["load_module"], driver.calls["function"]) == first
    assert driver.calls["upload"] == uploads + 1  # the input alone


def test_nothing_is_loaded_until_the_first_use(small, driver):
    engine = Engine(small, driver=driver)
    engine.inspect()
    assert not driver.calls
    assert engine.loaded is engine.loaded


def test_save_and_load(engine, x, tmp_path, driver):
    path = tmp_path / "small.plan"
    engine.save(path)
    again = load(path, driver=FakeDriver(driver._kernels))
    assert again.plan == engine.plan
    np.testing.assert_array_equal(again(x)[0], engine(x)[0])
    again.save(path)  # over the file it is mapped from
    np.testing.assert_array_equal(load(path, driver=driver)(x)[0], engine(x)[0])


def test_everything_is_given_back_by_close(engine, driver, x):
    engine(x)
    with_context = engine.context()
    with_context(x)
    with_context.close()
    engine.close()
    assert driver.leaks() == {}
    assert engine(x)[0].shape == x.shape  # it comes back when it is used again


def test_everything_is_given_back_when_the_last_user_goes(small, driver, x):
    engine = Engine(small, driver=driver)
    engine(x)
    engine.profile(x, repeats=2)
    context = ExecutionContext(engine)
    del engine
    gc.collect()
    context(x)  # a context keeps what it needs
    del context
    gc.collect()
    assert driver.leaks() == {}


def test_everything_is_given_back_when_a_thread_ends(engine, driver, x):
    engine(x)
    before = driver.leaks()
    thread = threading.Thread(target=engine, args=(x,))
    thread.start()
    thread.join()
    gc.collect()
    assert driver.leaks() == before


def test_threads_share_one_engine(engine, driver, expected):
    """Contexts do not touch each other's memory, and only one thread loads the plan."""
    failures: list[str] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        start.wait()
        for _ in range(20):
            given = random.standard_normal((4, 8)).astype(np.float32)
            for got, want in zip(engine(given), expected(given)):
                if not np.array_equal(got, want):
                    failures.append(f"thread {seed}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert driver.calls["load_module"] == 2


def test_tampered_weights_are_found_before_the_first_launch(small, driver, tmp_path):
    path = tmp_path / "bad.plan"
    write_plan(path, small)
    data = bytearray(path.read_bytes())
    data[data.index(small.constants[256:])] ^= 1
    path.write_bytes(data)
    with pytest.raises(PlanError, match=r"bad.plan was changed .*'constants'"):
        load(path, driver=driver)
    gc.collect()
    assert driver.calls["launch"] == 0
    assert driver.leaks() == {}


def test_too_little_memory_on_the_device(small, driver, x):
    engine = Engine(small, driver=FakeDriver(driver._kernels, replace(H200, memory_bytes=512)))
    with pytest.raises(DriverError, match="out of memory"):
        engine(x)


def test_wrong_number_of_inputs(engine, x):
    for given in ((), (x, x)):
        with pytest.raises(InputError, match=rf"takes 1 input\(s\) \(x\), got {len(given)}"):
            engine(*given)


def test_the_plan_says_how_to_nest(small: PlanFile, driver, x):
    plan = replace(small.plan, structure={"out": [{"output": 1}, {"output": 0}]})
    out = Engine(replace(small, plan=plan), driver=driver)(x)
    np.testing.assert_array_equal(out["out"][0], x + 1)


def test_without_a_gpu_it_says_what_can_be_done(small, tmp_path, monkeypatch, x):
    def no_driver(device):
        raise NoGpuError("no NVIDIA driver is installed here")

    monkeypatch.setattr("jitrt.runtime.engine.cuda_driver", no_driver)
    engine = Engine(small)
    path = tmp_path / "small.plan"
    engine.save(path)
    assert len(engine.inspect().layers) == 4
    for call in (lambda: engine(x), lambda: engine.profile(x), lambda: load(path)):
        with pytest.raises(NoGpuError, match=r"no NVIDIA driver.*'small' is built for sm_90.*saved and inspected"):
            call()


def test_says_what_it_is(engine):
    assert repr(engine) == "Engine('small', sm_90, 5 launches)"
    assert "<table>" in engine._repr_html_()


def test_loading_needs_none_of_torch_triton_onnx(small, tmp_path):
    """In a process where importing them fails, a plan is loaded, run and profiled."""
    path = tmp_path / "small.plan"
    write_plan(path, small)
    code = f"""
import sys
for name in ("torch", "triton", "onnx"): sys.modules[name] = None
import importlib.util
import numpy as np
spec = importlib.util.spec_from_file_location("conf", {str(Path(__file__).with_name("conftest.py"))!r})
conf = importlib.util.module_from_spec(spec); spec.loader.exec_module(conf)
import jitrt.runtime
engine = jitrt.runtime.load({str(path)!r}, driver=conf.FakeDriver(conf.KERNELS))
x = np.ones(conf.SHAPE, np.float32)
y, z = engine(x)
np.testing.assert_allclose(y, 5 * (x + conf.WEIGHT), rtol=1e-6)
str(engine.profile(x, repeats=2)) and engine._repr_html_()
loaded = {{name for name, module in sys.modules.items() if module is not None}}
assert not loaded & {{"torch", "triton", "onnx", "jitrt.graph", "ml_dtypes"}}, loaded
print("right")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment({"PYTHONPATH": str(Path(__file__).parents[2])}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "right\n", done.stderr
