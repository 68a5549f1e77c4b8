"""LSTM, GRU and plain recurrent layers, step after step.

Formula: see `graph.ops.rnn.Recurrence`: a_t = gates_t + h_(t-1) W_hh^T, then elementwise. Fires for any size of 16-
and 32-bit floats. A launch runs one step, and programs share out the units and the batch; or, where one program can
hold all units of a small layer, a launch runs all steps. Both read W_hh again at every step, from L2 or L1.

This is the base line, and what the interpreter can check. `recurrence_resident` keeps W_hh in registers and does all
steps in one launch, as long as the registers of the whole GPU hold it. Floor: T launches, 2 us each, or T times the
latency of one program's walk through W_hh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from jitrt.codegen.pointwise import storage_dtype
from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.graph.ops import Recurrence
from jitrt.graph.types import row_major
from jitrt.kernels.base import (
    Argument,
    Config,
    KernelCall,
    Lowered,
    Number,
    Operand,
    Problem,
    Result,
    Template,
    Workspace,
    anchor_of,
)

_WHOLE = 128  # hidden units one program can hold


@triton.jit
def recurrence(
    y,
    gates,
    w,
    h0,
    extra,  # c0 of an lstm, b of a gru
    state,  # what a step hands on beside h, in float32, if the next is another launch
    first,  # step of this launch
    KIND: tl.constexpr,
    GATES: tl.constexpr,
    FORWARD: tl.constexpr,  # directions before the one that begins at the end
    LENGTH: tl.constexpr,
    BATCH: tl.constexpr,
    HIDDEN: tl.constexpr,
    CELL: tl.constexpr,
    GATE_STRIDES: tl.constexpr,  # step, item
    STATE_STRIDES: tl.constexpr,  # direction, item, unit
    EXTRA_STRIDES: tl.constexpr,
    Y_STRIDES: tl.constexpr,  # step, item
    TILES: tl.constexpr,
    SLICES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # may start before the launch it depends on ends
):
    pid = tl.program_id(0)
    direction = pid // (TILES * SLICES)
    item = (pid // SLICES % TILES * BLOCK_B + tl.arange(0, BLOCK_B))[:, None]
    unit = (pid % SLICES * BLOCK_U + tl.arange(0, BLOCK_U))[None, :]
    mask = (item < BATCH) & (unit < HIDDEN)
    own = item * Y_STRIDES[1] + direction * HIDDEN + unit
    kept = state + (direction * BATCH + item) * HIDDEN + unit
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    held = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    bias = tl.zeros((1, BLOCK_U), tl.float32)
    if KIND == "gru":
        bias += tl.load(extra + direction * EXTRA_STRIDES[0] + unit * EXTRA_STRIDES[1], mask=unit < HIDDEN, other=0.0)
    if KIND == "lstm" or KIND == "gru":
        if first == 0:
            if KIND == "lstm":
                begin = extra + direction * EXTRA_STRIDES[0] + item * EXTRA_STRIDES[1] + unit * EXTRA_STRIDES[2]
            else:
                begin = h0 + direction * STATE_STRIDES[0] + item * STATE_STRIDES[1] + unit * STATE_STRIDES[2]
            held += tl.load(begin, mask=mask, other=0.0)
        else:
            held += tl.load(kept, mask=mask, other=0.0)
    for step in range(first, first + STEPS):
        t = step
        before = step - 1
        if direction >= FORWARD:
            t = LENGTH - 1 - step
            before = LENGTH - step
        a_0 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        a_1 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        a_2 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        a_3 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        for start in range(0, HIDDEN, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            h_mask = (item < BATCH) & (k < HIDDEN)[None, :]
            if step == 0:
                at = h0 + direction * STATE_STRIDES[0] + item * STATE_STRIDES[1] + k[None, :] * STATE_STRIDES[2]
            else:
                at = y + before * Y_STRIDES[0] + item * Y_STRIDES[1] + direction * HIDDEN + k[None, :]
            h = tl.load(at, mask=h_mask, other=0.0)
            w_at = w + (direction * GATES * HIDDEN + unit) * HIDDEN + k[:, None]
            w_mask = (unit < HIDDEN) & (k < HIDDEN)[:, None]
            a_0 = tl.dot(h, tl.load(w_at, mask=w_mask, other=0.0), a_0, input_precision=PRECISION)
            if GATES >= 3:
                w_at += HIDDEN * HIDDEN
                a_1 = tl.dot(h, tl.load(w_at, mask=w_mask, other=0.0), a_1, input_precision=PRECISION)
                w_at += HIDDEN * HIDDEN
                a_2 = tl.dot(h, tl.load(w_at, mask=w_mask, other=0.0), a_2, input_precision=PRECISION)
            if GATES == 4:
                w_at += HIDDEN * HIDDEN
                a_3 = tl.dot(h, tl.load(w_at, mask=w_mask, other=0.0), a_3, input_precision=PRECISION)
        x = gates + t * GATE_STRIDES[0] + item * GATE_STRIDES[1] + direction * GATES * HIDDEN + unit
        a_0 += tl.load(x, mask=mask, other=0.0)
        if GATES >= 3:
            a_1 += tl.load(x + HIDDEN, mask=mask, other=0.0)
            x_2 = tl.load(x + 2 * HIDDEN, mask=mask, other=0.0)
        if KIND == "lstm":
            a_3 += tl.load(x + 3 * HIDDEN, mask=mask, other=0.0)
            held = _sigmoid(a_1) * held + _sigmoid(a_0) * _tanh(a_2 + x_2)
            out = _sigmoid(a_3) * _tanh(held)
        elif KIND == "gru":
            new = _tanh(x_2 + _sigmoid(a_0) * (a_2 + bias))
            held = new + _sigmoid(a_1) * (held - new)
            out = held
        elif KIND == "tanh":
            out = _tanh(a_0)
        else:
            out = tl.where(a_0 <= 0, 0.0, a_0)
        tl.store(y + t * Y_STRIDES[0] + own, out.to(DTYPE), mask=mask)
        if STEPS > 1:
            tl.debug_barrier()  # the next step reads what other threads of this program wrote
    if STEPS < LENGTH and (KIND == "lstm" or KIND == "gru"):
        tl.store(kept, held, mask=mask)
    if CELL and first + STEPS == LENGTH:
        tl.store(y + LENGTH * Y_STRIDES[0] + own, held.to(DTYPE), mask=mask)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    return 1 - 2 / (tl.exp(2 * x) + 1)


@dataclass(frozen=True)
class Layer:
    """A problem in the kernels' terms."""

    op: Recurrence
    steps: int
    batch: int
    hidden: int
    arguments: Mapping[str, Argument]
    constexprs: Mapping[str, Any]

    @property
    def directions(self) -> int:
        return len(self.op.reverse)

    @classmethod
    def of(cls, problem: Problem) -> Layer:
        anchor, body = problem.anchor, problem.body
        assert anchor is not None and isinstance(anchor.op, Recurrence)
        op = anchor.op
        gates, w, h0, *rest = anchor.inputs
        extra = rest[0] if rest else h0  # never read then
        operands = {"gates": gates, "w": w, "h0": h0, "extra": extra}
        hidden = w.type.shape[2]
        constexprs = {
            "KIND": op.kind,
            "GATES": op.gates,
            "FORWARD": op.reverse.count(False),
            "LENGTH": gates.type.shape[0],
            "BATCH": gates.type.shape[1],
            "HIDDEN": hidden,
            "CELL": op.cell,
            "GATE_STRIDES": gates.type.strides[:2],
            "STATE_STRIDES": h0.type.strides,
            "EXTRA_STRIDES": extra.type.strides,
            "Y_STRIDES": problem.output.type.strides[:2],
        }
        arguments: dict[str, Argument] = {"y": Result()}
        arguments.update((name, Operand(body.inputs.index(value))) for name, value in operands.items())
        return cls(op, gates.type.shape[0], gates.type.shape[1], hidden, arguments, constexprs)


def refuse_recurrence(body: Graph) -> str | None:
    """Why a region is not one recurrence that a kernel can run, or None."""
    anchor = anchor_of(body)
    if anchor is None or not isinstance(anchor.op, Recurrence):
        return "anchor is no recurrence"
    if len(body.nodes) > 1:
        return "the next step reads what a recurrence writes: nothing else runs in its kernel"
    gates, w = (value.type for value in anchor.inputs[:2])
    if gates.dtype not in (DType.f32, DType.f16, DType.bf16):
        return f"a recurrence of {gates.dtype.value} has no kernel"
    if 1 not in (gates.strides[2], gates.shape[2]) or w.strides != row_major(w.shape):
        return "a recurrence reads gates and weights along their last dimension"
    out = anchor.output.type
    if 1 not in (out.strides[2], out.shape[2]):
        return "a recurrence writes along the last dimension"
    if any(value.type.span >= 2**31 for value in (*anchor.inputs, anchor.output)):
        return "a recurrence counts elements in 32 bits"
    return None


class RecurrenceTemplate(Template):
    """Recurrent layers of 16- and 32-bit floats, W_hh read anew at each step."""

    name = "recurrence"

    def accepts(self, body: Graph) -> str | None:
        return refuse_recurrence(body)

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        layer = Layer.of(problem)
        whole = max(16, triton.next_power_of_2(layer.hidden))
        out: list[Config] = []
        if whole <= _WHOLE:
            block_k = min(whole, 64)
            out += [
                {"STEPS": layer.steps, "BLOCK_B": 16, "BLOCK_U": whole, "BLOCK_K": block_k, "num_warps": n}
                for n in (4, 8)
            ]
        rows = min(64, max(16, triton.next_power_of_2(layer.batch)))
        for block_b, block_u, block_k, warps in ((rows, 16, 128, 4), (16, 32, 128, 4), (rows, 32, 64, 4)):
            config = {"BLOCK_B": block_b, "BLOCK_U": block_u, "BLOCK_K": min(whole, block_k), "num_warps": warps}
            out.append({"STEPS": 1, **config})
        return [config for at, config in enumerate(out) if config not in out[:at]]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        layer, dtype = Layer.of(problem), problem.output.type.dtype
        steps = config["STEPS"]
        tiles, slices = -(-layer.batch // config["BLOCK_B"]), -(-layer.hidden // config["BLOCK_U"])
        constexprs = {
            **layer.constexprs,
            "TILES": tiles,
            "SLICES": slices,
            **{name: config[name] for name in ("STEPS", "BLOCK_B", "BLOCK_U", "BLOCK_K")},
            "DTYPE": storage_dtype(dtype),
            "PRECISION": "tf32" if layer.op.tf32 else "ieee",
            "DEPENDENT": target.arch >= 90,
        }
        grid = (layer.directions * tiles * slices, 1, 1)
        stages = 1 if steps > 1 else 3
        calls = tuple(
            KernelCall(
                recurrence,
                {**layer.arguments, "state": Workspace(), "first": Number(first)},
                constexprs,
                grid,
                config["num_warps"],
                stages,
            )
            for first in range(0, layer.steps, steps)
        )
        kept = 4 * layer.directions * layer.batch * layer.hidden
        return Lowered(calls, workspace_bytes=kept)
