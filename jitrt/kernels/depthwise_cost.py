"""A cost model of depthwise convolutions: which tiles are worth compiling, best guess first.

It counts what one thread does (FMAs, conversions, loads), how many threads an SM holds, and the bytes that come out of
L2, and takes the larger of what binds: the issue of instructions, the latency of one program's loads, L2, memory. It
only has to order configurations; the GPU decides.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config

_KEEP = 16
_CLOCK = 1.75e9
_LATENCY = 600.0  # cycles from a load's issue to its data, out of L2 or memory
_NEAR = 300.0  # of one for a later row of the filter: mostly out of L2, or L1
_SETUP = 900.0  # of a program's beginning and end
_L2 = 42.0  # bytes a cycle and SM
_MOST_PRODUCTS = 112  # of a thread and channel whose loads are all ahead: the compiler takes seconds for more
_MOST_TAPS = 9  # of a row of the filter that are computed together


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


def spread_rows(rows: int) -> int:
    """Rows of a filter that is spread over threads: a power of two."""
    return 1 << (rows - 1).bit_length()


def vector(config: Config, shape: DepthwiseShape) -> int:
    """Channels of a thread."""
    spread = spread_rows(shape.rows) if config["FORM"] == "spread" else 1
    return max(1, spread * int(config["BLOCK_G"]) * int(config["BLOCK_C"]) // (32 * int(config["num_warps"])))


def registers(config: Config, shape: DepthwiseShape) -> int:
    """Registers of a thread, about: sums and what is loaded at a time."""
    v, columns = vector(config, shape), shape.columns(config["COLUMNS"])
    loaded = (columns + shape.strip) * v * shape.itemsize / 4
    return int(24 + 1.1 * (config["COLUMNS"] * v + loaded * (shape.rows if config["FORM"] == "ahead" else 1)))


def ranked(shape: DepthwiseShape, target: Target) -> Sequence[Config]:
    """Configurations in the order of their cost, two of each kind before any third."""
    configs = sorted(_configs(shape), key=lambda config: cost(config, shape, target))
    seen: Counter[tuple[Any, ...]] = Counter()
    first: list[Config] = []
    rest: list[Config] = []
    for config in configs:
        kind = (config["COLUMNS"], vector(config, shape), config["FORM"])
        seen[kind] += 1
        (first if seen[kind] <= 2 else rest).append(config)
    return (first + rest)[:_KEEP]


def _configs(shape: DepthwiseShape) -> list[Config]:
    found: list[Config] = []
    for form, columns, v, block_c, warps in itertools.product(
        ("loop", "ahead", "spread"), (1, 2, 4, 7, 8, 14), (1, 2, 4, 8), (8, 16, 32, 64, 128), (1, 2, 4, 8)
    ):
        spread = spread_rows(shape.rows) if form == "spread" else 1
        block_g = v * 32 * warps // (block_c * spread)
        if columns > 1 and (columns >= 2 * shape.width or not shape.adjacent):
            continue
        if block_g < 1 or block_c < v or block_c >= max(16, 2 * shape.channels) or v * shape.itemsize > 16:
            continue
        if form != "loop" and shape.strip < shape.taps:
            continue
        if form == "ahead" and columns * shape.rows * shape.taps > _MOST_PRODUCTS:
            continue
        if form == "spread" and (shape.rows == 1 or spread > 4 * warps or columns & (columns - 1) or columns > 4):
            continue
        config = {
            "FORM": form,
            "COLUMNS": columns,
            "BLOCK_G": block_g,
            "BLOCK_C": block_c,
            "STRIP": shape.strip,
            "num_warps": warps,
        }
        if registers(config, shape) <= (190 if warps < 8 else 120):  # above 128 ptxas spills for a second program
            found.append(config)
    return found


def cost(config: Config, shape: DepthwiseShape, target: Target) -> float:
    """Estimated seconds."""
    columns, block_g, block_c, warps = (config[name] for name in ("COLUMNS", "BLOCK_G", "BLOCK_C", "num_warps"))
    form = config["FORM"]
    v, read = vector(config, shape), shape.columns(columns)
    a_line = -(-shape.width // columns)
    programs = -(-shape.lines * a_line // block_g) * -(-shape.channels // block_c)
    strips = shape.rows * math.ceil(shape.taps / shape.strip)
    # Instructions of a warp.
    wide = v if shape.adjacent else 1  # channels a load brings
    loads = (read * 2.5 + shape.strip * 1.2) * v / wide
    converted = (read + shape.strip) * v if shape.itemsize == 2 else 0
    if form == "spread":
        strips = 1
    work = strips * (columns * shape.strip * v + converted + loads + 16) + columns * (4 * v + 8) + 60
    if form == "spread":
        work += columns * 20 + 60
    # A round: as many programs as an SM holds.
    resident = max(1, min(65536 // (32 * warps * -(-registers(config, shape) // 8) * 8), 64 // warps, 32))
    rounds = programs / (target.sms * resident)
    together = resident
    if rounds < 1:
        together, rounds = -(-programs // target.sms), 1.0
    waits = _LATENCY + (_NEAR * (strips - 1) if form == "loop" else 0)
    chain = _SETUP + waits + work * max(1.0, 2 / max(1, warps / 4))
    issue = together * warps * work / 4
    # What comes out of L2: the input lines a program touches, and its weights.
    lines = max(1.0, block_g / a_line)
    share = min(1.0, block_g / a_line)
    touched = (lines * shape.stride + shape.rows - shape.stride) * share * a_line * columns * shape.stride
    touched += lines * (read - columns * shape.stride) * (share * a_line if a_line > 1 else 0) / max(1, share * a_line)
    fetched = (touched + shape.rows * shape.taps) * max(block_c * shape.itemsize, 32) * together / _L2
    cycles = math.ceil(rounds) if rounds < 3 else rounds + 0.5
    busy = _norm(issue, fetched) if rounds > 1 else issue
    total = cycles * max(_norm(busy, fetched), chain) / _CLOCK
    memory = (shape.x_bytes + shape.y_bytes) / target.bandwidth
    return _norm(total, memory)


def _norm(*parts: float) -> float:
    """What binds, and some of the rest."""
    return sum(part**3 for part in parts) ** (1 / 3)
