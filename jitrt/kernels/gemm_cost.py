"""A cost model of tiled matrix products: which tiles are worth compiling at all, best guess first.

It counts, for each configuration, how many programs an SM holds, how many rounds they make, and what one step of the
main loop is bound by: the tensor cores, loads from L2, address arithmetic or latency. It only has to order
configurations; the GPU decides.

The constants were fitted (`python -m jitrt.tune.fit`) on the H200's timing cache of seven networks: 208 problems, 3,000
timings in fp16. There the first guess is 5% slower than the best configuration that was timed, on average, and 6% for
problems left out of the fit; one in ten is more than 15% slower.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.codegen.target import Target
from jitrt.kernels.base import Config

_REGISTERS = 65536
_ELEMENTWISE_PER_CYCLE = 128  # ops of an SM's plain cores


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
    sharpness: float = 1.37  # how far what bounds a step hides the rest: 1 is a sum, infinity the maximum
    launch: float = 0.46e-6  # seconds of a launch


H200 = Constants()


@dataclass(frozen=True)
class GemmShape:
    """`rows` x `columns` outputs, `batches` times; the reduction is `taps` x `channels` elements of `itemsize` bytes.
    `epilogue_reads` counts full-size operands of the epilogue. `ieee` float32 runs on the plain cores. The left operand
    is computed by `prologue_ops` elementwise ops, on `prologue_reads` tiles more than the one there is without them."""

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

    @property
    def reduction(self) -> int:
        return self.taps * self.channels


def rank_configs(shape: GemmShape, target: Target, keep: int = 48) -> Sequence[Config]:
    """Configurations of `conv2d` for a shape, cheapest first by `cost`, at most `keep`."""
    flatten = shape.channels < 16 and shape.taps > 1
    configs = [c for c in _space(shape, flatten) if _fits(c, shape, target)]
    configs.sort(key=lambda c: (cost(c, shape, target), -min(c["num_stages"], 4)))  # ties: deeper pipelines win
    # At most two of each tile shape before any third: the model tells tiles apart better than warps and stages.
    seen: dict[tuple[object, ...], int] = {}
    first: list[Config] = []
    rest: list[Config] = []
    for config in configs:
        tile = (config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"], config["SPLIT_K"])
        seen[tile] = seen.get(tile, 0) + 1
        (first if seen[tile] <= 2 else rest).append(config)
    return (first + rest)[:keep]


def _space(shape: GemmShape, flatten: bool) -> list[dict[str, int | bool]]:
    length = shape.reduction if flatten else shape.channels
    blocks_k = [b for b in (16, 32, 64, 128) if b <= max(16, 2 * length - 1)][-2:]
    blocks_n = [b for b in (16, 32, 64, 128, 256) if b <= max(16, 2 * shape.columns - 1)]
    blocks_m = [b for b in (16, 32, 64, 128, 256) if b <= max(16, 2 * shape.rows - 1)]
    if shape.ieee:
        blocks_m, blocks_n, blocks_k = [b for b in blocks_m if b <= 64], [b for b in blocks_n if b <= 64], [16, 32]
    out: list[dict[str, int | bool]] = []
    for bm, bn, bk, warps, stages, split, early in itertools.product(
        blocks_m,
        blocks_n,
        blocks_k,
        (2, 4, 8),
        (2, 3, 4, 5),
        (1, 2, 3, 4, 6, 8, 12, 16),
        (False, True) if shape.epilogue_reads else (False,),
    ):
        steps = _steps(shape, flatten, bk)
        if split > 1 and (steps < 2 * split or early):
            continue
        if stages > max(2, -(-steps // split)):
            continue
        out.append(
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
        )
    return out


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
    return tile + left + (tile // 2 if config["EARLY"] else 0) + 56


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
    bm, bn, bk = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    split, stages, warps = config["SPLIT_K"], config["num_stages"], config["num_warps"]
    programs = -(-shape.rows // bm) * -(-shape.columns // bn) * shape.batches * split
    resident = min(
        target.shared // (_shared(config, shape) + 1024),
        _REGISTERS // (_registers(config, shape) * 32 * warps),
        64 // warps,
        16,
    )
    if resident == 0:
        return float("inf")
    together = min(resident, -(-programs // target.sms))
    rounds = -(-programs // (target.sms * together))
    arithmetic = 2 * bm * bn * bk / _flops_per_cycle(config, shape, target, of)
    arithmetic += bm * bk * (1 if shape.taps > 1 else 0.3) * of.addresses / warps
    arithmetic += bm * bk * shape.prologue_ops / _ELEMENTWISE_PER_CYCLE
    bounds = (together * arithmetic, together * _loaded(config, shape) / of.l2, of.latency / max(1, stages - 1))
    step = sum(bound**of.sharpness for bound in bounds) ** (1 / of.sharpness) + of.step
    steps = -(-_steps(shape, bool(config["FLATTEN"]), bk) // split)
    cycles = steps * step + of.setup + bm * bn * 2 * (1 + shape.epilogue_reads) * together / of.store
    if shape.epilogue_reads and not config["EARLY"]:
        cycles += of.late * of.latency
    cycles *= rounds
    if split > 1:
        cycles += of.split + split * bm * bn * 4 * min(together, 2) / of.partial
    moved = shape.batches * (shape.rows * shape.channels + shape.columns * shape.reduction)
    moved += shape.batches * shape.rows * shape.columns * (1 + shape.epilogue_reads)
    return cycles / of.clock + of.launch + moved * shape.itemsize / of.dram


def _flops_per_cycle(config: Config, shape: GemmShape, target: Target, of: Constants) -> float:
    """What an SM's multipliers reach on such a tile."""
    rows, warps = config["BLOCK_M"], config["num_warps"]
    if shape.ieee:
        return 50e12 / target.sms / of.clock
    rate = (target.flops16 if shape.itemsize == 2 else target.flops32) / target.sms / of.clock * of.peak
    if target.arch < 90:
        return rate
    if rows < 64 or warps < 4:
        return rate * of.mma
    if warps == 8 and rows * config["BLOCK_N"] <= 128 * 128:
        rate *= of.wide
    return rate * of.narrow if config["BLOCK_N"] < 64 else rate
