"""What all kinds of arrays have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jitrt.plan.dtypes import numpy_dtype
from jitrt.plan.schema import Binding, Kernel, Launch, Pointer
from jitrt.runtime import Engine
from jitrt.runtime.arrays import fits
from jitrt.runtime.fake_driver import FakeDriver, FakeKernel
from jitrt.runtime.torch_arrays import _TORCH_NAMES


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


def _copy_engine(driver_kind: type[FakeDriver], small: Any, dtype: str) -> Engine:
    """An engine that copies one 4x8 input of a dtype."""

    def copy(driver: FakeDriver, grid: Any, source: int, out: int) -> None:
        driver.array(out, (4, 8), dtype)[...] = driver.array(source, (4, 8), dtype)

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
