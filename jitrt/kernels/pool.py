"""Pooling: the maximum or mean under a sliding or adaptive window, in one to three dimensions.

Formula: y[n, c, o...] = f(max or mean over taps t of g(x[n, c, o * stride - padding + t * dilation])), taps outside the
input left out; g are elementwise ops before the pool. Fires for any strides in memory of x and y, with everything
elementwise after the pool in the epilogue. Saves the write and read between pool and epilogue.
Floor: (x + y) bytes / bandwidth. Each tap is one load; taps of neighbouring outputs overlap and hit L1 and L2, so that
DRAM is read once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.pointwise import triton_dtype
from jitrt.codegen.prologue import make_chain, refuse_chain, source_of
from jitrt.codegen.source import function
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node
from jitrt.graph.ops import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool
from jitrt.graph.types import Layout, TensorType
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Template, anchor_of
from jitrt.kernels.tiles import tile_launch

POOLS = (MaxPool, AvgPool, AdaptiveMaxPool, AdaptiveAvgPool)
_FEW_WARPS = {4: 1.0, 2: 1.15, 1: 1.4}  # what a program of so many costs
_NARROW = 1.15  # what rows of fewer than 64 channels cost
_UNROLL = 32  # taps written out one by one; a larger window is a loop over its rows


@triton.jit
def pool(
    y,
    x,
    aux,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIZE: tl.constexpr,  # depth, height, width of x
    OUT: tl.constexpr,  # the same of y
    WINDOW: tl.constexpr,  # taps along each
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    X_STRIDES: tl.constexpr,
    CHECKED: tl.constexpr,  # along each: some tap can fall outside its window or x
    COUNTED: tl.constexpr,  # (first, end) positions along each that the mean's divisor counts
    ADAPTIVE: tl.constexpr,
    MAXIMUM: tl.constexpr,
    DIVISOR: tl.constexpr,  # of every window, or 0 if windows differ
    WIDE: tl.constexpr,
    ACC: tl.constexpr,  # dtype of the maximum or sum
    RESULT: tl.constexpr,  # dtype the epilogue computes in
    UNROLL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LOCATE: tl.constexpr,
    CHAIN: tl.constexpr,  # the elementwise ops before the pool, or None
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_k: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    pid = tl.program_id(0)
    m = ((pid // tiles_k) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = ((pid % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    m_mask = m < ROWS
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    k_mask = k < COLUMNS

    plane, d_out, h_out, w_out = LOCATE(m, k)
    d, d_end = _window(d_out, SIZE[0], OUT[0], WINDOW[0], STRIDE[0], PADDING[0], ADAPTIVE)
    h, h_end = _window(h_out, SIZE[1], OUT[1], WINDOW[1], STRIDE[1], PADDING[1], ADAPTIVE)
    w, w_end = _window(w_out, SIZE[2], OUT[2], WINDOW[2], STRIDE[2], PADDING[2], ADAPTIVE)
    if WIDE:
        corner = plane + d.to(tl.int64) * X_STRIDES[0] + h.to(tl.int64) * X_STRIDES[1] + w.to(tl.int64) * X_STRIDES[2]
    else:
        corner = plane + d * X_STRIDES[0] + h * X_STRIDES[1] + w * X_STRIDES[2]
    first = x + tl.broadcast_to(corner, (BLOCK_M, BLOCK_K))

    lowest: tl.constexpr = float("-inf") if MAXIMUM else 0.0
    acc = tl.full((BLOCK_M, BLOCK_K), lowest, tl.float32).to(ACC)
    for tap in tl.range(0, WINDOW[0] * WINDOW[1] * WINDOW[2], loop_unroll_factor=UNROLL):
        td = tap // (WINDOW[1] * WINDOW[2]) * DILATION[0]
        th = tap // WINDOW[2] % WINDOW[1] * DILATION[1]
        tw = tap % WINDOW[2] * DILATION[2]
        inside = m_mask & k_mask
        if CHECKED[0]:
            inside = inside & (d + td >= 0) & (d + td < (d_end if ADAPTIVE else SIZE[0]))
        if CHECKED[1]:
            inside = inside & (h + th >= 0) & (h + th < (h_end if ADAPTIVE else SIZE[1]))
        if CHECKED[2]:
            inside = inside & (w + tw >= 0) & (w + tw < (w_end if ADAPTIVE else SIZE[2]))
        step = td * X_STRIDES[0] + th * X_STRIDES[1] + tw * X_STRIDES[2]
        value = tl.load(first + step, mask=inside, other=lowest).to(ACC)
        if CHAIN is not None:
            value = tl.where(inside, CHAIN(value), lowest)
        acc = tl.maximum(acc, value, tl.PropagateNan.ALL) if MAXIMUM else acc + value

    acc = acc.to(RESULT)
    if not MAXIMUM:
        if DIVISOR:
            acc = acc / DIVISOR
        else:
            count = counted(d, d_end, COUNTED[0][0], COUNTED[0][1], DILATION[0])
            count *= counted(h, h_end, COUNTED[1][0], COUNTED[1][1], DILATION[1])
            count *= counted(w, w_end, COUNTED[2][0], COUNTED[2][1], DILATION[2])
            acc = acc / count
    value = APPLY(acc, aux, m, k, m_mask, k_mask)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    STORE(y, value, m, k, m_mask, k_mask)


@triton.jit
def _window(
    out,
    SIZE: tl.constexpr,
    OUT: tl.constexpr,
    WINDOW: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """(first position, end) of the windows of output positions along one dimension."""
    if ADAPTIVE:
        start = out * SIZE // OUT
        end = ((out + 1) * SIZE + OUT - 1) // OUT
    else:
        start = out * STRIDE - PADDING
        end = start + WINDOW
    return start, end


@triton.jit
def counted(start, end, FIRST: tl.constexpr, LAST: tl.constexpr, DILATION: tl.constexpr):
    """How many of the taps start, start + DILATION, ..., `end - start` of them, lie from FIRST to before LAST."""
    low = tl.maximum(FIRST - start, 0)
    high = LAST - start
    if DILATION != 1:
        low = (low + DILATION - 1) // DILATION
        high = (high + DILATION - 1) // DILATION
    return tl.minimum(end - start, high) - low


Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Windows:
    """A pool's windows along depth, height and width; dimensions there are not have size 1."""

    size: Triple
    out: Triple
    taps: Triple
    stride: Triple
    padding: Triple
    dilation: Triple
    checked: tuple[bool, bool, bool]
    counted: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    adaptive: bool
    divisor: int


def describe(anchor: Node) -> Windows:
    """The windows of a pool node. An adaptive pool whose windows are all alike is a sliding one."""
    op = anchor.op
    size, out = (list(v.type.shape[2:]) for v in (anchor.inputs[0], anchor.output))
    dims = len(size)
    one, none = [1] * dims, [0] * dims
    adaptive = isinstance(op, AdaptiveMaxPool | AdaptiveAvgPool) and any(s % o for s, o in zip(size, out))
    include_padding = False
    if isinstance(op, MaxPool | AvgPool):
        taps, stride, padding = list(op.kernel), list(op.stride), list(op.padding)
        dilation = list(op.dilation) or one
        include_padding = isinstance(op, AvgPool) and op.count_include_pad
    elif adaptive:
        taps = [max(-(-(i + 1) * s // o) - i * s // o for i in range(o)) for s, o in zip(size, out)]
        stride, padding, dilation = one, none, one
    else:
        taps = [s // o for s, o in zip(size, out)]
        stride, padding, dilation = taps, none, one
    last = [(o - 1) * s - p + (t - 1) * e for o, s, p, t, e in zip(out, stride, padding, taps, dilation)]
    past = [p > 0 or end >= s for p, end, s in zip(padding, last, size)]
    counted = [(-p, s + p) if include_padding else (0, s) for s, p in zip(size, padding)]
    alike = not adaptive and all(-p >= low and end < high for p, end, (low, high) in zip(padding, last, counted))

    def three(values: Sequence[Any], fill: Any) -> Any:
        return (*[fill] * (3 - dims), *values)

    return Windows(
        size=three(size, 1),
        out=three(out, 1),
        taps=three(taps, 1),
        stride=three(stride, 1),
        padding=three(padding, 0),
        dilation=three(dilation, 1),
        checked=three([adaptive and s % o != 0 for s, o in zip(size, out)] if adaptive else past, False),
        counted=three(counted, (0, 1)),
        adaptive=adaptive,
        divisor=math.prod(taps) if alike else 0,
    )


def make_locate(space: TileSpace, x: TensorType) -> Any:
    """The function (m, k) -> (offset of the image and channel in x, output position along depth, height, width)."""
    planes = TensorType(x.dtype, (*x.shape[:2], *[1] * (x.rank - 2)), Layout(x.strides))
    texts = [*["0"] * (5 - x.rank), *(space.coordinate(d) for d in range(2, x.rank))]
    results = [f"{space.address(planes).offset} + m * 0", *("m * 0" if text == "0" else text for text in texts)]
    return function(f"@triton.jit\ndef locate(m, k):\n    return {', '.join(results)}\n", "locate")


def common(problem: Problem) -> dict[str, Any]:
    """Constexprs of every kernel for pools."""
    body, anchor = problem.body, problem.anchor
    assert anchor is not None
    source = source_of(anchor.inputs[0])
    assert source is not None
    maximum, chained = isinstance(anchor.op, MaxPool | AdaptiveMaxPool), source is not anchor.inputs[0]
    result = triton_dtype(anchor.output.type.dtype)
    return {
        "MAXIMUM": maximum,
        "DIVISOR": describe(anchor).divisor,
        "WIDE": source.type.span >= 2**31,
        # A maximum is exact in the type of its operands; in float16 it takes half the instructions. (bfloat16 is
        # widened by `tl.maximum` itself.)
        "ACC": tl.float16 if maximum and not chained and source.type.dtype == DType.f16 else result,
        "RESULT": result,
        "LOCATE": make_locate(TileSpace.of(problem.output.type), source.type),
        "CHAIN": make_chain(body, anchor.inputs[0]) if chained else None,
    }


class Pool(Template):
    """Max and average pools, sliding and adaptive."""

    name = "pool"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        if anchor is None or not isinstance(anchor.op, POOLS):
            return "anchor is no pool"
        x = anchor.inputs[0]
        if x.type.rank > 5:
            return f"a {x.type.rank - 2}-d pool has no kernel"
        if not x.type.dtype.is_float:
            return f"a pool of {x.type.dtype.value} has no kernel"
        return refuse_chain(x) or refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        space = TileSpace.of(problem.output.type)
        rows, columns = space.row_count, space.column_count
        configs = []
        for elements, warps in ((1024, 4), (2048, 4), (512, 2), (512, 4), (256, 1), (128, 1)):
            for widest in (128, 32):
                block_k = min(triton.next_power_of_2(columns), widest, elements)
                block_m = min(triton.next_power_of_2(rows), elements // block_k)
                config = {"BLOCK_M": block_m, "BLOCK_K": block_k, "num_warps": warps}
                if config not in configs:
                    configs.append(config)

        # On the H200 512 elements for four warps, in wide rows where those waste little, were 1% slower than the best
        # that was timed, on average over 33 pools of 40,000 to 26 million results, and 9% at worst.
        def cost(config: Config) -> float:
            elements, warps = config["BLOCK_M"] * config["BLOCK_K"], config["num_warps"]
            tiles = -(-rows // config["BLOCK_M"]) * -(-columns // config["BLOCK_K"])
            waste = tiles * elements / problem.output.type.numel
            return waste * _FEW_WARPS[warps] * (_NARROW if config["BLOCK_K"] < min(columns, 64) else 1) * elements**0.06

        return sorted(configs, key=cost)[:8]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        body, anchor = problem.body, problem.anchor
        assert anchor is not None
        source = source_of(anchor.inputs[0])
        assert source is not None
        x = source.type
        space = TileSpace.of(problem.output.type)
        epilogue = make_epilogue(body, anchor.output, space)
        windows = describe(anchor)
        taps = math.prod(windows.taps)
        constexprs: dict[str, Any] = {
            **common(problem),
            "SIZE": windows.size,
            "OUT": windows.out,
            "WINDOW": windows.taps,
            "STRIDE": windows.stride,
            "PADDING": windows.padding,
            "DILATION": windows.dilation,
            "X_STRIDES": (*[0] * (5 - x.rank), *x.strides[2:]),
            "CHECKED": windows.checked,
            "COUNTED": windows.counted,
            "ADAPTIVE": windows.adaptive,
            "UNROLL": taps if taps <= _UNROLL else min(windows.taps[2], _UNROLL),
        }
        arguments = {"x": Operand(body.inputs.index(source))}
        return tile_launch(pool, space, config, target, epilogue, constexprs, arguments)
