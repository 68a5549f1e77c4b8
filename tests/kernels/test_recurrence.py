"""Recurrent layers: the plain kernel in the interpreter, both in the compiler."""

from __future__ import annotations

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, TensorType, f16, f32
from jitrt.graph.ops import Recurrence, Relu
from jitrt.kernels.base import Config, Problem, templates
from jitrt.testing import check_problem, compiles, make_problem

OPS = {
    "lstm": Recurrence("lstm"),
    "lstm both, c": Recurrence("lstm", (False, True), cell=True),
    "gru back": Recurrence("gru", (True,)),
    "gru both": Recurrence("gru", (False, True)),
    "tanh": Recurrence("tanh"),
    "relu both": Recurrence("relu", (False, True)),
}


def problem(op: Recurrence, steps=3, batch=5, hidden=21, dtype=f16, turned=False, **given) -> Problem:
    """A layer; with `turned` batch first in memory."""
    body = Graph("region")
    d = len(op.reverse)
    shapes = {
        "gates": (steps, batch, d * op.gates * hidden),
        "w": (d, op.gates * hidden, hidden),
        "h0": (d, batch, hidden),
    }
    if op.kind == "lstm":
        shapes["extra"] = (d, batch, hidden)
    elif op.kind == "gru":
        shapes["extra"] = (d, hidden)
    inputs = [body.add_input(name, TensorType(dtype, shape)) for name, shape in shapes.items()]
    out = body.add(op, *inputs, name="y")
    body.mark_output(out)
    strides = {}
    if turned:
        for name, shape in (("gates", shapes["gates"]), ("y", out.type.shape)):
            strides[name] = (shape[2], shape[0] * shape[2], 1)
    return make_problem(body, weights=["w"], strides=strides, **given)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_numbers(op, turned):
    """A launch a step with several programs, and all steps in one."""
    template, posed = templates()["recurrence"], problem(op, turned=turned)
    small = {"BLOCK_B": 16, "BLOCK_U": 16, "BLOCK_K": 16, "num_warps": 4}
    check_problem(posed, template, [{"STEPS": 1, **small}, {"STEPS": 3, **small, "BLOCK_U": 32}])
