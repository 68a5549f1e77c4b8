"""Recurrent cells written out step by step: the forms of RNN, GRU and LSTM that `recurrence` does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jitrt.frontend.builder import Builder
from jitrt.frontend.layers import activation
from jitrt.frontend.layers import linear as layers
from jitrt.frontend.layers.arithmetic import affine, binary, choose, scaled
from jitrt.frontend.onnx.node import Call
from jitrt.graph import DType, Value
from jitrt.graph import ops as g

PLAIN = {"rnn": ("tanh",), "gru": ("sigmoid", "tanh"), "lstm": ("sigmoid", "tanh", "tanh")}
"""The activations of a cell unless told otherwise."""

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
"""How many a cell has."""

Function = Callable[[Value], Value]


def activations(n: Call, kind: str, directions: int) -> tuple[str, ...]:
    """The activations' names in lower case, those of each direction after those of the one before. Refuses a wrong
    number of them."""
    names = tuple(name.lower() for name in n.attribute("activations") or PLAIN[kind] * directions)
    if len(names) != len(PLAIN[kind]) * directions:
        n.refuse(f"{len(names)} activations for {directions} directions of a {kind}")
    return names


def gates_of(n: Call, weights: Value, d: int, order: Sequence[int], hidden: int) -> Value:
    """Blocks of `hidden` rows of direction d, in this order; at once where the weights are constant."""
    if weights.data is not None:
        rows = np.concatenate([weights.data[d, gate * hidden : (gate + 1) * hidden] for gate in order])
        return n.graph.add_constant(rows, f"{weights.name}.{d}")
    own = n.b.reshape(n.b.slice(weights, 0, d, d + 1), weights.type.shape[1:])
    if tuple(order) == tuple(range(order[0], order[0] + len(order))):
        return n.b.slice(own, 0, order[0] * hidden, (order[-1] + 1) * hidden)
    return n.b.concat([n.b.slice(own, 0, gate * hidden, (gate + 1) * hidden) for gate in order], 0)


def _linear(n: Call, x: Value, w: Value, bias: Value | None) -> Value:
    if x.type.dtype != DType.f64:
        return layers.linear(n.b, x, w, bias)
    y = layers.matmul(n.b, x, n.b.permute(w, (1, 0)))  # which has a kernel for it
    return y if bias is None else n.add(g.Add(), y, bias)


@dataclass(frozen=True)
class Cell:
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
    ) -> Cell:
        count, hidden = GATES[kind], r.type.shape[2]
        order = tuple(range(count))
        each = len(PLAIN[kind])
        functions = tuple(_functions(n, activations(n, kind, of))[d * each : (d + 1) * each])
        ours, theirs = None, None
        if bias is not None:
            ours, theirs = (gates_of(n, bias, d, [gate + f for gate in order], hidden) for f in (0, count))
        gates = _linear(n, x, gates_of(n, w, d, order, hidden), ours)
        looks = () if peepholes is None else tuple(gates_of(n, peepholes, d, (i,), hidden) for i in range(3))
        return cls(n, kind, gates, gates_of(n, r, d, order, hidden), theirs, looks, functions)

    def step(self, t: int, h: Value, c: Value) -> tuple[Value, Value]:
        """(h, c) after step t; a cell without c hands it on."""
        add, own = self.n.add, self.n.b.reshape(self.n.b.slice(self.gates, 0, t, t + 1), self.gates.type.shape[1:])
        if self.kind == "gru":
            return self._gru(own, h), c
        total = add(g.Add(), own, self._recurrent(h, 0, GATES[self.kind]))
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
        add, (f, cell) = self.n.add, self.functions
        resets_product = bool(self.n.attribute("linear_before_reset", 0))
        past = self._recurrent(h, 0, 3 if resets_product else 2)
        z, r = (f(add(g.Add(), self._part(own, gate), self._part(past, gate))) for gate in (0, 1))
        if resets_product:
            late = add(g.Mul(), r, self._part(past, 2))
        else:
            late = self._recurrent(add(g.Mul(), r, h), 2, 3)
        new = cell(add(g.Add(), self._part(own, 2), late))
        rest = add(g.Sub(), self.n.graph.scalar(1, z.type.dtype), z)
        return add(g.Add(), add(g.Mul(), rest, new), add(g.Mul(), z, h))

    def _recurrent(self, h: Value, first: int, last: int) -> Value:
        """What the gates from `first` to before `last` get from h."""
        hidden = self.r.type.shape[1]
        rows, bias = (
            None if v is None else self.n.b.slice(v, 0, first * hidden, last * hidden) for v in (self.r, self.bias)
        )
        assert rows is not None
        return _linear(self.n, h, rows, bias)

    def _part(self, gates: Value, gate: int) -> Value:
        hidden = self.r.type.shape[1]
        return self.n.b.slice(gates, 1, gate * hidden, (gate + 1) * hidden)

    def _peep(self, gate: Value, which: int, c: Value) -> Value:
        if not self.peepholes:
            return gate
        return self.n.add(g.Add(), gate, self.n.add(g.Mul(), self.peepholes[which], c))


def unrolled(
    n: Call, cell: Cell, h0: Value, c0: Value, lengths: Value | None, d: int, reverse: bool
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
    y = n.b.concat([n.b.reshape(rows[t], (1, 1, batch, hidden)) for t in range(steps)], 0)
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
        return make(n.b, n.add(g.Clamp(-clip, clip), x) if clip else x, alpha or 0.0, beta or 0.0)

    return function


_Make = Callable[[Builder, Value, float, float], Value]
# What makes each activation of x, alpha and beta, and the defaults of the two; None where it takes none.
_FUNCTIONS: dict[str, tuple[_Make, float | None, float | None]] = {
    "sigmoid": (lambda b, x, alpha, beta: b.add(g.Sigmoid(), x), None, None),
    "tanh": (lambda b, x, alpha, beta: b.add(g.Tanh(), x), None, None),
    "relu": (lambda b, x, alpha, beta: b.add(g.Relu(), x), None, None),
    "softsign": (lambda b, x, alpha, beta: activation.softsign(b, x), None, None),
    "softplus": (lambda b, x, alpha, beta: b.add(g.Softplus(), x), None, None),
    "leakyrelu": (lambda b, x, alpha, beta: b.add(g.LeakyRelu(alpha), x), 0.01, None),
    "elu": (lambda b, x, alpha, beta: b.add(g.Elu(alpha), x), 1.0, None),
    "thresholdedrelu": (lambda b, x, alpha, beta: activation.thresholded_relu(b, x, alpha), 1.0, None),
    "affine": (affine, 1.0, 0.0),
    "scaledtanh": (lambda b, x, alpha, beta: scaled(b, b.add(g.Tanh(), scaled(b, x, beta)), alpha), 1.0, 1.0),
    "hardsigmoid": (activation.hard_sigmoid, 0.2, 0.5),
}
