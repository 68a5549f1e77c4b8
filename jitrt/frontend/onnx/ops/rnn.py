"""RNN, GRU and LSTM.

Plain cells are one `recurrence`; over sequences of different lengths one a direction, those that start at their ends
turned round before and after. The others (peepholes, clipping, further activations, a GRU that resets before its
product, the last cell of different lengths) are written out step by step. ONNX orders an LSTM's gates i o f c and a
GRU's z r h; `recurrence` has PyTorch's i f g o and r z n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jitrt.frontend.layers import linear as layers
from jitrt.frontend.layers.activation import softsign
from jitrt.frontend.layers.arithmetic import binary, choose, scaled
from jitrt.frontend.layers.rnn import Weights, recurrent
from jitrt.frontend.onnx.node import Call
from jitrt.frontend.onnx.registry import onnx_op
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

_MOST_STEPS = 256  # that are written out: each is a few kernels
_PLAIN = {"rnn": ("tanh",), "gru": ("sigmoid", "tanh"), "lstm": ("sigmoid", "tanh", "tanh")}
_ORDER = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 2, 3, 1)}  # PyTorch's gates among ONNX's
_REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

Function = Callable[[Value], Value]


@onnx_op("RNN", since=7)
def rnn(
    n: Call,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
) -> tuple[Value, ...]:
    return _recurrent(n, "rnn", x, w, r, bias, lengths, h0)[:2]


@onnx_op("GRU", since=7)
def gru(
    n: Call,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
) -> tuple[Value, ...]:
    return _recurrent(n, "gru", x, w, r, bias, lengths, h0)[:2]


@onnx_op("LSTM", since=7)
def lstm(
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
    return _recurrent(n, "lstm", x, w, r, bias, lengths, h0, c0, peepholes)


def _recurrent(
    n: Call,
    kind: str,
    x: Value,
    w: Value,
    r: Value,
    bias: Value | None,
    lengths: Value | None,
    h0: Value | None,
    c0: Value | None = None,
    peepholes: Value | None = None,
) -> tuple[Value, ...]:
    """(Y, Y_h, Y_c): x is (T, B, inputs), w (D, gates * H, inputs), r (D, gates * H, H), bias (D, 2 * gates * H),
    states (D, B, H); with `layout` 1 the batch is everything's first dimension."""
    direction = n.attribute("direction", "forward")
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
            _turned(n, cell, x, h0, c0 if kind == "lstm" else None, own, lengths, d, back)
            for d, (own, back) in enumerate(zip(layer, reverse, strict=True))
        ]
        y, *states = (_joined(n, parts, 1 if i == 0 else 0) for i, parts in enumerate(zip(*ends, strict=True)))
    elif cell is not None:
        c0 = c0 if kind == "lstm" else None
        out = recurrent(n.b, cell, x, h0, c0, [layer], cell=wants_c, reverse=reverse == (True,))
        y = n.b.permute(n.b.reshape(out.y, (steps, batch, len(reverse), hidden)), (0, 2, 1, 3))
        states = [out.h] if out.c is None else [out.h, out.c]
    else:
        if steps > _MOST_STEPS:
            n.refuse(f"{steps} steps of a {kind} that has no kernel and is written out up to {_MOST_STEPS}")
        cells = [_Cell.of(n, kind, x, w, r, bias, peepholes, d, len(reverse)) for d in range(len(reverse))]
        ends = [_unrolled(n, cell, h0, c0, lengths, d, back) for d, (cell, back) in enumerate(zip(cells, reverse))]
        y, *states = (_joined(n, parts, 1 if i == 0 else 0) for i, parts in enumerate(zip(*ends, strict=True)))
    if batch_first:
        y, states = n.b.permute(y, (2, 0, 1, 3)), [n.b.permute(s, (1, 0, 2)) for s in states]
    return y, *states


def _turned(
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
    names = _activations(n, kind, directions)
    if n.attribute("clip") or n.attribute("input_forget", 0):
        return None
    if kind == "rnn" and len(set(names)) == 1 and names[0] in ("tanh", "relu"):
        return names[0]
    if kind == "rnn" or (kind == "gru" and not n.attribute("linear_before_reset", 0)):
        return None
    return kind if names == _PLAIN[kind] * directions else None


def _activations(n: Call, kind: str, directions: int) -> tuple[str, ...]:
    names = tuple(name.lower() for name in n.attribute("activations") or _PLAIN[kind] * directions)
    if len(names) != len(_PLAIN[kind]) * directions:
        n.refuse(f"{len(names)} activations for {directions} directions of a {kind}")
    return names


def _weights(n: Call, kind: str, w: Value, r: Value, bias: Value | None, d: int) -> Weights:
    """Those of one direction in PyTorch's order."""
    order, hidden = _ORDER[kind], r.type.shape[2]
    first = _gates(n, w, d, order, hidden), _gates(n, r, d, order, hidden)
    if bias is None:
        return Weights(*first)
    behind = tuple(gate + len(order) for gate in order)
    return Weights(*first, _gates(n, bias, d, order, hidden), _gates(n, bias, d, behind, hidden))


def _gates(n: Call, weights: Value, d: int, order: Sequence[int], hidden: int) -> Value:
    """Blocks of `hidden` rows of direction d, in this order; at once where the weights are constant."""
    if weights.data is not None:
        rows = np.concatenate([weights.data[d, gate * hidden : (gate + 1) * hidden] for gate in order])
        return n.graph.add_constant(rows, f"{weights.name}.{d}")
    own = n.b.reshape(n.b.slice(weights, 0, d, d + 1), weights.type.shape[1:])
    if tuple(order) == tuple(range(order[0], order[0] + len(order))):
        return n.b.slice(own, 0, order[0] * hidden, (order[-1] + 1) * hidden)
    return n.add(g.Concat(0), *(n.b.slice(own, 0, gate * hidden, (gate + 1) * hidden) for gate in order))


def _linear(n: Call, x: Value, w: Value, bias: Value | None) -> Value:
    if x.type.dtype != DType.f64:
        return layers.linear(n.b, x, w, bias)
    y = layers.matmul(n.b, x, n.b.permute(w, (1, 0)))  # which has a kernel for it
    return y if bias is None else n.add(g.Add(), y, bias)


def _joined(n: Call, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else n.add(g.Concat(axis), *parts)


@dataclass(frozen=True)
class _Cell:
    """One direction, written out. `gates` (T, B, gates * H) is what steps add from their inputs, `r` (gates * H, H),
    `bias` (gates * H) the recurrent one where it is not in `gates` already; functions clip what they are given."""

    n: Call
    kind: str
    gates: Value
    r: Value
    bias: Value | None
    peepholes: tuple[Value, ...]
    functions: tuple[Function, ...]

    @classmethod
    def of(
        cls,
        n: Call,
        kind: str,
        x: Value,
        w: Value,
        r: Value,
        bias: Value | None,
        peepholes: Value | None,
        d: int,
        of: int,
    ) -> _Cell:
        count, hidden = len(_ORDER[kind]), r.type.shape[2]
        order = tuple(range(count))
        each = len(_PLAIN[kind])
        functions = tuple(_functions(n, _activations(n, kind, of))[d * each : (d + 1) * each])
        ours, theirs = None, None
        if bias is not None:
            ours, theirs = (_gates(n, bias, d, [gate + f for gate in order], hidden) for f in (0, count))
        gates = _linear(n, x, _gates(n, w, d, order, hidden), ours)
        looks = () if peepholes is None else tuple(_gates(n, peepholes, d, (i,), hidden) for i in range(3))
        return cls(n, kind, gates, _gates(n, r, d, order, hidden), theirs, looks, functions)

    def step(self, t: int, h: Value, c: Value) -> tuple[Value, Value]:
        """(h, c) after step t; a cell without c hands it on."""
        add, own = self.n.add, self.n.b.reshape(self.n.b.slice(self.gates, 0, t, t + 1), self.gates.type.shape[1:])
        if self.kind == "gru":
            return self._gru(own, h), c
        total = add(g.Add(), own, _linear(self.n, h, self.r, self.bias))
        if self.kind == "rnn":
            return self.functions[0](total), c
        f, cell, out = self.functions
        i, o, forget, new = (self._part(total, gate) for gate in range(4))
        i = f(self._peep(i, 0, c))
        if self.n.attribute("input_forget", 0):
            forget = add(g.Sub(), self.n.graph.scalar(1, i.type.dtype), i)
        else:
            forget = f(self._peep(forget, 2, c))
        c = add(g.Add(), add(g.Mul(), forget, c), add(g.Mul(), i, cell(new)))
        return add(g.Mul(), f(self._peep(o, 1, c)), out(c)), c

    def _gru(self, own: Value, h: Value) -> Value:
        add, hidden = self.n.add, self.r.type.shape[1]
        f, cell = self.functions
        if self.n.attribute("linear_before_reset", 0):
            past = _linear(self.n, h, self.r, self.bias)
            z, r = (f(add(g.Add(), self._part(own, gate), self._part(past, gate))) for gate in (0, 1))
            new = cell(add(g.Add(), self._part(own, 2), add(g.Mul(), r, self._part(past, 2))))
        else:
            rows = [(self.n.b.slice(self.r, 0, a * hidden, b * hidden), a, b) for a, b in ((0, 2), (2, 3))]
            biases = [
                None if self.bias is None else self.n.b.slice(self.bias, 0, a * hidden, b * hidden) for _, a, b in rows
            ]
            past = _linear(self.n, h, rows[0][0], biases[0])
            z, r = (f(add(g.Add(), self._part(own, gate), self._part(past, gate))) for gate in (0, 1))
            past = _linear(self.n, add(g.Mul(), r, h), rows[1][0], biases[1])
            new = cell(add(g.Add(), self._part(own, 2), past))
        rest = add(g.Sub(), self.n.graph.scalar(1, z.type.dtype), z)
        return add(g.Add(), add(g.Mul(), rest, new), add(g.Mul(), z, h))

    def _part(self, gates: Value, gate: int) -> Value:
        hidden = self.r.type.shape[1]
        return self.n.b.slice(gates, 1, gate * hidden, (gate + 1) * hidden)

    def _peep(self, gate: Value, which: int, c: Value) -> Value:
        if not self.peepholes:
            return gate
        return self.n.add(g.Add(), gate, self.n.add(g.Mul(), self.peepholes[which], c))


def _unrolled(
    n: Call, cell: _Cell, h0: Value, c0: Value, lengths: Value | None, d: int, reverse: bool
) -> tuple[Value, ...]:
    """(Y (T, 1, B, H), Y_h (1, B, H), Y_c) of one direction. Behind the end of a sequence its state stays as it was,
    and y is 0: from the end, it starts at its own last step."""
    steps, (_, batch, hidden) = cell.gates.type.shape[0], h0.type.shape
    h, c = (n.b.reshape(n.b.slice(s, 0, d, d + 1), (batch, hidden)) for s in (h0, c0))
    rows: dict[int, Value] = {}
    for t in reversed(range(steps)) if reverse else range(steps):
        new_h, new_c = cell.step(t, h, c)
        if lengths is None:
            h, c = new_h, new_c
            rows[t] = h
            continue
        alive = binary(n.b, g.Greater(), n.b.reshape(lengths, (batch, 1)), t, lengths.type.dtype)
        h, c = n.add(g.Where(), alive, new_h, h), n.add(g.Where(), alive, new_c, c)
        rows[t] = choose(n.b, alive, h, 0, h.type.dtype)
    y = _joined(n, [n.b.reshape(rows[t], (1, 1, batch, hidden)) for t in range(steps)], 0)
    ends = (h, c) if cell.kind == "lstm" else (h,)
    return y, *(n.b.reshape(s, (1, batch, hidden)) for s in ends)


def _functions(n: Call, names: Sequence[str]) -> list[Function]:
    """The activations by name; alphas and betas go to those that take one, in their order."""
    alphas, betas = (list(n.attribute(f"activation_{what}") or []) for what in ("alpha", "beta"))
    clip = n.attribute("clip") or 0.0
    functions = []
    for name in names:
        if name not in _FUNCTIONS:
            n.refuse(f"activation {name!r}; known are {', '.join(sorted(_FUNCTIONS))}")
        make, alpha, beta = _FUNCTIONS[name]
        alpha = alphas.pop(0) if alpha is not None and alphas else alpha
        beta = betas.pop(0) if beta is not None and betas else beta
        functions.append(_clipped(n, make, alpha, beta, clip))
    return functions


def _clipped(n: Call, make: _Make, alpha: float | None, beta: float | None, clip: float) -> Function:
    def function(x: Value) -> Value:
        return make(n, n.add(g.Clamp(-clip, clip), x) if clip else x, alpha or 0.0, beta or 0.0)

    return function


_Make = Callable[[Call, Value, float, float], Value]


def _affine(n: Call, x: Value, alpha: float, beta: float) -> Value:
    return binary(n.b, g.Add(), scaled(n.b, x, alpha), beta, x.type.dtype)


def _thresholded(n: Call, x: Value, alpha: float, beta: float) -> Value:
    return choose(n.b, binary(n.b, g.Greater(), x, alpha, x.type.dtype), x, 0, x.type.dtype)


_FUNCTIONS: dict[str, tuple[_Make, float | None, float | None]] = {
    "sigmoid": (lambda n, x, a, b: n.add(g.Sigmoid(), x), None, None),
    "tanh": (lambda n, x, a, b: n.add(g.Tanh(), x), None, None),
    "relu": (lambda n, x, a, b: n.add(g.Relu(), x), None, None),
    "softsign": (lambda n, x, a, b: softsign(n.b, x), None, None),
    "softplus": (lambda n, x, a, b: n.add(g.Softplus(), x), None, None),
    "leakyrelu": (lambda n, x, a, b: n.add(g.LeakyRelu(a), x), 0.01, None),
    "elu": (lambda n, x, a, b: n.add(g.Elu(a), x), 1.0, None),
    "thresholdedrelu": (_thresholded, 1.0, None),
    "affine": (_affine, 1.0, 0.0),
    "scaledtanh": (lambda n, x, a, b: scaled(n.b, n.add(g.Tanh(), scaled(n.b, x, b)), a), 1.0, 1.0),
    "hardsigmoid": (lambda n, x, a, b: n.add(g.Clamp(0.0, 1.0), _affine(n, x, a, b)), 0.2, 0.5),
}
