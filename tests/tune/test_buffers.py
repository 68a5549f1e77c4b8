"""Guarded buffers: where they lie, what they hold, and what counts as damage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jitrt.graph import DType, Layout, TensorType, b8, bf16, f16, f32, i8
from jitrt.runtime.fake_driver import FakeDriver
from jitrt.runtime.memory import Resources
from jitrt.tune.buffers import (
    GUARD,
    NAN_BYTE,
    allocate,
    bytes_of,
    footprint,
    guard_damage,
    physical,
    sets_for,
    split_output,
    strided,
)


class Owner:
    """Something that owns device memory."""


def test_buffers_have_guards_of_their_own_and_the_promised_alignment() -> None:
    driver, owner = FakeDriver({}), Owner()
    resources = Resources(driver, owner)
    sizes = [(100, 16), (7, 2), (1, 8), (33, 4)]
    with driver.active():
        buffers = allocate(resources, sizes)
        for buffer, (nbytes, alignment) in zip(buffers, sizes, strict=True):
            assert buffer.nbytes == nbytes
            assert buffer.address % 256 == alignment % 16
            buffer.fill(driver, 1, 0)  # raises if it is not all ours
        for a, b in itertools.pairwise(buffers):
            assert a.start + a.whole <= b.start
        (memory,) = driver._memory.values()
        assert memory.nbytes <= footprint(sizes)
        buffers[1].upload(driver, np.arange(7, dtype=np.uint8), 0)
        assert (buffers[1].download(driver, 0)[GUARD:-GUARD] == np.arange(7)).all()
        assert (buffers[1].download_guards(driver, 0) == 1).all()
        resources.close()
    assert driver.leaks() == {}


@pytest.mark.parametrize("dtype", [f16, f32, bf16, i8, b8])
def test_an_array_in_its_layout_and_back(dtype: DType) -> None:
    type = TensorType(dtype, (3, 4, 2), Layout((12, 1, 5)))
    data = np.arange(24).reshape(3, 4, 2).astype(dtype.numpy)
    flat = physical(data, type)
    assert flat.nbytes == bytes_of(type)
    assert (strided(flat, type) == data).all()
    assert (flat.view(np.uint8) == NAN_BYTE).sum() >= (type.span - 24) * dtype.itemsize


def raw_output(type: TensorType, poison: int) -> np.ndarray:
    return np.full(bytes_of(type) + 2 * GUARD, poison, np.uint8)


def test_a_tidy_output() -> None:
    type = TensorType(f16, (3, 4), Layout((6, 1)))
    raw = raw_output(type, NAN_BYTE)
    strided(raw[GUARD:-GUARD].view(np.float16), type)[...] = np.arange(12).reshape(3, 4)
    out, reason = split_output(raw, type, NAN_BYTE)
    assert reason is None
    assert (out == np.arange(12).reshape(3, 4)).all()


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (GUARD - 1, "writes 1 bytes outside the output"),
        (GUARD + 2 * 4, "writes 1 bytes between the rows of its output"),
        (-GUARD, "writes 1 bytes outside the output"),
    ],
)
def test_an_untidy_output(at: int, reason: str) -> None:
    type = TensorType(f16, (3, 4), Layout((6, 1)))
    raw = raw_output(type, 0x5B)
    raw[at] = 0
    assert split_output(raw, type, 0x5B)[1] == reason


def test_booleans_come_as_bytes() -> None:
    type = TensorType(b8, (4,))
    out, _ = split_output(raw_output(type, NAN_BYTE), type, NAN_BYTE)
    assert out.dtype == np.uint8
    assert (out == 255).all()


def test_guard_damage_is_counted() -> None:
    guards = np.full((2, GUARD), 7, np.uint8)
    assert guard_damage(guards, 7, "its workspace") is None
    guards[1, :3] = 0
    assert guard_damage(guards, 7, "its workspace") == "writes 3 bytes outside its workspace"


@pytest.mark.parametrize(
    ("set_bytes", "free", "count"),
    [
        (1 << 20, 1 << 37, 4),
        (40 << 20, 1 << 37, 3),
        (1 << 30, 1 << 37, 2),
        (1 << 30, 3 << 30, 1),
        (1 << 30, 1 << 20, 1),
    ],
)
def test_how_many_sets_rotate(set_bytes: int, free: int, count: int) -> None:
    assert sets_for(set_bytes, 60 << 20, free) == count


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((3, 4), (6, 1)),
        ((2, 3, 4, 5), (200, 1, 50, 8)),  # a branch of a concat, channels last
        ((2, 3, 4, 5), (161, 1, 40, 8)),  # with a gap between the items too
        ((1, 3, 1, 5), (999, 1, 77, 4)),
        ((3, 4), (2, 9)),  # columns first
        ((3, 2), (5, 3)),  # interleaved
    ],
)
def test_every_byte_between_the_elements_is_looked_at(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    type = TensorType(f16, shape, Layout(strides))
    inside = np.zeros(type.span, bool)
    strided(inside, type)[...] = True
    gaps = np.flatnonzero(~inside)
    assert len(gaps)
    for at in gaps:
        for byte in (0, 1):
            raw = raw_output(type, 0x5B)
            strided(raw[GUARD:-GUARD].view(np.float16), type)[...] = 0
            assert split_output(raw, type, 0x5B)[1] is None
            raw[GUARD + 2 * at + byte] = 0
            assert split_output(raw, type, 0x5B)[1] == "writes 1 bytes between the rows of its output"
