"""Attention in one kernel: two products with a softmax between them, whose scores never lie in memory.

Formula: y[b, m, w] = f(sum over n of p[b, m, n] * v[b, n, w]), p = softmax over n of g(sum over d of q[b, m, d] *
k[b, d, n]), g the scale and mask: any elementwise ops. Fires for heads of at most 256 elements, any strides, any number
of keys. Floor: (q + k + v + y) bytes / bandwidth, or 2 * rows * keys * (depth + width) FLOPs; what it saves is the
scores, written once and the weights once, and two launches.

A program makes BLOCK_M rows of one head. It walks through the keys BLOCK_N at a time and keeps each row's largest score
so far, its sum of weights and its result, which are rescaled whenever the largest grows (Dao et al., "FlashAttention",
2022; Milakov and Gimelshein, arXiv:1805.02867). The weights are rounded for the tensor cores before they are summed
up to 1: the division comes last.
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
from jitrt.codegen.pointwise import EXPRESSIONS, storage_dtype
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph, Node, Value, anchors_of
from jitrt.graph.op import Trait
from jitrt.graph.ops import Cast, Matmul, Softmax
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template
from jitrt.kernels.matmul import make_offsets

_WIDEST = 256  # elements of a head, that a program holds whole
_KEEP = 16


@triton.jit
def attention(
    y,
    q,
    k,
    v,
    score_aux,
    aux,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DEPTH: tl.constexpr,  # of q and k
    WIDTH: tl.constexpr,  # of v and y
    Q_STRIDES: tl.constexpr,  # row, element
    K_STRIDES: tl.constexpr,  # element, key
    V_STRIDES: tl.constexpr,  # key, element
    DTYPE: tl.constexpr,  # of the products
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BATCH: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
    SCORE: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    tiles: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    batch = tl.program_id(0) // tiles
    rm = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    rd = tl.arange(0, BLOCK_D)
    rw = tl.arange(0, BLOCK_W)
    m_mask = (rm < ROWS)[:, None]
    w_mask = (rw < WIDTH)[None, :]
    m = (batch * ROWS + rm)[:, None]
    q_start, k_start, v_start = BATCH(batch)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    q_tile = q + q_start + rm[:, None] * Q_STRIDES[0] + rd[None, :] * Q_STRIDES[1]
    query = tl.load(q_tile, mask=m_mask & (rd < DEPTH)[None, :], other=0.0).to(DTYPE)
    top = tl.full((BLOCK_M, 1), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M, 1), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_W), tl.float32)
    for start in range(0, KEYS, BLOCK_N):
        rn = start + tl.arange(0, BLOCK_N)
        n_mask = (rn < KEYS)[None, :]
        k_tile = k + k_start + rd[:, None] * K_STRIDES[0] + rn[None, :] * K_STRIDES[1]
        key = tl.load(k_tile, mask=(rd < DEPTH)[:, None] & n_mask, other=0.0).to(DTYPE)
        scores = tl.dot(query, key, input_precision=PRECISION)
        scores = SCORE(scores, score_aux, m, rn[None, :], m_mask, n_mask).to(tl.float32)
        scores = tl.where(n_mask, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # nothing yet but -inf: -inf - -inf would be NaN
        weights = tl.exp(scores - shift)
        grown = tl.exp(top - shift)
        total = total * grown + tl.sum(weights, 1, keep_dims=True)
        v_tile = v + v_start + rn[:, None] * V_STRIDES[0] + rw[None, :] * V_STRIDES[1]
        value = tl.load(v_tile, mask=(rn < KEYS)[:, None] & w_mask, other=0.0).to(DTYPE)
        acc = tl.dot(weights.to(DTYPE), value, acc * grown, input_precision=PRECISION)
        top = higher
    result = APPLY(acc / total, aux, m, rw[None, :], m_mask, w_mask)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
    STORE(y, result, m, rw[None, :], m_mask, w_mask)


@dataclass(frozen=True)
class Attention:
    """A problem in the kernel's terms: operands of the region, and sizes. `batch` is the shape of the heads."""

    q: Value
    k: Value
    v: Value
    batch: tuple[int, ...]
    rows: int
    keys: int
    depth: int
    width: int
    ieee: bool

    @property
    def itemsize(self) -> int:
        return self.q.type.dtype.itemsize

    @property
    def blocks(self) -> tuple[int, int]:
        """Depth and width as the tensor cores take them."""
        return max(16, triton.next_power_of_2(self.depth)), max(16, triton.next_power_of_2(self.width))


def describe(problem: Problem) -> Attention:
    """How the kernel counts through a problem."""
    first, _, last = problem.anchors
    assert isinstance(first.op, Matmul)
    *batch, rows, keys = first.output.type.shape
    q, k = first.inputs
    ieee = first.output.type.dtype == DType.f32 and not first.op.tf32
    depth, width = q.type.shape[-1], last.output.type.shape[-1]
    return Attention(q, k, last.inputs[1], tuple(batch), rows, keys, depth, width, ieee)


def _scoring(body: Graph, first: Node, softmax: Node) -> Epilogue:
    """What makes the softmax's operand of the first product."""
    part = Graph("region")
    inside = {value: part.add_input(value.name, value.type) for value in body.inputs}
    for constant in body.constants.values():
        assert constant.data is not None
        inside[constant] = part.add_constant(constant.data, constant.name, constant.type)
    start = inside[first.output] = part.add_input("acc", first.output.type)
    for node in prologue_nodes(body, softmax):
        if node is not first:
            types = [value.type for value in node.outputs]
            inside[node.output] = part.append(node.op, [inside[value] for value in node.inputs], types=types).output
    part.mark_output(inside[softmax.inputs[0]])
    return make_epilogue(part, start, _tiles(softmax.output))


def _tiles(value: Value) -> TileSpace:
    rank = value.type.rank
    return TileSpace(value.type.shape, tuple(range(rank - 1)), rank - 1)


class AttentionTemplate(Template):
    """Attention of 16- and 32-bit floats, in plain `tl`."""

    name = "attention"
    priority = 2  # so that its reason is the one given

    def accepts(self, body: Graph) -> str | None:
        anchors = anchors_of(body)
        if [type(anchor.op) for anchor in anchors] != [Matmul, Softmax, Matmul]:
            return "anchors are no product, softmax and product"
        first, softmax, last = anchors
        dtype, scores = last.output.type.dtype, first.output.type
        if dtype not in (DType.f32, DType.f16, DType.bf16):
            return f"attention of {dtype.value} has no kernel"
        assert isinstance(softmax.op, Softmax)
        if softmax.op.axis != scores.rank - 1:
            return "the softmax is not over the keys"
        weights = last.inputs[0]
        if weights.producer is not None and isinstance(weights.producer.op, Cast):  # they are rounded for it anyway
            weights = weights.producer.inputs[0]
        if weights is not softmax.output or len(weights.users) != 1 or len(last.inputs[0].users) != 1:
            return "something stands between the softmax and the product of it"
        if any(value.producer is not None for value in (*first.inputs, last.inputs[1])):
            return "queries, keys and values must lie in memory"
        if softmax.inputs[0].type.shape != scores.shape or last.output.type.shape[:-2] != scores.shape[:-2]:
            return "the heads of scores and values differ"
        if max(first.inputs[0].type.shape[-1], last.output.type.shape[-1]) > _WIDEST:
            return f"a head has more than {_WIDEST} elements"
        between = [node for node in prologue_nodes(body, softmax) if node is not first]
        for node in between:
            if not node.has(Trait.ELEMENTWISE) or type(node.op) not in EXPRESSIONS:
                return f"{node.op.name} before the softmax is not elementwise"
        if any(user not in (*between, softmax) for node in (first, *between) for user in node.output.users):
            return "the scores are read after the softmax too"
        return refuse_epilogue(body, last)

    def supports(self, problem: Problem, target: Target) -> str | None:
        shape = describe(problem)
        if max(operand.type.span for operand in (shape.q, shape.k, shape.v)) >= 2**31:
            return "queries, keys or values are too large for 32-bit offsets"
        return None if _configs(shape, target) else "a head is too wide for what a program can hold"

    def spreads_nonfinite(self, problem: Problem) -> bool:
        return True  # a weight that vanishes next to larger ones is 0 here, and 0 times infinity NaN

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        shape = describe(problem)
        ranked = sorted(_configs(shape, target), key=lambda config: cost(config, shape, target))
        # Two of each tile before any third: the model tells tiles apart better than warps and stages.
        seen: Counter[tuple[int, int]] = Counter()
        first: list[Config] = []
        rest: list[Config] = []
        for config in ranked:
            tile = config["BLOCK_M"], config["BLOCK_N"]
            seen[tile] += 1
            (first if seen[tile] <= 2 else rest).append(config)
        return (first + rest)[:_KEEP]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        body, (first, softmax, last), shape = problem.body, problem.anchors, describe(problem)
        assert isinstance(last.op, Matmul)
        scoring, epilogue = _scoring(body, first, softmax), make_epilogue(body, last.output, _tiles(last.output))
        constexprs: dict[str, Any] = {
            "ROWS": shape.rows,
            "KEYS": shape.keys,
            "DEPTH": shape.depth,
            "WIDTH": shape.width,
            "Q_STRIDES": shape.q.type.strides[-2:],
            "K_STRIDES": shape.k.type.strides[-2:],
            "V_STRIDES": shape.v.type.strides[-2:],
            "DTYPE": storage_dtype(last.output.type.dtype),
            "PRECISION": "tf32" if last.op.tf32 else "ieee",
            "BLOCK_M": config["BLOCK_M"],
            "BLOCK_N": config["BLOCK_N"],
            "BLOCK_D": shape.blocks[0],
            "BLOCK_W": shape.blocks[1],
            "BATCH": make_offsets(shape.batch, (shape.q.type, shape.k.type, shape.v.type)),
            "DEPENDENT": target.arch >= 90,
            "SCORE": scoring.apply,
            "APPLY": epilogue.apply,
            "STORE": epilogue.store,
        }
        arguments: dict[str, Any] = {
            "y": Result(),
            **{name: Operand(body.inputs.index(getattr(shape, name))) for name in ("q", "k", "v")},
            "score_aux": tuple(Operand(i) for i in scoring.operands),
            "aux": tuple(Operand(i) for i in epilogue.operands),
        }
        grid = (-(-shape.rows // config["BLOCK_M"]) * math.prod(shape.batch), 1, 1)
        return Lowered((KernelCall(attention, arguments, constexprs, grid, config["num_warps"], config["num_stages"]),))


def _shared(config: Config, shape: Attention) -> int:
    """Bytes: the queries, the keys and values that are under way, and the weights on their way to the product."""
    depth, width = shape.blocks
    ahead = config["BLOCK_N"] * (depth + width) * config["num_stages"]
    return (config["BLOCK_M"] * (depth + config["BLOCK_N"]) + ahead) * shape.itemsize


def _registers(config: Config, shape: Attention) -> int:
    """Registers a thread: result, scores, and the weights as they are rounded."""
    elements = config["BLOCK_M"] * (shape.blocks[1] + 3 * config["BLOCK_N"] // 2)
    return elements // (32 * config["num_warps"]) + 50


def _configs(shape: Attention, target: Target) -> list[Config]:
    configs: list[Config] = []
    for block_m, block_n, warps, stages in itertools.product(
        (16, 32, 64, 128), (16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 3)
    ):
        config = {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps, "num_stages": stages}
        if block_m >= max(32, 2 * shape.rows) or block_n >= max(32, 2 * shape.keys):
            continue
        if block_m >= 64 and warps != block_m // 16 and not shape.ieee:
            continue  # the wide tensor-core instruction takes 64 rows for each group of four warps
        if block_m < 64 and warps > block_m // 8:
            continue
        if shape.ieee and (block_n > 16 or block_m * max(shape.blocks) > 1024 * warps):
            continue  # such products are unrolled over registers
        if _registers(config, shape) > 230 or _shared(config, shape) > 0.9 * target.shared:
            continue
        if stages <= max(1, -(-shape.keys // block_n)):
            configs.append(config)
    return configs


def cost(config: Config, shape: Attention, target: Target) -> float:
    """Rough seconds: steps one after the other, each bound by the tensor cores, by the exponentials, by loads, or by
    the chain from product through softmax to product, which few warps cannot hide."""
    block_m, block_n, warps, clock = config["BLOCK_M"], config["BLOCK_N"], config["num_warps"], 1.7e9
    depth, width = shape.blocks
    programs = -(-shape.rows // block_m) * math.prod(shape.batch)
    steps = -(-shape.keys // block_n)
    rate = target.flops16 / target.sms / clock * (0.5 if block_m >= 64 else 0.25) / (16 if shape.ieee else 1)
    products = 2 * block_m * block_n * (depth + width) / rate
    softmax = block_m * block_n * (1 / 16 + 8 / 128) + block_m * width / 128
    loads = block_n * (depth + width) * shape.itemsize / 64
    resident = min(
        65536 // (min(255, _registers(config, shape)) * 32 * warps),
        64 // warps,
        target.shared // (_shared(config, shape) + 1024),
        32,
    )
    together = max(1, min(resident, -(-programs // target.sms)))
    waves = -(-programs // (target.sms * together))
    chain = 500 + block_m * block_n / (32 * warps) * 12 + (600 if config["num_stages"] == 1 else 0)
    # Beside that a step costs each row's maximum and sum, and waiting for each other.
    return waves * (1800 + steps * max(together * (max(products + softmax, loads) + 150), chain)) / clock
