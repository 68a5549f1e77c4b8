"""LSTM, GRU and plain recurrent layers in one launch, W_hh in registers from the first step to the last.

Formula: see `graph.ops.rnn.Recurrence`. Fires for 16-bit floats while the registers of the whole GPU hold W_hh.

Every program owns `UNITS` hidden units, with all their gates, of `ITEMS` sequences in one direction. Its rows of W_hh
(4 * UNITS x H) lie in its warps' registers as tensor-core operands, a slice of H in each warp. A step is: wait for h of
the step before, multiply, add up over the warps (through shared memory), apply the gates, hand on h.

There is no barrier between the steps: h, loaded straight into tensor-core operands, is its own flag (see exchange.py).
What comes out as the NaN that means "not yet" is written as another one.

Floor of a step, about 0.7 us on an H200 at 512 units (counted, not yet measured), is latency: a store's way to L2 (0.2
us), a load's way there and back (0.3 us; the x gates are under way meanwhile), 130 to 260 cycles of dependent
tensor-core products, and as many of shared memory and of exp.

The idea of stashing the weights: Diamos et al., "Persistent RNNs: Stashing Recurrent Weights On-Chip", ICML 2016.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from jitrt.codegen.target import Target
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Graph
from jitrt.kernels.base import Config, KernelCall, Lowered, Number, Operand, Problem, Result, Template
from jitrt.kernels.exchange import PUT, fill, poll
from jitrt.kernels.recurrence import Layer, refuse_recurrence

_UNITS = (4, 8, 16, 32)  # of a program: as many lanes of a warp
_FILL = 4096  # elements a program fills
_WORDS = 8  # of h that a thread waits for at once
_PAUSES = ((0, 8), (150, 6), (300, 6))  # cycles before h is looked for, and for how many of the likeliest candidates


@gluon.jit
def resident(
    y,
    gates,
    w,
    h0,
    extra,  # c0 of an lstm, b of a gru
    start,  # first item of this launch
    KIND: gl.constexpr,
    GATES: gl.constexpr,
    FORWARD: gl.constexpr,  # directions before the one that begins at the end
    LENGTH: gl.constexpr,
    BATCH: gl.constexpr,
    HIDDEN: gl.constexpr,
    CELL: gl.constexpr,
    GATE_STRIDES: gl.constexpr,  # step, item
    STATE_STRIDES: gl.constexpr,  # direction, item, unit
    EXTRA_STRIDES: gl.constexpr,
    Y_STRIDES: gl.constexpr,  # step, item
    TILES: gl.constexpr,
    SLICES: gl.constexpr,
    UNITS: gl.constexpr,
    ITEMS: gl.constexpr,
    COLUMNS: gl.constexpr,  # of the products: ITEMS, 8 at least
    WARPS: gl.constexpr,
    PART: gl.constexpr,  # of H, for each warp
    WORD: gl.constexpr,  # elements of h that a thread loads at once
    LANES: gl.constexpr,  # of a warp along the units, where the gates are applied
    POLL: gl.constexpr,
    POLL_REGISTERS: gl.constexpr,
    PACK: gl.constexpr,
    PUT: gl.constexpr,
):
    product: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    left: gl.constexpr = gl.DotOperandLayout(0, product, WORD)
    right: gl.constexpr = gl.DotOperandLayout(1, product, WORD)
    partial: gl.constexpr = gl.BlockedLayout([WARPS, 4, 1], [1, LANES, 32 // LANES], [1, 1, WARPS], [1, 2, 0])
    state: gl.constexpr = gl.BlockedLayout([1, 1], [LANES, 32 // LANES], [1, WARPS], [0, 1])
    pid = gl.program_id(0)
    direction = pid // (TILES * SLICES)
    first_unit = pid % SLICES * UNITS
    first_item = start + pid // SLICES % TILES * ITEMS
    # Weights: row 4 u + g has gate g of unit u.
    row = gl.arange(0, 4 * UNITS, gl.SliceLayout(0, gl.SliceLayout(2, left)))[None, :, None]
    warp = gl.arange(0, WARPS, gl.SliceLayout(1, gl.SliceLayout(2, left)))[:, None, None]
    k = gl.arange(0, PART, gl.SliceLayout(0, gl.SliceLayout(1, left)))[None, None, :] + warp * PART
    gate, unit = row % 4, row // 4 + first_unit
    w_at = w + direction * (GATES * HIDDEN * HIDDEN) + (gate * HIDDEN + unit) * HIDDEN + k
    weights = gl.load(w_at, mask=(gate < GATES) & (unit < HIDDEN) & (k < HIDDEN), other=0.0)
    # Where every thread finds its part of h.
    warp = gl.arange(0, WARPS, gl.SliceLayout(1, gl.SliceLayout(2, right)))[:, None, None]
    k = gl.arange(0, PART, gl.SliceLayout(0, gl.SliceLayout(2, right)))[None, :, None] + warp * PART
    column = gl.arange(0, COLUMNS, gl.SliceLayout(0, gl.SliceLayout(1, right)))[None, None, :]
    item = column + first_item
    wanted = ((column < ITEMS) & (item < BATCH) & (k < HIDDEN)).to(gl.int32)
    begun = item * STATE_STRIDES[1] + k
    others = item * Y_STRIDES[1] + k
    item_of = gl.arange(0, COLUMNS, gl.SliceLayout(0, gl.SliceLayout(1, product)))[None, None, :]
    # This program's own units and items.
    unit = gl.arange(0, UNITS, gl.SliceLayout(1, state))[:, None] + first_unit
    item = gl.arange(0, ITEMS, gl.SliceLayout(0, state))[None, :] + first_item
    mask = (unit < HIDDEN) & (item < BATCH)
    write = mask.to(gl.int32)
    own = item * Y_STRIDES[1] + direction * HIDDEN + unit
    x_own = item * GATE_STRIDES[1] + direction * (GATES * HIDDEN) + unit
    held = gl.zeros((UNITS, ITEMS), gl.float32, state)
    if KIND == "lstm":
        begin = extra + direction * EXTRA_STRIDES[0] + item * EXTRA_STRIDES[1] + unit * EXTRA_STRIDES[2]
        held = gl.load(begin, mask=mask, other=0.0).to(gl.float32)
    if KIND == "gru":
        begin = h0 + direction * STATE_STRIDES[0] + item * STATE_STRIDES[1] + unit * STATE_STRIDES[2]
        held = gl.load(begin, mask=mask, other=0.0).to(gl.float32)
        bias = gl.load(extra + direction * EXTRA_STRIDES[0] + unit * EXTRA_STRIDES[1], mask=unit < HIDDEN, other=0.0)
        bias = bias.to(gl.float32)
    for step in range(LENGTH):
        t = step
        before = step - 1
        if direction >= FORWARD:
            t = LENGTH - 1 - step
            before = LENGTH - step
        x = gates + t * GATE_STRIDES[0] + x_own
        x_0 = gl.load(x, mask=mask, other=0.0).to(gl.float32)
        if GATES >= 3:
            x_1 = gl.load(x + HIDDEN, mask=mask, other=0.0).to(gl.float32)
            x_2 = gl.load(x + 2 * HIDDEN, mask=mask, other=0.0).to(gl.float32)
        if GATES == 4:
            x_3 = gl.load(x + 3 * HIDDEN, mask=mask, other=0.0).to(gl.float32)
        source = y + before * Y_STRIDES[0] + direction * HIDDEN
        if step == 0:
            source = h0 + direction * STATE_STRIDES[0]
        at = source + gl.where(step == 0, begun, others)
        h = gl.inline_asm_elementwise(POLL, POLL_REGISTERS, [at, wanted, step], y.dtype.element_ty, False, PACK)
        acc = mma_v2(weights, h, gl.zeros((WARPS, 4 * UNITS, COLUMNS), gl.float32, product))
        if ITEMS == 1:  # the other columns are 0, or NaN where a weight is infinite
            acc = gl.sum(gl.where(item_of == 0, acc, 0.0), 2, keep_dims=True)
        a = gl.sum(gl.convert_layout(acc, partial), 0)
        a = gl.permute(gl.reshape(a, (UNITS, 2, 2, ITEMS)), (0, 3, 1, 2))  # (unit, item, gate // 2, gate % 2)
        even, odd = gl.split(a)
        a_0, a_2 = gl.split(even)
        a_1, a_3 = gl.split(odd)
        a_0 = x_0 + gl.convert_layout(a_0, state, assert_trivial=True)
        if GATES >= 3:
            a_1 = x_1 + gl.convert_layout(a_1, state, assert_trivial=True)
            a_2 = gl.convert_layout(a_2, state, assert_trivial=True)
        if KIND == "lstm":
            a_3 = x_3 + gl.convert_layout(a_3, state, assert_trivial=True)
            held = _sigmoid(a_1) * held + _sigmoid(a_0) * _tanh(x_2 + a_2)
            out = _sigmoid(a_3) * _tanh(held)
        elif KIND == "gru":
            new = _tanh(x_2 + _sigmoid(a_0) * (a_2 + bias))
            held = new + _sigmoid(a_1) * (held - new)
            out = held
        elif KIND == "tanh":
            out = _tanh(a_0)
        else:
            out = gl.where(a_0 <= 0, 0.0, a_0)
        bits = out.to(y.dtype.element_ty).to(gl.int16, bitcast=True)
        bits = gl.where(bits == -1, 0x7FFF, bits).to(gl.int16)
        gl.inline_asm_elementwise(PUT, "=r,l,h,r", [y + t * Y_STRIDES[0] + own, bits, write], gl.int32, False, 1)
    if CELL:
        gl.store(y + LENGTH * Y_STRIDES[0] + own, held.to(y.dtype.element_ty), mask=mask)


@gluon.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)), without what exp and division do for numbers whose results are 0 or 1 anyway."""
    return gl.inline_asm_elementwise(
        "{ .reg .f32 e; mul.f32 e, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 e, e; add.f32 e, e, 0f3F800000; "
        "rcp.approx.ftz.f32 $0, e; }",
        "=f,f",
        [x],
        gl.float32,
        True,
        1,
    )


@gluon.jit
def _tanh(x):
    return 2 * _sigmoid(2 * x) - 1


class ResidentTemplate(Template):
    """Recurrent layers of 16-bit floats whose W_hh fits into the registers of all SMs."""

    name = "recurrence_resident"
    priority = 1

    def accepts(self, body: Graph) -> str | None:
        reason = refuse_recurrence(body)
        if reason is None and body.outputs[0].type.dtype not in (DType.f16, DType.bf16):
            return "W_hh in registers is for 16-bit floats"
        return reason

    def supports(self, problem: Problem, target: Target) -> str | None:
        if _widest_word(problem) < 2:
            return "W_hh in registers needs an even number of hidden units, and strides and alignment to match"
        if next(_configs(problem, target), None) is None:
            return f"W_hh does not fit into the registers of {target.sms} SMs"
        return None

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        layer = Layer.of(problem)
        ranked = sorted(_configs(problem, target), key=lambda config: _cycles(config, layer))
        return [{**config, "PAUSE": pause} for pause, count in _PAUSES for config in ranked[:count]]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        layer = Layer.of(problem)
        units, items, warps, tiles = (config[name] for name in ("UNITS", "ITEMS", "num_warps", "TILES"))
        columns, part, word = max(8, items), _part(layer, warps), _word(problem, layer, warps)
        words = min(_WORDS, part * columns // 32 // word)
        whole = items == columns and layer.batch % items == 0 and part * warps == layer.hidden
        text, registers = poll(words, word, target, all_wanted=whole, pause=config["PAUSE"])
        slices = -(-layer.hidden // units)
        constexprs: dict[str, Any] = {
            **layer.constexprs,
            "TILES": tiles,
            "SLICES": slices,
            "UNITS": units,
            "ITEMS": items,
            "COLUMNS": columns,
            "WARPS": warps,
            "PART": part,
            "WORD": word,
            "LANES": units,
            "POLL": text,
            "POLL_REGISTERS": registers,
            "PACK": words * word,
            "PUT": PUT,
        }
        width = layer.directions * layer.hidden
        calls = [
            KernelCall(
                fill,
                {"y": Result()},
                {
                    "STEPS": layer.steps,
                    "BATCH": layer.batch,
                    "WIDTH": width,
                    "Y_STRIDES": layer.constexprs["Y_STRIDES"],
                    "BLOCK": _FILL,
                    "DEPENDENT": target.arch >= 90,
                },
                (-(-layer.steps * layer.batch * width // _FILL), 1, 1),
            )
        ]
        for start in range(0, layer.batch, tiles * items):
            grid = (layer.directions * tiles * slices, 1, 1)
            arguments = {**layer.arguments, "start": Number(start)}
            calls.append(KernelCall(resident, arguments, constexprs, grid, warps, cooperative=True))
        return Lowered(tuple(calls))


def _configs(problem: Problem, target: Target) -> Iterator[Config]:
    """What fits: `UNITS` and `ITEMS` of a program, of which `TILES` run side by side, and warps."""
    layer = Layer.of(problem)
    most = max(8, triton.next_power_of_2(layer.batch))
    items_choices = [1] if layer.batch == 1 else [n for n in (8, 16, 32, 64) if n <= most]
    for units, items, warps in itertools.product(_UNITS, items_choices, (4, 8, 16)):
        tiles = min(-(-layer.batch // items), target.sms // (layer.directions * -(-layer.hidden // units)))
        if tiles < 1 or units > max(4, triton.next_power_of_2(layer.hidden)) or _part(layer, warps) < 16:
            continue
        if warps > 4 and warps * 16 > triton.next_power_of_2(layer.hidden):
            continue  # a warp would have nothing to do
        if _registers(layer, units, items, warps) <= min(255, 65536 // (32 * warps)) - 40:
            yield {"UNITS": units, "ITEMS": items, "TILES": tiles, "num_warps": warps}


def _part(layer: Layer, warps: int) -> int:
    """Elements of h for each warp."""
    return max(16, triton.next_power_of_2(layer.hidden) // warps)


def _widest_word(problem: Problem) -> int:
    """Elements of h that can be loaded at once, wherever they begin: 8, 4, 2 or 1."""
    layer = Layer.of(problem)
    *outer, unit = layer.constexprs["STATE_STRIDES"]
    h0 = layer.arguments["h0"]
    assert isinstance(h0, Operand)
    aligned = min(problem.alignment[-1], problem.alignment[h0.index]) // 2
    together = [layer.hidden, *layer.constexprs["Y_STRIDES"], *outer, aligned, 8 if unit == 1 else 1]
    return next(word for word in (8, 4, 2, 1) if all(size % word == 0 for size in together))


def _word(problem: Problem, layer: Layer, warps: int) -> int:
    """A thread's tensor-core operands are four words along `PART` in the longest case."""
    return min(_widest_word(problem), _part(layer, warps) // 8, 8)


def _registers(layer: Layer, units: int, items: int, warps: int) -> int:
    """Of a thread, for weights, h, sums, and what is added up."""
    part, columns = _part(layer, warps), max(8, items)
    weights, h = 4 * units * part // 64, part * columns // 64
    sums = 4 * units * columns // 32
    own = max(1, units * items // (32 * warps))
    return weights + h + max(sums, 4 * warps * own) + 8 * own


def _cycles(config: Config, layer: Layer) -> float:
    """A rough idea of what all steps take: the way through L2, products, shared memory, gates."""
    units, items, warps = config["UNITS"], config["ITEMS"], config["num_warps"]
    part, columns = _part(layer, warps), max(8, items)
    products = part // 16 * max(33, units // 4 * (columns // 8) * 7 * max(1, warps // 4))
    shared = 4 * units * items * warps / 32
    threads = 32 * warps
    repeated = max(1, threads / max(1, units * items))  # where there are more threads than units and items
    gather = shared * min(repeated, warps)
    gates = 80 * max(1, units * items / threads) * warps / 4
    traffic = warps * part * items * 2 / 64 + 700
    launches = -(-layer.batch // (config["TILES"] * items))
    return launches * (traffic + products + shared + gather + gates + 300)
