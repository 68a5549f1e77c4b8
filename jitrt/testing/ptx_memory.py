"""Memory that the blocks of a launch share, for the PTX machine: who stored what, and what orders a load after it.

As `jitrt/testing/ptx_order.py` does it for a block's shared memory, with the same clocks: a warp may load what it
stored itself, or what it was told of, by its block's barriers or by atomics of a place at which the other one's warp
told it (`acq_rel`). Copies by TMA and atomics themselves are not followed.

Semantics: "Memory consistency model", PTX ISA 8.7.
"""

from __future__ import annotations

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.testing.ptx_order import WORD, Order


class Memory:
    """For every word of `nbytes` of memory which warp of the launch stored it last, and when."""

    def __init__(self, nbytes: int):
        self._writer, self._written = (np.zeros(-(-nbytes // WORD), np.int64) for _ in range(2))
        self._told: dict[int, Array] = {}  # at a place that atomics use

    def reads(self, order: Order, warp: int, words: Array, what: str) -> None:
        self._check(order, warp, words, f"{what} reads")

    def writes(self, order: Order, warp: int, words: Array, what: str) -> None:
        self._check(order, warp, words, f"{what} overwrites")
        self._writer[words], self._written[words] = order.agent(warp), order.generic[warp, warp]

    def _check(self, order: Order, warp: int, words: Array, does: str) -> None:
        late = self._written[words] > order.launch(warp)[self._writer[words]]
        if late.any():
            word = words[late][0]
            block, writer = divmod(int(self._writer[word]), order.warps)
            by = f"warp {writer} of block {block}"
            raise KernelError(f"a race: {does} byte {word * WORD} of memory, with nothing to order it after {by}")

    def atomic(self, order: Order, warp: int, place: int, opcode: tuple[str, ...]) -> None:
        """An atomic of a warp, which may tell (release) and learn (acquire)."""
        if not {"gpu", "sys"} & set(opcode):
            return
        if {"acquire", "acq_rel"} & set(opcode) and place in self._told:
            order.learn_launch(warp, self._told[place])
        if {"release", "acq_rel"} & set(opcode):
            told = order.launch(warp)
            self._told[place] = np.maximum(told, self._told.get(place, told))
            order.tick(warp)
