"""What orders the loads and stores of one block after the stores of another."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.errors import KernelError
from jitrt.testing.ptx_memory import Memory
from jitrt.testing.ptx_order import Order

WORDS = np.arange(2, 4)
TELL = ("atom", "global", "gpu", "acq_rel", "add", "u32")


def two_blocks() -> tuple[Memory, Order, Order]:
    """Memory, and blocks of two warps; warp 1 of the first one has stored."""
    memory, first, second = Memory(32), Order(2, 16, 0, 2), Order(2, 16, 1, 2)
    memory.writes(first, 1, WORDS, "a store")
    return memory, first, second


def test_a_warp_knows_what_it_stored() -> None:
    memory, first, second = two_blocks()
    memory.reads(first, 1, WORDS, "a load")
    memory.writes(first, 1, WORDS, "a store")
    memory.reads(second, 0, np.arange(2), "a load")  # of what nobody stored


@pytest.mark.parametrize("access", ["reads", "writes"])
def test_others_do_not(access: str) -> None:
    memory, first, second = two_blocks()
    for order, warp in ((first, 0), (second, 0), (second, 1)):
        with pytest.raises(KernelError, match=r"a race: a load .* byte 8 of memory, .* after warp 1 of block 0"):
            getattr(memory, access)(order, warp, WORDS, "a load")


def test_an_atomic_tells() -> None:
    memory, first, second = two_blocks()
    memory.atomic(first, 1, 64, TELL)
    memory.atomic(second, 0, 64, TELL)
    memory.reads(second, 0, WORDS, "a load")
    memory.writes(second, 0, WORDS, "a store")
    with pytest.raises(KernelError, match="after warp 0 of block 1"):
        memory.reads(first, 1, WORDS, "a load")


def test_it_tells_what_a_barrier_told() -> None:
    memory, first, second = two_blocks()
    first.learn(0, first.told(1))
    memory.atomic(first, 0, 64, TELL)
    memory.atomic(second, 0, 64, TELL)
    second.learn(1, second.told(0))
    memory.reads(second, 1, WORDS, "a load")


def test_it_tells_warps_of_its_own_block() -> None:
    memory, first, _ = two_blocks()
    memory.atomic(first, 1, 64, TELL)
    memory.atomic(first, 0, 64, TELL)
    memory.reads(first, 0, WORDS, "a load")


@pytest.mark.parametrize(
    ("place", "tells", "learns"),
    [
        (68, TELL, TELL),
        (64, ("atom", "global", "gpu", "relaxed", "add", "u32"), TELL),
        (64, TELL, ("atom", "global", "gpu", "relaxed", "add", "u32")),
        (64, ("atom", "global", "cta", "acq_rel", "add", "u32"), TELL),
        (64, ("atom", "global", "gpu", "acquire", "add", "u32"), TELL),
        (64, TELL, ("atom", "global", "gpu", "release", "add", "u32")),
    ],
)
def test_what_tells_nothing(place: int, tells: tuple[str, ...], learns: tuple[str, ...]) -> None:
    memory, first, second = two_blocks()
    memory.atomic(first, 1, 64, tells)
    memory.atomic(second, 0, place, learns)
    with pytest.raises(KernelError, match="a race"):
        memory.reads(second, 0, WORDS, "a load")


def test_what_is_stored_after_telling_is_not_told() -> None:
    memory, first, second = two_blocks()
    memory.atomic(first, 1, 64, TELL)
    memory.writes(first, 1, WORDS, "a store")
    memory.atomic(second, 0, 64, TELL)
    with pytest.raises(KernelError, match="a race"):
        memory.reads(second, 0, WORDS, "a load")
