"""1x1 convolutions and linear layers over many rows on Hopper: one warp loads by TMA, others multiply, programs stay.

Formula: y[m, k] = f(sum over c of x[m, c] * w[k, c]). Fires on sm_90 alone (wgmma), for 16-bit floats whose channels
are neighbours and whose rows begin at multiples of 16 bytes: any stride, y perhaps a slice of a concat, one operand of
the result's size, the others of the epilogue one number a channel. Everything else, and every problem too small to
gain, is for `conv2d`, the portable twin: the interpreter runs no Gluon.

Floors: bytes (x + w + y + residual) / bandwidth, and 2 * M * K * C / the tensor cores' rate. What it saves over
`conv2d` is the start and the end of every program: the next tile is loaded and multiplied while one is finished and
stored. ResNet-50 at batch 128 in fp16 on an H200: 256 to 1024 channels with a residual in 34 us, `conv2d` 52, floor 27.

The scheme is CUTLASS's persistent, ping-pong one: github.com/NVIDIA/cutlass, sm90_gemm_tma_warpspecialized_pingpong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.kernels.base import Config, Descriptor, KernelCall, Lowered, Operand, Problem, Result, Template
from jitrt.kernels.conv2d import Conv2d, product_of
from jitrt.kernels.gemm_cost import GemmShape, cost, rank_configs
from jitrt.kernels.gemm_tma_cost import Work, seconds
from jitrt.kernels.gemm_tma_kernel import LACKING, gemm_tma
from jitrt.kernels.gemm_tma_shape import Rows, Shape, describe, refuse_body, shape_of
from jitrt.kernels.tma_maps import tensor_map

__all__ = ["GemmTma"]

_BLOCK_K = 64  # channels: 128 bytes, by which shared memory is swizzled
_LEAST_ROWS = 1024
_KEPT = 24  # candidates
_WORTH = 1.1  # times conv2d's estimate
_RESERVED = 2048  # bytes of shared memory for barriers and alignment
_MOST_STAGES = 16
_LONG_ELEMENTS = 64  # of a thread, where the epilogue is long
_REGISTERS = 65536
# BLOCK_M, BLOCK_N, CONSUMERS, PROGRAMS, num_warps of a consumer
_TILES = (
    *((64, bn, consumers, 1, 4) for bn in (64, 128, 256) for consumers in (1, 2)),
    *((128, bn, 2, 1, 4) for bn in (64, 128)),
    *((128, bn, 1, 1, 8) for bn in (64, 128, 256)),
    *((64, bn, 1, 2, 4) for bn in (64, 128)),
)


class GemmTma(Template):
    """Pointwise convolutions and linear layers over many rows, in Gluon for sm_90."""

    name = "gemm_tma"
    priority = 1  # of 34 layers that it supports it is 2% behind the best on average, conv2d 12%

    def accepts(self, body: Graph) -> str | None:
        # What conv2d does not take is for a pass to change: here it may have too few rows in the end.
        return Conv2d().accepts(body) or refuse_body(body)

    def supports(self, problem: Problem, target: Target) -> str | None:
        if target.arch != 90:
            return f"{target} has no wgmma"
        if LACKING is not None:
            return LACKING
        shape = describe(problem)
        if isinstance(shape, str):
            return shape
        if shape.rows < _LEAST_ROWS:
            return f"{shape.rows} rows are too few for programs that stay"
        ranked = _ranked(shape, target)
        if not ranked:
            return "no tiles of x, w and the result fit into shared memory together"
        best, plain = ranked[0][0], _plain_seconds(product_of(problem), target)
        if best > _WORTH * plain:
            return f"conv2d is estimated to be faster: {plain * 1e6:.1f} us, not {best * 1e6:.1f}"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return [config for _, config in _ranked(shape_of(problem), target)[:_KEPT]]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape = shape_of(problem)
        body, (x, w), out = problem.body, shape.anchor.inputs, problem.output.type
        x_at, w_at = (body.inputs.index(value) for value in (x, w))
        bm, bn = config["BLOCK_M"], config["BLOCK_N"]
        tile = (bm // shape.line, shape.line) if shape.line else (bm,)
        y = _descriptor(Result(), out.dtype, shape.y, shape.filters, (*tile, bn))
        handed = y  # which is not read then
        if shape.handed is not None and shape.residual is not None:
            place = Operand(body.inputs.index(shape.handed))
            handed = _descriptor(place, out.dtype, shape.residual, shape.filters, (*tile, bn))
        filters = Rows(((shape.filters, w.type.strides[0]),))
        arguments: dict[str, Any] = {
            "x": _descriptor(Operand(x_at), x.type.dtype, shape.x, shape.channels, (*tile, _BLOCK_K)),
            "w": _descriptor(Operand(w_at), w.type.dtype, filters, shape.channels, (bn, _BLOCK_K)),
            "handed": handed,
            "y": y,
            "aux": tuple(Operand(i) for i in shape.epilogue.operands),
        }
        slices = _slices(shape, config)
        constexprs = {
            "UNITS": shape.tiles(bm) * slices,
            "SLICES": slices,
            "FILTERS": shape.filters,
            "BLOCK_M": bm,
            "BLOCK_N": bn,
            "BLOCK_K": _BLOCK_K,
            "STEPS": _steps(shape),
            "PARTS": config["PARTS"],
            "CONSUMERS": config["CONSUMERS"],
            "STAGES": config["STAGES"],
            "BUFFERS": config["BUFFERS"],
            "RESIDENT": config["RESIDENT"],
            "HANDED": shape.handed is not None,
            "LINE": shape.line,
            "RUNS": shape.runs,
            "FIXED": problem.weights[w_at],
            "WARPS": config["num_warps"],
            "DEPENDENT": True,
            "FETCH": shape.epilogue.fetch,
            "FINISH": shape.epilogue.finish,
        }
        # The warp that loads comes with three that idle.
        threads = 32 * (config["num_warps"] * config["CONSUMERS"] + 4)
        registers = min(168, _REGISTERS // (threads * config["PROGRAMS"]) // 8 * 8)
        grid = (_programs(shape, config, target), 1, 1)
        warps, options = config["num_warps"], {"maxnreg": registers}
        return Lowered((KernelCall(gemm_tma, arguments, constexprs, grid, warps, options=options),))


def _descriptor(base: Operand | Result, dtype: DType, rows: Rows, columns: int, block: tuple[int, ...]) -> Descriptor:
    """A tensor map over `rows` of `columns` elements, loaded or stored by `block`."""
    sizes, strides = zip(*rows.dims, strict=True)
    return tensor_map(base, dtype, (*sizes, columns), strides, block)


def _steps(shape: Shape) -> int:
    return -(-shape.channels // _BLOCK_K)


def _slices(shape: Shape, config: Config) -> int:
    """Of PARTS * BLOCK_N filters."""
    return -(-shape.filters // (config["BLOCK_N"] * config["PARTS"]))


def _programs(shape: Shape, config: Config, target: Target) -> int:
    """As many as run at a time; if they keep their slice of w, as many for each."""
    slices = _slices(shape, config)
    most = min(target.sms * config["PROGRAMS"], shape.tiles(config["BLOCK_M"]) * slices)
    return most // slices * slices if config["RESIDENT"] else most


def best_seconds(shape: Shape, target: Target) -> float:
    """What its best configuration is estimated to take; infinity if there is none."""
    return min((each for each, _ in _ranked(shape, target)), default=math.inf)


def _ranked(shape: Shape, target: Target) -> list[tuple[float, Config]]:
    """(estimated seconds, configuration), cheapest first."""
    ranked = [(seconds(_work(shape, config, target), target), config) for config in _space(shape, target)]
    return sorted(ranked, key=lambda pair: pair[0])


def _space(shape: Shape, target: Target) -> Iterator[Config]:
    """What fits into shared memory."""
    steps, buffers = _steps(shape), (2, 3, 4) if shape.handed is not None else (1, 2)
    for (bm, bn, consumers, programs, warps), parts in itertools.product(_TILES, (0, 1, 2, 4)):
        # 0: w is no resident, but comes with x.
        held = max(1, parts)
        if shape.long and bm * bn // (32 * warps) > _LONG_ELEMENTS:
            continue
        if shape.line > bm or bn * held >= shape.filters + max(64, bn):
            continue
        if parts and -(-shape.filters // (bn * held)) > min(target.sms * programs, shape.tiles(bm)):
            continue
        for count in buffers:
            room = target.shared // programs - _RESERVED - 2 * bm * bn * consumers * count
            room -= 2 * bn * _BLOCK_K * held * steps if parts else 0
            stages = min(_MOST_STAGES, room // (2 * _BLOCK_K * (bm + (0 if parts else bn))))
            in_turns = 2 * steps  # a multiple of this spares the consumers waiting for each other
            if consumers == 2 and stages >= in_turns:
                stages -= stages % in_turns
            if stages >= max(2, steps if held > 1 else 0):
                yield {
                    "BLOCK_M": bm,
                    "BLOCK_N": bn,
                    "PARTS": held,
                    "CONSUMERS": consumers,
                    "STAGES": stages,
                    "BUFFERS": count,
                    "RESIDENT": bool(parts),
                    "PROGRAMS": programs,
                    "num_warps": warps,
                }


def _work(shape: Shape, config: Config, target: Target) -> Work:
    bm, bn, parts, per_sm = (config[name] for name in ("BLOCK_M", "BLOCK_N", "PARTS", "PROGRAMS"))
    resident, consumers, warps = config["RESIDENT"], config["CONSUMERS"], config["num_warps"]
    steps, slices, tiles = _steps(shape), _slices(shape, config), shape.tiles(bm)
    programs, handed = _programs(shape, config, target), shape.handed is not None
    rounds = -(-tiles // (programs // slices)) if resident else -(-tiles * slices // programs)
    block = 2 * _BLOCK_K * (bm + (0 if resident else bn))
    result = 2 * bm * bn * parts
    moved = shape.rows * (shape.channels + shape.filters * (2 if handed else 1)) + shape.filters * shape.channels
    return Work(
        tiles=rounds * per_sm,
        consumers=consumers * per_sm,
        products=bm * bn * parts * steps * _BLOCK_K,
        steps=steps * parts,
        loaded=steps * block + (result if handed else 0),
        ahead=config["STAGES"] * block,
        stored=result,
        elements=bm * bn * parts // (32 * warps),
        handed=handed,
        kept=2 * bn * parts * steps * _BLOCK_K * per_sm if resident else 0,
        moved=2 * moved,
        ends=parts,
    )


@lru_cache(maxsize=256)
def _plain_seconds(shape: GemmShape, target: Target) -> float:
    """What the best configuration of conv2d is estimated to take."""
    return cost(rank_configs(shape, target, 1)[0], shape, target)
