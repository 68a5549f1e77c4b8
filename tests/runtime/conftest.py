"""A small plan with everything in it, and kernels for the fake driver to run it with.

y = 5 * (x + w)   by two branches that meet
z = x + 1         through a tensor map, with a counter in the zeros that must be left zero
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jitrt.plan.schema import (
    Binding,
    Constant,
    Kernel,
    Launch,
    Layer,
    Plan,
    PlanFile,
    Pointer,
    Scalar,
    TensorMap,
)
from jitrt.runtime import Engine
from jitrt.runtime.fake_driver import FakeDriver, FakeKernel, TensorMapView

SHAPE = (4, 8)
COUNT = 32
NBYTES = 4 * COUNT


def _add(driver: FakeDriver, grid: Any, a: int, b: int, out: int, count: int) -> None:
    driver.array(out, (count,), "f32")[:] = driver.array(a, (count,), "f32") + driver.array(b, (count,), "f32")


def _scale(driver: FakeDriver, grid: Any, source: int, out: int, factor: float, count: int) -> None:
    driver.array(out, (count,), "f32")[:] = driver.array(source, (count,), "f32") * np.float32(factor)


def _increment(driver: FakeDriver, grid: Any, source: TensorMapView, out: int, counter: int) -> None:
    arrivals = driver.array(counter, (1,), "i32")
    assert arrivals[0] == 0
    steps = [step // 4 for step in source.strides]
    given = driver.array(source.address, source.shape, source.dtype, (*steps, 1))
    driver.array(out, source.shape, "f32", (*steps, 1))[...] = given + 1


KERNELS = {
    "add": FakeKernel(("ptr", "ptr", "ptr", "i32"), _add, microseconds=3.0),
    "scale": FakeKernel(("ptr", "ptr", "f32", "i64"), _scale, microseconds=2.0),
    "increment": FakeKernel(("map", "ptr", "ptr"), _increment, microseconds=1.0),
}


def _plan() -> Plan:
    def arena(offset: int) -> Pointer:
        return Pointer("arena", offset)

    n = Scalar("i32", COUNT)
    long = Scalar("i64", COUNT)
    view = TensorMap(Pointer("input"), "f32", SHAPE, (4 * SHAPE[1],), SHAPE, 0)
    binding = Binding("x", "f32", SHAPE, (SHAPE[1], 1))
    return Plan(
        name="small",
        arch=90,
        inputs=(binding,),
        outputs=(replace(binding, name="y"), replace(binding, name="z")),
        kernels=(
            Kernel("add", "cubin.a", shared_bytes=65536, num_warps=4),
            Kernel("scale", "cubin.a", shared_bytes=0, num_warps=8, cluster=(2, 1, 1)),
            Kernel("increment", "cubin.b", shared_bytes=0, num_warps=1, scratch_bytes=100),
        ),
        launches=(
            Launch(0, (1, 1, 1), (Pointer("input"), Pointer("constants", 256), arena(0), n), (), 0),
            Launch(1, (2, 1, 1), (arena(0), arena(256), Scalar("f32", 2.0), long), (0,), 1),
            Launch(1, (2, 1, 1), (arena(0), arena(512), Scalar("f32", 3.0), long), (0,), 2),
            Launch(0, (1, 1, 1), (arena(256), arena(512), Pointer("output"), n), (1, 2), 2),
            Launch(2, (3, 1, 1), (view, Pointer("output", 0, 1), Pointer("zeros", 128)), (), 3),
        ),
        layers=tuple(
            Layer(name, kind, f"{kind}+relu", "model.py:3", f"{kind}(BLOCK_M=64)", 1.5, 4_800_000, 1_000)
            for name, kind in (("sum", "add"), ("twice", "scale"), ("both", "scale"), ("next", "pointwise"))
        ),
        constants=(Constant("w", "f32", SHAPE, 256, NBYTES),),
        arena_bytes=768,
        zeros_bytes=256,
        constants_bytes=256 + NBYTES,
        notes={"toolchain": {"triton": "3.7.1"}},
    )


WEIGHT = np.linspace(-1, 1, COUNT, dtype=np.float32).reshape(SHAPE)


@pytest.fixture
def small() -> PlanFile:
    """The plan file."""
    return PlanFile(_plan(), bytes(256) + WEIGHT.tobytes(), {"cubin.a": b"cubin a", "cubin.b": b"cubin b"})


@pytest.fixture
def driver() -> FakeDriver:
    """A fake GPU with the plan's kernels."""
    return FakeDriver(KERNELS)


@pytest.fixture
def engine(small: PlanFile, driver: FakeDriver) -> Engine:
    """The plan on the fake GPU."""
    return Engine(small, driver=driver)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture
def expected() -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The plan's meaning in numpy."""
    return lambda x: ((x + WEIGHT) * np.float32(2) + (x + WEIGHT) * np.float32(3), x + 1)
