"""The judge that measures: what it tunes, what it times, and how it decides, with the GPU played by a function."""

from __future__ import annotations

import numpy as np
import pytest

from jitrt.codegen.target import target_of
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.ops import Add, Conv, Region, Relu, Softmax
from jitrt.judge import MeasuredJudge
from jitrt.passes import PassContext, optimize
from jitrt.planner import Options
from jitrt.tune.tuner import Tuner
from jitrt.tune.worker import WorkerFailure


class FakeGpuTuner(Tuner):
    """Chooses by the cost model; `microseconds(plan)` is what a plan takes."""

    def __init__(self, microseconds):
        super().__init__(target_of(90), mode="heuristic")
        self.microseconds = microseconds
        self.asked = []

    def contest(self, files):
        self.asked.append([[layer.text for layer in file.plan.layers] for file in files])
        return [self.microseconds(file.plan) for file in files]


def three_modules() -> Graph:
    """The same two siblings three times, one after the other. The first two read the caller's layout, the others NHWC:
    two distinct problems."""
    rng = np.random.default_rng(0)
    graph = Graph("siblings")
    value = graph.add_input("x", TensorType(f16, (1, 16, 8, 8)))
    for _ in range(3):
        branches = []
        for _ in range(2):
            w = graph.add_constant(rng.standard_normal((16, 16, 1, 1)).astype(np.float16))
            y = graph.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), value, w)
            branches.append(graph.add(Softmax(1), graph.add(Relu(), y)))
        value = graph.add(Add(), *branches)
    graph.mark_output(value)
    return graph


def optimized(microseconds):
    with FakeGpuTuner(microseconds) as tuner:
        context = PassContext("fp16", judge=MeasuredJudge(tuner, Options("fp16")))
        graph = optimize(three_modules(), context)
    convs = [n for n in graph.nodes if isinstance(n.op, Region) and n.op.body.nodes[0].op.name == "conv"]
    return len(convs), tuner.asked, [d.text for d in context.report.of("fuse_horizontal")]


def test_the_faster_way_is_taken_and_equal_places_are_timed_once():
    convs, asked, told = optimized(lambda plan: 3.0 * len(plan.launches))
    assert convs == 3
    assert asked == [[["conv+relu"] * 2, ["conv+relu"]]] * 2
    assert told == ["2 sibling convolutions in one wide kernel: 3.0 us instead of 6.0"] * 3


@pytest.mark.parametrize("one_kernel", [6.1, 5.99], ids=["slower", "within the noise"])
def test_a_rewrite_that_does_not_pay_is_refused_with_both_times(one_kernel):
    convs, _, told = optimized(lambda plan: one_kernel if len(plan.launches) == 1 else 6.0)
    assert convs == 6
    assert told == [f"not done: 2 sibling convolutions in one wide kernel: {one_kernel:.1f} us instead of 6.0"] * 3


def test_a_contest_that_fails_changes_nothing_and_says_so():
    def dies(plan):
        raise WorkerFailure("the GPU worker died of SIGKILL")

    convs, _, told = optimized(dies)
    assert convs == 6
    assert "could not be timed: the GPU worker died of SIGKILL" in told[0]
