"""Plugins of every kind, some of which misbehave on purpose. Workers import this module by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

import jitrt
from jitrt.codegen.epilogue import make_epilogue, refuse_epilogue
from jitrt.codegen.target import Target
from jitrt.codegen.tile import TileSpace
from jitrt.graph import Graph
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, anchor_of

CONFIGS = [{"BLOCK": 256}, {"BLOCK": 1024, "num_warps": 8}]


@jitrt.plugin(
    "planted::swish_add",
    reference=lambda x, y: x * torch.sigmoid(x) + y,
    configs=CONFIGS,
    grid=lambda x, BLOCK: triton.cdiv(x.numel, BLOCK),
    sizes=lambda x: {"N": x.numel},
)
@triton.jit
def swish_add(x, y, out, aux, N: tl.constexpr, BLOCK: tl.constexpr, STORE: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < N, other=0).to(tl.float32)
    STORE(out, aux, a * tl.sigmoid(a) + tl.load(y + i, mask=i < N, other=0), i, i < N)


@jitrt.plugin(
    "planted::row_sum",
    reference=lambda x, power=1: (x**power).sum(1),
    shape=lambda x: x.shape[:1],
    dtypes=("f32",),
    grid=lambda x: x.shape[0],
    sizes=lambda x: {"K": x.shape[1], "BLOCK": triton.next_power_of_2(x.shape[1])},
    flops=lambda x: x.numel,
)
@triton.jit
def row_sum(x, out, K: tl.constexpr, BLOCK: tl.constexpr, power: tl.constexpr):
    k = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * K + k, mask=k < K, other=0)
    value = row
    for _ in tl.static_range(power - 1):
        value *= row
    tl.store(out + tl.program_id(0), tl.sum(value))


@jitrt.plugin(
    "planted::double",
    reference=lambda x: x * 2,
    configs=CONFIGS,
    grid=lambda x, BLOCK: triton.cdiv(x.numel, BLOCK),
    sizes=lambda x: {"N": x.numel},
)
@triton.jit
def double(x, out, N: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < N) * 2, mask=i < N)


@jitrt.plugin("planted::squash", reference=lambda x, y, scale=1.0: torch.tanh(x) * y * scale, elementwise=True)
@triton.jit
def squash(x, y, scale):
    return (1 - 2 / (tl.exp(2 * x) + 1)) * y * scale


@jitrt.plugin("planted::scale_rows", reference=lambda x, s: x * s[:, None])
class ScaleRows(Template):
    """x[m, k] * s[m], through the epilogue that jitrt generates."""

    name = "scale_rows"

    def accepts(self, body: Graph) -> str | None:
        anchor = anchor_of(body)
        assert anchor is not None
        if any(value not in body.inputs for value in anchor.inputs):
            return "scale_rows takes no prologue"
        return refuse_epilogue(body, anchor)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return [{"BLOCK": 128}, {"BLOCK": 32}]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        assert problem.anchor is not None
        x, s = (problem.body.inputs.index(value) for value in problem.anchor.inputs)
        rows, columns = problem.output.type.shape
        epilogue = make_epilogue(problem.body, problem.anchor.output, TileSpace.of(problem.output.type, 1))
        arguments: dict[str, Any] = {
            "x": Operand(x),
            "s": Operand(s),
            "y": Result(),
            "aux": tuple(Operand(i) for i in epilogue.operands),
        }
        row, column = problem.body.inputs[x].type.strides
        constexprs = {
            "ROW": row,
            "COLUMN": column,
            "STEP": problem.body.inputs[s].type.strides[0],
            "COLUMNS": columns,
            "BLOCK": config["BLOCK"],
            "APPLY": epilogue.apply,
            "STORE": epilogue.store,
        }
        grid = (rows, triton.cdiv(columns, config["BLOCK"]), 1)
        return Lowered((KernelCall(scale_rows, arguments, constexprs, grid),))


@triton.jit
def scale_rows(
    x,
    s,
    y,
    aux,
    ROW: tl.constexpr,
    COLUMN: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    APPLY: tl.constexpr,
    STORE: tl.constexpr,
):
    m = tl.full([1, 1], tl.program_id(0), tl.int32)
    k = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    value = tl.load(x + m * ROW + k * COLUMN, mask=k < COLUMNS, other=0).to(tl.float32)
    value *= tl.load(s + m * STEP).to(tl.float32)
    STORE(y, APPLY(value, aux, m, k, m >= 0, k < COLUMNS), m, k, m >= 0, k < COLUMNS)


# -- those that misbehave ----------------------------------------------------------------------------------------------


@jitrt.plugin(
    "planted::wrong",
    reference=lambda x: x * 2,
    configs=CONFIGS,
    grid=lambda x, BLOCK: triton.cdiv(x.numel, BLOCK),
    sizes=lambda x: {"N": x.numel},
)
@triton.jit
def wrong(x, out, N: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < N) * 2
    tl.store(out + i, tl.where(i == 77, 1000.0, value), mask=i < N)


@jitrt.plugin(
    "planted::beyond",
    reference=lambda x: x * 2,
    configs=CONFIGS,
    grid=lambda x, BLOCK: triton.cdiv(x.numel, BLOCK),
    sizes=lambda x: {"N": x.numel},
)
@triton.jit
def beyond(x, out, N: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < N, other=0) * 2)


@jitrt.plugin(
    "planted::stray",
    reference=lambda x: x * 2,
    grid=lambda x: triton.cdiv(x.numel, 256),
    sizes=lambda x: {"N": x.numel, "BLOCK": 256},
)
@triton.jit
def stray(x, out, N: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    far = out + (tl.program_id(0).to(tl.int64) + 1) * (1 << 44)
    tl.store(far + i, tl.load(x + i, mask=i < N, other=0) * 2, mask=i < N)


jitrt.plugin(
    "planted::random",
    reference=lambda x: 2 * torch.nn.functional.dropout(x, 0.1),  # which trains unless told otherwise
    configs=CONFIGS,
    grid=lambda x, BLOCK: triton.cdiv(x.numel, BLOCK),
    sizes=lambda x: {"N": x.numel},
)(double.kernel)


@jitrt.plugin("planted::bends", reference=lambda x: x[:1], elementwise=True)
@triton.jit
def bends(x):
    return x
