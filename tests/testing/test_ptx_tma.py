"""Boxes of tensor maps: what of memory they are, and where it goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jitrt.errors import KernelError
from jitrt.plan.schema import Pointer, TensorMap
from jitrt.testing.ptx_tma import box_at

SIZES, GAP, START = (5, 6, 70), 10, 32  # rows of 80 numbers, 70 of which are the tensor's
PLAIN = TensorMap(
    Pointer("arena", START), "f16", SIZES, (2 * 6 * (70 + GAP), 2 * (70 + GAP)), (3, 4, 64), 128, (1, 1, 1)
)


def memory() -> tuple[np.ndarray, np.ndarray]:
    """Bytes, and the tensor among them."""
    numbers = np.arange(START // 2 + 5 * 6 * 80, dtype=np.uint16)
    return numbers.view(np.uint8), numbers[START // 2 :].reshape(5, 6, 80)[:, :, :70]


@pytest.mark.parametrize("at", [(0, 0, 0), (1, 2, 6), (-1, -2, 0), (3, 4, 64), (-9, 0, 0), (4, 5, -8)])
@pytest.mark.parametrize("steps", [(1, 1, 1), (1, 2, 1), (2, 3, 1)])
@pytest.mark.parametrize("width", [0, 32, 64, 128])
def test_a_box(at: tuple[int, int, int], steps: tuple[int, int, int], width: int) -> None:
    raw, tensor = memory()
    row = (width or 128) // 2
    described = replace(PLAIN, box=(3, 4, row), steps=steps, swizzle=width)
    counts = [-(-extent // step) for extent, step in zip(described.box, steps, strict=True)]
    around = np.pad(tensor, ((16, 16), (16, 16), (64, 64)))
    expected = around[
        tuple(slice(n + a, n + a + b, s) for n, a, b, s in zip((16, 16, 64), at, described.box, steps, strict=True))
    ]
    box = box_at(described, at, 2048, raw.size, 1 << 16)
    assert box.nbytes == 2 * expected.size == 2 * np.prod(counts)
    shared = np.full(1 << 16, 0xFF, np.uint8)
    shared[box.shared[:, None] + np.arange(2)] = box.load(raw)
    rows = shared[2048 : 2048 + box.nbytes].reshape(-1, 2 * row)
    if width:  # piece p of a row is where p xor (the row's number, as many rows as fit into 128 bytes together) is
        number = np.arange(len(rows)) * width // 128 % (width // 16)
        order = np.arange(width // 16) ^ number[:, None]
        rows = np.take_along_axis(rows.reshape(len(rows), -1, 16), order[:, :, None], 1)
    np.testing.assert_array_equal(np.ascontiguousarray(rows).view(np.uint16).reshape(expected.shape), expected)


def test_what_is_outside_is_not_stored() -> None:
    raw, tensor = memory()
    before = raw.copy()
    box = box_at(PLAIN, (4, 4, 8), 0, raw.size, 1 << 16)
    box.store(raw, np.zeros((box.places.size, 2), np.uint8))
    assert not tensor[4, 4:, 8:].any()
    tensor[4, 4:, 8:] = np.ndarray(tensor.shape, np.uint16, before, START, (*PLAIN.strides, 2))[4, 4:, 8:]
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize(
    ("described", "shared", "why"),
    [
        (PLAIN, 128, "begins elsewhere"),
        (PLAIN, (1 << 16) - 1024, "ends at byte"),
        (replace(PLAIN, box=(3, 4, 32)), 0, "rows of 64 bytes swizzled by 128"),
        (replace(PLAIN, pointer=Pointer("arena", 1 << 20)), 0, "outside its memory"),
        (replace(PLAIN, box=(4, 64)), 0, "coordinates"),
    ],
)
def test_it_refuses(described: TensorMap, shared: int, why: str) -> None:
    with pytest.raises(KernelError, match=why):
        box_at(described, (0, 0, 0), shared, memory()[0].size, 1 << 16)
