"""The PTX machine with an eye on shared memory: races between the warps of a block.

The machine runs all threads in step, so that a barrier that is missing does no harm there. This one notes for every
byte of shared memory which warps read and wrote it since the last barrier of the block: two of them at the same byte,
one writing, is a race. A copy (`cp.async`) writes from when it is started to when it is waited for, a product (`wgmma`)
reads from when it is started to when it is waited for, whatever barriers lie between, and each of its warps reads its
own rows of the left operand; or registers, which nobody may write meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.testing.ptx import Instruction, width_of
from jitrt.testing.ptx_hopper import HopperBlock

_WARP = 32


class WatchedBlock(HopperBlock):
    """A block that raises KernelError at the first race, naming the instruction that is late or early."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._now = 1  # barriers passed, and one
        self._here, self._step = "", 0  # the instruction, and how many there were
        self._stored_in = np.zeros(self.shared.size, int)  # the step of a byte's last store
        self._written, self._writer = np.zeros(self.shared.size, int), np.full(self.shared.size, -1)
        self._read_at, self._readers = np.zeros(self.shared.size, int), np.zeros(self.shared.size, int)
        self._in_use = np.zeros(self.shared.size, int)  # by how many products under way
        self._opened: list[tuple[Array, int]] = []  # what products read, and which warp, in no group yet
        self._products: list[list[tuple[Array, int]]] = []  # and groups of such, not waited for
        self._registers: list[set[str]] = []  # that these groups read
        self._opened_registers: set[str] = set()

    def _guarded(self, instruction: Instruction) -> Array:
        self._step += 1
        self._here = f"{'.'.join(instruction.opcode)} {', '.join(instruction.operands)}"
        if instruction.opcode[0] == "bar" and instruction.opcode[1] != "warp":
            self._now += 1
        if instruction.opcode[:2] == ("wgmma", "commit_group"):
            self._products.append(self._opened)
            self._registers.append(self._opened_registers)
            self._opened, self._opened_registers = [], set()
        if instruction.opcode[:2] == ("wgmma", "wait_group"):
            while len(self._products) > int(instruction.operands[0]):
                self._registers.pop(0)
                for at, warp in self._products.pop(0):
                    self._in_use[at] -= 1
                    self._reads(at, warp)
        return super()._guarded(instruction)

    def _writes(self, at: Array, warp: int) -> None:
        at = np.unique(at)
        others = (self._read_at[at] == self._now) & (self._readers[at] & ~(1 << warp) != 0)
        # One instruction of several warps may store the same numbers twice: `_same` sees to that.
        others |= (self._written[at] == self._now) & (self._writer[at] != warp) & (self._stored_in[at] != self._step)
        others |= self._in_use[at] > 0  # a product has not been waited for, be it this warp's own
        if others.any():
            raise KernelError(f"a race: {self._here} writes byte {at[others][0]}, which another warp may still need")
        self._written[at], self._writer[at], self._stored_in[at] = self._now, warp, self._step

    def _reads(self, at: Array, warp: int) -> None:
        at = np.unique(at)
        others = (self._written[at] == self._now) & (self._writer[at] != warp)
        if others.any():
            raise KernelError(f"a race: {self._here} reads byte {at[others][0]}, which another warp may still write")
        self._readers[at] = np.where(self._read_at[at] == self._now, self._readers[at], 0) | 1 << warp
        self._read_at[at] = self._now

    def _move(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        if any(part.startswith("shared") for part in opcode):
            loads = opcode[0] == "ld"
            names = operands[0 if loads else 1].strip("{}").split(",")
            bytes_ = np.arange(width_of(opcode[-1]) * len(names))
            start = self._address(operands[1 if loads else 0])
            if not loads:
                self._same([self._read(name.strip(), f"b{8 * width_of(opcode[-1])}") for name in names], start, on)
            for warp in range(self.program.threads // _WARP):
                threads = np.flatnonzero(on[warp * _WARP : (warp + 1) * _WARP]) + warp * _WARP
                (self._reads if loads else self._writes)(start[threads][:, None] + bytes_, warp)
        super()._move(opcode, operands, on)

    def _same(self, values: list[Array], start: Array, on: Array) -> None:
        """Raise KernelError if threads store different numbers at one place."""
        size = values[0].dtype.itemsize
        at = np.concatenate([start[on] + size * index for index in range(len(values))])
        data = np.concatenate([value[on] for value in values])
        order = np.lexsort((data, at))
        twice = (np.diff(at[order]) == 0) & (data[order][1:] != data[order][:-1])
        if twice.any():
            raise KernelError(f"a race: {self._here} stores different numbers at byte {at[order][1:][twice][0]}")

    def _matrices(self, address: str, registers: str) -> Iterator[tuple[Array, str]]:
        for rows, name in super()._matrices(address, registers):
            for warp, each in enumerate(rows):
                (self._reads if self._here.startswith("ld") else self._writes)(each, warp)
            yield rows, name

    def _places(self, register: str, rows: int, *, left: bool) -> Array:
        at = super()._places(register, rows, left=left)
        for warp in range(self.program.threads // _WARP):
            mine = np.unique(at[16 * warp : 16 * warp + 16] if left else at)
            self._reads(mine, warp)
            self._in_use[mine] += 1
            self._opened.append((mine, warp))
        return at

    def _held(self, names: list[str], type: str) -> Array:
        self._opened_registers.update(names)
        return super()._held(names, type)

    def _write(self, operand: str, value: Array, on: Array) -> None:
        if operand in self._opened_registers or any(operand in names for names in self._registers):
            raise KernelError(f"a race: {self._here} writes {operand}, which a product may still read")
        super()._write(operand, value, on)

    def _copied(self, place: int, size: int, thread: int) -> None:
        self._writes(np.arange(place, place + size), thread // _WARP)
