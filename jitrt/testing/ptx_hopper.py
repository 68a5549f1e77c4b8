"""What compiled convolutions add to the PTX machine: wgmma, copies into shared memory, its matrices, atomics, shuffles.

A copy (`cp.async`) is done when it is waited for, not before: a kernel that waits for too few of them reads what was
there. A product (`wgmma`) is done at once, so that one that is not waited for is not found out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array
from jitrt.testing.ptx import Block, Instruction, dtype_of

_SWIZZLES = {1: (128, 7), 2: (64, 3), 3: (32, 1)}  # by mode: bytes of a row, and bits of its number that are mixed in


class HopperBlock(Block):
    """A block whose threads know these instructions too."""

    def _execute(self, instruction: Instruction, on: Array) -> None:
        opcode, operands = instruction.opcode, instruction.operands
        if opcode[:4] == ("cp", "async", "bulk", "prefetch"):
            self._ask(operands, on)
        elif opcode[:2] == ("cp", "async"):
            self._copy(opcode, operands, on)
        elif opcode[:2] == ("wgmma", "mma_async"):
            self._product(opcode, operands)
        elif opcode[0] == "ldmatrix":
            self._load_matrices(opcode, operands)
        elif opcode[0] == "stmatrix":
            self._store_matrices(opcode, operands)
        elif opcode[0] == "atom":
            self._atomic(opcode, operands, on)
        elif opcode[0] == "shfl" and opcode[2] == "idx":
            lanes = np.arange(self.program.threads)
            source = lanes & ~31 | self._read(operands[2], "s32") & 31
            self._write(operands[0].split("|")[0], self._read(operands[1], "b32")[source], on)
        elif opcode[0] == "max" and opcode[-1] == "f32":
            values = [self._read(operand, "f32") for operand in operands[1:]]
            self._result(operands[0], (np.maximum if "NaN" in opcode else np.fmax).reduce(values), on)
        elif opcode[0] == "cvt" and opcode[-2] in ("f16x2", "bf16x2"):
            type = dtype_of(opcode[-2][:-2])
            halves = (self._one_nan(self._read(operand, "f32").astype(type)) for operand in operands[1:])
            high, low = (half.view(np.uint16).astype(np.uint32) for half in halves)
            self._write(operands[0], high << np.uint32(16) | low, on)
        elif opcode[0] not in ("fence", "wgmma"):
            super()._execute(instruction, on)

    def _atomic(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        """Threads add one after the other, and each gets what was there before."""
        if opcode[-2:] != ("add", "u32"):
            raise KernelError(f"the PTX machine does not know {'.'.join(opcode)}")
        at, amount = self._address(operands[1]), self._read(operands[2], "u32")
        before = np.zeros(self.program.threads, np.uint32)
        for thread in np.flatnonzero(on):
            place = self.memory[at[thread] : at[thread] + 4].view(np.uint32)
            before[thread] = place[0]
            place[0] += amount[thread]
        self.stored += 1
        self._write(operands[0], before, on)

    def _copy(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        """Start copies of 4, 8 or 16 bytes, some of them zeros; or close a group of them; or wait for groups."""
        if opcode[2] == "commit_group":
            self.groups.append(self.opened)
            self.opened = []
        elif opcode[2] == "wait_group":
            while len(self.groups) > int(operands[0], 0):
                for place, data, whose in self.groups.pop(0):
                    self._copied(place, data.size, whose)
                    self.shared[place : place + data.size] = data
        else:
            to, source, size = self._address(operands[0]), self._address(operands[1]), int(operands[2], 0)
            count = self._read(operands[-1], "u32").astype(np.int64)
            reads = on & (count > 0)
            outside = (source[reads] < 0) | (source[reads] + size > self.memory.size) | (source[reads] % size != 0)
            if outside.any() or (to[on] % size).any() or (to[on] + size > self.shared.size).any():
                raise KernelError(f"{'.'.join(opcode)} reaches outside its memory or is not aligned")
            for thread in np.flatnonzero(on):
                data = np.zeros(size, np.uint8)
                data[: count[thread]] = self.memory[source[thread] : source[thread] + count[thread]]
                self._copied(int(to[thread]), size, int(thread))
                self.opened.append((int(to[thread]), data, int(thread)))

    def _ask(self, operands: tuple[str, ...], on: Array) -> None:
        """Bytes asked for are not loaded yet, but must be there."""
        at, size = self._address(operands[0])[on], self._read(operands[1], "u32")[on].astype(np.int64)
        if ((at < 0) | (at + size > self.memory.size) | (at % 16 != 0) | (size % 16 != 0)).any():
            raise KernelError("a kernel asks for bytes outside its memory, or not aligned")

    def _copied(self, place: int, size: int, thread: int) -> None:
        """A thread's copy to a place of shared memory begins, or ends."""

    def _product(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """m64nNk16 of 16-bit floats: operands in shared memory, rows of consecutive k, or the left one in registers."""
        found = re.search(r"\.m64n(\d+)k16\.f32\.(b?f16)\.\2$", ".".join(opcode))
        held = operands[1].startswith("{")
        if found is None or operands[4:] != ("1", "1", "0", "0")[: 4 - held] or self.program.threads != 128:
            raise KernelError(f"the PTX machine does not know {'.'.join(opcode)} {operands[4:]}")
        if held:
            left = self._held([name.strip() for name in operands[1].strip("{}").split(",")], found[2])
        else:
            left = self._operand(operands[1], 64, found[2], left=True)
        right = self._operand(operands[2], int(found[1]), found[2], left=False)
        total = (left @ right.T).astype(np.float32)
        adds = self._read(operands[3], "pred")[0] != 0
        thread = np.arange(128)
        row, column = thread // 32 * 16 + thread % 32 // 4, 2 * (thread % 4)
        for at, name in enumerate(name.strip() for name in operands[0].strip("{}").split(",")):
            part = total[row + at // 2 % 2 * 8, column + at // 4 * 8 + at % 2]
            before = self._read(name, "f32") if adds else np.float32(0)
            self._result(name, (before + part).astype(np.float32), self.everyone)

    def _operand(self, register: str, rows: int, type: str, *, left: bool) -> Array:
        """The `rows` x 16 numbers that a descriptor of shared memory stands for."""
        return self.shared[self._places(register, rows, left=left)].view(dtype_of(type)).astype(np.float64)

    def _held(self, names: list[str], type: str) -> Array:
        """The 64 x 16 numbers that four registers of every thread hold, two each."""
        thread = np.arange(128)
        row, column = thread // 32 * 16 + thread % 32 // 4, 2 * (thread % 4)
        left = np.zeros((64, 16))
        for at, name in enumerate(names):
            pair = np.ascontiguousarray(self._read(name, "b32")).view(dtype_of(type)).reshape(-1, 2)
            for i in range(2):
                left[row + at % 2 * 8, column + at // 2 * 8 + i] = pair[:, i]
        return left

    def _places(self, register: str, rows: int, *, left: bool) -> Array:
        """Where their bytes are: (rows, 32)."""
        descriptor = int(self._read(register, "b64")[0])
        start, group, mode = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4, descriptor >> 62
        if mode not in _SWIZZLES:
            raise KernelError("the PTX machine does not know operands of wgmma that are not swizzled")
        pitch, mixed = _SWIZZLES[mode]
        if descriptor >> 49 & 7 or start >> 7 & mixed:
            raise KernelError(f"the PTX machine does not know an operand of wgmma at {start}, inside of its swizzle")
        row = np.arange(rows)
        at = start + (row // 8 * group + row % 8 * pitch)[:, None] + np.arange(32)
        return np.asarray(at ^ (at >> 7 & mixed) << 4)

    def _load_matrices(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """8x8 matrices of 16-bit numbers, whose rows every eighth of a warp points at; a thread gets two numbers."""
        lane = np.arange(32)
        for rows, name in self._matrices(operands[1], operands[0]):
            matrix = self.shared[rows].view(np.uint16)
            if "trans" in opcode:
                matrix = matrix.transpose(0, 2, 1)
            low, high = (matrix[:, lane // 4, 2 * (lane % 4) + i].astype(np.uint32) for i in range(2))
            self._write(name, (high << np.uint32(16) | low).reshape(-1), self.everyone)

    def _store_matrices(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """The other way round."""
        lane = np.arange(32)
        for rows, name in self._matrices(operands[0], operands[1]):
            halves = np.ascontiguousarray(self._read(name, "b32").reshape(-1, 32)).view(np.uint16).reshape(-1, 32, 2)
            matrix = np.zeros((len(halves), 8, 8), np.uint16)
            for i in range(2):
                matrix[:, lane // 4, 2 * (lane % 4) + i] = halves[:, :, i]
            if "trans" in opcode:
                matrix = matrix.transpose(0, 2, 1)
            self.shared[rows] = np.ascontiguousarray(matrix).view(np.uint8).reshape(rows.shape)

    def _matrices(self, address: str, registers: str) -> Iterator[tuple[Array, str]]:
        """(addresses of the bytes of a matrix: (warps, 8 rows, 16), register) of every matrix."""
        starts = self._address(address).reshape(-1, 32)
        for number, name in enumerate(registers.strip("{}").split(",")):
            yield starts[:, 8 * number : 8 * number + 8, None] + np.arange(16), name.strip()
