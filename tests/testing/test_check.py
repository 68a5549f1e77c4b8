"""The harness catches every way a kernel can be wrong: each template here breaks one rule."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import triton
import triton.language as tl

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import KernelError
from jitrt.graph import Graph, TensorType, bf16, f16, f32, i32, interpret
from jitrt.graph.ops import Add, Relu
from jitrt.kernels.base import Config, KernelCall, Lowered, Operand, Problem, Result, Tactic, Template, Workspace, Zeros
from jitrt.kernels.pointwise import Pointwise
from jitrt.testing import check_problem, compiles, interpreter, make_problem, random_operands, run_interpreted


@triton.jit
def relu_rows(
    y,
    x,
    partials,
    counters,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
    FAULT: tl.constexpr,
):
    row = tl.program_id(0)
    k = tl.arange(0, 16)
    mask = k < COLUMNS
    if FAULT == "crosses the gap":
        mask = k < STRIDE
    if FAULT == "misses an element":
        mask = mask & (k + row > 0)
    if DEPENDENT and FAULT != "does not wait":
        tl.extra.cuda.gdc_wait()
    value = tl.load(x + row * COLUMNS + k, mask=k < COLUMNS, other=0.0)
    if FAULT == "loses NaN":
        value = tl.where(value > 0, value, 0.0)
    else:
        value = tl.maximum(value, 0.0, tl.PropagateNan.ALL)
    if FAULT == "is not exact":
        value = value * 1.0001
    if FAULT == "leaves a counter":
        tl.atomic_add(counters, 1)
    if FAULT == "reads its workspace first":
        value += tl.load(partials)
    tl.store(y + row * STRIDE + k, value, mask=mask)


@triton.jit
def greedy(y, x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, 256)[None, :]
    tile = tl.load(x + (i * 256 + j) % 64)
    product = tl.dot(tile, tl.trans(tile))
    k = tl.arange(0, BLOCK)[None, :]
    tl.store(y + (i * BLOCK + k) % 64, product)


class Rows(Template):
    """relu over (rows, columns), with a fault named in the configuration."""

    name = "rows"

    def accepts(self, body: Graph) -> str | None:
        return None if isinstance(body.nodes[0].op, Relu) else "only relu"

    def candidates(self, problem: Problem, target: Target) -> Sequence[Config]:
        return [{"FAULT": "none"}]

    def lower(self, problem: Problem, config: Config, target: Target) -> Lowered:
        if config["FAULT"] == "is greedy":
            call = KernelCall(greedy, {"y": Result(), "x": Operand(0)}, {"BLOCK": 64}, (1, 1, 1), num_warps=1)
            return Lowered((call,))
        if config["FAULT"] == "dies":
            os._exit(7)
        if config["FAULT"] == "raises":
            raise ValueError("no launch")
        rows, columns = problem.output.type.shape
        constexprs = {"ROWS": rows, "COLUMNS": columns, "STRIDE": problem.output.type.strides[0], "DEPENDENT": True}
        arguments = {"y": Result(), "x": Operand(0), "partials": Workspace(), "counters": Zeros()}
        return Lowered((KernelCall(relu_rows, arguments, constexprs | config, (rows, 1, 1)),), 64, 64)


def relu_problem(dtype=f32) -> Problem:
    g = Graph()
    g.mark_output(g.add(Relu(), g.add_input("x", TensorType(dtype, (5, 7))), name="y"))
    return make_problem(g, strides={"y": (12, 1)})


@pytest.mark.parametrize("dtype", [f32, f16, bf16])
def test_a_right_kernel_passes(dtype) -> None:
    check_problem(relu_problem(dtype), Rows())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crosses the gap", "bytes outside its output, the first at element 7"),
        ("misses an element", r"1 output elements were not written .* the first is \[0, 0\]"),
        ("loses NaN", "on extreme operands: a number where the reference is NaN"),
        ("is not exact", "wrong numbers"),
        ("leaves a counter", "a counter that is not zero"),
        ("reads its workspace first", "35 output elements were not written or hold poison"),
        ("does not wait", "touches memory before it waits for its predecessor"),
        ("dies", "exit status 7"),
        ("raises", "ValueError: no launch"),
    ],
)
def test_a_wrong_kernel_is_caught(fault: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        check_problem(relu_problem(), Rows(), [{"FAULT": fault}])


def test_a_refused_problem_is_an_error() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (5, 7)))
    g.mark_output(g.add(Add(), x, x))
    with pytest.raises(KernelError, match="rows refuses the problem: only relu"):
        check_problem(make_problem(g), Rows())


def test_a_kernel_that_spills_is_caught() -> None:
    with pytest.raises(KernelError, match=r"spills [0-9]+ bytes a thread"):
        compiles(relu_problem(), Rows(), {"FAULT": "is greedy"}, targets=(90,))


def test_a_kernel_that_wants_too_much_shared_memory_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, 90, replace(TARGETS[90], shared=1000))
    with pytest.raises(KernelError, match="bytes of shared memory, there are 1000"):
        compiles(relu_problem(), Rows(), {"FAULT": "is greedy"}, targets=(90,), spills=1 << 20)


def test_run_interpreted_returns_the_output() -> None:
    g = Graph()
    x, y = (g.add_input(n, TensorType(i32, (4, 3))) for n in "xy")
    g.mark_output(g.add(Add(), x, y))
    problem = make_problem(g, strides={"x": (1, 4)})
    arrays = random_operands(problem)
    config = Pointwise().candidates(problem, TARGETS[90])[0]
    got = run_interpreted(problem, Tactic.make(Pointwise(), config), arrays)
    np.testing.assert_array_equal(got, interpret(g, arrays)[0])


def test_an_interrupted_run_is_not_the_answer_to_the_next() -> None:
    """After Ctrl-C, as in a notebook: what the interpreter would have answered is not taken for something else's."""
    g = Graph()
    g.mark_output(g.add(Relu(), g.add_input("x", TensorType(f32, (2, 3)))))
    problem = make_problem(g)
    tactic = Tactic.make(Pointwise(), Pointwise().candidates(problem, TARGETS[90])[0])
    ones, twos = (np.full((2, 3), n, np.float32) for n in (1, 2))
    run_interpreted(problem, tactic, [ones])
    process = interpreter._child()._process
    assert process is not None and os.getpgid(process.pid) != os.getpgid(0)
    process.send_signal(signal.SIGSTOP)  # so that it answers late
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_interpreted(problem, tactic, [ones])
    process.send_signal(signal.SIGCONT)
    np.testing.assert_array_equal(run_interpreted(problem, tactic, [twos]), twos)


def test_operands_of_stride_zero_repeat_one_element() -> None:
    g = Graph()
    g.mark_output(g.add(Relu(), g.add_input("x", TensorType(f32, (3, 4)))))
    problem = make_problem(g, strides={"x": (0, 1)})
    (x,) = random_operands(problem)
    assert (x == x[0]).all()
    check_problem(problem, Pointwise())
    tactic = Tactic.make(Pointwise(), Pointwise().candidates(problem, TARGETS[90])[0])
    with pytest.raises(KernelError, match="stride 0 hold different values"):
        run_interpreted(problem, tactic, [np.eye(3, 4)])
