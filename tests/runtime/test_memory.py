from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from jitrt.errors import DriverError
from jitrt.plan.schema import Pointer
from jitrt.runtime.memory import Addresses, Resources, allocate_spaces, scratch_bytes


class Owner:
    pass


def test_resources_go_in_reverse_order_and_once(driver):
    order = []
    owner = Owner()
    resources = Resources(driver, owner)
    resources.add(order.append, "first")
    resources.add(order.append, "second")
    resources.close()
    resources.close()
    del owner
    gc.collect()
    assert order == ["second", "first"]


def test_resources_go_with_their_owner(driver):
    owner = Owner()
    with driver.active():
        Resources(driver, owner).alloc(16)
    assert driver.leaks() == {"memory": 1}
    del owner
    gc.collect()
    assert driver.leaks() == {}


def test_no_bytes_have_no_address(driver):
    owner = Owner()
    assert Resources(driver, owner).alloc(0) == 0
    assert driver.calls["alloc"] == 0


def test_what_is_kept_outlives_the_resources(driver):
    """Though the owner's other attributes go in any order."""
    order = []
    inner, outer = Owner(), Owner()
    Resources(driver, inner).add(order.append, "inner")
    Resources(driver, outer, keep=inner).add(order.append, "outer")
    outer.inner = inner
    del inner, outer.inner
    assert order == []
    del outer
    assert order == ["outer", "inner"]


def _fail(code: int) -> None:
    raise DriverError("free", code, "")


def test_a_lost_context_has_freed_everything(driver):
    owner, done = Owner(), []
    resources = Resources(driver, owner)
    resources.add(done.append, True)
    resources.add(_fail, 700)
    resources.close()
    assert done == [True]


def test_another_failure_to_free_is_reported(driver):
    owner, done = Owner(), []
    resources = Resources(driver, owner)
    resources.add(done.append, True)
    resources.add(_fail, 1)
    with pytest.raises(DriverError, match="CUDA error 1"):
        resources.close()
    assert done == [True]


def test_addresses():
    addresses = Addresses(arena=1000, constants=2000, zeros=3000)
    assert addresses.of(Pointer("arena", 24)) == 1024
    assert addresses.of(Pointer("constants", 1)) == 2001
    assert addresses.of(Pointer("zeros")) == 3000


def test_scratch_is_counted_a_block_of_every_program(small):
    last = small.plan.launches[-1]
    assert scratch_bytes(small.plan, last) == 512  # 3 programs of 100 bytes, rounded up to 256
    kernels = (*small.plan.kernels[:2], replace(small.plan.kernels[2], cluster=(2, 1, 1)))
    assert scratch_bytes(replace(small.plan, kernels=kernels), last) == 768
    assert scratch_bytes(small.plan, small.plan.launches[0]) == 0


def test_spaces_of_a_context(small, driver):
    owner = Owner()
    with driver.active():
        addresses = allocate_spaces(small.plan, Resources(driver, owner), 99, stream=0)
        assert not driver.array(addresses.zeros, (256,), "u8").any()
        assert driver.array(addresses.arena, (768,), "u8").all()  # undefined, not zero
        driver.array(addresses.scratch, (512,), "u8")
    assert addresses.constants == 99
