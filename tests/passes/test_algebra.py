"""Polynomials: two spellings of one computation are one, others are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jitrt.graph import Graph, TensorType, f32
from jitrt.graph.ops import Add, Cos, Mul, Relu
from jitrt.passes.algebra import Unreadable, X, alike, apply, clamp, constant, evaluate, mean, power
from jitrt.passes.spelled import Reading, above, below, between

EXP = apply("exp", X)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (X * (1 + EXP) * 0.5, 0.5 * X + X * EXP * 0.5),
        (power(X + 1, 2), X * X + 2 * X + 1),
        (power(power(1 + EXP, 0.5), -1), power(1 + EXP, -0.5)),
        (power(power(1 + EXP, -1), -1), 1 + EXP),
        (clamp(X * 2 + 1, 0.0, 4.0), 2 * clamp(X, -0.5, 1.5) + 1),
        (clamp(-X, 0.0, math.inf), -clamp(X, -math.inf, 0.0)),
        (clamp(clamp(X, 0.0, math.inf), -math.inf, 6.0), clamp(X, 0.0, 6.0)),
        (apply("erf", -2 * X), -apply("erf", 2 * X)),
        (apply("tanh", -X - EXP + 1), -apply("tanh", X + EXP - 1)),
        (apply("abs", -X), apply("abs", X)),
        (mean(X - mean(X, (1,)), (1,)), X - X),
        (mean(power(X - mean(X, (1,)), 2), (1,)), mean(X * X, (1,)) - power(mean(X, (1,)), 2)),
        (mean(3 * X + 2, (0, 1)), 3 * mean(X, (0, 1)) + 2),
        (X * power(X * 0 + 4, -0.5), X * 0.5),
    ],
)
def test_one_computation(a, b):
    assert alike(a, b, 1e-9)
    assert not alike(a, b + 1, 1e-9)
    assert not alike(a, b + X * EXP, 1e-9)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (power(X * X, 0.5), X),  # not of negative numbers
        (X * power(X, -1), X * 0 + 1),  # not at 0
        (clamp(clamp(X, 0.0, 1.0), 2.0, 3.0), clamp(X, 2.0, 3.0)),  # it is 2 everywhere
        (mean(X * X, (1,)), mean(X, (1,)) * mean(X, (1,))),
        (mean(mean(X, (0,)), (1,)), mean(X, (0,))),
        (apply("tanh", X), EXP),
        (apply("exp", -X), EXP),
        (EXP, apply("exp", 1.001 * X)),
    ],
)
def test_another_computation(a, b):
    assert not alike(a, b, 1e-6)


def test_what_has_no_end_or_no_value_is_not_read():
    with pytest.raises(Unreadable):
        power(X + EXP + apply("erf", X) + 1, 4)
    for number, exponent in ((0, -1), (-2, 0.5)):
        with pytest.raises(Unreadable):
            power(X * 0 + number, exponent)


def test_constants():
    graph = Graph("constants")
    w, b = (graph.add_constant(np.array(numbers, np.float32)) for numbers in ([1, 2, 3], [4, 5, 6]))
    two = constant(graph.add_constant(np.full((1, 1), 2, np.float32)))
    assert two.number == 2
    np.testing.assert_array_equal(evaluate(constant(w) * constant(b) * two - 1), [7, 19, 35])


def test_reading_ends_where_more_than_arithmetic_begins():
    graph = Graph("chain")
    x = graph.add_input("x", TensorType(f32, (4,)))
    inner = graph.add(Cos(), x)
    y = graph.add(Mul(), graph.add(Relu(), inner), inner)
    z = graph.add(Add(), y, x)
    graph.mark_output(z)
    place, reading = between(y, inner), Reading()
    assert [node.op for node in place] == [Relu(), Mul()]
    assert alike(reading.polynomial(y, inner), X * clamp(X, 0.0, math.inf), 1e-9)
    assert reading.polynomial(y, x) is None and reading.polynomial(z, inner) is None
    heart = place[0]
    assert above(heart, (), 3) == [x, inner] and below(heart, 3) == [z, y, heart.output]
    assert above(heart, (), 1) == [inner] and below(heart, 1) == [y, heart.output]


def test_long_chains_are_not_read():
    graph = Graph("chain")
    x = value = graph.add_input("x", TensorType(f32, (4,)))
    for _ in range(40):
        value = graph.add(Add(), value, graph.scalar(1.0, f32))
    reading = Reading()
    assert reading.polynomial(value, x) is None
    middle = value.producer.inputs[0].producer.inputs[0]
    assert alike(reading.polynomial(value, middle), X + 2, 1e-9)
