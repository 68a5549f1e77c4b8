"""Warps of a block that run in step, at most four of them: what kernels of specialised warps add to the PTX machine.

A team goes where a branch takes all of it, and splits where a branch parts its warps. It stops at everything that
others may notice or that it may have to wait for, so that `jitrt/testing/ptx_warps.py` can let another one go on.

Semantics: PTX ISA 8.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.plan.schema import TensorMap
from jitrt.testing.ptx import Instruction, Program, width_of
from jitrt.testing.ptx_barrier import Barrier
from jitrt.testing.ptx_hopper import HopperBlock
from jitrt.testing.ptx_memory import Memory
from jitrt.testing.ptx_order import WORD, Order, whole_words, words_of
from jitrt.testing.ptx_tma import Box, box_at

_WARP = 32
_SILENT = ("bra", "brx", "nanosleep", "setmaxnreg", "prefetch")
_MAPS = 0xE0000000  # where a parameter that is a tensor map seems to be; Triton 3.9 keeps 32 bits of it


class Around(Protocol):
    """What the teams of a block have in common."""

    order: Order
    launch: Memory
    barriers: dict[int, Barrier]
    maps: dict[int, TensorMap]
    shared: Array

    def meet(self, team: Team, number: int, threads: int) -> Callable[[], bool]:
        """Arrive at one of the block's barriers; whether all did."""

    def start(self, box: Box, barrier: Barrier) -> None:
        """Start a copy into shared memory."""

    def split(self, team: Team) -> None:
        """Let a new team run."""


class Team(HopperBlock):
    """Warps `warps` of a block. After each step, `waits` tells whether it may go on, and `at` where it is."""

    def __init__(self, around: Around, program: Program, warps: range, *rest: object):
        super().__init__(replace(program, threads=_WARP * len(warps)), *rest)  # type: ignore[arg-type]
        self.around, self.warps, self.at = around, np.array(warps), 0
        self.shared = around.shared
        self.registers["%tid.x"] += np.uint64(_WARP * warps[0])
        self.ready: Callable[[], bool] = lambda: True
        self._here: Instruction = program.code[0]
        self._asked = not any(each.opcode[:2] == ("griddepcontrol", "wait") for each in program.code)
        self._reading: list[list[tuple[int, Array]]] = [[]]  # products: groups of (warp, words), the open one last
        self._storing: dict[int, list[list[Array]]] = {int(warp): [[]] for warp in self.warps}  # copies out, likewise

    def __str__(self) -> str:
        names = f"warp {self.warps[0]}" if len(self.warps) == 1 else f"warps {self.warps[0]} to {self.warps[-1]}"
        return f"{names} at instruction {self.at}, {self.here}"

    @property
    def here(self) -> str:
        return f"{'.'.join(self._here.opcode)} {', '.join(self._here.operands)}".strip()

    def run(self) -> Iterator[None]:
        """Yields where others may have their turn; goes on only once `ready()`."""
        while True:
            self._here = self.program.code[self.at]
            on = self._guarded(self._here)
            kind = self._here.opcode[0]
            if kind == "ret":
                if not on.all():
                    raise KernelError("threads of a team return alone")
                self._leave()
                return
            if kind == "trap" and on.any():
                raise KernelError("a trap")
            if kind in ("bra", "brx") and on.any():
                self.at = self._branch(on)
                continue
            self.at += 1
            if kind in ("mbarrier", "bar", "barrier") or self._here.opcode[:3] == ("cp", "async", "bulk"):
                self._synchronise(on)
                yield
            elif kind not in _SILENT:
                self._execute(self._here, on)

    def _leave(self) -> None:
        if any(self._reading) or any(any(groups) for groups in self._storing.values()):
            raise KernelError(f"{self} ends before a product or a copy out of shared memory was waited for")

    # -- control

    def _branch(self, on: Array) -> int:
        """Where it goes on. Warps that go elsewhere are another team from now on."""
        labels, operands = self.program.labels, self._here.operands
        if self._here.opcode[0] == "bra":
            targets = np.where(on, labels[operands[0]], self.at + 1)
        else:
            table = np.array([labels[name] for name in self.program.tables[operands[1]]])
            targets = table[self._read(operands[0], "u32")]
        by_warp = targets.reshape(-1, _WARP)
        if (by_warp != by_warp[:, :1]).any():
            raise KernelError(f"threads of a warp part ways: {self}")
        first, *others = np.unique(by_warp[:, 0])
        for target in others:
            self._part(by_warp[:, 0] == target, int(target))
        if others:
            self._keep(by_warp[:, 0] == first)
        return int(first)

    def _part(self, chosen: Array, at: int) -> None:
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"at": at, "registers": dict(self.registers), "stored": 0}
        other._keep(chosen)
        self.around.split(other)

    def _keep(self, chosen: Array) -> None:
        """Go on with these warps alone."""
        if any(self._reading) or any(any(groups) for groups in self._storing.values()):
            raise KernelError(f"warps part ways with products or copies under way: {self}")
        lanes = np.repeat(chosen, _WARP)
        self.warps = self.warps[chosen]
        self.program = replace(self.program, threads=int(lanes.sum()))
        self.registers = {name: value[lanes] for name, value in self.registers.items()}
        self.everyone = self.active = np.ones(self.program.threads, bool)
        self._reading, self._storing = [[]], {int(warp): [[]] for warp in self.warps}

    # -- what orders warps

    def _synchronise(self, on: Array) -> None:
        opcode, operands = self._here.opcode, self._here.operands
        self.ready = lambda: True
        if opcode[0] in ("bar", "barrier"):
            if opcode[1] != "warp":
                self._meet(operands)
        elif opcode[0] == "mbarrier":
            self._barrier(opcode, operands, on)
        elif "tensor" in opcode:
            self._copy_box(opcode, operands, on)
        elif "commit_group" in opcode:
            for groups in self._storing.values():
                groups.append([])
        elif "wait_group" in opcode:
            for warp, groups in self._storing.items():
                while len(groups) > int(operands[0]) + 1:
                    for words in groups.pop(0):
                        self.around.order.waited_for(warp, words)
        else:
            raise KernelError(f"the PTX machine does not know {self.here}")

    def _meet(self, operands: tuple[str, ...]) -> None:
        number = int(self._read(operands[0], "u32")[0])
        threads = int(self._read(operands[1], "u32")[0]) if len(operands) > 1 else 0
        self.ready = self.around.meet(self, number, threads)

    def _barrier(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        if opcode[1] == "init":
            for warp, thread in self._each(on):
                place, count = (int(self._value(operand)[thread]) for operand in operands)
                known = self.around.barriers
                number = known[place].number if place in known else len(known)
                self.around.order.writes(warp, words_of(np.arange(place, place + 8)), self._who(warp))
                known[place] = Barrier(self.around.order, number, warp, place, count)
        elif opcode[1] == "arrive":
            expected = self._value(operands[2]) if "expect_tx" in opcode else None
            for warp, thread in self._each(on):
                barrier = self._at(operands[1], thread).used_by(warp)
                barrier.arrive(warp, 0 if expected is None else int(expected[thread]))
        elif opcode[1:3] == ("try_wait", "parity"):
            self._wait(operands, on)
        else:
            raise KernelError(f"the PTX machine does not know {self.here}")

    def _wait(self, operands: tuple[str, ...], on: Array) -> None:
        """A look at a barrier, which is repeated when its phase is another one."""
        places, parities = self._address(operands[1])[on], self._value(operands[2])[on]
        if not on.all() or (places != places[0]).any() or (parities != parities[0]).any():
            raise KernelError(f"threads wait for different things: {self}")
        barrier, parity = self._at(operands[1], 0), int(parities[0])
        passed = [barrier.used_by(int(warp)).passes(int(warp), parity) for warp in self.warps]
        self._write(operands[0], np.full(self.program.threads, passed[0], np.uint64), on)
        if not passed[0]:
            phase = barrier.phase
            self.ready = lambda: barrier.phase != phase

    def waiting_for(self) -> Barrier | None:
        """The barrier it looked at last."""
        if self._here.opcode[:2] != ("mbarrier", "try_wait"):
            return None
        return self._at(self._here.operands[1], 0)

    def _at(self, operand: str, thread: int) -> Barrier:
        place = int(self._address(operand)[thread])
        if place not in self.around.barriers:
            raise KernelError(f"there is no barrier at byte {place}: {self}")
        return self.around.barriers[place]

    def _value(self, operand: str) -> Array:
        return self._address(operand) if operand.startswith("[") else self._read(operand, "u32")

    def _each(self, on: Array) -> Iterator[tuple[int, int]]:
        """(warp, thread) of those that do it."""
        return ((int(self.warps[thread // _WARP]), int(thread)) for thread in np.flatnonzero(on))

    def _who(self, warp: int) -> str:
        return f"warp {warp} at instruction {self.at - 1}, {self.here},"

    # -- copies by TMA

    def _copy_box(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        loads = "mbarrier::complete_tx::bytes" in opcode
        if not loads and "bulk_group" not in opcode:
            raise KernelError(f"the PTX machine does not know {self.here}")
        shared, described = operands[0 if loads else 1], operands[1 if loads else 0]
        found = re.fullmatch(r"\[(\S+), \{(.*)\}\]", described)
        if found is None:
            raise KernelError(f"no box of a tensor map: {described}")
        names = [name.strip() for name in found[2].split(",")][::-1]
        for warp, thread in self._each(on):
            coordinates = [int(self._read(name, "s32")[thread]) for name in names]
            handle = int(self._read(found[1], "b64")[thread])
            if handle not in self.around.maps:
                raise KernelError(f"{handle} is no tensor map: {self}")
            tensor = self.around.maps[handle]
            if not self._asked and tensor.pointer.space != "constants":
                raise KernelError(f"{self._who(warp)} comes before griddepcontrol.wait")
            box = box_at(tensor, coordinates, int(self._address(shared)[thread]), self.memory.size, self.shared.size)
            words = whole_words(box.shared, box.itemsize)
            if loads:
                barrier = self._at(operands[2], thread).used_by(warp, asynchronous=True)
                self.around.order.copies(warp, words, barrier.number, barrier.phase, self._who(warp))
                self.around.start(box, barrier)
            else:
                self.around.order.reads(warp, words, self._who(warp), asynchronous=True)
                self._storing[warp][-1].append(words)
                box.store(self.memory, self.shared[box.shared[:, None] + np.arange(box.itemsize)])
                self.stored += 1

    # -- everything else

    def _execute(self, instruction: Instruction, on: Array) -> None:
        opcode, operands = instruction.opcode, instruction.operands
        kind = opcode[0]
        if kind == "elect":
            lane, chosen = operands[0].split("|")
            first = np.tile(np.arange(_WARP) == 0, len(self.warps))
            self._write(lane, np.zeros(self.program.threads, np.uint32), on)
            self._write(chosen, first.astype(np.uint64), on)
        elif kind == "cvta":
            self._write(operands[0], self._read(operands[1], "b64"), on)
        elif kind == "griddepcontrol":
            self._asked = self._asked or opcode[1] == "wait"
        elif opcode[:3] == ("fence", "proxy", "async"):
            for warp in self.warps:
                self.around.order.fence(int(warp))
        elif opcode[:2] == ("wgmma", "commit_group"):
            self._reading.append([])
        elif opcode[:2] == ("wgmma", "wait_group"):
            while len(self._reading) > int(operands[0]) + 1:
                for warp, words in self._reading.pop(0):
                    self.around.order.waited_for(warp, words)
        else:
            super()._execute(instruction, on)

    def _atomic(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        super()._atomic(opcode, operands, on)
        places = self._address(operands[1])
        for warp, thread in self._each(on):
            self.around.launch.atomic(self.around.order, warp, int(places[thread]), opcode)

    def _move(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        if "param" in opcode:
            super()._move(opcode, operands, on)
            return
        loads = opcode[0] == "ld"
        shared = any(part.startswith("shared") for part in opcode)
        size = width_of(opcode[-1]) * len(operands[0 if loads else 1].split(","))
        places = self._address(operands[1 if loads else 0])[:, None] + np.arange(size)
        if loads or not shared:
            super()._move(opcode, operands, on)
        for index, warp in enumerate(self.warps):
            mine = on & (np.arange(on.size) // _WARP == index)
            words = words_of(places[mine])
            if not shared:
                access = self.around.launch.reads if loads else self.around.launch.writes
                access(self.around.order, int(warp), words, self._who(int(warp)))
                continue
            if loads:
                self.around.order.reads(int(warp), words, self._who(int(warp)))
                continue
            before = self._content(words)
            super()._move(opcode, operands, mine)
            same = (self._content(words) == before).all(axis=1)
            self.around.order.writes(int(warp), words, self._who(int(warp)), same)

    def _content(self, words: Array) -> Array:
        at = np.minimum(words[:, None] * WORD + np.arange(WORD), self.shared.size - 1)
        return np.array(self.shared[at])

    def _matrices(self, address: str, registers: str) -> Iterator[tuple[Array, str]]:
        access = self.around.order.reads if self._here.opcode[0] == "ldmatrix" else self.around.order.writes
        for rows, name in super()._matrices(address, registers):
            for warp, places in zip(self.warps, rows, strict=True):
                access(int(warp), whole_words(places), self._who(int(warp)))
            yield rows, name

    def _places(self, register: str, rows: int, *, left: bool) -> Array:
        """Every warp of a product reads its rows of the left operand and all of the right one."""
        at = super()._places(register, rows, left=left)
        for index, warp in enumerate(self.warps):
            words = whole_words(at[16 * index : 16 * index + 16] if left else at)
            self.around.order.reads(int(warp), words, self._who(int(warp)), asynchronous=True)
            self._reading[-1].append((int(warp), words))
        return at


def handles(arguments: Sequence[int | TensorMap]) -> tuple[list[int], dict[int, TensorMap]]:
    """A kernel's parameters as numbers, and the tensor maps that some of them stand for."""
    maps = {_MAPS + number: value for number, value in enumerate(arguments) if isinstance(value, TensorMap)}
    values = [_MAPS + n if isinstance(value, TensorMap) else value for n, value in enumerate(arguments)]
    return values, maps
