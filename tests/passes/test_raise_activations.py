"""Activations spelled out in other ops: every spelling of one becomes it, and nothing else does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jitrt
from jitrt.graph import Graph, TensorType, Value, f16, f32, i32, interpret, verify
from jitrt.graph.dtype import DType
from jitrt.graph.ops import (
    Abs,
    Add,
    Clamp,
    Cos,
    Div,
    Erf,
    Exp,
    Gelu,
    HardSigmoid,
    HardSwish,
    Log,
    Log1p,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    Relu,
    Sigmoid,
    Silu,
    Softplus,
    Sub,
    Tanh,
)
from jitrt.passes import PassContext
from jitrt.passes.apply_rules import unregister
from jitrt.passes.pipeline import optimize
from jitrt.passes.raise_activations import raise_activations

ROOT_HALF, ROOT_2_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)


class Writer:
    """Writes graphs: `w.add(x, 1)` with numbers as constants of one element."""

    def __init__(self, dtype: DType = f32, shape: tuple[int, ...] = (4, 16)):
        self.graph, self.dtype = Graph("spelled"), dtype
        self.x = self.graph.add_input("x", TensorType(dtype, shape))

    def op(self, op: Any, *operands: Value | float) -> Value:
        values = [v if isinstance(v, Value) else self.number(v) for v in operands]
        return self.graph.add(op, *values, loc="model.py:7")

    def number(self, number: float) -> Value:
        return self.graph.add_constant(np.full((1,), number, self.dtype.numpy))

    def __getattr__(self, name: str) -> Callable[..., Value]:
        kinds = {"add": Add, "sub": Sub, "mul": Mul, "div": Div, "pow": Pow, "max": Maximum, "min": Minimum}
        kinds |= {"erf": Erf, "tanh": Tanh, "sigmoid": Sigmoid, "exp": Exp, "log": Log, "log1p": Log1p, "neg": Neg}
        kinds |= {"abs": Abs, "relu": Relu, "hard_sigmoid": HardSigmoid, "reciprocal": Reciprocal}
        return lambda *operands: self.op(kinds[name](), *operands)


SPELLED: list[tuple[Any, Callable[[Writer, Value], Value]]] = [
    (Gelu(), lambda w, x: w.mul(w.mul(x, w.add(w.erf(w.div(x, math.sqrt(2))), 1)), 0.5)),
    (Gelu(), lambda w, x: w.mul(w.mul(x, 0.5), w.add(1, w.erf(w.mul(ROOT_HALF, x))))),
    (Gelu(), lambda w, x: w.mul(x, w.add(0.5, w.mul(w.erf(w.mul(x, ROOT_HALF)), 0.5)))),
    (Gelu(), lambda w, x: w.div(w.add(x, w.mul(x, w.erf(w.div(x, math.sqrt(2))))), 2)),
    (Gelu(), lambda w, x: w.mul(w.mul(x, 0.5), w.sub(1, w.erf(w.div(w.neg(x), math.sqrt(2)))))),  # Keras
    (
        Gelu(approximate=True),  # Hugging Face
        lambda w, x: w.mul(w.mul(0.5, x), w.add(1, w.tanh(w.mul(ROOT_2_PI, w.add(x, w.mul(0.044715, w.pow(x, 3))))))),
    ),
    (
        Gelu(approximate=True),  # Google
        lambda w, x: w.mul(
            x,
            w.mul(0.5, w.add(w.tanh(w.mul(w.mul(x, 0.79788456), w.add(w.mul(w.mul(x, 0.044715), x), 1))), 1)),
        ),
    ),
    (Silu(), lambda w, x: w.mul(w.sigmoid(x), x)),
    (Silu(), lambda w, x: w.div(x, w.add(w.exp(w.neg(x)), 1))),
    (Silu(), lambda w, x: w.mul(x, w.reciprocal(w.add(1, w.exp(w.mul(x, -1)))))),
    (Silu(), lambda w, x: w.mul(x, w.add(w.mul(w.tanh(w.mul(x, 0.5)), 0.5), 0.5))),
    (HardSwish(), lambda w, x: w.mul(x, w.hard_sigmoid(x))),
    (HardSwish(), lambda w, x: w.div(w.mul(x, w.op(Clamp(0, 6), w.add(x, 3))), 6)),
    (HardSwish(), lambda w, x: w.mul(x, w.mul(w.min(w.relu(w.add(3, x)), 6), 1 / 6))),
    (HardSwish(), lambda w, x: w.mul(w.op(Clamp(0, 1), w.add(w.mul(x, 1 / 6), 0.5)), x)),
    (HardSigmoid(), lambda w, x: w.max(w.min(w.add(w.div(x, 6), 0.5), 1), 0)),
    (HardSigmoid(), lambda w, x: w.div(w.min(w.max(0, w.sub(x, -3)), 6), 6)),
    (Sigmoid(), lambda w, x: w.div(1, w.add(1, w.exp(w.neg(x))))),
    (Sigmoid(), lambda w, x: w.div(w.exp(x), w.add(1, w.exp(x)))),
    (Softplus(), lambda w, x: w.log(w.add(1, w.exp(x)))),
    (Softplus(), lambda w, x: w.log1p(w.exp(x))),
    (Softplus(), lambda w, x: w.add(w.relu(x), w.log1p(w.exp(w.neg(w.abs(x)))))),
    (Relu(), lambda w, x: w.max(0, x)),
    (Clamp(0, 6), lambda w, x: w.min(w.max(x, 0), 6)),
    (Clamp(-1, 1), lambda w, x: w.max(w.op(Clamp(-2, 1), x), -1)),
]

OTHERS: list[Callable[[Writer, Value], Value]] = [
    lambda w, x: w.mul(w.mul(x, w.add(w.erf(w.div(x, 1.5)), 1)), 0.5),  # another width
    lambda w, x: w.mul(w.mul(x, w.add(w.erf(w.div(x, math.sqrt(2))), 1)), 0.4),
    lambda w, x: w.mul(x, w.sigmoid(w.mul(x, 1.702))),
    lambda w, x: w.mul(w.add(x, 1), w.sigmoid(x)),  # the gate is of something else
    lambda w, x: w.div(w.mul(x, w.op(Clamp(0, 6), w.add(x, 2))), 6),
    lambda w, x: w.div(1, w.add(2, w.exp(w.neg(x)))),
    lambda w, x: w.log(w.add(2, w.exp(x))),
    lambda w, x: w.max(x, w.mul(x, 0.1)),
    lambda w, x: w.add(w.tanh(w.mul(x, 0.5)), 0.5),
]


def run(w: Writer, y: Value) -> tuple[Graph, PassContext]:
    """What the pass makes of a graph, whose results stay the same."""
    w.graph.mark_output(y)
    x = np.linspace(-8, 8, 64).reshape(4, 16).astype(w.dtype.numpy)
    before = interpret(w.graph, [x], exact=True)[-1]
    context = PassContext()
    raise_activations(w.graph, context)
    verify(w.graph)
    tolerance = 2e-2 if w.dtype == f16 else 3e-7
    np.testing.assert_allclose(interpret(w.graph, [x], exact=True)[-1], before, rtol=tolerance, atol=tolerance)
    return w.graph, context


@pytest.mark.parametrize(("op", "write"), SPELLED)
def test_every_spelling_becomes_the_op(op: Any, write: Callable[[Writer, Value], Value]) -> None:
    w = Writer()
    graph, context = run(w, w.op(Cos(), write(w, w.op(Cos(), w.x))))
    assert [node.op for node in graph.nodes] == [Cos(), op, Cos()]
    assert graph.nodes[1].loc == "model.py:7"
    assert not graph.constants
    assert f"are one {op.name}" in [d.text for d in context.report][-1] or op in (Relu(), Softplus())


@pytest.mark.parametrize("write", OTHERS)
def test_what_only_looks_like_one_stays(write: Callable[[Writer, Value], Value]) -> None:
    w = Writer()
    y = write(w, w.x)
    before = [node.op for node in w.graph.nodes]
    graph, context = run(w, y)
    assert [node.op for node in graph.nodes] == before
    assert not list(context.report)


def test_mish_is_made_of_what_there_is() -> None:
    w = Writer()
    graph, _ = run(w, w.mul(w.x, w.tanh(w.log(w.add(w.exp(w.x), 1)))))
    assert [node.op for node in graph.nodes] == [Softplus(), Tanh(), Mul()]


def test_numbers_are_as_exact_as_their_dtype() -> None:
    w = Writer(f16)
    graph, _ = run(w, SPELLED[5][1](w, w.x))
    assert [node.op for node in graph.nodes] == [Gelu(approximate=True)]


def test_what_others_read_in_the_middle_stays() -> None:
    w = Writer()
    inner = w.erf(w.div(w.x, math.sqrt(2)))
    w.graph.mark_output(inner)
    y = w.mul(w.mul(w.x, w.add(inner, 1)), 0.5)
    graph, context = run(w, y)
    assert "gelu" not in graph.text()
    assert [d.text for d in context.report] == ["not raised to gelu: the result of erf is read elsewhere too"]


def test_a_part_that_others_read_is_raised_by_itself() -> None:
    w = Writer()
    gate = w.div(w.op(Clamp(0, 6), w.add(w.x, 3)), 6)
    graph, context = run(w, w.add(w.mul(w.x, gate), gate))
    assert [node.op for node in graph.nodes] == [HardSigmoid(), Mul(), Add()]
    assert [d.text for d in context.report] == [
        "3 nodes are one hard_sigmoid",
        "not raised to hard_swish: the result of hard_sigmoid is read elsewhere too",
    ]


def test_a_tensor_is_no_number_and_what_broadcasts_no_activation() -> None:
    w = Writer()
    row = w.graph.add_constant(np.linspace(0.4, 0.6, 16).astype(np.float32))
    graph, _ = run(w, w.mul(w.mul(w.x, w.add(w.erf(w.div(w.x, math.sqrt(2))), 1)), row))
    assert "gelu" not in graph.text()
    w = Writer(shape=(1, 16))
    wide = w.graph.add_constant(np.ones((4, 1), np.float32))
    w.graph.mark_output(w.add(w.mul(w.x, w.sigmoid(w.x)), wide))
    raise_activations(w.graph, PassContext())
    assert [node.op for node in w.graph.nodes] == [Silu(), Add()]


def test_integers_are_none_of_its_business() -> None:
    w = Writer(i32)
    w.graph.mark_output(w.max(w.x, 0))
    raise_activations(w.graph, PassContext())
    assert [node.op for node in w.graph.nodes] == [Maximum()]


def test_it_is_in_the_pipeline_and_leaves_what_a_rule_is_written_for() -> None:
    def model() -> Graph:
        w = Writer()
        w.graph.mark_output(w.mul(w.x, w.sigmoid(w.x)))
        return w.graph

    assert [node.op for node in optimize(model()).nodes[0].op.body.nodes] == [Silu()]
    jitrt.fusion_rule("mine", pattern=lambda g, x: g.mul(x, g.sigmoid(x)), rewrite=lambda g, x: g.tanh(x))
    try:
        context = PassContext()
        after = optimize(model(), context)
        assert [node.op for node in after.nodes[0].op.body.nodes] == [Tanh()]
        refusals = [d.text for d in context.report.of("raise_activations")]
        assert refusals == ["not raised to silu: rule mine is written for it"]
    finally:
        unregister("mine")
