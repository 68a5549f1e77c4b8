"""A template whose configurations each break one rule, for the tuner to find out on a real GPU."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from jitrt.codegen.target import Target
from jitrt.graph import Graph, Layout, TensorType, f32
from jitrt.graph.ops import Relu
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Template, Workspace, Zeros

ROWS, COLUMNS, STRIDE = 512, 96, 100


@triton.jit
def relu_rows(
    y, x, workspace, zeros, COLUMNS: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, FAULT: tl.constexpr
):
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK)
    mask = k < COLUMNS
    value = tl.load(x + row * COLUMNS + k, mask=mask, other=0.0)
    value = tl.maximum(value, 0.0, tl.PropagateNan.ALL)
    if FAULT == "wrong":
        value = tl.where(row == 77, value * 1.01, value)
    if FAULT == "unwritten":
        mask = mask & (k + row != 100)
    if FAULT == "gaps":
        mask = k < tl.where(row < 100, STRIDE, COLUMNS)
    if FAULT == "swallows":
        value = tl.where(value > 0, value, 0.0)
    if FAULT == "stale":
        value = tl.where(tl.load(workspace + k) > 0, value * 1.000001, value)
    if FAULT == "workspace":
        tl.store(workspace + BLOCK + k, value)
    if FAULT == "zeros":
        tl.atomic_add(zeros, 1)
    if FAULT == "illegal":
        y += (row.to(tl.int64) + 1) << 44
    if FAULT == "hang":
        arrived = tl.atomic_add(zeros, 0)
        while arrived >= 0:
            arrived = tl.atomic_add(zeros, 0)
    if FAULT == "slow":
        for _ in range(2000):
            value = tl.maximum(value, tl.load(x + row * COLUMNS + k, mask=mask, other=0.0, volatile=True))
    tl.store(y + row * STRIDE + k, value, mask=mask)


FAULTS = ("wrong", "unwritten", "gaps", "swallows", "stale", "workspace", "zeros", "illegal", "hang", "slow", "none")


class Faulty(Template):
    """relu over rows, with a fault named in the configuration."""

    name = "faulty"
    faults: tuple[str, ...] = FAULTS

    def __init__(self, *faults: str):
        self.faults = faults or FAULTS

    def accepts(self, body: Graph) -> str | None:
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return [{"fault": fault} for fault in self.faults]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        arguments = {"y": Result(), "x": Operand(0), "workspace": Workspace(), "zeros": Zeros()}
        constexprs = {"COLUMNS": COLUMNS, "STRIDE": STRIDE, "BLOCK": 128, "FAULT": config["fault"]}
        call = KernelCall(relu_rows, arguments, constexprs, (ROWS, 1, 1))
        return Lowered((call,), workspace_bytes=128 * 4, zeros_bytes=4)


def faulty_problem() -> Problem:
    """y = relu(x), in rows with gaps between them, as a slice of a concat has."""
    body = Graph("region")
    y = body.add(Relu(), body.add_input("x", TensorType(f32, (ROWS, COLUMNS))))
    y.type = y.type.with_layout(Layout((STRIDE, 1)))
    body.mark_output(y)
    return Problem(body, (False,), (16, 16))
