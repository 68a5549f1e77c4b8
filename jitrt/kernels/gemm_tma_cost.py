"""A cost model of `gemm_tma`: what a program does for a tile, and how long that takes.

Fitted to 337 timings of 36 layers of ResNet-50 at batches 1, 8 and 128 on an H200, of which it is 11% off (root mean
square; 12% off those of layers left out of the fit).
"""

from __future__ import annotations

from dataclasses import dataclass

from jitrt.codegen.target import Target


@dataclass(frozen=True)
class Work:
    """What an SM does. `tiles` are all that its programs run; bytes, products and elements are of one tile."""

    tiles: int
    consumers: int  # of all programs of the SM
    products: int  # multiply-adds
    steps: int  # blocks multiplied
    loaded: int  # bytes, of x, w and the residual
    ahead: int  # bytes that may be under way
    stored: int  # bytes
    elements: int  # of the result, for each thread of a consumer
    handed: bool
    kept: int  # bytes of w loaded once
    moved: int  # bytes through memory of all SMs together
    ends: int = 1  # parts that are finished and stored one after the other
    added: int = 0  # bytes of sums that the last program of a tile adds, where several share it
    idle: float = 0.0  # cycles that a consumer waits for operands of the epilogue
    in_turn: float = 0.0  # cycles that one consumer does something while others may not


_CLOCK = 1.755e9  # cycles/s that the others are counted in
PRODUCTS = 2048.0  # a cycle
STEP = 66.0  # cycles of a step on top of its products
_L2 = 120.0  # bytes a cycle
_STORE = 15.3  # bytes a cycle
ELEMENT = 12.9  # cycles a thread
HANDED = 12.1  # more of them
_FINISH = 203.0  # cycles of a part's end
_LATENCY = 2440.0  # cycles from a load to its data
_SETUP = 1040.0  # cycles of a program
_SHARPNESS = 5.1  # how far what bounds a tile hides the rest: 1 is a sum, infinity the maximum
_SHARE = 0.94  # of memory's bandwidth
_SUM = 712.0  # cycles of adding up what several programs stored, and bytes a cycle: conv2d's, see gemm_cost
_ADDED = 24.0
_OVERLAP = 2.92  # the sharpness of programs beside memory
_LAUNCH = 1.85e-6  # seconds


def seconds(work: Work, target: Target) -> float:
    """Estimated seconds of a launch."""
    multiply = work.products / PRODUCTS + work.steps * STEP
    finish = work.elements * (ELEMENT + (HANDED if work.handed else 0.0)) + _FINISH * work.ends
    bounds = (
        multiply,
        work.loaded / _L2 + work.stored / _STORE,
        (multiply + finish + work.idle) / work.consumers,
        work.in_turn,
        _LATENCY * work.loaded / work.ahead,
    )
    tile = sum(bound**_SHARPNESS for bound in bounds) ** (1 / _SHARPNESS)
    exchange = _SUM + work.added / _ADDED if work.added else 0.0
    programs = (_SETUP + work.kept / _L2 + work.tiles * tile + exchange) / _CLOCK
    memory = work.moved / (target.bandwidth * _SHARE)
    return float((programs**_OVERLAP + memory**_OVERLAP) ** (1 / _OVERLAP)) + _LAUNCH
