"""A convolution of several taps and the 1x1 convolution of it, without the image between them: a bottleneck's end.

Formula: y[m, n] = f(sum over c of g(sum over taps t and channels b of x[pixel(m) + t, b] * v[c, t, b]) * w[n, c]); g is
the elementwise ops between the two. Fires on sm_90 alone (wgmma), for what `conv_tma` takes, where the image between
has at most 128 channels, and one kernel is estimated to be clearly faster than two. Saves a launch and the write and
read of the image between. Floor: (x + v + w + y + residual) bytes / bandwidth.

Each program makes boxes of pixels, of all filters: the first convolution as `conv_tma` does, whose sums stay in
registers and are, rounded, the left operand of one product after another, each of BLOCK_N filters. While one consumer
finishes and stores these, the other sums the next box.

Measured (H200, fp16, buffers rotated, ResNet-50): 64 channels at 56x56, batch 128, in 125 us, two kernels 165, cuDNN
235, floor 108; 128 at 28x28 in 96 us, two kernels 104. At batch 8 13.1 and 15.2 us; 13.0 and 12.9.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jitrt.codegen.target import Target
from jitrt.graph.graph import Graph
from jitrt.kernels import conv_tma, gemm_tma
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template
from jitrt.kernels.conv_pointwise_cost import blocks_of, held, products_of, units_of, v_block, w_block, work_of
from jitrt.kernels.conv_pointwise_kernel import LACKING, conv_pointwise
from jitrt.kernels.conv_pointwise_shape import Shape, describe, refuse_body, shape_of
from jitrt.kernels.conv_tma_cost import box_of, steps_of, x_block
from jitrt.kernels.conv_tma_shape import BLOCK_K
from jitrt.kernels.gemm_cost import GemmShape, cost, rank_configs
from jitrt.kernels.gemm_tma_cost import seconds
from jitrt.kernels.tma_maps import input_map, loaded_box, pixel_map, tensor_map

__all__ = ["ConvPointwise"]

_LEAST_ROWS = 256
_KEPT = 16  # candidates
_WORTH = 0.9  # times the estimate of two kernels
_RESERVED = 2048  # bytes of shared memory for barriers and alignment
_MOST_STAGES = 8
_BOXES = 2  # of a size
_TILE = ("BLOCK_N", "CONSUMERS", "PROGRAMS", "num_warps")
_MOST_BUFFERS = 6
_LONG_ELEMENTS = 64  # of a thread, where the epilogue is long
_REGISTERS = 65536
_MOST_EXTENT = 256  # of a box, as a tensor map has it
_SUMS = 128  # of a thread, that of both products
# pixels, CONSUMERS, PROGRAMS, num_warps of a consumer
_TILES = ((64, 2, 1, 4), (64, 1, 1, 4), (64, 1, 2, 4), (128, 2, 1, 4), (128, 1, 1, 8))


class ConvPointwise(Template):
    """Convolutions of several taps and the 1x1 convolutions of them, in Gluon for sm_90."""

    name = "conv_pointwise"
    priority = 2  # so that its reason is the one given

    def accepts(self, body: Graph) -> str | None:
        return refuse_body(body)

    def supports(self, problem: Problem, target: Target) -> str | None:
        if target.arch != 90:
            return f"{target} has no wgmma"
        if LACKING is not None:
            return LACKING
        shape = describe(problem)
        if isinstance(shape, str):
            return shape
        if shape.first.rows < _LEAST_ROWS:
            return f"{shape.first.rows} rows are too few for tiles of 64"
        ranked = _ranked(shape, target)
        if not ranked:
            return "no tiles of x, both weights and the result fit into shared memory together"
        one, two = ranked[0][0], _seconds_apart(shape, target)
        if one > _WORTH * two:
            return f"two kernels are estimated to take {two * 1e6:.1f} us, one {one * 1e6:.1f}"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        kept: dict[tuple[Any, ...], list[Config]] = {}
        for _, config in _ranked(shape_of(problem), target):
            tile = math.prod(box_of(config)), *(config[name] for name in _TILE)
            kept.setdefault(tile, []).append(config)
        # The best of each tile, then the second: the model tells tiles apart better than boxes and rings.
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*kept.values()))
        return [config for config in in_turn if config is not None][:_KEPT]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape = shape_of(problem)
        first, second, body = shape.first, shape.second, problem.body
        (x, v), w = first.anchor.inputs, second.anchor.inputs[1]
        x_at, v_at, w_at = (Operand(body.inputs.index(value)) for value in (x, v, w))
        box, bn, bc, group, out = box_of(config), config["BLOCK_N"], shape.block_c, config["GROUP"], problem.output.type
        y = pixel_map(Result(), out.dtype, shape.y, shape.filters, (*box, bn))
        handed = y  # which is not read then
        if shape.handed is not None and shape.residual is not None:
            place = Operand(body.inputs.index(shape.handed))
            handed = pixel_map(place, out.dtype, shape.residual, shape.filters, (*box, bn))
        taps, filters = (shape.width, first.taps, first.channels), (shape.filters, shape.width)
        arguments: dict[str, Any] = {
            "x": input_map(x_at, x.type.dtype, first.x, first.channels, box, group, first.stride),
            "v": tensor_map(v_at, v.type.dtype, taps, first.tap_strides, (bc, 1, BLOCK_K)),
            "w": tensor_map(w_at, w.type.dtype, filters, (w.type.strides[0],), (bn, bc)),
            "handed": handed,
            "y": y,
            "middle_aux": tuple(Operand(i) for i in first.epilogue.operands),
            "aux": tuple(Operand(i) for i in second.epilogue.operands),
        }
        parts, units = products_of(shape, config), units_of(shape, config)
        constexprs = {
            "UNITS": units,
            "WIDTH": shape.width,
            "FILTERS": shape.filters,
            "BOX": box,
            "TILES": first.tiles(box),
            "FILTER": first.filter,
            "STRIDE": first.stride,
            "PADDING": first.padding,
            "BLOCK_C": bc,
            "BLOCK_N": bn,
            "BLOCK_K": BLOCK_K,
            "STEPS": steps_of(first),
            "GROUP": group,
            "PRODUCTS": parts,
            "CONSUMERS": config["CONSUMERS"],
            "STAGES": config["STAGES"],
            "V_STAGES": config["V_STAGES"] or 1,
            "V_RESIDENT": not config["V_STAGES"],
            "W_STAGES": config["W_STAGES"] or parts,
            "W_RESIDENT": not config["W_STAGES"],
            "BUFFERS": config["BUFFERS"],
            "HANDED": shape.handed is not None,
            "FIXED": shape.fixed,
            "WARPS": config["num_warps"],
            "DEPENDENT": True,
            "MIDDLE_FETCH": first.epilogue.fetch,
            "MIDDLE_FINISH": first.epilogue.finish,
            "FETCH": second.epilogue.fetch,
            "FINISH": second.epilogue.finish,
        }
        # The warps that load come with one that idles.
        threads = 32 * (config["num_warps"] * config["CONSUMERS"] + 4)
        options = {"maxnreg": min(168, _REGISTERS // (threads * config["PROGRAMS"]) // 8 * 8)}
        grid = (min(target.sms * config["PROGRAMS"], units), 1, 1)
        return Lowered((KernelCall(conv_pointwise, arguments, constexprs, grid, config["num_warps"], options=options),))


def _ranked(shape: Shape, target: Target) -> list[tuple[float, Config]]:
    """(estimated seconds, configuration), cheapest first."""
    ranked = [(seconds(work_of(shape, config, target), target), config) for config in _space(shape, target)]
    return sorted(ranked, key=lambda pair: pair[0])


def _space(shape: Shape, target: Target) -> Iterator[Config]:
    """What fits into shared memory: resident weights or rings of them, and more of the residual or of x ahead."""
    first, least = shape.first, 2 if shape.handed is not None else 1
    rows = first.filter[0]
    forms = itertools.product(_TILES, (64, 128), ((1, rows) if rows > 1 else (1,)), (False, True), (False, True))
    for (pixels, consumers, programs, warps), bn, group, v_rings, w_rings in forms:
        elements = pixels * max(bn, shape.block_c) // (32 * warps)
        if bn >= shape.filters + 64 or elements > (_LONG_ELEMENTS if shape.long else _SUMS):
            continue
        for box, buffers in itertools.product(first.compact(pixels)[:_BOXES], range(least, _MOST_BUFFERS + 1)):
            config: dict[str, Any] = {
                "LINES": box[0],
                "IMAGES": box[1],
                "COLUMNS": box[2],
                "BLOCK_N": bn,
                "GROUP": group,
                "CONSUMERS": consumers,
                "BUFFERS": buffers,
                "PROGRAMS": programs,
                "num_warps": warps,
                "V_STAGES": int(v_rings),
                "W_STAGES": int(w_rings),
            }
            if group > 1 and first.refuse_group(box):
                continue
            if (
                buffers > max(least, products_of(shape, config))
                or max(loaded_box(box, group, first.stride)[0]) > _MOST_EXTENT
            ):
                continue
            room = target.shared // programs - _RESERVED - 2 * pixels * bn * consumers * buffers - held(shape, config)
            rings = _rings(shape, config, room)
            if rings is not None:
                yield {**config, **rings}


def _rings(shape: Shape, config: Config, room: int) -> dict[str, int] | None:
    """Blocks under way of x, v and w that fit into `room`: the ring that holds least of a tile grows first."""
    sizes = {"STAGES": x_block(config)}
    needed = {"STAGES": blocks_of(shape, config)}
    if config["V_STAGES"]:
        sizes["V_STAGES"] = v_block(shape)
        needed["V_STAGES"] = shape.first.taps * steps_of(shape.first)
    if config["W_STAGES"]:
        sizes["W_STAGES"] = w_block(shape, config)
        needed["W_STAGES"] = products_of(shape, config)
    stages = dict.fromkeys(sizes, 2)
    room -= sum(2 * size for size in sizes.values())
    if room < 0:
        return None
    while True:
        growing = [name for name in sizes if sizes[name] <= room and stages[name] < _MOST_STAGES]
        if not growing:
            return stages
        name = min(growing, key=lambda each: (stages[each] - 1) / needed[each])
        stages[name] += 1
        room -= sizes[name]


def _seconds_apart(shape: Shape, target: Target) -> float:
    """What the best kernels for the two convolutions are estimated to take, one after the other."""
    first, second = shape.first, shape.second
    reads = 0 if shape.handed is None else 1
    plain = (
        GemmShape(first.rows, shape.width, 1, first.channels, first.taps, 2, False, 0, epilogue_vectors=True),
        GemmShape(first.rows, shape.filters, 1, shape.width, 1, 2, False, reads, epilogue_vectors=True),
    )
    best = (conv_tma.best_seconds(first, target), gemm_tma.best_seconds(second, target))
    return sum(
        min(cost(rank_configs(each, target, 1)[0], each, target), tma) for each, tma in zip(plain, best, strict=True)
    )
