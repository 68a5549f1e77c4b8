"""Activations that were spelled out become one op again: GELU, SiLU, hardswish, hardsigmoid, sigmoid, softplus, clamp.

    x * 0.5 * (1 + erf(x / 1.4142))  ->  gelu(x)

Exporters take them apart, and people write them by hand. As polynomials (algebra.py) all spellings of one are the
same, so the table below has one line for each function, not for each way to write it. One op is shorter to read in
`explain`, is found by the rules of others, and its formula does not overflow where a spelled-out one may (log(1 +
exp(x)) at 100). Ops between whose results others read stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from jitrt.graph.graph import Graph, Node, Value
from jitrt.graph.op import Op
from jitrt.graph.ops import (
    Clamp,
    Erf,
    Exp,
    Gelu,
    HardSigmoid,
    HardSwish,
    Maximum,
    Minimum,
    Relu,
    Sigmoid,
    Silu,
    Softplus,
    Tanh,
)
from jitrt.passes.algebra import Polynomial, X, alike, apply, clamp, power
from jitrt.passes.apply_rules import claimed
from jitrt.passes.base import PassContext
from jitrt.passes.spelled import TOLERANCE, Reading, above, below, between, refuse_place, replace_place

_HEARTS = (Erf, Tanh, Sigmoid, Exp, Clamp, Maximum, Minimum, Relu, HardSigmoid)  # each activation has one in its middle
_STEPS = 5  # how far from there it may begin and end: gelu in its tanh form takes four

_sigmoid, _hard = apply("sigmoid", X), clamp(X + 3, 0.0, 6.0) * (1 / 6)
_exp_minus_abs = apply("exp", -apply("abs", X))
_cubic = (X + X * X * X * 0.044715) * math.sqrt(2 / math.pi)
_positive = clamp(X, 0.0, math.inf)
_FORMS: tuple[tuple[Op, Polynomial], ...] = (
    (Gelu(), X * 0.5 * (1 + apply("erf", X * math.sqrt(0.5)))),
    (Gelu(approximate=True), X * 0.5 * (1 + apply("tanh", _cubic))),
    (Silu(), X * _sigmoid),
    (Silu(), X * power(1 + apply("exp", -X), -1)),
    (HardSwish(), X * _hard),
    (HardSigmoid(), _hard),
    (Sigmoid(), power(1 + apply("exp", -X), -1)),
    (Sigmoid(), apply("exp", X) * power(1 + apply("exp", X), -1)),
    (Sigmoid(), 0.5 + apply("tanh", X * 0.5) * 0.5),
    (Softplus(), apply("log", 1 + apply("exp", X))),
    (Softplus(), apply("log1p", apply("exp", X))),
    (Softplus(), _positive + apply("log", 1 + _exp_minus_abs)),
    (Softplus(), _positive + apply("log1p", _exp_minus_abs)),
    (Relu(), _positive),
)
_KNOWN: dict[str, list[tuple[Op, Polynomial]]] = {}
for _op, _form in _FORMS:
    _KNOWN.setdefault(_form.outline, []).append((_op, _form))


def raise_activations(graph: Graph, context: PassContext) -> None:
    """Raise every spelled-out activation, the longest spelling that fits at each place."""
    waiting = [node for node in graph.nodes if isinstance(node.op, _HEARTS)][::-1]
    claims, reading, gone = claimed(graph, context), Reading(), set[Node]()
    while waiting:
        heart = waiting.pop()
        if heart in gone or not heart.output.type.dtype.is_float:
            continue
        reasons: list[tuple[Node, str]] = []
        for place, x, op in _places(heart, reading):
            root = place[-1]
            reason = refuse_place(graph, place, claims)
            if reason is not None:
                reasons.append((root, f"not raised to {op.name}: {reason}"))
                continue
            raised = graph.append(op, [x], loc=root.loc, before=root)
            replace_place(graph, place, raised.output, op.name, context)
            gone.update(place)
            reading = Reading()
            if isinstance(op, _HEARTS):
                waiting.append(raised)  # a sigmoid may be part of a silu
            break
        else:
            for root, reason in reasons[:1]:
                context.refused(root, reason)
    graph.drop_unused_constants()


def _places(heart: Node, reading: Reading) -> Iterator[tuple[tuple[Node, ...], Value, Op]]:
    """(place, what it is a function of, the op) of every spelled-out activation around a node, long ones first."""
    dtype, shape = heart.output.type.dtype, heart.output.type.shape
    starts = [x for x in above(heart, (), _STEPS) if x.type.dtype == dtype and x.type.shape == shape]
    for root in below(heart, _STEPS):
        if root.type.shape != shape or root.type.dtype != dtype:
            continue
        for x in starts:
            polynomial = reading.polynomial(root, x)
            op = None if polynomial is None else _known(polynomial, TOLERANCE[dtype])
            if op is None:
                continue
            place = between(root, x)
            if heart in place and not _is_plain(place):
                yield place, x, op


def _is_plain(place: Sequence[Node]) -> bool:
    """Whether a place is one op as it should be. A maximum with a number should be a relu or a clamp."""
    return len(place) == 1 and not isinstance(place[0].op, Maximum | Minimum)


def _known(polynomial: Polynomial, tolerance: float) -> Op | None:
    for op, form in _KNOWN.get(polynomial.outline, ()):
        if alike(polynomial, form, tolerance):
            return op
    if polynomial.outline != _positive.outline:
        return None
    ((monomial, number),) = polynomial.terms
    ((atom, _),) = monomial
    low, high = atom.details
    return Clamp(low, high) if number == 1 and math.isfinite(low) and math.isfinite(high) else None
