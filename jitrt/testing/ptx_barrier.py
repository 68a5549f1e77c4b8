"""Barriers in shared memory (`mbarrier`) for the PTX machine: phases, arrivals, and bytes that copies bring.

A phase is complete when all arrivals that it waits for and all bytes that it was told to expect have come; the next one
begins at once. Who waits names a phase by its parity, and can mean only the one under way or the one before.

Semantics: "Asynchronous barrier", PTX ISA 8.7.
"""

from __future__ import annotations

import numpy as np

from jitrt.errors import KernelError
from jitrt.testing.ptx_order import Clocks, Order


class Barrier:
    """Barrier number `number`, initialised by `warp` at byte `place` for `count` arrivals a phase."""

    def __init__(self, order: Order, number: int, warp: int, place: int, count: int):
        self._order, self.number, self.place = order, number, place
        self._count = self._missing = count
        self._bytes = 0  # expected and not here yet
        self.phase = 0  # the one under way
        self._made = warp, int(order.generic[warp, warp])
        order.tick(warp)
        self._told = self._nothing()
        self._completed = self._nothing()

    def _nothing(self) -> Clocks:
        return np.zeros_like(self._order.generic[0]), np.zeros_like(self._order.fenced[0])

    def __str__(self) -> str:
        return (
            f"barrier {self.number} at byte {self.place}: phase {self.phase} lacks {self._missing} arrivals and "
            f"{self._bytes} bytes"
        )

    def used_by(self, warp: int, *, asynchronous: bool = False) -> Barrier:
        """Itself. Raises KernelError if the warp, or copies that it starts, may see it as it was before."""
        agent, clock = self._made
        if not self._order.knows(warp, agent, clock, fenced=asynchronous):
            raise KernelError(f"a race: nothing orders warp {warp} after the initialisation of {self}")
        return self

    def arrive(self, warp: int, expected: int = 0) -> None:
        """One arrival, after `expected` more bytes were announced."""
        if self._missing == 0:
            raise KernelError(f"warp {warp} arrives where nobody is missing: {self}")
        self._bytes += expected
        for mine, told in zip(self._told, self._order.told(warp), strict=True):
            np.maximum(mine, told, out=mine)
        self._missing -= 1
        self._complete()

    def bring(self, phase: int, nbytes: int) -> None:
        """A copy that was started during `phase` is here."""
        if phase != self.phase:
            raise KernelError(f"a copy for phase {phase} comes after that was complete: {self}")
        self._bytes -= nbytes
        self._complete()

    def _complete(self) -> None:
        if self._missing or self._bytes:
            return
        self._told[0][self._order.warps + self.number] = self.phase + 1
        self._completed, self._told = self._told, self._nothing()
        self.phase, self._missing = self.phase + 1, self._count

    def passes(self, warp: int, parity: int) -> bool:
        """Whether the phase of that parity is complete; then the warp knows all that was told by it."""
        if parity not in (0, 1):
            raise KernelError(f"a parity of {parity}")
        if self.phase % 2 == parity:
            return False
        self._order.learn(warp, self._completed)
        return True
