"""Pools whose windows overlap, several lines of the result a program: what two lines share is loaded once.

Formula: that of `pool`. Fires for two-dimensional sliding windows of which lines share more than half, channels
innermost, where there is work for many programs. What a line of x makes of its windows' columns is made once for all
lines of the result that see it, and a thread has the loads of all of them under way at once: 3x3 windows by 1 take 4.5
loads a result for 4 lines, not 9.
Floor: (x + y) bytes / bandwidth. `pool` takes 2.6 times that for 3x3 windows by 1 (H200, GoogLeNet and Inception-v3 at
batch 128), 1.1 times for those by 2: its programs have too little under way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import make_epilogue
from jitrt.codegen.prologue import source_of
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.graph import Graph
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Template
from jitrt.kernels.pool import Pool, common, counted, describe
from jitrt.kernels.tiles import tile_launch

_LINES = (4, 2, 7)  # of the result, a program's
_TILES = ((512, 4), (1024, 4), (512, 2))  # elements of a line, warps
_ROWS = (0, 2, 3)  # images, lines, columns, in this order
_MOST_TAPS = 5  # along a dimension
_PROGRAMS = 8  # an SM, at least: with fewer the smaller ones of `pool` are as good


@triton.jit
def _line(
    begin, h, w, line, m_mask, k_mask,
    SIZE: tl.constexpr, WINDOW: tl.constexpr, DILATION: tl.constexpr, X_STRIDES: tl.constexpr, CHECKED: tl.constexpr,
    MAXIMUM: tl.constexpr, ACC: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    """The maximum or sum, under each window's columns, of the line of x that lies `line` below its first."""
    lowest: tl.constexpr = float("-inf") if MAXIMUM else 0.0
    TAPS: tl.constexpr = WINDOW[1]
    inside = m_mask & k_mask
    if CHECKED[0]:
        inside = inside & (h + line >= 0) & (h + line < SIZE[0])
    acc = tl.full(begin.shape, lowest, tl.float32).to(ACC)
    for tap in tl.static_range(TAPS):
        here = inside
        if CHECKED[1]:
            here = here & (w + tap * DILATION >= 0) & (w + tap * DILATION < SIZE[1])
        step = line * X_STRIDES[0] + tap * (DILATION * X_STRIDES[1])
        value = tl.load(begin + step, mask=here, other=lowest).to(ACC)
        if CHAIN is not None:
            value = tl.where(here, CHAIN(value), lowest)
        acc = tl.maximum(acc, value, tl.PropagateNan.ALL) if MAXIMUM else acc + value
    return acc


@triton.jit
def pool_lines(
    y,
    x,
    aux,
    ROWS: tl.constexpr,  # images times groups of lines times columns
    COLUMNS: tl.constexpr,
    SIZE: tl.constexpr,  # height, width of x
    OUT: tl.constexpr,  # the same of y
    WINDOW: tl.constexpr,  # taps along each
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,  # along columns
    X_STRIDES: tl.constexpr,
    CHECKED: tl.constexpr,  # along each: some tap can fall outside x
    COUNTED: tl.constexpr,  # (first, end) positions along each that the mean's divisor counts
    MAXIMUM: tl.constexpr,
    DIVISOR: tl.constexpr,  # of every window, or 0 if windows differ
    WIDE: tl.constexpr,
    ACC: tl.constexpr,  # dtype of the maximum or sum
    RESULT: tl.constexpr,  # dtype the epilogue computes in
    LINES: tl.constexpr,  # of a group
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LOCATE: tl.constexpr,
    CHAIN: tl.constexpr,  # the elementwise ops before the pool, or None
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_k: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    GROUPS: tl.constexpr = (OUT[0] + LINES - 1) // LINES
    TAPS: tl.constexpr = WINDOW[0]
    pid = tl.program_id(0)
    place = ((pid // tiles_k) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    k = ((pid % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    k_mask = k < COLUMNS
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    top = place // OUT[1] % GROUPS * LINES
    first = (place // (OUT[1] * GROUPS) * OUT[0] + top) * OUT[1] + place % OUT[1]  # row of y

    plane, _, h_out, w_out = LOCATE(first, k)
    h = h_out * STRIDE[0] - PADDING[0]
    w = w_out * STRIDE[1] - PADDING[1]
    if WIDE:
        corner = plane + h.to(tl.int64) * X_STRIDES[0] + w.to(tl.int64) * X_STRIDES[1]
    else:
        corner = plane + h * X_STRIDES[0] + w * X_STRIDES[1]
    begin = x + tl.broadcast_to(corner, (BLOCK_M, BLOCK_K))

    made = (_line(begin, h, w, 0, place < ROWS, k_mask, SIZE, WINDOW, DILATION, X_STRIDES, CHECKED, MAXIMUM, ACC,
                  CHAIN),)  # fmt: skip
    for line in tl.static_range(1, (LINES - 1) * STRIDE[0] + TAPS):
        across = _line(begin, h, w, line, place < ROWS, k_mask, SIZE, WINDOW, DILATION, X_STRIDES, CHECKED, MAXIMUM,
                       ACC, CHAIN)  # fmt: skip
        made = made + (across,)  # type: ignore[assignment]  # noqa: RUF005
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    for line in tl.static_range(LINES):
        acc = made[line * STRIDE[0]]
        for tap in tl.static_range(1, TAPS):
            other = made[line * STRIDE[0] + tap]
            acc = tl.maximum(acc, other, tl.PropagateNan.ALL) if MAXIMUM else acc + other
        acc = acc.to(RESULT)
        if not MAXIMUM:
            if DIVISOR:
                acc = acc / DIVISOR
            else:
                at = h + line * STRIDE[0]
                count = counted(at, at + WINDOW[0], COUNTED[0][0], COUNTED[0][1], 1)
                count *= counted(w, w + WINDOW[1], COUNTED[1][0], COUNTED[1][1], DILATION)
                acc = acc / count
        m = first + line * OUT[1]
        m_mask = (place < ROWS) & (top + line < OUT[0])
        STORE(y, APPLY(acc, aux, m, k, m_mask, k_mask), m, k, m_mask, k_mask)


class PoolLines(Template):
    """Sliding pools of overlapping windows, where there are many."""

    name = "pool_lines"
    priority = 1

    def accepts(self, body: Graph) -> str | None:
        return Pool().accepts(body)

    def supports(self, problem: Problem, target: Target) -> str | None:
        anchor, out = problem.anchor, problem.output.type
        assert anchor is not None
        windows = describe(anchor)
        if out.rank != 4 or windows.adaptive:
            return "windows are not of two dimensions, or not all alike"
        if TileSpace.of(out) != TileSpace(out.shape, _ROWS, 1):
            return "the result has its channels apart"
        if windows.dilation[1] != 1 or windows.taps[1] <= 2 * windows.stride[1]:
            return "lines of the result share less than half of a window"
        if max(windows.taps) > _MOST_TAPS:
            return f"{windows.taps} taps are too many to write out"
        if not self.candidates(problem, target):
            return "there is work for few programs"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        assert problem.anchor is not None
        windows, (images, channels, height, width) = describe(problem.anchor), problem.output.type.shape
        found: list[tuple[float, Config]] = []
        for lines, (elements, warps), widest in itertools.product(_LINES, _TILES, (128, 32)):
            block_k = min(triton.next_power_of_2(channels), widest)
            block_m = elements // block_k
            rows = images * -(-height // lines) * width
            programs = -(-rows // block_m) * -(-channels // block_k)
            config = {"LINES": lines, "BLOCK_M": block_m, "BLOCK_K": block_k, "num_warps": warps}
            if programs < target.sms * _PROGRAMS or config in [other for _, other in found]:
                continue
            waste = programs * elements * lines / problem.output.type.numel
            loaded = (lines - 1) * windows.stride[1] + windows.taps[1]  # lines of x
            found.append((waste * loaded / lines, config))
        return [config for _, config in sorted(found, key=lambda pair: pair[0])][:8]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        body, anchor = problem.body, problem.anchor
        assert anchor is not None
        source = source_of(anchor.inputs[0])
        assert source is not None
        x, windows, lines = source.type, describe(anchor), config["LINES"]
        space = TileSpace.of(problem.output.type)
        images, channels, height, width = space.shape
        groups = replace(space, shape=(images, channels, -(-height // lines), width))
        constexprs: dict[str, Any] = {
            **common(problem),
            "SIZE": windows.size[1:],
            "OUT": windows.out[1:],
            "WINDOW": windows.taps[1:],
            "STRIDE": windows.stride[1:],
            "PADDING": windows.padding[1:],
            "DILATION": windows.dilation[2],
            "X_STRIDES": x.strides[2:],
            "CHECKED": (windows.checked[1] or height % lines != 0, windows.checked[2]),
            "COUNTED": windows.counted[1:],
            "LINES": lines,
        }
        arguments = {"x": Operand(body.inputs.index(source))}
        epilogue = make_epilogue(body, anchor.output, space)
        return tile_launch(pool_lines, groups, config, target, epilogue, constexprs, arguments)
