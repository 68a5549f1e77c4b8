from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from jitrt.errors import InputError
from jitrt.plan.schema import Binding
from jitrt.runtime import Engine
from jitrt.runtime.numpy_arrays import empty_numpy


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


def test_empty_numpy_has_the_bindings_strides():
    array = empty_numpy(Binding("x", "bf16", (1, 3, 2, 2), (12, 1, 6, 3)))
    assert array.dtype == ml_dtypes.bfloat16
    assert array.strides == (24, 2, 12, 6)
