from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jitrt.plan.schema import Layer
from jitrt.runtime.fake_driver import H200
from jitrt.runtime.profile import floor


def test_times_are_those_of_the_kernels(engine, x):
    """The fake clock gives a kernel its own time and an event half a microsecond, which must not be in the result."""
    profile = engine.profile(x, repeats=3)
    assert profile.serial == pytest.approx(3 + 2 + 2 + 3 + 1)
    assert profile.graph == pytest.approx(profile.serial)  # the fake GPU has no parallel branches
    times = [time.microseconds for time in profile.layers]
    assert times == pytest.approx([3, 2, 2 + 3, 1])  # the third layer has two launches
    assert sum(times) == pytest.approx(profile.serial)
    assert profile.enqueue > 0
    assert profile.device == "Fake H200"


def test_floor_is_bytes_or_flops():
    layer = Layer("a", "k", "", "", "", 0.0, bytes=4_800_000, flops=1)
    assert floor(layer, H200) == pytest.approx(1.0)  # 4.8 TB/s
    busy = replace(layer, flops=1_070_530_560)  # 132 SMs x 1.98 GHz x 4096 a microsecond
    assert floor(busy, H200) == pytest.approx(1.0)
    assert floor(replace(busy, flops=2 * busy.flops), H200) == pytest.approx(2.0)
    assert floor(replace(busy, flops=2 * busy.flops), replace(H200, arch=80)) == pytest.approx(4.0)


def test_profile_reads_as_a_table(engine, x):
    profile = engine.profile(x, repeats=2)
    text = str(profile)
    assert text.startswith("small on Fake H200: 11.00 us a call")
    lines = text.splitlines()
    assert lines[3].split()[:3] == ["both", "scale+relu", "5.00"]  # slowest first
    assert "45.5%" in lines[3]
    assert "5.0x" in lines[3]
    assert ">both</td>" in profile._repr_html_()


def test_a_profile_without_floors_or_launches_says_nothing_of_them(engine, x):
    profile = engine.profile(x, repeats=2)
    assert "floors" in str(profile)
    assert "of host time" in str(profile)
    bare = replace(profile, layers=tuple(replace(time, floor=0.0) for time in profile.layers), enqueue=0.0)
    assert "floor" not in str(bare)
    assert "of host time" not in str(bare)


def test_profiling_leaves_nothing_behind(engine, driver, x):
    engine(x)
    before = driver.leaks()
    y = engine(x)[0]
    engine.profile(x, repeats=2)
    assert driver.leaks() == before
    np.testing.assert_array_equal(engine(x)[0], y)


def test_profiling_a_wrong_input_leaves_nothing_behind(engine, driver, x):
    from jitrt.errors import InputError

    engine(x)
    before = driver.leaks()
    with pytest.raises(InputError):
        engine.profile(x[:2])
    assert driver.leaks() == before
