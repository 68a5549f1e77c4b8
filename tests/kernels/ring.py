"""The barriers of `gemm_tma_kernel` as a program of their own: who waits for what, loads arriving in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

Step = Iterator[Callable[[], bool]]  # what an agent waits for, again and again


class Barrier:
    """An mbarrier of one arrival, with loads it waits for besides (PTX ISA, mbarrier)."""

    def __init__(self) -> None:
        self.completed, self.arrived, self.loads = 0, False, 0

    def arrive(self, loads: int = 0) -> None:
        assert not self.arrived, "a second arrival in one phase"
        self.arrived, self.loads = True, self.loads + loads
        self.settle()

    def settle(self) -> None:
        if self.arrived and not self.loads:
            self.arrived, self.completed = False, self.completed + 1

    def passed(self, parity: int) -> Callable[[], bool]:
        return lambda: (self.completed + 1) % 2 == parity


def run(
    units: int, steps: int, parts: int, consumers: int, stages: int, buffers: int, handed: bool, order: bool, seed: int
) -> None:
    """One program's `units` tiles. Raises AssertionError if a consumer reads another block than its own, if a block is
    written over before it was read, or if all wait."""
    rng = random.Random(seed)
    full, free = ([Barrier() for _ in range(stages)] for _ in range(2))
    come, left = ([Barrier() for _ in range(consumers * buffers)] for _ in range(2))
    turn = [Barrier(), Barrier()]
    blocks: list[object] = [None] * stages
    tiles: list[object] = [None] * (consumers * buffers)
    reading: set[int] = set()
    flying: list[tuple[Barrier, list[object], int, object]] = []

    def produce() -> Step:
        block = 0
        for unit in range(units):
            for k in range(steps):
                slot = block % stages
                yield free[slot].passed(block // stages % 2 ^ 1)
                full[slot].arrive(loads=1)
                flying.append((full[slot], blocks, slot, (unit, k)))
                block += 1
            for n in range(parts if handed else 0):
                count = unit // consumers * parts + n
                slot = unit % consumers * buffers + count % buffers
                yield left[slot].passed(count // buffers % 2 ^ 1)
                come[slot].arrive(loads=1)
                flying.append((come[slot], tiles, slot, (unit, n)))

    def consume(which: int) -> Step:
        block, count = which * steps, 0
        for round, unit in enumerate(range(which, units, consumers)):
            if order:
                yield turn[which].passed(round % 2 ^ (1 - which))
            for n in range(parts):
                for k in range(steps):
                    slot = (block + k) % stages
                    yield full[slot].passed((block + k) // stages % 2)
                    assert blocks[slot] == (unit, k), f"{(unit, k)} expected, {blocks[slot]} found"
                    reading.add(slot)
                    yield lambda: True
                    if k > 0 and n == parts - 1:
                        reading.discard((slot + stages - 1) % stages)
                        free[(slot + stages - 1) % stages].arrive()
                if order and n == 0:
                    turn[1 - which].arrive()
                if n == parts - 1:
                    last = (block + steps - 1) % stages
                    reading.discard(last)
                    free[last].arrive()
                if handed:
                    slot = which * buffers + count % buffers
                    yield come[slot].passed(count // buffers % 2)
                    assert tiles[slot] == (unit, n), f"{(unit, n)} expected, {tiles[slot]} found"
                    if count > 0:
                        left[which * buffers + (count + buffers - 1) % buffers].arrive()
                count += 1
            block += consumers * steps

    agents = [produce(), *(consume(which) for which in range(consumers))]
    waits = [(agent, next(agent, None)) for agent in agents]
    while any(wait is not None for _, wait in waits):
        ready = [i for i, (_, wait) in enumerate(waits) if wait is not None and wait()]
        assert ready or flying, "all of them wait"
        if flying and (not ready or rng.random() < 0.3):
            barrier, where, slot, what = flying.pop(rng.randrange(len(flying)))
            assert where is not blocks or slot not in reading, f"{what} is loaded over what is being read"
            where[slot] = what
            barrier.loads -= 1
            barrier.settle()
            continue
        agent = rng.choice(ready)
        waits[agent] = waits[agent][0], next(waits[agent][0], None)
