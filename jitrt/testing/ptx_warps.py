"""The PTX machine for kernels of specialised warps: TMA, barriers in shared memory, products of several groups.

A block's warps run in teams (`jitrt/testing/ptx_team.py`), one at a time, until all have returned. The machine finds
wrong numbers, addresses, deadlocks, and whatever reads or overwrites with nothing to order it what others stored, in
shared memory (`jitrt/testing/ptx_order.py`) or memory (`jitrt/testing/ptx_memory.py`). A copy into shared memory is
done as late as can be, when nobody can go on without it, and until then its place holds NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.plan.schema import TensorMap
from jitrt.testing.ptx import Block, Program
from jitrt.testing.ptx_barrier import Barrier
from jitrt.testing.ptx_memory import Memory
from jitrt.testing.ptx_order import Order
from jitrt.testing.ptx_team import Team, handles
from jitrt.testing.ptx_tma import Box

_TEAM = 4  # warps
_WARP = 32
_TURNS = 0.1  # of the steps after which another block has its turn, in any order


class WarpBlock(Block):
    """A block of teams. Subclasses may choose other turns: `early`, copies are done at once; `seed`, any team that can
    may go on after each step, and any copy may be the next."""

    early: ClassVar[bool] = False
    seed: ClassVar[int | None] = None

    def __init__(
        self,
        program: Program,
        block: tuple[int, int, int],
        arguments: Sequence[int | TensorMap],
        memory: Array,
        shared_bytes: int,
        grid: tuple[int, int, int] = (1, 1, 1),
    ):
        numbers, self.maps = handles(arguments)
        super().__init__(program, block, numbers, memory, shared_bytes, grid)
        warps = program.threads // _WARP
        number = block[0] + grid[0] * (block[1] + grid[1] * block[2])
        self.order = Order(warps, self.shared.size, number, math.prod(grid))
        self.launch = Memory(memory.size)  # unless there are other blocks
        self.barriers: dict[int, Barrier] = {}
        self._random = np.random.default_rng(None if self.seed is None else (self.seed, *block))
        self._turns = np.random.default_rng(None if self.seed is None else (self.seed, number))
        self._copies: list[tuple[Box, Barrier, int, Array]] = []  # under way: with the phase, and what they bring
        self._met: dict[int, tuple[list[Team], list[int]]] = {}  # at each of the block's barriers; phases there
        self._threads = program.threads
        self._new: list[Team] = []
        for first in range(0, warps, _TEAM):
            some = range(first, min(warps, first + _TEAM))
            self._new.append(Team(self, program, some, block, numbers, memory, shared_bytes, grid))

    @classmethod
    def together(cls, blocks: Sequence[Block]) -> None:
        first = blocks[0]
        assert isinstance(first, WarpBlock)
        for block in blocks:
            assert isinstance(block, WarpBlock)
            block.launch = first.launch

    def run(self) -> Iterator[None]:
        """All of it, as blocks do not wait for each other here; or, in any order, until another block has its turn."""
        running: dict[Team, Iterator[None]] = {}
        while running or self._new:
            running |= {team: team.run() for team in self._new}
            self._new = []
            able = [team for team in running if team.ready()]
            if not able:
                self._deliver(running)
                continue
            team = able[0 if self.seed is None else int(self._random.integers(len(able)))]
            if next(running[team], self) is self:
                del running[team]
            self.stored += 1
            if self.seed is not None and self._turns.random() < _TURNS:
                yield
        if self._copies:
            raise KernelError(f"the block ends before a copy came that {self._copies[0][1]} waits for")

    # -- what its teams do

    def split(self, team: Team) -> None:
        self._new.append(team)

    def start(self, box: Box, barrier: Barrier) -> None:
        self._copies.append((box, barrier, barrier.phase, box.load(self.memory)))
        self.shared[box.shared[:, None] + np.arange(box.itemsize)] = 0xFF
        if self.early:
            self._bring(len(self._copies) - 1)

    def _deliver(self, running: Sequence[Team] | dict[Team, Iterator[None]]) -> None:
        """Nobody can go on: do a copy that somebody waits for."""
        wanted = [barrier for team in running if (barrier := team.waiting_for())]
        useful = [index for index, (_, barrier, _, _) in enumerate(self._copies) if barrier in wanted]
        if not useful:
            told = "; ".join(f"{team} ({team.waiting_for() or 'a barrier of the block'})" for team in running)
            raise KernelError(f"all warps wait, and for nothing that comes: {told}")
        self._bring(useful[-1 if self.seed is None else int(self._random.integers(len(useful)))])

    def _bring(self, index: int) -> None:
        box, barrier, phase, elements = self._copies.pop(index)
        self.shared[box.shared[:, None] + np.arange(box.itemsize)] = elements
        barrier.bring(phase, box.nbytes)

    def meet(self, team: Team, number: int, threads: int) -> Callable[[], bool]:
        here, phases = self._met.setdefault(number, ([], [0]))
        here.append(team)
        threads, phase = threads or self._threads, phases[0]
        if sum(each.program.threads for each in here) > threads:
            raise KernelError(f"more than {threads} threads at barrier {number} of the block: {team}")
        if sum(each.program.threads for each in here) == threads:
            warps = [int(warp) for each in here for warp in each.warps]
            told = [self.order.told(warp) for warp in warps]
            for warp in warps:
                for each in told:
                    self.order.learn(warp, each)
            here.clear()
            phases[0] += 1
        return lambda: phases[0] != phase


class EarlyWarpBlock(WarpBlock):
    """One whose copies are done at once."""

    early = True
