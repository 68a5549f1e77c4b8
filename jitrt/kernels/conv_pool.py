"""A convolution and the pool after it, whose windows share no pixel, as one launch of the convolution's kernel.

Formula: y[n, p, k] = g(max or mean over the pixels q of window p of f(conv(x, w)[n, q, k])), f and g elementwise. Fires
for pools without padding whose step is their window (2x2 by 2, as in VGG), of at most 16 pixels. Saves a launch and the
write and read of the larger image. Floors: (x + w + y) bytes / bandwidth, and 2 * M * K * C * taps / the tensor cores'
rate.

`conv2d` counts its rows window by window, so that the pixels of one are neighbours in the accumulator, as many as the
next power of two: no tile ends inside a window. What follows the main loop runs on the tile as ever, then takes the
maximum or mean of every window's rows, which lie in neighbouring threads, and goes on with a row for each window. The
operands are addressed by those rows: f may read numbers and one for each channel, g whatever it likes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from jitrt.codegen.epilogue import Epilogue, make_epilogue, prologue_nodes
from jitrt.codegen.pointwise import EXPRESSIONS
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.op import Trait
from jitrt.graph.ops import AdaptiveMaxPool, Conv, MaxPool
from jitrt.kernels.base import Config, Lowered, Problem, Template
from jitrt.kernels.conv2d import gemm_shape, lower_anchor
from jitrt.kernels.conv_shape import ConvShape, operands_of, refuse_anchor, refuse_weights
from jitrt.kernels.conv_shape import describe as describe_conv
from jitrt.kernels.gemm_cost import GemmShape, rank_configs
from jitrt.kernels.pool import POOLS
from jitrt.kernels.pool import describe as describe_pool

_MOST_PIXELS = 16  # of a window: the rows of the smallest tile


class ConvPool(Template):
    """Convolutions and the pool of them, in plain `tl`."""

    name = "conv_pool"
    priority = 1  # so that its reason is the one given

    def accepts(self, body: Graph) -> str | None:
        anchors = anchors_of(body)
        if len(anchors) != 2 or not isinstance(anchors[0].op, Conv) or not isinstance(anchors[1].op, POOLS):
            return "anchor is no pool of a convolution"
        conv, pool = anchors
        assert isinstance(conv.op, Conv)
        if 1 < conv.op.groups == conv.inputs[0].type.shape[1]:
            return "a depthwise convolution has a kernel of its own, without a pool"
        return refuse_anchor(body, conv, Conv) or _refuse_windows(pool) or _refuse_around(body, conv, pool)

    def supports(self, problem: Problem, target: Target) -> str | None:
        conv, _ = problem.anchors
        assert isinstance(conv.op, Conv)
        reason = refuse_weights(problem, conv, "a grouped convolution") if conv.op.groups > 1 else None
        if reason is not None:
            return reason
        if describe(problem).rows >= 2**31:
            return "the image has too many pixels for one 32-bit index"
        return None

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return describe(problem).groups_a_bundle > 1

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return rank_configs(product_of(problem), target)

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        return lower_anchor(problem, problem.anchors[0], describe(problem), _epilogue(problem), config, target)


def product_of(problem: Problem) -> GemmShape:
    """The matrix product that a problem of `ConvPool` is to the cost model."""
    pixels = problem.output.type.numel
    reads = sum(problem.body.inputs[index].type.numel >= pixels for index in _epilogue(problem).operands)
    return gemm_shape(describe(problem), problem.anchors[0], reads)


def describe(problem: Problem) -> ConvShape:
    """The convolution as its kernel counts through it, window by window."""
    conv, pool = problem.anchors
    x, w = (problem.body.inputs[index].type for index in operands_of(problem, conv))
    windows = describe_pool(pool)
    pooled = replace(describe_conv(conv, x, w), out=windows.out, window=windows.taps)
    return replace(pooled, rows=x.shape[0] * math.prod(windows.out) * pooled.positions)


def _epilogue(problem: Problem) -> Epilogue:
    """Everything after the convolution; its operands are addressed by the pool's pixels."""
    conv, pool = problem.anchors
    windows = describe_pool(pool)
    count = math.prod(windows.taps)
    rows = describe(problem).positions
    if isinstance(pool.op, MaxPool | AdaptiveMaxPool):
        text = f"special.window_maximum({{0}}, {rows})"
    else:
        text = f"special.window_mean({{0}}, {rows}, {count})"
    shape = pool.output.type.shape
    space = TileSpace(shape, (0, *range(2, len(shape))), 1)
    return make_epilogue(problem.body, conv.output, space, written={pool: text})


def _refuse_windows(pool: Node) -> str | None:
    """Why the rows of a tile cannot be counted window by window, or None."""
    windows = describe_pool(pool)
    if windows.adaptive:
        return "the windows of this adaptive pool differ in size"
    if any(windows.padding):
        return "the pool is padded: some of its windows hold fewer pixels"
    for size, out, taps, stride, dilation in zip(
        windows.size, windows.out, windows.taps, windows.stride, windows.dilation, strict=True
    ):
        if taps > 1 and dilation > 1:
            return "the pool is dilated: its windows are interleaved"
        if out > 1 and stride < taps:
            return "the pool's windows overlap: each would compute the convolution of the pixels they share"
        if out > 1 and stride > taps:
            return "the pool's windows leave pixels out"
        if out * taps > size:
            return "the pool's last window reaches beyond the image"
    count = math.prod(windows.taps)
    if not 1 < count <= _MOST_PIXELS:
        return f"a window of {count} pixels is no part of a tile: 2 to {_MOST_PIXELS} are"
    return None


def _refuse_around(body: Graph, conv: Node, pool: Node) -> str | None:
    """Why what is around the pool cannot run in the epilogue, or None."""
    loaded, before = prologue_nodes(body, conv), prologue_nodes(body, pool)
    if conv not in before or pool.inputs[0].type.shape != conv.output.type.shape:
        return "the pool is to read what the convolution makes, in its shape"
    for node in body.nodes:
        if node in (conv, pool) or node in loaded:
            continue
        if not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS:
            return f"{node.op.name} is not elementwise"
        if node in before and any(_varies(value, conv.output.type.rank) for value in node.inputs):
            return f"{node.op.name} before the pool reads more than a number for each channel"
    if len(body.outputs) != 1 or body.outputs[0].type.shape != pool.output.type.shape:
        return "what follows the pool must have its shape"
    return None


def _varies(value: Value, rank: int) -> bool:
    """Whether a value is an operand that differs between the pixels of a channel, in images of `rank` dimensions."""
    shape = value.type.shape
    return value.producer is None and any(size != 1 for d, size in enumerate(shape) if d - len(shape) != 1 - rank)
