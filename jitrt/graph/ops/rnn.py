"""Recurrent layers: what a time step hands on to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jitrt.graph.op import Array, Op, Trait, wide
from jitrt.graph.types import TensorType

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
"""Rows of the weights for each hidden unit, by kind of cell, in PyTorch's order: i f g o, and r z n."""


@dataclass(frozen=True)
class Recurrence(Op):
    """One recurrent layer of T steps over B sequences with H hidden units, in one or two directions (d, D of them).

        gates   (T, B, D*G*H)  what each step adds from its input, biases included: x W_ih^T + b
        w       (D, G*H, H)    the recurrent weights W_hh
        h0      (D, B, H)      the state before the first step
        c0      (D, B, H)      lstm: the cell before the first step
        b       (D, H)         gru: the hidden bias of n, which r multiplies too

    With [i f g o] = gates + h W_hh^T, an lstm makes c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c); a
    gru makes sigmoids of r and z, n = tanh(gates + r (h W_hh^T + b)), h = (1 - z) n + z h; the others are functions of
    the sum itself.

    The result is (T, B, D*H), the state after every step; a direction whose `reverse` is true begins at the last. A
    node has one output, so with `cell` an lstm's is (T + 1, B, D*H), and the plane behind the last step is the final c.
    The final h needs no plane of its own: it is the state after the last step, or the first in reverse.
    """

    name: ClassVar[str] = "recurrence"
    traits: ClassVar[Trait] = Trait.ANCHOR
    kind: str
    reverse: tuple[bool, ...] = (False,)
    cell: bool = False
    tf32: bool = False

    @property
    def gates(self) -> int:
        """Rows of the weights for each hidden unit."""
        return GATES[self.kind]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        self.check(self.kind in GATES, f"there is no cell of kind {self.kind!r}, only {', '.join(GATES)}")
        self.check(self.reverse in ((False,), (True,), (False, True)), f"directions reversed: {self.reverse}")
        self.check(self.kind == "lstm" or not self.cell, f"a cell of kind {self.kind} has no c")
        wanted = 4 if self.kind in ("lstm", "gru") else 3
        self.check(len(types) == wanted, f"takes {wanted} operands, got {len(types)}")
        gates, w = types[:2]
        self.check(gates.rank == 3 and w.rank == 3, f"gates are {gates}, w is {w}")
        (steps, batch, columns), (directions, rows, hidden) = gates.shape, w.shape
        self.check(directions == len(self.reverse), f"w is {w}, there are {len(self.reverse)} directions")
        self.check(rows == self.gates * hidden, f"w is {w}: a {self.kind} has {self.gates} rows for a hidden unit")
        self.check(columns == directions * rows, f"gates are {gates}, w wants {directions * rows} columns")
        state = (directions, batch, hidden)
        self.check(types[2].shape == state, f"h0 is {types[2]}, expected {list(state)}")
        if self.kind == "lstm":
            self.check(types[3].shape == state, f"c0 is {types[3]}, expected {list(state)}")
        if self.kind == "gru":
            self.check(types[3].shape == (directions, hidden), f"b is {types[3]}, expected {[directions, hidden]}")
        self.check(len({t.dtype for t in types}) == 1, f"operands are {', '.join(t.dtype.value for t in types)}")
        return (TensorType(gates.dtype, (steps + self.cell, batch, directions * hidden)),)

    def eval(self, *arrays: Array) -> tuple[Array, ...]:
        gates, w, h0, *rest = (wide(a) for a in arrays)
        steps, batch, _ = gates.shape
        directions, rows, hidden = w.shape
        out = np.empty((steps + self.cell, batch, directions * hidden), gates.dtype)
        for d, reverse in enumerate(self.reverse):
            h, extra = h0[d], rest[0][d] if rest else None
            columns = slice(d * hidden, (d + 1) * hidden)
            for t in reversed(range(steps)) if reverse else range(steps):
                x, a = gates[t, :, d * rows : (d + 1) * rows], h @ w[d].T
                if self.kind == "lstm":
                    i, f, g, o = np.split(x + a, 4, axis=1)
                    extra = _sigmoid(f) * extra + _sigmoid(i) * np.tanh(g)
                    h = _sigmoid(o) * np.tanh(extra)
                elif self.kind == "gru":
                    (xr, xz, xn), (ar, az, an) = np.split(x, 3, axis=1), np.split(a, 3, axis=1)
                    z = _sigmoid(xz + az)
                    h = (1 - z) * np.tanh(xn + _sigmoid(xr + ar) * (an + extra)) + z * h
                else:
                    h = np.tanh(x + a) if self.kind == "tanh" else np.where(x + a <= 0, a.dtype.type(0), x + a)
                out[t, :, columns] = h
            if self.cell:
                out[steps, :, columns] = extra
        return (out,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        steps, batch, columns = inputs[0].shape
        return steps * batch * columns * (2 * inputs[1].shape[2] + 4)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))
