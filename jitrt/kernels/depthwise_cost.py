"""A cost model of depthwise convolutions: which tiles are worth compiling, best guess first.

It counts what one thread does (FMAs, conversions, loads), how many programs an SM holds, and the lines that come out of
L1, and adds up what binds: the issue of instructions, L1, the waits of one program after another, memory. Its constants
are fitted to 160 timings of 23 layers on an H200 (fp16, 3x3 to 7x7, batch 1 and 128; most of them are in
`tests/kernels/depthwise_timings.json`). Among what was timed its first choice is 0.7% slower than the best on average
and 4.6% at worst, and the same for layers that are left out of the fit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config

_KEEP = 16
_MOST_PRODUCTS = 112  # of a thread and channel whose loads are all ahead: the compiler takes seconds for more
_MOST_TAPS = 9  # of a row of the filter that are computed together
_MOST_REGISTERS = 190  # of which two programs of four warps fit an SM
_CHANNELS = 32  # of a program: with 16, 32 bytes of a line, the best was 6 to 69% slower, with 64 1 to 136%

_CLOCK = 1.755e9
_LINE = 0.8  # cycles of L1 for a line of 128 bytes, or what a warp reads of it
_BEGIN = 1820.0  # cycles of a program's beginning, first loads and end
_LAUNCH = 105.0  # cycles an SM is kept from the work by a program's start
_NEAR = 400.0  # cycles until a later row of the filter is there, of loads of 4 bytes a thread
_WIDE = 0.6  # that grows by this power of a thread's bytes
_TAIL = 0.7  # of a round, lost at the end
_MEMORY = 0.91  # of the bandwidth is had
_AGAIN = 0.33  # of the bytes come from memory again where a strided filter goes row after row


@dataclass(frozen=True)
class DepthwiseShape:
    """`lines` of `width` outputs of `channels`; the filter has `rows` of `taps`. `adjacent`: neighbouring channels of
    x lie side by side. `x_bytes` are read and `y_bytes` written, what the epilogue reads among them."""

    lines: int
    width: int
    channels: int
    rows: int
    taps: int
    stride: int
    dilation: int
    itemsize: int
    adjacent: bool
    x_bytes: int
    y_bytes: int

    @property
    def strip(self) -> int:
        """Taps that are computed together: all of a short row, else a number that leaves few over."""
        if self.taps <= _MOST_TAPS:
            return self.taps
        return min(range(5, _MOST_TAPS + 1), key=lambda n: (self.taps % n > 0, -(self.taps % n), -n))

    def columns(self, group: int) -> int:
        """Input columns that `group` neighbouring outputs read, for one strip."""
        span = (group - 1) * self.stride + (self.strip - 1) * self.dilation + 1
        return min(span, group * self.strip, span if group < self.width else self.width * self.stride)


def vector(config: Config) -> int:
    """Channels of a thread."""
    return max(1, int(config["BLOCK_G"]) * int(config["BLOCK_C"]) // (32 * int(config["num_warps"])))


def registers(config: Config, shape: DepthwiseShape) -> int:
    """Registers of a thread, about (within 18% of what ptxas took, 6.5% root mean square): sums, what is loaded at a
    time, and addresses."""
    v, loop = vector(config), config["FORM"] == "loop"
    loaded = (shape.columns(config["COLUMNS"]) + shape.strip) * v * shape.itemsize / 4
    return int(8 + 1.05 * (config["COLUMNS"] * v + loaded * (1 if loop else shape.rows)) + 10 * loop)


def ranked(shape: DepthwiseShape, target: Target) -> Sequence[Config]:
    """Configurations in the order of their cost, each form with the number of warps that suits it."""
    best: dict[tuple[object, ...], Config] = {}
    for config in sorted(_configs(shape), key=lambda config: cost(config, shape, target)):
        best.setdefault((config["FORM"], config["COLUMNS"], vector(config)), config)
    return list(best.values())[:_KEEP]


def _configs(shape: DepthwiseShape) -> list[Config]:
    found: list[Config] = []
    block_c = min(_CHANNELS, max(8, 1 << (shape.channels - 1).bit_length()))
    for form, columns, v, warps in itertools.product(("loop", "ahead"), (1, 2, 4, 7, 8, 14), (1, 2, 4, 8), (2, 4)):
        if columns > 1 and (columns >= 2 * shape.width or not shape.adjacent):
            continue
        if v * shape.itemsize > 16 or (v * shape.itemsize < 4 and shape.adjacent):
            continue
        if form == "ahead" and warps < 4:  # two never won
            continue
        if form == "ahead" and (shape.strip < shape.taps or columns * shape.rows * shape.taps > _MOST_PRODUCTS):
            continue
        config = {
            "FORM": form,
            "COLUMNS": columns,
            "BLOCK_G": v * 32 * warps // block_c,
            "BLOCK_C": block_c,
            "STRIP": shape.strip,
            "num_warps": warps,
        }
        if registers(config, shape) <= _MOST_REGISTERS:
            found.append(config)
    return found


def cost(config: Config, shape: DepthwiseShape, target: Target) -> float:
    """Estimated seconds."""
    columns, block_g, block_c, warps = (config[name] for name in ("COLUMNS", "BLOCK_G", "BLOCK_C", "num_warps"))
    loop, v, read = config["FORM"] == "loop", vector(config), shape.columns(columns)
    strips = shape.rows * math.ceil(shape.taps / shape.strip)
    # One warp: its instructions, and the lines of x and y it touches.
    converted = (read + shape.strip) * v if shape.itemsize == 2 else 0
    loads = (read + shape.strip) * (1 if shape.adjacent else v)
    work = strips * (columns * shape.strip * v + converted + loads + 2) + 0.3 * columns * (v + 2)
    lines = (strips * read + columns) * math.ceil(block_c * shape.itemsize / 128) * 32 * v / block_c
    # One program, by itself.
    waits = (strips - 1) * _NEAR * (v * shape.itemsize / 4) ** _WIDE if loop else 0
    chain = _BEGIN + waits + work * max(1.0, warps / 4)
    # An SM: its programs, of which it holds some at a time.
    programs = -(-shape.lines * -(-shape.width // columns) // block_g) * -(-shape.channels // block_c) / target.sms
    resident = min(65536 / (32 * warps * registers(config, shape)), 64 / warps, 32)
    rounds = programs / resident + _TAIL if programs > resident else 1.0
    programs = programs + _TAIL if programs > resident else math.ceil(programs)
    cycles = _norm(1.7, programs * warps * work / 4, programs * warps * lines * _LINE, rounds * chain)
    again = 1 + _AGAIN * (shape.stride - 1) if loop else 1
    memory = (shape.x_bytes + shape.y_bytes) * again / (_MEMORY * target.bandwidth)
    return _norm(2.7, (cycles + programs * _LAUNCH) / _CLOCK, memory)


def _norm(power: float, *parts: float) -> float:
    """What binds, and some of the rest: the less, the higher the power."""
    return float(sum(part**power for part in parts) ** (1 / power))
