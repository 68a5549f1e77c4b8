"""A depthwise convolution and the 1x1 convolution of it, without the image between them: a separable convolution.

Formula: y[m, n] = f(sum over c of g(sum over (r, s) of x[pixel(m) + (r, s), c] * v[c, r, s]) * w[n, c]), g the
elementwise ops between the two. Fires for windows of at most 25 taps. Saves a launch and the write and read of the
image between. Floor: (x + v + w + y + residual) bytes / bandwidth, at batch 128; a launch, at batch 1.

Each program makes BLOCK_M pixels of BLOCK_N filters. Block by block of channels it computes the depthwise part on the
plain cores, in registers, rounds it, and hands it to the tensor cores as the left operand. What several blocks of
filters need is computed by each of them, so it pays where one or two cover them all. `SPLIT_K` programs share a tile,
each with its channels, where there are too few tiles to fill the chip: each depthwise result is still made once.
"""

from __future__ import annotations

import itertools
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
from jitrt.graph.op import Array, Trait
from jitrt.graph.ops import Conv
from jitrt.kernels.base import Config, Lowered, Operand, Problem, Result, Template
from jitrt.kernels.split_k import split_launch, store_sum

_MOST_TAPS = 25
_KEEP = 24


@triton.jit
def depthwise_pointwise(
    y,
    x,
    v,  # depthwise weights: (taps, channels)
    w,
    partials,
    counters,
    middle_aux,
    aux,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    FILTERS: tl.constexpr,
    SIZE: tl.constexpr,  # height and width of x
    OUT: tl.constexpr,  # of y
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    X_STRIDES: tl.constexpr,  # n, c, h, w
    W_STRIDES: tl.constexpr,  # filter, channel
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    MIDDLE: tl.constexpr,
    FETCH: tl.constexpr,
    FINISH: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles_n: tl.constexpr = (FILTERS + BLOCK_N - 1) // BLOCK_N
    steps: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    share: tl.constexpr = (steps + SPLIT_K - 1) // SPLIT_K
    height: tl.constexpr = FILTER[0]
    width: tl.constexpr = FILTER[1]
    tile = tl.program_id(0)
    split = tl.program_id(1)
    rm = (tile // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = rm[:, None]
    n = rn[None, :]
    m_mask = m < ROWS
    n_mask = n < FILTERS
    h0 = rm // OUT[1] % OUT[0] * STRIDE[0] - PADDING[0]
    w0 = rm % OUT[1] * STRIDE[1] - PADDING[1]
    x_row = rm // (OUT[0] * OUT[1]) * X_STRIDES[0] + h0 * X_STRIDES[2] + w0 * X_STRIDES[3]
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = split * share
    for step in range(first, tl.minimum(first + share, steps)):
        rk = step * BLOCK_K + tl.arange(0, BLOCK_K)
        k = rk[None, :]
        k_mask = k < CHANNELS
        b = tl.load(
            w + (n * W_STRIDES[0] + rk[:, None] * W_STRIDES[1]), mask=n_mask & (rk < CHANNELS)[:, None], other=0.0
        )
        x_tile = x + (x_row[:, None] + k * X_STRIDES[1])
        deep = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        for r in tl.static_range(height):
            h = h0 + r * DILATION[0]
            for s in tl.static_range(width):
                c = w0 + s * DILATION[1]
                inside = ((h >= 0) & (h < SIZE[0]) & (c >= 0) & (c < SIZE[1]))[:, None] & m_mask & k_mask
                pixel = tl.load(x_tile + (r * DILATION[0] * X_STRIDES[2] + s * DILATION[1] * X_STRIDES[3]), inside, 0.0)
                tap = tl.load(v + ((r * width + s) * CHANNELS + k), mask=k_mask, other=0.0)
                deep += pixel.to(tl.float32) * tap.to(tl.float32)
        a = MIDDLE(deep, middle_aux, m, k, m_mask, k_mask)
        if CHANNELS % BLOCK_K != 0:
            a = tl.where(k_mask, a, 0.0)
        acc = tl.dot(a.to(w.dtype.element_ty), b, acc, input_precision=PRECISION)
    if SPLIT_K == 1:
        value = FINISH(acc, FETCH(aux, m, n, m_mask, n_mask))
        if DEPENDENT:
            tl.extra.cuda.gdc_launch_dependents()
        STORE(y, value, m, n, m_mask, n_mask)
    else:
        store_sum(
            y, acc, partials, counters, aux, tile, split, m, n, m_mask, n_mask, SPLIT_K, DEPENDENT, FETCH, FINISH, STORE
        )


@dataclass(frozen=True)
class Separable:
    """A problem in the kernel's terms. `x`, `v` and `w` are indices of the region's operands: image, depthwise weights,
    pointwise weights."""

    rows: int
    channels: int
    filters: int
    taps: int
    itemsize: int
    x: int
    v: int
    w: int
    reads: int
    between: Epilogue
    epilogue: Epilogue


def describe(problem: Problem) -> Separable:
    """How the kernel counts through a problem."""
    body, (deep, point) = problem.body, problem.anchors
    out = point.output.type
    x, v, w = deep.inputs[0], deep.inputs[1], point.inputs[1]
    return Separable(
        rows=out.shape[0] * out.shape[2] * out.shape[3],
        channels=deep.output.type.shape[1],
        filters=out.shape[1],
        taps=math.prod(v.type.shape[2:]),
        itemsize=x.type.dtype.itemsize,
        x=body.inputs.index(x),
        v=body.inputs.index(v),
        w=body.inputs.index(w),
        reads=sum(value.type.numel >= out.numel for value in body.inputs if value is not x),
        between=between(body, deep, point),
        epilogue=make_epilogue(body, point.output, TileSpace(out.shape, (0, 2, 3), 1)),
    )


def between(body: Graph, deep: Node, point: Node) -> Epilogue:
    """What makes the pointwise convolution's input of the depthwise one's sums."""
    part = Graph("region")
    inside = {value: part.add_input(value.name, value.type) for value in body.inputs}
    for value in body.constants.values():
        assert value.data is not None
        inside[value] = part.add_constant(value.data, value.name, value.type)
    start = inside[deep.output] = part.add_input("acc", deep.output.type)
    for node in prologue_nodes(body, point):
        if node is not deep:
            types = [value.type for value in node.outputs]
            made = part.append(node.op, [inside[value] for value in node.inputs], types=types)
            inside[node.output] = made.output
    part.mark_output(inside[point.inputs[0]])
    return make_epilogue(part, start, TileSpace(deep.output.type.shape, (0, 2, 3), 1))


def is_separable(deep: Node, point: Node) -> bool:
    """Whether the two are a 2-d depthwise convolution of one filter a channel, and a dense 1x1 one."""
    for node in (deep, point):
        if not isinstance(node.op, Conv) or node.inputs[0].type.rank != 4:
            return False
    assert isinstance(deep.op, Conv) and isinstance(point.op, Conv)
    channels = deep.inputs[0].type.shape[1]
    if deep.op.groups != channels or deep.output.type.shape[1] != channels or channels == 1 or point.op.groups != 1:
        return False
    dense = point.inputs[1].type.shape[2:] == (1, 1) and set(point.op.stride) == {1}
    return dense and not any(map(any, point.op.padding))


class DepthwisePointwise(Template):
    """Depthwise convolutions and the 1x1 convolutions of them."""

    name = "depthwise_pointwise"
    priority = 2  # so that its reason is the one given
    in_place = True

    def accepts(self, body: Graph) -> str | None:
        anchors = anchors_of(body)
        if len(anchors) != 2 or not is_separable(*anchors):
            return "anchor is no 1x1 convolution of a depthwise one"
        deep, point = anchors
        if point.output.type.dtype not in (DType.f32, DType.f16, DType.bf16):
            return f"{point.output.type.dtype.value} convolutions have no kernel"
        taps = math.prod(deep.inputs[1].type.shape[2:])
        if taps > _MOST_TAPS:
            return f"a depthwise window of {taps} taps is too many to unroll"
        if any(value.producer is not None for value in (*deep.inputs, point.inputs[1])):
            return "a separable convolution's operands must lie in memory"
        if any(len(weights.users) > 1 for weights in (deep.inputs[1], point.inputs[1])):
            return "the weights are read elsewhere too, but may be packed"
        for node in prologue_nodes(body, point):
            if node is not deep and (not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS):
                return f"{node.op.name} between the convolutions is not elementwise"
            if any(user not in prologue_nodes(body, point) and user is not point for user in node.output.users):
                return "what lies between the convolutions is read after them too"
        return refuse_epilogue(body, point, pairs=True)

    def supports(self, problem: Problem, target: Target) -> str | None:
        shape = describe(problem)
        if not problem.weights[shape.v]:
            return "a separable convolution needs constant weights, which are packed when the plan is built"
        if max(problem.body.inputs[index].type.span for index in (shape.x, shape.w)) >= 2**31:
            return "the image is too large for 32-bit offsets"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape = describe(problem)
        ieee = problem.output.type.dtype == DType.f32 and not problem.anchors[1].op.tf32  # type: ignore[attr-defined]
        ranked = sorted(_configs(shape, ieee, target), key=lambda config: cost(config, shape, target))
        # Two of each tile before any third: the model tells tiles apart better than warps and stages.
        seen: Counter[tuple[Any, ...]] = Counter()
        first: list[Config] = []
        rest: list[Config] = []
        for config in ranked:
            tile = tuple(config[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K"))
            seen[tile] += 1
            (first if seen[tile] <= 2 else rest).append(config)
        return (first + rest)[:_KEEP]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        shape = describe(problem)
        deep, point = problem.anchors
        assert isinstance(deep.op, Conv) and isinstance(point.op, Conv)
        x, v, w = (problem.body.inputs[index].type for index in (shape.x, shape.v, shape.w))
        split = config["SPLIT_K"]
        constexprs: dict[str, Any] = {
            "ROWS": shape.rows,
            "CHANNELS": shape.channels,
            "FILTERS": shape.filters,
            "SIZE": x.shape[2:],
            "OUT": point.output.type.shape[2:],
            "FILTER": v.shape[2:],
            "STRIDE": deep.op.stride,
            "PADDING": tuple(before for before, _ in deep.op.padding),
            "DILATION": deep.op.dilation,
            "X_STRIDES": x.strides,
            "W_STRIDES": w.strides[:2],
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_N": config["BLOCK_N"],
            "BLOCK_K": config["BLOCK_K"],
            "SPLIT_K": split,
            "PRECISION": "tf32" if point.op.tf32 else "ieee",
            "DEPENDENT": target.arch >= 90,
            "MIDDLE": shape.between.apply,
            "FETCH": shape.epilogue.fetch,
            "FINISH": shape.epilogue.finish,
            "STORE": shape.epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            "x": Operand(shape.x),
            "v": Operand(shape.v),
            "w": Operand(shape.w),
            "middle_aux": tuple(Operand(i) for i in shape.between.operands),
            "aux": tuple(Operand(i) for i in shape.epilogue.operands),
        }
        tiles = -(-shape.rows // config["BLOCK_M"]) * -(-shape.filters // config["BLOCK_N"])
        part, pack = config["BLOCK_M"] * config["BLOCK_N"], {shape.v: pack_taps}
        return split_launch(
            depthwise_pointwise, arguments, constexprs, config, tiles=tiles, splits=split, part=part, pack=pack
        )


def pack_taps(v: Array) -> Array:
    """(c, 1, r, s) depthwise weights as (r, s, c)."""
    return v[:, 0].transpose(1, 2, 0)


def _shared(config: Config, shape: Separable) -> int:
    """Bytes: both operands of the product, and the tiles of x and w that are under way."""
    block_m, block_n, block_k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    ahead = (shape.taps * (block_m * block_k + block_k) + block_k * block_n) * (config["num_stages"] - 1)
    return (block_m * block_k + block_k * block_n + ahead) * shape.itemsize


def _registers(config: Config) -> int:
    """Registers a thread: the accumulator, the depthwise sums, and a tap with its weights."""
    elements = config["BLOCK_M"] * config["BLOCK_N"] + 2 * config["BLOCK_M"] * config["BLOCK_K"]
    return elements // (32 * config["num_warps"]) + 60


def _configs(shape: Separable, ieee: bool, target: Target) -> list[Config]:
    configs: list[Config] = []
    for block_m, block_n, block_k, warps, stages in itertools.product(
        (16, 32, 64, 128), (16, 32, 64, 128, 256), (16, 32, 64), (2, 4, 8), (1, 2)
    ):
        config = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": warps, "num_stages": stages}
        if block_m >= max(32, 2 * shape.rows) or block_n >= max(32, 2 * shape.filters):
            continue
        if block_k >= max(32, 2 * shape.channels) or (block_k == 16 and shape.channels > 24):
            continue
        threads = 32 * warps
        if block_m * max(block_n, block_k) < 4 * threads or _registers(config) > 200:
            continue
        if ieee and block_m * block_n > 32 * threads:
            continue
        if not ieee and block_m >= 64 and warps != (4 if block_m == 64 else 8):
            continue  # the wide tensor-core instruction takes 64 rows for each group of four warps
        steps = -(-shape.channels // block_k)
        if _shared(config, shape) > 0.9 * target.shared or stages > steps:
            continue
        for split in (1, 2, 3, 4, 6, 8, 12, 16):
            if split <= steps and (stages == 1 or steps >= 2 * split):
                configs.append({**config, "SPLIT_K": split})
    return configs


def cost(config: Config, shape: Separable, target: Target) -> float:
    """Rough seconds: steps one after the other, each bound by the plain cores, by loads, or by what one warp does after
    another: its instructions wait for each other, so that few warps are slow (H200: 24 cycles an element and tap)."""
    block_m, block_n, block_k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
    split, threads, clock = config["SPLIT_K"], 32 * config["num_warps"], 1.7e9
    programs = -(-shape.rows // block_m) * -(-shape.filters // block_n) * split
    steps = math.ceil(shape.channels / (block_k * split))
    plain = block_m * block_k * shape.taps * 4 / 128  # cycles: convert, multiply, and the addresses of a load
    loads = block_m * block_k * shape.taps * shape.itemsize / 64 + block_k * block_n * shape.itemsize / 42
    rate = target.flops16 / target.sms / clock * 0.4
    step = max(plain + 2 * block_m * block_n * block_k / rate, loads)
    resident = min(
        65536 // (min(255, _registers(config)) * threads),
        2048 // threads,
        target.shared // (_shared(config, shape) + 1024),
        16,
    )
    together = max(1, min(resident, -(-programs // target.sms)))
    waves = -(-programs // (target.sms * together))
    chain = block_m * block_k * shape.taps / threads * 24 + (300 if config["num_stages"] == 1 else 100)
    store = block_m * block_n * 2 * (1 + shape.reads) * together / 20
    cycles = waves * (steps * max(together * step, chain) + 1800 + store)
    if split > 1:
        cycles += 1500 + split * block_m * block_n * 4 / 90
    return cycles / clock
