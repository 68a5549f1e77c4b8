"""A cost model of tiled matrix products: which tiles are worth compiling at all, best guess first.

It counts, for each configuration, how many programs an SM holds, how many rounds they make, and what one step of the
main loop is bound by: the tensor cores, loads from L2, address arithmetic or latency. It only has to order
configurations; the GPU decides.

The constants were fitted (`python -m jitrt.tune.fit`) on the H200's timing cache of seven networks: 202 problems, 3,400
timings in fp16. There the first guess is 5% slower than the best configuration that was timed, on average and for
problems left out of a fit; one in ten is more than 12% slower. On 140 problems that were timed later it is 6% slower,
one in ten more than 16%; constants fitted to all 262 are no better.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config

_REGISTERS = 65536
_ELEMENTWISE_PER_CYCLE = 128  # ops of an SM's plain cores
_PLAIN_FLOPS = 50e12  # a second of all plain cores
_SMALL_TILE = 32  # accumulators a thread


@dataclass(frozen=True)
class Constants:
    """What a GPU does in how many cycles, as far as these kernels are concerned; of one SM where nothing else is said.
    Defaults: the H200."""

    clock: float = 1.755e9  # cycles/s they are counted in
    setup: float = 820.0  # cycles of a program before and after its loop
    latency: float = 568.0  # cycles from a load's issue to its data
    step: float = 36.0  # cycles of a step on top of what it is bound by
    l2: float = 117.0  # bytes a cycle out of L2
    dram: float = 10.5e12  # bytes/s of everything once, beside the work itself
    store: float = 22.7  # bytes a cycle of results, and of what the epilogue reads
    peak: float = 0.92  # share of the tensor cores' rate that wgmma reaches,
    narrow: float = 0.54  # of that with fewer than 64 columns,
    wide: float = 0.55  # with eight warps on a tile that four could do,
    mma: float = 0.14  # and mma.sync, which tiles of fewer than 64 rows or 4 warps use
    addresses: float = 0.66 / 8  # cycles of a warp for the address of an element of x
    late: float = 0.59  # latencies of an operand of the epilogue that is not loaded early
    split: float = 712.0  # cycles of a sum over split reductions,
    partial: float = 24.0  # and bytes a cycle of its parts
    overlap: float = 0.5  # share of storing results that the loops of other programs hide
    sharpness: float = 1.37  # how far what bounds a step hides the rest: 1 is a sum, infinity the maximum
    launch: float = 0.46e-6  # seconds of a launch


H200 = Constants()


@dataclass(frozen=True)
class GemmShape:
    """`rows` x `columns` outputs, `batches` times; the reduction is `taps` x `channels` elements of `itemsize` bytes.
    `epilogue_reads` counts full-size operands of the epilogue, and `epilogue_vectors` says whether there are smaller
    ones, such as a bias. `ieee` float32 runs on the plain cores. The left operand is computed by `prologue_ops`
    elementwise ops, on `prologue_reads` tiles more than the one there is without them."""

    rows: int
    columns: int
    batches: int
    channels: int
    taps: int
    itemsize: int
    ieee: bool
    epilogue_reads: int
    prologue_ops: int = 0
    prologue_reads: int = 0
    epilogue_vectors: bool = False

    @property
    def reduction(self) -> int:
        return self.taps * self.channels


def rank_configs(
    shape: GemmShape, target: Target, keep: int = 48, price: Callable[[Config], float] | None = None
) -> Sequence[Config]:
    """Configurations of `conv2d` for a shape, cheapest first by `price`, at most `keep`; the default is `cost`."""
    ranked = _by_cost(shape, target) if price is None else _ranked(shape, target, price)
    return [dict(config) for config in ranked[:keep]]


@lru_cache(maxsize=256)  # several templates ask for the same
def _by_cost(shape: GemmShape, target: Target) -> list[dict[str, int | bool]]:
    return _ranked(shape, target, lambda config: cost(config, shape, target))


def _ranked(shape: GemmShape, target: Target, price: Callable[[Config], float]) -> list[dict[str, int | bool]]:
    flatten = shape.channels < 16 and shape.taps > 1
    configs = [c for c in _space(shape, flatten) if _fits(c, shape, target)]
    configs.sort(key=lambda c: (price(c), -min(c["num_stages"], 4)))  # ties: deeper pipelines win
    # At most two of each tile shape before any third: the model tells tiles apart better than warps and stages.
    seen: dict[tuple[object, ...], int] = {}
    first: list[dict[str, int | bool]] = []
    rest: list[dict[str, int | bool]] = []
    for config in configs:
        tile = (config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"], config["SPLIT_K"])
        seen[tile] = seen.get(tile, 0) + 1
        (first if seen[tile] <= 2 else rest).append(config)
    return first + rest


def _space(shape: GemmShape, flatten: bool) -> list[dict[str, int | bool]]:
    length = shape.reduction if flatten else shape.channels
    blocks_k = [b for b in (16, 32, 64, 128) if b <= max(16, 2 * length - 1)][-2:]
    blocks_n = [b for b in (16, 32, 64, 128, 256) if b <= max(16, 2 * shape.columns - 1)]
    blocks_m = [b for b in (16, 32, 64, 128, 256) if b <= max(16, 2 * shape.rows - 1)]
    if shape.ieee:
        blocks_m, blocks_n, blocks_k = [b for b in blocks_m if b <= 64], [b for b in blocks_n if b <= 64], [16, 32]
    out: list[dict[str, int | bool]] = []
    for bm, bn, bk, warps, stages, split in itertools.product(
        blocks_m, blocks_n, blocks_k, (2, 4, 8), (2, 3, 4, 5), (1, 2, 3, 4, 6, 8, 12, 16)
    ):
        steps = _steps(shape, flatten, bk)
        if (split > 1 and steps < 2 * split) or stages > max(2, -(-steps // split)):
            continue
        out += [
            {
                "BLOCK_M": bm,
                "BLOCK_N": bn,
                "BLOCK_K": bk,
                "SPLIT_K": split,
                "EARLY": early,
                "FLATTEN": flatten,
                "num_warps": warps,
                "num_stages": stages,
            }
            for early in _early(shape, split, bm * bn // (32 * warps))
        ]
    return out


def _early(shape: GemmShape, split: int, tile: int) -> tuple[bool, ...]:
    """Whether to load the epilogue's operands before the loop, for `tile` elements of the accumulator a thread.

    Both are worth a try for full-size ones, which cost registers. A bias costs few unless the tile is large: on the
    H200 early was 9% faster for one row and 5% for 100 to 400 (medians of 39 pairs of timings).
    """
    if split > 1:
        return (False,)
    if shape.epilogue_reads:
        return (False, True)
    return (shape.epilogue_vectors and tile <= _SMALL_TILE,)


def _steps(shape: GemmShape, flatten: bool, block_k: int) -> int:
    return -(-shape.reduction // block_k) if flatten else shape.taps * -(-shape.channels // block_k)


def _loaded(config: Config, shape: GemmShape) -> int:
    """Bytes that one step of the loop reads."""
    left = config["BLOCK_M"] * (1 + shape.prologue_reads)
    return (left + config["BLOCK_N"]) * config["BLOCK_K"] * shape.itemsize


def _shared(config: Config, shape: GemmShape) -> int:
    return _loaded(config, shape) * config["num_stages"]


def _registers(config: Config, shape: GemmShape) -> int:
    """Registers a thread: the accumulator and a share for addresses and operands. A left operand that is computed goes
    through registers."""
    threads = 32 * config["num_warps"]
    tile = config["BLOCK_M"] * config["BLOCK_N"] // threads
    left = config["BLOCK_M"] * config["BLOCK_K"] // (2 * threads) if shape.prologue_ops else 0
    held = tile // 2 if shape.epilogue_reads else config["BLOCK_N"] // 4
    return tile + left + (held if config["EARLY"] else 0) + 56


def _fits(config: Config, shape: GemmShape, target: Target) -> bool:
    tile = config["BLOCK_M"] * config["BLOCK_N"]
    threads = 32 * config["num_warps"]
    if _shared(config, shape) > target.shared or _registers(config, shape) > 200:
        return False
    if tile // threads < 4 and config["num_warps"] > 2:
        return False  # more warps than a tile can feed
    if shape.ieee:
        return tile // threads <= 64
    # wgmma takes 64 rows for each group of four warps; fewer rows run on mma.sync, which any number of warps can issue.
    return (
        target.arch < 90 or config["BLOCK_M"] < 64 or config["num_warps"] in (4, 8 if config["BLOCK_M"] >= 128 else 4)
    )


def cost(config: Config, shape: GemmShape, target: Target, of: Constants = H200) -> float:
    """Estimated seconds."""
    return estimate(count(config, shape, target), of)


class Counts(NamedTuple):
    """All that a configuration's time depends on beside the constants, numbers or arrays of them; of one program and
    one step of its loop where nothing else is said. `if_` something: 1 if it is so, else 0."""

    rounds: Any  # of programs on an SM, one after the other
    together: Any  # programs on an SM at a time
    steps: Any
    multiply: Any  # seconds at the full rate
    if_tensor: Any  # cores multiply,
    if_mma: Any  # with mma.sync,
    if_wide: Any  # with eight warps where four could do,
    if_narrow: Any  # on few columns
    addresses: Any  # to be computed, divided by the warps
    prologue: Any  # cycles
    loaded: Any  # bytes
    ahead: Any  # steps that loads are under way before their data is needed
    stored: Any  # bytes of all programs on an SM
    if_late: Any  # operands of the epilogue are loaded at the end
    if_split: Any
    parts: Any  # bytes of split sums
    moved: Any  # bytes of everything once


def count(config: Config, shape: GemmShape, target: Target) -> Counts:
    """What a configuration does."""
    bm, bn, bk = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    split, stages, warps = config["SPLIT_K"], config["num_stages"], config["num_warps"]
    programs = -(-shape.rows // bm) * -(-shape.columns // bn) * shape.batches * split
    loaded = _loaded(config, shape)
    resident = min(
        target.shared // (loaded * stages + 1024),
        _REGISTERS // (_registers(config, shape) * 32 * warps),
        64 // warps,
        16,
    )
    together = max(1, min(resident, -(-programs // target.sms)))
    rate = target.flops16 if shape.itemsize == 2 else target.flops32
    hopper = target.arch >= 90 and not shape.ieee
    mma = hopper and (bm < 64 or warps < 4)
    moved = shape.batches * (shape.rows * shape.channels + shape.columns * shape.reduction)
    moved += shape.batches * shape.rows * shape.columns * (1 + shape.epilogue_reads)
    return Counts(
        rounds=-(-programs // (target.sms * together)) if resident else math.inf,
        together=together,
        steps=-(-_steps(shape, bool(config["FLATTEN"]), bk) // split),
        multiply=2 * bm * bn * bk / (_PLAIN_FLOPS if shape.ieee else rate) * target.sms,
        if_tensor=int(not shape.ieee),
        if_mma=int(mma),
        if_wide=int(hopper and not mma and warps == 8 and bm * bn <= 128 * 128),
        if_narrow=int(hopper and not mma and bn < 64),
        addresses=bm * bk * (1 if shape.taps > 1 else 0.3) / warps,
        prologue=bm * bk * shape.prologue_ops / _ELEMENTWISE_PER_CYCLE,
        loaded=loaded,
        ahead=max(1, stages - 1),
        stored=bm * bn * 2 * (1 + shape.epilogue_reads) * together,
        if_late=int((shape.epilogue_reads > 0 or shape.epilogue_vectors) and not config["EARLY"]),
        if_split=int(split > 1),
        parts=split * bm * bn * 4 * min(together, 2) if split > 1 else 0,
        moved=moved * shape.itemsize,
    )


def estimate(n: Counts, of: Constants) -> Any:
    """Seconds, of as many configurations at once as the counts are of."""
    reached = of.peak**n.if_tensor * of.mma**n.if_mma * of.wide**n.if_wide * of.narrow**n.if_narrow
    arithmetic = n.multiply * of.clock / reached + n.addresses * of.addresses + n.prologue
    bounds = (n.together * arithmetic, n.together * n.loaded / of.l2, of.latency / n.ahead)
    step = sum(bound**of.sharpness for bound in bounds) ** (1 / of.sharpness) + of.step
    store = n.stored / of.store * (1 - of.overlap * (1 - 1 / n.together))
    cycles = n.steps * step + of.setup + store + n.if_late * of.late * of.latency
    cycles = n.rounds * (cycles + n.parts / of.partial) + n.if_split * of.split
    return cycles / of.clock + of.launch + n.moved / of.dram
