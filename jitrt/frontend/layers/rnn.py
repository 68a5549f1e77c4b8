"""LSTM, GRU and plain recurrent layers, as one `linear` for the inputs of all steps and one `recurrence` a layer.

Both directions of a layer are one of each: their weights lie side by side.

A projected LSTM (`proj_size`) hands h = W_hr m to the next step, which uses it as W_hh h = (W_hh W_hr) m: it is a plain
LSTM of m with the product for its recurrent weights, and the projection is one `linear` of all steps afterwards. So
only one vector a step has to travel between a kernel's programs, for (hidden / proj) times the multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers.linear import linear
from jitrt.graph import Value
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Concat, Linear, Matmul, Recurrence, Reshape, Slice
from jitrt.graph.ops.rnn import GATES


@dataclass(frozen=True)
class Weights:
    """Of one direction of one layer, G rows for each of H hidden units: w_ih (G*H, inputs), w_hh (G*H, H or P), the
    biases (G*H), and the projection w_hr (P, H)."""

    w_ih: Value
    w_hh: Value
    b_ih: Value | None = None
    b_hh: Value | None = None
    w_hr: Value | None = None


@dataclass(frozen=True)
class States:
    """What recurrent layers result in: y (T, B, D*P), or (B, T, D*P) if batch first; the last h (layers*D, B, P) and c
    (layers*D, B, H), P being H without a projection. `c` is None unless asked for."""

    y: Value
    h: Value
    c: Value | None


def recurrent(
    b: Builder,
    kind: str,
    x: Value,
    h0: Value,
    c0: Value | None,
    layers: Sequence[Sequence[Weights]],
    *,
    batch_first: bool = False,
    cell: bool = False,
    reverse: bool = False,
) -> States:
    """Layers on top of each other, each with one or two directions, the second of which reads from the end; `reverse`
    makes an only one read so. x is (T, B, inputs), or (B, T, inputs) if `batch_first`; h0 and c0 as in States; `cell`
    asks for the last c of an lstm."""
    last_h, last_c = [], []
    order = (1, 0, 2) if batch_first else (0, 1, 2)
    steps = x.type.shape[1 if batch_first else 0]
    for number, layer in enumerate(layers):
        first = number * len(layer)
        backward = (reverse,) if len(layer) == 1 else (False, True)
        states = [None if s is None else _rows(b, s, first, first + len(layer)) for s in (h0, c0)]
        out = _layer(b, kind, b.permute(_gates(b, kind, x, layer), order), states[0], states[1], layer, cell, backward)
        h = _projected(b, b.slice(out, 0, 0, steps), layer)
        width = h.type.shape[2] // len(layer)
        for d, from_the_end in enumerate(backward):
            end = 0 if from_the_end else steps - 1
            last_h.append(b.slice(b.slice(h, 0, end, end + 1), 2, d * width, (d + 1) * width))
        if cell:
            c = b.slice(out, 0, steps, steps + 1)  # (1, B, D*H)
            apart = b.reshape(c, (c.type.shape[1], len(layer), c.type.shape[2] // len(layer)))
            last_c.append(b.permute(apart, (1, 0, 2)))
        x = b.permute(h, order)
    return States(x, b.concat(last_h, 0), b.concat(last_c, 0) if cell else None)


def _gates(b: Builder, kind: str, x: Value, layer: Sequence[Weights]) -> Value:
    """What every step adds from its input, for all directions: (..., D*G*H)."""
    bias = None
    if layer[0].b_ih is not None:
        bias = _known(b, Concat(0), *(_bias(b, kind, weights) for weights in layer))
    return linear(b, x, _known(b, Concat(0), *(weights.w_ih for weights in layer)), bias)


def _bias(b: Builder, kind: str, weights: Weights) -> Value:
    """b_ih + b_hh; of a gru's n only b_ih, for r multiplies the other."""
    assert weights.b_ih is not None and weights.b_hh is not None
    if kind != "gru":
        return _known(b, Add(), weights.b_ih, weights.b_hh)
    rows = weights.b_ih.type.shape[0]
    both = [_rows(b, v, 0, rows // 3 * 2) for v in (weights.b_ih, weights.b_hh)]
    own = _rows(b, weights.b_ih, rows // 3 * 2, rows)
    return _known(b, Concat(0), _known(b, Add(), *both), own)


def _layer(
    b: Builder,
    kind: str,
    gates: Value,
    h0: Value | None,
    c0: Value | None,
    layer: Sequence[Weights],
    cell: bool,
    reverse: tuple[bool, ...],
) -> Value:
    assert h0 is not None
    rows = layer[0].w_hh.type.shape[0]
    hidden = rows // GATES[kind]
    weights = [weights.w_hh for weights in layer]
    if layer[0].w_hr is not None:
        gates = _with_first(b, gates, h0, weights, reverse)
        h0 = b.full((len(layer), gates.type.shape[1], hidden), 0, gates.type.dtype)
        weights = [_known(b, Matmul(), one.w_hh, one.w_hr) for one in layer if one.w_hr is not None]
    operands = [gates, _stacked(b, weights), h0]
    if kind == "lstm":
        assert c0 is not None
        operands.append(c0)
    if kind == "gru":
        operands.append(_stacked(b, [_bias_of_n(b, one, hidden, gates) for one in layer]))
    return b.add(Recurrence(kind, reverse, cell), *operands)


def _bias_of_n(b: Builder, weights: Weights, hidden: int, gates: Value) -> Value:
    if weights.b_hh is None:
        return b.full((hidden,), 0, gates.type.dtype)
    return _rows(b, weights.b_hh, 2 * hidden, 3 * hidden)


def _with_first(b: Builder, gates: Value, h0: Value, weights: Sequence[Value], reverse: tuple[bool, ...]) -> Value:
    """The gates of a projected layer with what h0, which did not come out of a projection, adds at the first step."""
    if h0.data is not None and not h0.data.any():
        return gates
    steps, batch, _ = gates.type.shape
    rows, width = weights[0].type.shape
    for d, w in enumerate(weights):
        start = (steps - 1 if reverse[d] else 0, 0, d * rows)
        stop = (start[0] + 1, batch, start[2] + rows)
        own = b.add(Slice(start, stop, (1, 1, 1)), gates)
        h = b.reshape(b.slice(h0, 0, d, d + 1), (1, batch, width))
        gates = b.put(gates, b.add(Add(), own, b.add(Linear(), h, w)), start, stop)
    return gates


def _projected(b: Builder, m: Value, layer: Sequence[Weights]) -> Value:
    """W_hr m for every step and direction."""
    hidden = m.type.shape[2] // len(layer)
    parts = [
        b.add(Linear(), b.slice(m, 2, d * hidden, (d + 1) * hidden), one.w_hr)
        for d, one in enumerate(layer)
        if one.w_hr is not None
    ]
    return b.concat(parts, 2) if parts else m


def _stacked(b: Builder, parts: Sequence[Value]) -> Value:
    shaped = [_known(b, Reshape((1, *part.type.shape)), part) for part in parts]
    return shaped[0] if len(shaped) == 1 else _known(b, Concat(0), *shaped)


def _rows(b: Builder, value: Value, start: int, stop: int) -> Value:
    return _known(b, Slice.along(value.type.shape, 0, start, stop), value)


def _known(b: Builder, op: Op, *operands: Value) -> Value:
    """`op` of its operands: at once, and under the first one's name, if they are constants."""
    (type,) = op.infer(*(v.type for v in operands))
    if type == operands[0].type.logical() and isinstance(op, Slice | Reshape | Concat):
        return operands[0]
    arrays = [v.data for v in operands if v.data is not None]
    if len(arrays) < len(operands):
        return b.add(op, *operands)
    return b.graph.add_constant(op.eval(*arrays)[0].astype(type.dtype.numpy), operands[0].name)
