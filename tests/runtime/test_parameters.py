from __future__ import annotations

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitrt.errors import DriverError
from jitrt.plan.schema import Argument, Pointer, Scalar, TensorMap
from jitrt.runtime.fake_driver import FakeDriver
from jitrt.runtime.memory import Addresses
from jitrt.runtime.parameters import Parameters

ADDRESSES = Addresses(arena=1 << 40, constants=2 << 40, zeros=3 << 40)
BOUND = [5 << 40, 6 << 40, 7 << 40]  # two inputs, one output

ARGUMENTS = st.one_of(
    st.builds(Pointer, st.sampled_from(["arena", "constants", "zeros"]), st.integers(0, 1 << 30)),
    st.builds(Pointer, st.just("input"), st.integers(0, 1 << 30), st.integers(0, 1)),
    st.builds(Pointer, st.just("output"), st.integers(0, 1 << 30)),
    st.builds(Scalar, st.just("i32"), st.integers(-(2**31), 2**31 - 1)),
    st.builds(Scalar, st.just("i64"), st.integers(-(2**63), 2**63 - 1)),
    st.builds(Scalar, st.just("f32"), st.floats(width=32, allow_nan=False)),
)


def read(parameters: Parameters, arguments: list[Argument]) -> list[object]:
    """Parameters as the driver reads them, hidden ones included; fails on a misaligned one."""
    count = len(arguments) + 2
    values = []
    for argument, address in zip([*arguments, None, None], (ctypes.c_void_p * count).from_address(parameters.address)):
        form = {"i32": "<i", "i64": "<q", "f32": "<f"}[argument.kind] if isinstance(argument, Scalar) else "<Q"
        assert address % struct.calcsize(form) == 0
        values.append(struct.unpack(form, ctypes.string_at(address, struct.calcsize(form)))[0])
    return values


def meaning(argument: Argument, bound: list[int]) -> object:
    if isinstance(argument, Scalar):
        return argument.value
    assert isinstance(argument, Pointer)
    if argument.space == "input":
        return bound[argument.index] + argument.offset
    return bound[2] + argument.offset if argument.space == "output" else ADDRESSES.of(argument)


@given(st.lists(ARGUMENTS, max_size=12))
def test_packed_values_are_what_the_arguments_mean(arguments):
    parameters = Parameters(arguments, inputs=2, scratch=0xABC, driver=FakeDriver({}))
    parameters.bind(ADDRESSES)
    for bound in (BOUND, [address + 4096 for address in BOUND]):
        parameters.rebind(bound)
        assert read(parameters, arguments) == [*(meaning(a, bound) for a in arguments), 0xABC, 0]


def test_knows_which_bindings_it_follows():
    arguments = [Pointer("output"), Pointer("arena"), Pointer("input", 0, 1), Pointer("input", 8, 1)]
    assert Parameters(arguments, 2, 0, FakeDriver({})).bindings == {1, 2}
    assert Parameters([Pointer("arena")], 2, 0, FakeDriver({})).bindings == set()


def test_tensor_maps_are_aligned_and_follow_their_binding():
    driver = FakeDriver({})
    with driver.active():
        first, second = driver.alloc(256), driver.alloc(256)
        arguments = [
            Scalar("i32", 1),
            TensorMap(Pointer("input", 16), "f16", (4, 8), (32,), (4, 8), 0),
            TensorMap(Pointer("arena"), "f16", (8, 8), (16,), (8, 8), 64, (2, 1)),
            Scalar("i32", 7),
        ]
        parameters = Parameters(arguments, 1, 0, driver)
        parameters.bind(Addresses(arena=second))
        for address in (first, second):
            parameters.rebind([address])
            pointers = (ctypes.c_void_p * 6).from_address(parameters.address)
            assert [pointers[1] % 128, pointers[2] % 128] == [0, 0]
            one, other = driver._read_one("map", pointers[1]), driver._read_one("map", pointers[2])
            assert (one.address, one.dtype, one.shape, one.strides) == (address + 16, "f16", (4, 8), (32,))
            assert (other.address, other.swizzle, one.steps, other.steps) == (second, 64, (), (2, 1))
            assert struct.unpack("<i", ctypes.string_at(pointers[3], 4)) == (7,)


def test_a_tensor_map_the_driver_refuses():
    driver = FakeDriver({})
    with driver.active():
        address = driver.alloc(256)
        parameters = Parameters([TensorMap(Pointer("input"), "f16", (4, 8), (16,), (4, 8), 0)], 1, 0, driver)
        with pytest.raises(DriverError, match="multiples of 16"):
            parameters.rebind([address + 2])
