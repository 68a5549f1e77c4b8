"""A machine for PTX: runs what the compiler made of a kernel on the CPU, where the interpreter cannot.

The interpreter runs neither Gluon, nor inline assembly, nor programs that wait for each other. This runs the compiled
text: all threads of a block in step, one instruction after another, and the blocks in turns, each until it waits for
memory that another one writes. It knows the instructions that the kernels here use and refuses any other; a block's
barriers are no-ops to it, so it finds wrong numbers and addresses, deadlocks among blocks, and no races.

Semantics: PTX ISA 8.7, https://docs.nvidia.com/cuda/parallel-thread-execution.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array

_TYPES: dict[str, Any] = {
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype(np.float32),
    **{f"{kind}16x2": np.dtype(np.uint32) for kind in "usf"},
    "pred": np.dtype(np.uint64),
}
_FLOATS = tuple(_TYPES[name] for name in ("f16", "bf16", "f32"))
_STATEMENT = re.compile(r"(?:@(!?)([%\w]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_TABLE = re.compile(r"([$\w]+):\s*\.branchtargets([^;]*);")
_OPERANDS = re.compile(r"(?:\[[^\]]*\]|\{[^}]*\}|[^,\[{])+")
_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_BITWISE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
_UNWRITTEN = 0xA5A5A5A5A5A5A5A5  # what a register holds that nobody wrote
_PATIENCE = 100  # turns in which no block stores anything
_ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@dataclass(frozen=True)
class Instruction:
    guard: tuple[bool, str] | None  # (negated, register)
    opcode: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A kernel's instructions, where its labels stand, its parameters' names and threads a block. `tables` are the
    labels that a branch may choose from (`brx.idx`)."""

    code: tuple[Instruction, ...]
    labels: dict[str, int]
    parameters: tuple[str, ...]
    threads: int
    tables: dict[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> Program:
        """The only kernel of a PTX module. Names declared inside braces are local to them."""
        text = re.sub(r"//[^\n]*", "", text)
        head, body = text.split(")\n", 1)
        parameters = tuple(re.findall(r"(\w+_param_\d+)", head))
        threads = int(re.search(r"\.reqntid (\d+)", body).group(1))  # type: ignore[union-attr]
        tables = {name: tuple(re.findall(r"[$\w]+", targets)) for name, targets in _TABLE.findall(body)}
        body = _TABLE.sub("", body)
        code: list[Instruction] = []
        labels: dict[str, int] = {}
        scopes: list[dict[str, str]] = []
        for scope, part in enumerate(re.split(r"[;\n]", body.split("{", 1)[1].rsplit("}", 1)[0])):
            statement = part.strip()
            while statement[:1] in ("{", "}"):
                scopes.append({}) if statement[0] == "{" else scopes.pop()
                statement = statement[1:].strip()
            if statement.startswith(".reg") and scopes:
                names = [name.strip() for name in statement.split(None, 2)[2].split(",")]
                scopes[-1].update((name, f"{name}@{scope}") for name in names)
                continue
            if found := re.match(r"([$\w]+):\s*$", statement):
                name = found.group(1)
                if scopes:
                    scopes[-1][name] = f"{name}@{scope}"
                labels[scopes[-1][name] if scopes else name] = len(code)
            elif statement and not statement.startswith("."):
                code.append(_instruction(statement, {k: v for each in scopes for k, v in each.items()}))
        return cls(tuple(code), labels, parameters, threads, tables)


def _instruction(statement: str, local: dict[str, str]) -> Instruction:
    found = _STATEMENT.fullmatch(statement)
    if found is None:
        raise KernelError(f"no PTX instruction: {statement!r}")
    negated, register, opcode, rest = found.groups()
    operands = [operand.strip() for operand in _OPERANDS.findall(rest) if operand.strip()]
    guard = (negated == "!", local.get(register, register)) if register else None
    named = (re.sub(r"[%$\w]+", lambda name: local.get(name[0], name[0]), operand) for operand in operands)
    return Instruction(guard, tuple(opcode.split(".")), tuple(named))


def dtype_of(type: str) -> Any:
    return _TYPES[type]


def width_of(type: str) -> int:
    """Bytes of a type."""
    return int(_TYPES[type].itemsize)


class Block:
    """The threads of one block: registers are arrays of 64 bits a thread."""

    nan = 0x7FFFFFFF
    """The one NaN that float32 arithmetic gives, whatever came in; its upper half is what 16-bit arithmetic gives. PTX
    leaves open which it is ("an unspecified NaN"), GPUs have this one (CUDA programming guide, IEEE 754 compliance)."""

    def __init__(
        self,
        program: Program,
        block: tuple[int, int, int],
        arguments: Sequence[int],
        memory: Array,
        shared_bytes: int,
        grid: tuple[int, int, int] = (1, 1, 1),
    ):
        self.program, self.memory = program, memory
        self.shared = np.full(max(16, shared_bytes), 0xFF, np.uint8)
        self.parameters = dict(zip(program.parameters, arguments, strict=False))
        lanes = np.arange(program.threads, dtype=np.uint64)
        self.clock = 0
        self.registers = {"%tid.x": lanes, "global_smem": np.zeros_like(lanes)}
        for name, place in (("ctaid", block), ("nctaid", grid)):
            for axis, at in zip("xyz", place, strict=True):
                self.registers[f"%{name}.{axis}"] = np.full_like(lanes, at)
        self.everyone = np.ones(program.threads, bool)
        self.active = self.everyone
        self.stored = 0
        self.opened: list[tuple[int, Array, int]] = []  # copies into shared memory under way, and whose,
        self.groups: list[list[tuple[int, Array, int]]] = []  # and groups of such

    @classmethod
    def together(cls, blocks: Sequence[Block]) -> None:
        """Make the blocks of a launch known to each other."""

    def run(self) -> Iterator[None]:
        """Yields whenever threads go back to wait for memory."""
        at = 0
        while True:
            instruction = self.program.code[at]
            on = self._guarded(instruction)
            kind = instruction.opcode[0]
            if kind == "ret":
                return
            if kind == "trap" and on.any():
                raise KernelError("a trap")
            if kind == "bra" and on.any():
                target = self.program.labels[instruction.operands[0]]
                if (on != self.active).any():  # some threads go on waiting; the others wait for them below
                    if target > at:
                        raise KernelError("threads of a block part ways")
                    self.active = on
                waits = "@" in instruction.operands[0]
                if waits:
                    yield
                at = target
                continue
            if kind == "bra" and "@" in instruction.operands[0]:
                self.active = self.everyone
            if kind not in ("bra", "bar", "griddepcontrol", "trap", "nanosleep"):
                self._execute(instruction, on)
            at += 1

    def _guarded(self, instruction: Instruction) -> Array:
        if instruction.guard is None:
            return self.active
        negated, name = instruction.guard
        return self.active & ((self.registers[name] != 0) != negated)

    # -- operands

    def _read(self, operand: str, type: str) -> Array:
        dtype = _TYPES[type]
        if operand.startswith("0f"):
            bits = np.full(self.program.threads, np.uint32(int(operand[2:], 16)))
            return bits.view(np.float32) if type == "f32" else bits
        if operand == "%clock":
            self.clock += 100
            raw = np.full(self.program.threads, self.clock, np.uint64)
        elif operand in self.registers:
            raw = self.registers[operand]
        elif operand in self.parameters:
            raw = np.full(self.program.threads, self.parameters[operand], np.uint64)
        elif re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", operand):
            raw = np.full(self.program.threads, int(operand.rstrip("U"), 0) % 2**64, np.uint64)
        else:
            raise KernelError(f"PTX register {operand} is read before it is written")
        return raw.astype(f"u{dtype.itemsize}").view(dtype)

    def _write(self, operand: str, value: Array, on: Array) -> None:
        value = np.ascontiguousarray(value)
        raw = value.view(f"u{value.dtype.itemsize}").astype(np.uint64)
        old = self.registers.get(operand)
        self.registers[operand] = raw if old is None or on.all() else np.where(on, raw, old)

    def _result(self, operand: str, value: Array, on: Array) -> None:
        """Write what was computed, not copied."""
        self._write(operand, self._one_nan(value), on)

    def _one_nan(self, value: Array) -> Array:
        if value.dtype not in _FLOATS:
            return value
        bits = value.dtype.itemsize * 8
        nan = np.array(self.nan >> (32 - bits), f"u{bits // 8}").view(value.dtype)
        return np.where(np.isnan(value), nan, value)

    def _address(self, operand: str) -> Array:
        base, _, offset = operand.strip("[]").partition("+")
        return self._read(base.strip(), "s64") + int(offset or "0")

    # -- instructions

    def _execute(self, instruction: Instruction, on: Array) -> None:
        opcode, operands = instruction.opcode, instruction.operands
        kind, type = opcode[0], opcode[-1]
        if kind in ("ld", "st"):
            self._move(opcode, operands, on)
        elif kind == "mma":
            self._multiply(opcode, operands)
        elif kind == "mov":
            self._mov(type, operands, on)
        elif kind == "cvt":
            source = self._read(operands[1], type)
            self._result(operands[0], source.astype(_TYPES[opcode[-2]]), on)
        elif kind == "shfl":
            lanes = np.arange(self.program.threads) ^ int(operands[2], 0)
            self._write(operands[0].split("|")[0], self._read(operands[1], type)[lanes], on)
        else:
            sources = [self._read(operand, type) for operand in operands[1:]]
            if kind == "selp":
                sources[2] = self._read(operands[3], "pred")
            if opcode[:2] == ("mad", "wide"):
                sources[2] = self._read(operands[3], type[0] + "64")
            if opcode[-2] == "f32":  # sm_100 adds float32 to 16-bit floats
                sources = [*(x.astype(np.float32) for x in sources[:-1]), self._read(operands[-1], "f32")]
            write = self._write if kind == "selp" else self._result
            write(operands[0], self._compute(opcode, sources), on)

    def _compute(self, opcode: tuple[str, ...], x: list[Array]) -> Array:
        kind, type = opcode[0], opcode[-1]
        if kind == "setp":
            return _COMPARE[opcode[1]](x[0], x[1]).astype(np.uint64)
        if kind == "selp":
            return np.where(x[2] != 0, x[0], x[1])
        if kind in _BITWISE:
            return _BITWISE[kind](x[0], x[1])
        if type.endswith("x2"):
            halves = [value.view(_TYPES[type[:-2]]).reshape(-1, 2) for value in x]
            return np.ascontiguousarray(self._one_nan(_ARITHMETIC[kind](*halves))).view(np.uint32).reshape(-1)
        if kind == "not":
            return ~x[0] & 1 if type == "pred" else ~x[0]
        if kind == "neg":
            return -x[0]
        if kind in ("mul", "mad") and type[0] != "f":
            return self._integer_product(opcode, x)
        if kind in _ARITHMETIC:
            return _ARITHMETIC[kind](x[0], x[1])
        if kind == "fma":
            return (x[0].astype(np.float64) * x[1] + x[2]).astype(np.float32)
        if kind in ("div", "rem") and type[0] != "f":
            whole = np.trunc(x[0] / x[1]).astype(x[0].dtype)  # exact: 32 bits
            return whole if kind == "div" else x[0] - whole * x[1]
        if kind == "div":
            return x[0] / x[1]
        if kind == "ex2":
            return np.exp2(x[0])
        if kind == "rcp":
            return 1 / x[0]
        if kind in ("shl", "shr"):
            amount = x[1].astype(np.uint32).astype(x[0].dtype)
            return x[0] << amount if kind == "shl" else x[0] >> amount
        if opcode[:3] == ("shf", "l", "wrap"):
            both = x[0].astype(np.uint64) | x[1].astype(np.uint64) << np.uint64(32)
            return (both << (x[2] & 31).astype(np.uint64) >> np.uint64(32)).astype(np.uint32)
        if kind == "prmt":
            both = x[0].astype(np.uint64) | x[1].astype(np.uint64) << np.uint64(32)
            picks = [(x[2] >> 4 * i & 7).astype(np.uint64) * np.uint64(8) for i in range(4)]
            taken = [(both >> pick & np.uint64(255)) << np.uint64(8 * i) for i, pick in enumerate(picks)]
            return np.bitwise_or.reduce(taken).astype(np.uint32)
        if kind == "bfe":
            width = x[2].astype(np.int64)
            field = (x[0].astype(np.int64) >> x[1].astype(np.int64)) & ((1 << width) - 1)
            signed = type[0] == "s"
            return (field - (((field >> (width - 1)) & int(signed)) << width)).astype(x[0].dtype)
        raise KernelError(f"the PTX machine does not know {'.'.join(opcode)}")

    def _integer_product(self, opcode: tuple[str, ...], x: list[Array]) -> Array:
        dtype = x[0].dtype
        part = opcode[1]
        wide = np.dtype(f"{dtype.kind}{min(8, 2 * dtype.itemsize)}")
        product = x[0].astype(wide) * x[1].astype(wide)
        if part == "hi":
            product = (product >> (8 * dtype.itemsize)).astype(dtype)
        elif part == "lo":
            product = product.astype(dtype)
        return product if opcode[0] == "mul" else product + x[2].astype(product.dtype)

    def _mov(self, type: str, operands: tuple[str, ...], on: Array) -> None:
        target, source = operands
        if target.startswith("{"):
            names = [name.strip() for name in target.strip("{}").split(",")]
            bits = 8 * _TYPES[type].itemsize // len(names)
            value = self._read(source, f"b{8 * _TYPES[type].itemsize}")
            for index, name in enumerate(names):
                self._write(name, (value >> value.dtype.type(bits * index)).astype(f"u{bits // 8}"), on)
        elif source.startswith("{"):
            names = [name.strip() for name in source.strip("{}").split(",")]
            bits = 8 * _TYPES[type].itemsize // len(names)
            for name in filter(lambda name: name[0] == "%", names):  # LLVM leaves halves unwritten that do not matter
                self.registers.setdefault(name, np.full(self.program.threads, _UNWRITTEN, np.uint64))
            parts = [
                self._read(name, f"b{bits}").astype(np.uint64) << np.uint64(bits * i) for i, name in enumerate(names)
            ]
            self._write(target, np.bitwise_or.reduce(parts), on)
        else:
            self._write(target, self._read(source, type), on)

    def _move(self, opcode: tuple[str, ...], operands: tuple[str, ...], on: Array) -> None:
        """A load or store of one to four registers."""
        dtype = _TYPES[opcode[-1]]
        where = operands[1] if opcode[0] == "ld" else operands[0]
        names = [n.strip() for n in (operands[0] if opcode[0] == "ld" else operands[1]).strip("{}").split(",")]
        if "param" in opcode:
            self._write(names[0], self._read(where.strip("[]"), opcode[-1]), on)
            return
        space = self.shared if any(part.startswith("shared") for part in opcode) else self.memory
        start, size = self._address(where), dtype.itemsize * len(names)
        if (start[on] % size).any() or (start[on] < 0).any() or (start[on] + size > space.size).any():
            raise KernelError(f"{'.'.join(opcode)} reaches outside its memory or is not aligned: {start[on]}")
        for index, name in enumerate(names):
            at = np.where(on, start + index * dtype.itemsize, 0)[:, None] + np.arange(dtype.itemsize)
            if opcode[0] == "ld":
                self._write(name, space[at].reshape(-1).view(f"u{dtype.itemsize}"), on)
            else:
                value = np.ascontiguousarray(self._read(name, f"b{8 * dtype.itemsize}"))
                space[at[on]] = value.view(np.uint8).reshape(-1, dtype.itemsize)[on]
                self.stored += 1

    def _multiply(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """m16n8k16 of 16-bit floats: every warp's 16x8 tile of sums, its operands spread over the lanes."""
        if "m16n8k16" not in opcode or opcode[-4] != "f32":
            raise KernelError(f"the PTX machine does not know {'.'.join(opcode)}")
        d, a, b, c = ([name.strip() for name in operand.strip("{}").split(",")] for operand in operands)
        warps = self.program.threads // 32
        lane = np.arange(32)
        group, pair = lane // 4, 2 * (lane % 4)

        def spread(names: list[str], places: Sequence[tuple[Array, Array]], shape: tuple[int, int], type: str) -> Array:
            tile = np.zeros((warps, *shape), np.float32)
            for name, (row, column) in zip(names, places, strict=True):
                value = np.ascontiguousarray(self._read(name, "b32").reshape(warps, 32))
                halves = value.view(_TYPES[type]).reshape(warps, 32, -1)
                for i in range(halves.shape[2]):
                    tile[:, row, column + i] = halves[:, :, i]
            return tile

        left = spread(a, [(group + 8 * (i % 2), pair + 8 * (i // 2)) for i in range(4)], (16, 16), opcode[-3])
        right = spread(b, [(group, pair + 8 * i) for i in range(2)], (8, 16), opcode[-2])
        places = [(group + 8 * (i // 2), pair + i % 2) for i in range(4)]
        total = spread(c, places, (16, 8), "f32") + left @ right.transpose(0, 2, 1)
        for name, (row, column) in zip(d, places, strict=True):
            self._result(name, total[:, row, column].astype(np.float32).reshape(-1), self.everyone)


def run_ptx(
    text: str,
    grid: int | tuple[int, int, int],
    arguments: Sequence[int],
    memory: Array,
    shared_bytes: int,
    machine: type[Block] = Block,
) -> None:
    """Run a kernel's PTX on `grid` blocks, (x, y, z) or as many in a row, at the same time. `memory` is a flat uint8
    array that addresses count from; `arguments` are the parameters, in order, pointers as such addresses. `machine` may
    know more instructions (jitrt/testing/ptx_hopper.py).

    Raises KernelError for an access outside the memory, a trap, blocks that wait for each other forever, or an
    instruction it does not know.
    """
    program = Program.parse(text)
    x, y, z = (grid, 1, 1) if isinstance(grid, int) else grid
    places = itertools.product(range(z), range(y), range(x))
    blocks = [machine(program, place[::-1], arguments, memory, shared_bytes, (x, y, z)) for place in places]
    machine.together(blocks)
    running = {block: block.run() for block in blocks}
    idle = 0
    with np.errstate(all="ignore"):
        while running:
            before = sum(block.stored for block in blocks) - len(running)
            for block, steps in list(running.items()):
                if next(steps, running) is running:
                    del running[block]
            idle = idle + 1 if sum(block.stored for block in blocks) - len(running) == before else 0
            if idle > _PATIENCE:
                raise KernelError(f"{len(running)} of {len(blocks)} blocks wait for what nobody writes")
