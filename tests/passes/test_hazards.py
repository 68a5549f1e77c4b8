from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitrt.graph import Layout, TensorType, f16
from jitrt.graph.types import channels_last, row_major
from jitrt.passes.hazards import Footprint, Hazards


def tensor(shape: tuple[int, ...], strides: tuple[int, ...]) -> TensorType:
    return TensorType(f16, shape, Layout(strides))


def bytes_of(first: int, type: TensorType) -> set[int]:
    """Every byte a tensor covers."""
    steps = [range(0, size * stride, stride) if stride else [0] for size, stride in zip(type.shape, type.strides)]
    return {first + 2 * sum(index) + byte for index in itertools.product(*steps) for byte in (0, 1)}


@st.composite
def tensors(draw: st.DrawFn) -> TensorType:
    """Slices, dense tensors in any order, expanded ones, and strides of no kind at all."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)))
    if draw(st.booleans()):
        return tensor(shape, draw(st.tuples(*[st.integers(0, 30)] * 4)))
    channels = shape[1] + draw(st.integers(0, 4))
    whole = (shape[0], channels, *shape[2:])
    return tensor(shape, draw(st.sampled_from([channels_last(whole), row_major(whole)])))


@given(tensors(), st.integers(0, 60), tensors(), st.integers(0, 60))
def test_what_shares_no_byte_by_footprint_shares_none(a: TensorType, at: int, b: TensorType, other: int) -> None:
    left, right = Footprint.of("arena", at, a), Footprint.of("arena", other, b)
    assert left.overlaps(right) == right.overlaps(left)
    if not left.overlaps(right):
        assert bytes_of(at, a).isdisjoint(bytes_of(other, b))


def test_slices_of_a_concat_do_not_overlap() -> None:
    """Channels 0 to 3, 4 to 9 and all of them, of a (2, 10, 5, 4) tensor in NHWC."""
    strides = channels_last((2, 10, 5, 4))
    first = Footprint.of("arena", 512, tensor((2, 4, 5, 4), strides))
    second = Footprint.of("arena", 512 + 8, tensor((2, 6, 5, 4), strides))
    both = Footprint.of("arena", 512, tensor((2, 10, 5, 4), strides))
    assert first.dims == ((20, 40), (1, 8))
    assert not first.overlaps(second)
    assert first.overlaps(both)
    assert second.overlaps(both)
    assert first.overlaps(Footprint.of("arena", 512 + 6, tensor((2, 6, 5, 4), strides)))
    assert not first.overlaps(Footprint.of("output", 512, tensor((2, 4, 5, 4), strides)))
    assert not first.overlaps(Footprint.block("arena", 0, 512))
    assert first.overlaps(Footprint.block("arena", 0, 513))


@given(tensors(), st.integers(0, 60), tensors(), st.integers(0, 60))
def test_footprints_are_exact(a: TensorType, at: int, b: TensorType, other: int) -> None:
    shared = not bytes_of(at, a).isdisjoint(bytes_of(other, b))
    assert Footprint.of("arena", at, a).overlaps(Footprint.of("arena", other, b)) == shared


def test_slices_of_slices_do_not_overlap() -> None:
    """Rows 0 and 1, and rows 2 to 4, of channels 3 to 5 of a (1, 10, 5, 4) tensor in NHWC."""
    strides = channels_last((1, 10, 5, 4))
    upper = Footprint.of("arena", 6, tensor((1, 3, 2, 4), strides))
    lower = Footprint.of("arena", 6 + 2 * 2 * strides[2], tensor((1, 3, 3, 4), strides))
    right = Footprint.of("arena", 6 + 2 * 2 * strides[3], tensor((1, 3, 5, 2), strides))
    assert not upper.overlaps(lower)
    assert right.overlaps(upper)
    assert right.overlaps(lower)


def test_what_takes_long_to_tell_counts_as_overlapping(monkeypatch: pytest.MonkeyPatch) -> None:
    even, odd = (Footprint("arena", first, ((30, 40), (6, 40), (2, 40))) for first in (0, 1))
    assert not even.overlaps(odd)
    monkeypatch.setattr("jitrt.passes.hazards._PATIENCE", 3)
    assert even.overlaps(odd)


def test_waits_are_those_that_no_other_wait_implies() -> None:
    def block(number: int) -> Footprint:
        return Footprint.block("arena", 100 * number, 100)

    hazards = Hazards()
    assert hazards.add([], [block(0)]) == ()
    assert hazards.add([block(0)], [block(1)]) == (0,)  # read after write
    assert hazards.add([block(0)], [block(2)]) == (0,)  # two reads pass
    assert hazards.add([block(1), block(2)], [block(3)]) == (1, 2)  # 0 is implied
    assert hazards.add([], [block(0)]) == (1, 2)  # write after read, write after write
    assert hazards.add([block(3)], [block(0)]) == (3, 4)
    assert hazards.add([block(9)], [block(8)]) == ()
