"""RNN, GRU and LSTM.

Plain cells are one `recurrence`; over sequences of different lengths one a direction, those that start at their ends
reversed before and after. The others (peepholes, clipping, further activations, a GRU that resets before its
product, the last cell of different lengths) are written out step by step. ONNX orders an LSTM's gates i o f c and a
GRU's z r h; `recurrence` has PyTorch's i f g o and r z n.
"""

from __future__ import annotations

import numpy as np

from jitrt.frontend.layers.arithmetic import binary, choose
from jitrt.frontend.layers.rnn import Weights, recurrent
from jitrt.frontend.onnx.cells import PLAIN, Cell, activations, gates_of, unrolled
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_MOST_STEPS = 256  # that are written out: each is a few kernels
_ORDER = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 2, 3, 1)}  # PyTorch's gates among ONNX's
_REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@onnx_op("RNN", "GRU", "LSTM", since=7)
def recurrent_layer(
    n: Call,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
    c0: Value | None = None,
    peepholes: Value | None = None,
) -> tuple[Value, ...]:
    """(Y, Y_h), of an LSTM (Y, Y_h, Y_c): x is (T, B, inputs), w (D, gates * H, inputs), r (D, gates * H, H), bias
    (D, 2 * gates * H), states (D, B, H); with `layout` 1 the batch is everything's first dimension."""
    kind, direction = n.op_type.lower(), n.attribute("direction", "forward")
    if direction not in _REVERSE or len(_REVERSE[direction]) != w.type.shape[0]:
        n.refuse(f"direction {direction!r} with weights {w.type}")
    reverse, batch_first = _REVERSE[direction], n.attribute("layout", 0) == 1
    if batch_first:
        x = n.b.permute(x, (1, 0, 2))
        h0, c0 = (None if s is None else n.b.permute(s, (1, 0, 2)) for s in (h0, c0))
    steps, batch, hidden = *x.type.shape[:2], r.type.shape[2]
    if lengths is not None and lengths.data is not None and np.all(lengths.data == steps):
        lengths = None
    state = (len(reverse), batch, hidden)
    h0, c0 = (n.b.full(state, 0, x.type.dtype) if s is None else s for s in (h0, c0))
    wants_c = kind == "lstm" and n.wants(2)
    plain = peepholes is None and x.type.dtype != DType.f64 and (lengths is None or not wants_c)
    cell = _plain_kind(n, kind, len(reverse)) if plain else None
    layer = [_weights(n, kind, w, r, bias, d) for d in range(len(reverse))] if cell else []
    if cell is not None and lengths is not None:
        ends = [
            _over_lengths(n, cell, x, h0, c0 if kind == "lstm" else None, own, lengths, d, back)
            for d, (own, back) in enumerate(zip(layer, reverse, strict=True))
        ]
        y, *states = (n.b.concat(parts, 1 if i == 0 else 0) for i, parts in enumerate(zip(*ends, strict=True)))
    elif cell is not None:
        c0 = c0 if kind == "lstm" else None
        out = recurrent(n.b, cell, x, h0, c0, [layer], cell=wants_c, reverse=reverse == (True,))
        y = n.b.permute(n.b.reshape(out.y, (steps, batch, len(reverse), hidden)), (0, 2, 1, 3))
        states = [out.h] if out.c is None else [out.h, out.c]
    else:
        if steps > _MOST_STEPS:
            n.refuse(f"{steps} steps of a {kind} that has no kernel and is written out up to {_MOST_STEPS}")
        cells = [Cell.of(n, kind, x, w, r, bias, peepholes, d, len(reverse)) for d in range(len(reverse))]
        ends = [unrolled(n, cell, h0, c0, lengths, d, back) for d, (cell, back) in enumerate(zip(cells, reverse))]
        y, *states = (n.b.concat(parts, 1 if i == 0 else 0) for i, parts in enumerate(zip(*ends, strict=True)))
    if batch_first:
        y, states = n.b.permute(y, (2, 0, 1, 3)), [n.b.permute(s, (1, 0, 2)) for s in states]
    return y, *states


def _over_lengths(
    n: Call,
    cell: str,
    x: Value,
    h0: Value,
    c0: Value | None,
    weights: Weights,
    lengths: Value,
    d: int,
    reverse: bool,
) -> tuple[Value, ...]:
    """(Y (T, 1, B, H), Y_h (1, B, H)) of one direction over sequences of these lengths, always run forwards."""
    steps, batch = x.type.shape[:2]
    many = n.b.reshape(n.b.operand(lengths, DType.i64), (1, batch, 1))
    last = binary(n.b, g.Sub(), many, 1, DType.i64)
    at = n.constant(np.arange(steps, dtype=np.int64).reshape(steps, 1, 1))
    mirror = binary(n.b, g.Maximum(), n.add(g.Sub(), last, at), 0, DType.i64)  # (T, B, 1)
    x = n.add(g.Gather(0), x, mirror) if reverse else x
    h0 = n.b.slice(h0, 0, d, d + 1)
    c0 = None if c0 is None else n.b.slice(c0, 0, d, d + 1)
    y = recurrent(n.b, cell, x, h0, c0, [[weights]]).y
    h = n.add(g.Gather(0), y, binary(n.b, g.Maximum(), last, 0, DType.i64))
    h = n.add(g.Where(), binary(n.b, g.Greater(), many, 0, DType.i64), h, h0)
    y = n.add(g.Gather(0), y, mirror) if reverse else y
    y = choose(n.b, n.add(g.Less(), at, many), y, 0, y.type.dtype)
    return n.b.reshape(y, (steps, 1, *y.type.shape[1:])), h


def _plain_kind(n: Call, kind: str, directions: int) -> str | None:
    """The kind of `recurrence` that the node is; None if there is none."""
    names = activations(n, kind, directions)
    if n.attribute("clip") or n.attribute("input_forget", 0):
        return None
    if kind == "rnn" and len(set(names)) == 1 and names[0] in ("tanh", "relu"):
        return names[0]
    if kind == "rnn" or (kind == "gru" and not n.attribute("linear_before_reset", 0)):
        return None
    return kind if names == PLAIN[kind] * directions else None


def _weights(n: Call, kind: str, w: Value, r: Value, bias: Value | None, d: int) -> Weights:
    """Those of one direction in PyTorch's order."""
    order, hidden = _ORDER[kind], r.type.shape[2]
    first = gates_of(n, w, d, order, hidden), gates_of(n, r, d, order, hidden)
    if bias is None:
        return Weights(*first)
    behind = tuple(gate + len(order) for gate in order)
    return Weights(*first, gates_of(n, bias, d, order, hidden), gates_of(n, bias, d, behind, hidden))
