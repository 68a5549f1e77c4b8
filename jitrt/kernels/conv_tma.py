"""Convolutions of several taps on Hopper: two warps load x and w by TMA, others multiply, programs stay.

Formula: y[n, p, q, k] = f(sum over taps r, s and channels c of x[n, p * u + r - a, q * v + s - b, c] * w[k, r, s, c]).
Fires on sm_90 alone (wgmma), for 16-bit floats whose channels are neighbours and whose pixels begin at multiples of 16
bytes, filters of up to 7 x 7 without groups or dilation; y perhaps a slice of a concat, one operand of the result's
size, the others of the epilogue one number a channel. Everything else is for `conv2d`, the portable twin.

Floors: bytes (x + w + y + residual) / bandwidth, and 2 * M * K * C * taps / the tensor cores' rate. What it saves over
`conv2d` are addresses and masks (TMA makes zeros of what is outside x), the starts and ends of programs, and, where
rows of the filter share a block of x, two thirds of its loads from L2. Where tiles are few, several programs share the
reduction of each (SPLIT).

Measured (H200, fp16, batch 128, ResNet-50's 3x3 convolutions, buffers rotated): 40 to 51 us where cuDNN's fused kernels
take 46 to 69 and `conv2d` 48 to 78; the products alone are 37.5 us at 790 TFLOP/s.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from jitrt.codegen.target import Target
from jitrt.graph.graph import Graph
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, Workspace, Zeros
from jitrt.kernels.conv2d import Conv2d, product_of
from jitrt.kernels.conv_tma_cost import box_of, depth_of, slices_of, steps_of, units_of, w_block, work_of, x_block
from jitrt.kernels.conv_tma_kernel import LACKING, conv_tma
from jitrt.kernels.conv_tma_shape import Shape, describe, refuse_body, shape_of
from jitrt.kernels.gemm_cost import GemmShape, cost, rank_configs
from jitrt.kernels.gemm_tma_cost import seconds
from jitrt.kernels.tma_maps import input_map, loaded_box, pixel_map, tensor_map

__all__ = ["ConvTma", "refuse_split"]

_LEAST_ROWS = 256
_KEPT = 24  # candidates
_WORTH = 1.1  # times conv2d's estimate
_RESERVED = 2048  # bytes of shared memory for barriers and alignment
_MOST_STAGES = 12
_AHEAD, _LEAST_AHEAD = 8 * 64 * 64 * 64, 6  # blocks needed under way: times a block's products, and at least
_LONG_ELEMENTS = 64  # of a thread, where the epilogue is long
_REGISTERS = 65536
_MOST_EXTENT = 256  # of a box, as a tensor map has it
_SPLITS = (1, 2, 3)  # more never won
_SPLIT_ELEMENTS = 64  # of a thread
_ALIKE = ("LINES", "IMAGES", "COLUMNS", "STAGES", "W_STAGES", "BUFFERS")
# pixels, BLOCK_N, CONSUMERS, PROGRAMS, num_warps of a consumer
_TILES = (
    *((pixels, 32, consumers, 1, 4) for pixels in (64, 128, 256) for consumers in (1, 2)),
    *((pixels, 32, 1, 2, 4) for pixels in (64, 128)),
    *((64, bn, 1, 2, 4) for bn in (64, 128)),
    *((64, bn, consumers, 1, 4) for bn in (64, 128, 256) for consumers in (1, 2)),
    *((128, bn, consumers, 1, 4) for bn in (64, 128) for consumers in (1, 2)),
    *((128, bn, 1, 1, 8) for bn in (64, 128, 256)),
    *((256, bn, 1, 1, 8) for bn in (64, 128)),
    (256, 64, 2, 1, 4),
)


class ConvTma(Template):
    """Convolutions of several taps, in Gluon for sm_90."""

    name = "conv_tma"
    priority = 1  # where it is about as fast by the estimates, it seldom loses: see gemm_tma

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
            return f"{shape.rows} rows are too few for tiles of 64"
        ranked = _ranked(shape, target)
        if not ranked:
            return "no tiles of x, w and the result fit into shared memory together"
        best, plain = ranked[0][0], _plain_seconds(product_of(problem), target)
        if best > _WORTH * plain:
            return f"conv2d is estimated to be faster: {plain * 1e6:.1f} us, not {best * 1e6:.1f}"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        kept: dict[tuple[Any, ...], list[Config]] = {}
        for _, config in _ranked(shape_of(problem), target):
            form = tuple(value for name, value in config.items() if name not in _ALIKE)
            kept.setdefault(form, []).append(config)
        # Of one form a few: what tells boxes apart is not in the estimate.
        return [config for number in range(_KEPT) for config in _column(kept.values(), number)][:_KEPT]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape = shape_of(problem)
        body, (x, w), out = problem.body, shape.anchor.inputs, problem.output.type
        x_at, w_at = (body.inputs.index(value) for value in (x, w))
        box, bn, split, units = box_of(config), config["BLOCK_N"], config["SPLIT"], units_of(shape, config)
        y = pixel_map(Result(), out.dtype, shape.y, shape.filters, (*box, bn))
        taps = (shape.filters, shape.taps, shape.channels)
        handed = y  # which is not read then
        if shape.handed is not None and shape.residual is not None:
            place = Operand(body.inputs.index(shape.handed))
            handed = pixel_map(place, out.dtype, shape.residual, shape.filters, (*box, bn))
        group = config["GROUP"]
        arguments: dict[str, Any] = {
            "x": input_map(
                Operand(x_at), x.type.dtype, shape.x, shape.channels, box, group, shape.stride, shape.block_k
            ),
            "w": tensor_map(Operand(w_at), w.type.dtype, taps, shape.tap_strides, (bn, 1, shape.block_k)),
            "handed": handed,
            "y": y,
            "aux": tuple(Operand(i) for i in shape.epilogue.operands),
        }
        constexprs = {
            "UNITS": units,
            "SLICES": slices_of(shape, config),
            "FILTERS": shape.filters,
            "BOX": box,
            "TILES": shape.tiles(box),
            "SIZE": shape.size,
            "OUT": shape.out,
            "FILTER": shape.filter,
            "STRIDE": shape.stride,
            "PADDING": shape.padding,
            "BLOCK_N": bn,
            "BLOCK_K": shape.block_k,
            "LAST": depth_of(shape, config)[1],
            "STEPS": steps_of(shape),
            "GROUP": group,
            "SKIP": config["SKIP"],
            "SPLIT": split,
            "CONSUMERS": config["CONSUMERS"],
            "STAGES": config["STAGES"],
            "W_STAGES": config["W_STAGES"],
            "BUFFERS": config["BUFFERS"],
            "RESIDENT": config["RESIDENT"],
            "HANDED": shape.handed is not None,
            "FIXED": shape.fixed,
            "WARPS": config["num_warps"],
            "DEPENDENT": True,
            "FETCH": shape.epilogue.fetch,
            "FINISH": shape.epilogue.finish,
        }
        workspace = 0
        if split > 1:
            arguments |= {"partials": Workspace(), "counters": Zeros()}
            workspace = 4 * units * math.prod(box) * bn
        else:
            constexprs |= {"partials": None, "counters": None}
        # The warps that load come with two that idle.
        threads = 32 * (config["num_warps"] * config["CONSUMERS"] + 4)
        options = {"maxnreg": min(168, _REGISTERS // (threads * config["PROGRAMS"]) // 8 * 8)}
        grid = (min(target.sms * config["PROGRAMS"], units), 1, 1)
        call = KernelCall(conv_tma, arguments, constexprs, grid, config["num_warps"], options=options)
        return Lowered((call,), workspace, 4 * (units // split) if split > 1 else 0)


def best_seconds(shape: Shape, target: Target) -> float:
    """What its best configuration is estimated to take; infinity if there is none."""
    return min((each for each, _ in _ranked(shape, target)), default=math.inf)


def _ranked(shape: Shape, target: Target) -> list[tuple[float, Config]]:
    """(estimated seconds, configuration), cheapest first. The estimate is fitted to as many blocks under way as fit."""
    ranked = [
        (seconds(work_of(shape, config, target), target), _needed(config, shape.block_k))
        for config in _space(shape, target)
    ]
    return sorted(ranked, key=lambda pair: pair[0])


def _space(shape: Shape, target: Target) -> Iterator[Config]:
    """What fits into shared memory."""
    buffers = (2, 3) if shape.handed is not None else (1, 2)
    for pixels, bn, consumers, programs, warps in _TILES:
        if bn >= shape.filters + 64 or (bn < 64 and not 0 < shape.filters % 64 <= bn):
            continue  # more than half of a tile would be idle, or none of a larger one
        if shape.long and pixels * bn // (32 * warps) > _LONG_ELEMENTS:
            continue
        forms = itertools.product(shape.boxes(pixels), _sharing(shape), (False, True), buffers, _SPLITS)
        for box, (group, skip), resident, count, split in forms:
            config: dict[str, Any] = {
                "LINES": box[0],
                "IMAGES": box[1],
                "COLUMNS": box[2],
                "BLOCK_N": bn,
                "GROUP": group,
                "SKIP": skip,
                "SPLIT": split,
                "CONSUMERS": consumers,
                "BUFFERS": count,
                "RESIDENT": resident,
                "PROGRAMS": programs,
                "num_warps": warps,
            }
            if group > 1 and shape.refuse_group(box):
                continue
            if max(loaded_box(box, group, shape.stride, shape.block_k)[0]) > _MOST_EXTENT:
                continue
            if skip and shape.met(box) == shape.taps:
                continue
            if resident and (slices_of(shape, config) > 1 or skip):
                continue
            if split > 1 and (count > buffers[0] or refuse_split(shape, config, target)):
                continue
            stages = _stages(shape, config, target.shared // programs - _RESERVED - 2 * pixels * bn * consumers * count)
            if stages is not None:
                yield {**config, "STAGES": stages[0], "W_STAGES": stages[1]}


def refuse_split(shape: Shape, config: Config, target: Target) -> str | None:
    """Why units should not share the sums of tiles, or None."""
    if config["CONSUMERS"] > 1 or units_of(shape, config) > target.sms * config["PROGRAMS"]:
        return "there are others to do meanwhile"
    if config["RESIDENT"]:
        return "each would load all of w"
    pixels = math.prod(box_of(config))
    if pixels * config["BLOCK_N"] // (32 * config["num_warps"]) > _SPLIT_ELEMENTS:
        return "the sums would not fit into registers"
    least = steps_of(shape) * (1 if config["SKIP"] else shape.taps // config["GROUP"])
    return "a tile may have fewer blocks" if least < config["SPLIT"] else None


def _column(lists: Iterable[Sequence[Config]], number: int) -> list[Config]:
    return [each[number] for each in lists if number < len(each)]


def _sharing(shape: Shape) -> list[tuple[int, bool]]:
    """(rows of the filter that share a block of x, whether taps in the padding are left out)."""
    rows = shape.filter[0]
    return [(1, False), *([(1, True)] if shape.fixed else []), *([(rows, False)] if rows > 1 else [])]


def _stages(shape: Shape, config: Config, room: int) -> tuple[int, int] | None:
    """Blocks of x and of w that fit into `room`, as many as possible of that of which there are fewer."""
    x, w, group = x_block(config, shape.block_k), w_block(config, shape.block_k), config["GROUP"]
    if config["RESIDENT"]:
        stages = min(_MOST_STAGES, (room - w * shape.taps * steps_of(shape)) // x)
        return (stages, 1) if stages >= 2 else None
    pairs = ((stages, min(_MOST_STAGES, (room - stages * x) // w)) for stages in range(2, _MOST_STAGES + 1))
    fitting = [pair for pair in pairs if pair[1] >= max(2, group)]
    return max(fitting, key=lambda pair: (min(pair[0] * group, pair[1]), math.prod(pair)), default=None)


def _needed(config: Config, block_k: int) -> Config:
    """With no more blocks of w, and of x for a tap more, than are needed while others come: the rest would only delay
    the first ones. 3 and 8 blocks for 14x14 pixels, not 11 and 12, made ResNet-152, batch 8, 813 us instead of 853; 8
    and 8 835, 4 and 8 816, 3 and 6 833, 2 and 6 841."""
    if config["RESIDENT"]:
        return config
    group, tile = config["GROUP"], math.prod(box_of(config)) * config["BLOCK_N"]
    most = max(_LEAST_AHEAD, group, _AHEAD // (tile * block_k))
    w = min(config["W_STAGES"], most)
    return {**config, "STAGES": min(config["STAGES"], most, w // group + 1), "W_STAGES": w}


@lru_cache(maxsize=256)
def _plain_seconds(shape: GemmShape, target: Target) -> float:
    """What the best configuration of conv2d is estimated to take."""
    return cost(rank_configs(shape, target, 1)[0], shape, target)
