"""A convolution of several taps and the 1x1 convolution of it, without the image between them: a bottleneck's end.

Formula: y[m, n] = f(sum over c of g(sum over taps t and channels b of x[pixel(m) + t, b] * v[c, t, b]) * w[n, c]); g
is the elementwise ops between the two. Fires for 16-bit floats on sm_80 and later, where the image between has at
most 256 channels. Saves a launch and the write and read of the image between. Floor: (x + v + w + y + residual) bytes /
bandwidth.

Each program makes BLOCK_M pixels of all filters. It sums the first convolution for all channels between in registers,
rounds, and hands that to the tensor cores as the left operand of one product after another, each of BLOCK_N filters.
The weights of the second convolution are loaded before the first (RESIDENT), or while products are made; the operands
of the epilogue at least a product ahead, of AHEAD products before the first convolution.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.epilogue import Epilogue, make_epilogue, prologue_nodes, refuse_epilogue
from jitrt.codegen.pointwise import EXPRESSIONS
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, anchors_of
from jitrt.graph.op import Trait
from jitrt.graph.ops import Conv
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template
from jitrt.kernels.conv_pointwise_cost import Shape, block_c, configs, seconds
from jitrt.kernels.conv_shape import ConvShape
from jitrt.kernels.conv_shape import describe as describe_conv
from jitrt.kernels.depthwise_pointwise import between

_DTYPES = (DType.f16, DType.bf16)
_MOST_WIDTH = 256
_KEEP = 24


@triton.jit
def _weights(w, n, c, FILTERS: tl.constexpr, WIDTH: tl.constexpr, STRIDES: tl.constexpr):
    """w[n, c] of a block of filters, transposed."""
    mask = (n < FILTERS)[None, :] & (c < WIDTH)[:, None]
    return tl.load(w + (n[None, :] * STRIDES[0] + c[:, None] * STRIDES[1]), mask=mask, other=0.0)


@triton.jit
def conv_pointwise(
    y,
    x,
    v,
    w,
    middle_aux,
    aux,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,  # channels between
    FILTERS: tl.constexpr,
    SIZE: tl.constexpr,  # (height, width) of x
    OUT: tl.constexpr,  # the same of y
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,  # before
    DILATION: tl.constexpr,
    X_STRIDES: tl.constexpr,  # n, c, h, w
    V_STRIDES: tl.constexpr,  # k, c, r, s
    W_STRIDES: tl.constexpr,  # k, c
    MASKED: tl.constexpr,  # some tap can fall outside x
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,  # at least WIDTH
    BLOCK_N: tl.constexpr,
    AHEAD: tl.constexpr,  # products whose operands of the epilogue are loaded before the first loop
    RESIDENT: tl.constexpr,  # load all of w before the first loop: it is a constant
    STAGES_N: tl.constexpr,  # of the second loop otherwise
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    MIDDLE: tl.constexpr,
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    blocks_k: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    chunks: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    rm = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    rc = tl.arange(0, BLOCK_C)
    rk = tl.arange(0, BLOCK_K)
    rn = tl.arange(0, BLOCK_N)
    m = rm[:, None]
    c = rc[None, :]
    m_mask = m < ROWS
    c_mask = c < WIDTH
    h0 = rm // OUT[1] % OUT[0] * STRIDE[0] - PADDING[0]
    w0 = rm % OUT[1] * STRIDE[1] - PADDING[1]
    x_row = rm // (OUT[0] * OUT[1]) * X_STRIDES[0] + h0 * X_STRIDES[2] + w0 * X_STRIDES[3]
    v_row = rc * V_STRIDES[0]
    if RESIDENT:
        rights = (_weights(w, rn, rc, FILTERS, WIDTH, W_STRIDES),)
        for chunk in tl.static_range(1, chunks):
            rights = rights + (_weights(w, chunk * BLOCK_N + rn, rc, FILTERS, WIDTH, W_STRIDES),)  # type: ignore[assignment]  # noqa: RUF005
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    if AHEAD > 0:
        held = (FETCH(aux, m, rn[None, :], m_mask, (rn < FILTERS)[None, :]),)
        for chunk in tl.static_range(1, AHEAD):
            n = (chunk * BLOCK_N + rn)[None, :]
            held = held + (FETCH(aux, m, n, m_mask, n < FILTERS),)  # type: ignore[assignment]  # noqa: RUF005

    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for step in range(FILTER[0] * FILTER[1] * blocks_k):
        tap = step // blocks_k
        r = tap // FILTER[1]
        s = tap % FILTER[1]
        k = (step % blocks_k) * BLOCK_K + rk
        x_mask = m_mask
        v_mask = c_mask
        if MASKED:
            hh = h0 + r * DILATION[0]
            ww = w0 + s * DILATION[1]
            x_mask = x_mask & ((hh >= 0) & (hh < SIZE[0]) & (ww >= 0) & (ww < SIZE[1]))[:, None]
        if CHANNELS % BLOCK_K != 0:
            x_mask = x_mask & (k < CHANNELS)[None, :]
            v_mask = v_mask & (k < CHANNELS)[:, None]
        x_step = r * (DILATION[0] * X_STRIDES[2]) + s * (DILATION[1] * X_STRIDES[3]) + k * X_STRIDES[1]
        v_step = r * V_STRIDES[2] + s * V_STRIDES[3] + k * V_STRIDES[1]
        a = tl.load(x + (x_row[:, None] + x_step[None, :]), mask=x_mask, other=0.0)
        b = tl.load(v + (v_row[None, :] + v_step[:, None]), mask=v_mask, other=0.0)
        acc = tl.dot(a, b, acc)

    middle = MIDDLE(acc, middle_aux, m, c, m_mask, c_mask)
    if WIDTH != BLOCK_C:
        middle = tl.where(c_mask, middle, 0.0)
    left = middle.to(w.dtype.element_ty)
    if AHEAD == 0:
        held = (FETCH(aux, m, rn[None, :], m_mask, (rn < FILTERS)[None, :]),)
    if RESIDENT:
        ahead: tl.constexpr = AHEAD if AHEAD > 1 else 1
        for chunk in tl.static_range(chunks):
            n = (chunk * BLOCK_N + rn)[None, :]
            if chunk + ahead < chunks:
                more = n + ahead * BLOCK_N
                held = held + (FETCH(aux, m, more, m_mask, more < FILTERS),)  # type: ignore[assignment]  # noqa: RUF005
            value = FINISH(tl.dot(left, rights[chunk]), held[chunk])
            if DEPENDENT and chunk + 1 == chunks:
                tl.extra.cuda.gdc_launch_dependents()
            STORE(y, value, m, n, m_mask, n < FILTERS)
    else:
        next_held = held[0]
        for chunk in tl.range(0, chunks, num_stages=STAGES_N):
            this_held = next_held
            n = (chunk * BLOCK_N + rn)[None, :]
            more = n + BLOCK_N
            right = _weights(w, chunk * BLOCK_N + rn, rc, FILTERS, WIDTH, W_STRIDES)
            next_held = FETCH(aux, m, more, m_mask, more < FILTERS)
            value = FINISH(tl.dot(left, right), this_held)
            if DEPENDENT and chunk + 1 == chunks:
                tl.extra.cuda.gdc_launch_dependents()
            STORE(y, value, m, n, m_mask, n < FILTERS)


@dataclass(frozen=True)
class Bottleneck:
    """A problem in the kernel's terms. `x`, `v` and `w` are indices of the region's operands: image, weights of the
    first convolution, weights of the second."""

    first: ConvShape
    shape: Shape
    x: int
    v: int
    w: int
    between: Epilogue
    epilogue: Epilogue


def describe(problem: Problem) -> Bottleneck:
    """How the kernel counts through a problem."""
    body, (deep, point) = problem.body, problem.anchors
    out = point.output.type
    x, v, w = (body.inputs.index(value) for value in (*deep.inputs[:2], point.inputs[1]))
    first = describe_conv(deep, body.inputs[x].type, body.inputs[v].type)
    epilogue = make_epilogue(body, point.output, TileSpace(out.shape, (0, 2, 3), 1))
    shape = Shape(
        rows=first.rows,
        channels=first.channels,
        taps=first.taps,
        width=first.filters,
        filters=out.shape[1],
        reads=sum(body.inputs[index].type.numel >= out.numel for index in epilogue.operands),
        fixed=problem.weights[w],
    )
    return Bottleneck(first, shape, x, v, w, between(body, deep, point), epilogue)


def is_bottleneck(deep: Node, point: Node) -> bool:
    """Whether the two are a 2-d convolution of several taps and a 1x1 one, both without groups."""
    for node in (deep, point):
        if not isinstance(node.op, Conv) or node.inputs[0].type.rank != 4 or node.op.groups != 1:
            return False
    assert isinstance(point.op, Conv)
    dense = (
        point.inputs[1].type.shape[2:] == (1, 1) and set(point.op.stride) == {1} and not any(map(any, point.op.padding))
    )
    return dense and math.prod(deep.inputs[1].type.shape[2:]) > 1


class ConvPointwise(Template):
    """Convolutions of several taps and the 1x1 convolutions of them."""

    name = "conv_pointwise"
    priority = 1  # after depthwise_pointwise
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchors = anchors_of(body)
        if len(anchors) != 2 or not is_bottleneck(*anchors):
            return "anchor is no 1x1 convolution of one of several taps"
        first, point = anchors
        if first.output.type.dtype not in _DTYPES or point.output.type.dtype not in _DTYPES:
            return f"{point.output.type.dtype.value} convolutions do not share a kernel: 16-bit floats do"
        width = first.output.type.shape[1]
        if width > _MOST_WIDTH:
            return f"{width} channels between the convolutions are more than a program keeps ({_MOST_WIDTH})"
        if any(value.producer is not None for value in (*first.inputs, point.inputs[1])):
            return "the operands of both convolutions must lie in memory"
        before = prologue_nodes(body, point)
        for node in before:
            if node is not first and (not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS):
                return f"{node.op.name} between the convolutions is not elementwise"
            if any(user not in before and user is not point for user in node.output.users):
                return "what lies between the convolutions is read after them too"
        return refuse_epilogue(body, point)

    def supports(self, problem: Problem, target: Target) -> str | None:
        known = describe(problem)
        if known.shape.rows >= 2**31:
            return "the image has too many pixels for one 32-bit index"
        if max(problem.body.inputs[index].type.span for index in (known.x, known.v, known.w)) >= 2**31:
            return "the image is too large for 32-bit offsets"
        if not configs(known.shape, target):
            return "no block of both convolutions' weights fits into shared memory"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape = describe(problem).shape
        ranked = sorted(configs(shape, target), key=lambda config: seconds(config, shape, target))
        # Two of each tile before any third: the model tells tiles apart better than warps and stages.
        seen: Counter[tuple[Any, ...]] = Counter()
        first: list[Config] = []
        rest: list[Config] = []
        for config in ranked:
            tile = tuple(config[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "RESIDENT"))
            seen[tile] += 1
            (first if seen[tile] <= 2 else rest).append(config)
        return (first + rest)[:_KEEP]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        known = describe(problem)
        first, w = known.first, problem.body.inputs[known.w].type
        constexprs: dict[str, Any] = {
            "ROWS": first.rows,
            "CHANNELS": first.channels,
            "WIDTH": first.filters,
            "FILTERS": known.shape.filters,
            "SIZE": first.size[1:],
            "OUT": first.out[1:],
            "FILTER": first.filter[1:],
            "STRIDE": first.stride[1:],
            "PADDING": first.padding[1:],
            "DILATION": first.dilation[1:],
            "X_STRIDES": (*first.x_strides[:2], *first.x_strides[3:]),
            "V_STRIDES": (*first.w_strides[:2], *first.w_strides[3:]),
            "W_STRIDES": w.strides[:2],
            "MASKED": first.masked,
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_K": config["BLOCK_K"],
            "BLOCK_C": block_c(known.shape),
            "BLOCK_N": config["BLOCK_N"],
            "AHEAD": config["AHEAD"],
            "RESIDENT": config["RESIDENT"],
            "STAGES_N": config["STAGES_N"],
            "DEPENDENT": target.arch >= 90,
            "MIDDLE": known.between.apply,
            "FETCH": known.epilogue.fetch,
            "FINISH": known.epilogue.finish,
            "STORE": known.epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x": Operand(known.x),
            "v": Operand(known.v),
            "w": Operand(known.w),
            "middle_aux": tuple(Operand(i) for i in known.between.operands),
            "aux": tuple(Operand(i) for i in known.epilogue.operands),
        }
        grid = (-(-first.rows // config["BLOCK_M"]), 1, 1)
        call = KernelCall(conv_pointwise, arguments, constexprs, grid, config["num_warps"], config["num_stages"])
        return Lowered((call,))
