"""What is settled in the whole network, with the GPU played by a function of the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from jitrt import compiler
from jitrt.codegen.target import target_of
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.ops import Conv, Relu, Softmax
from jitrt.judge import MeasuredJudge
from jitrt.kernels.base import Problem, templates
from jitrt.plan.schema import Plan, PlanFile
from jitrt.planner import Options
from jitrt.tune.candidates import candidates_of
from jitrt.tune.select import Choice
from jitrt.tune.tuner import Tuner
from jitrt.tune.worker import WorkerFailure

OPTIONS = Options("fp16", parallel=False)


class Played(Tuner):
    """First guesses as winners, the second and third as rivals, and a plan takes what `microseconds` says."""

    measures = True  # type: ignore[assignment]
    over = False  # type: ignore[assignment]

    def __init__(self, microseconds: Callable[[Plan], float], rivals: int = 2):
        super().__init__(target_of("sm_90"), mode="heuristic", cache=False)
        self.microseconds, self.count = microseconds, rivals
        self.asked: list[list[str]] = []
        self.heard: list[str] = []
        self.wrong: str | None = None

    def select(self, problems, **_):  # type: ignore[no-untyped-def]
        self.measures = False
        chosen = super().select(problems)
        self.measures = True
        return [self._timed(p, c, 10.0 - i) for i, (p, c) in enumerate(zip(problems, chosen, strict=True))]

    def _timed(self, problem, choice: Choice, microseconds: float) -> Choice:  # type: ignore[no-untyped-def]
        others = [c.tactic for c in candidates_of(problem, self.target, templates(), 8) if c.tactic != choice.tactic]
        near = tuple((tactic, microseconds + 0.1) for tactic in others[: self.count])
        return replace(choice, microseconds=microseconds, rivals=near)

    def contest(self, files: Sequence[PlanFile]) -> list[float]:
        self.asked.append(["+".join(layer.text for layer in file.plan.layers) for file in files])
        return [self.microseconds(file.plan) for file in files]

    def interrupt(self, text: str) -> None:
        self.heard.append(text)

    def verify(self, problem: Problem, choice: Choice) -> str | None:
        return self.wrong


def network() -> Graph:
    """Two siblings, 1x1, on the caller's input: one rule fits. Their results are read apart."""
    rng = np.random.default_rng(0)
    graph = Graph("siblings")
    x = graph.add_input("x", TensorType(f16, (1, 16, 8, 8)))
    for _ in range(2):
        w = graph.add_constant(rng.standard_normal((16, 16, 1, 1)).astype(np.float16))
        y = graph.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, w)
        graph.mark_output(graph.add(Softmax(1), graph.add(Relu(), y)))
    return graph


def built(tuner: Played, options: Options = OPTIONS) -> tuple[Plan, list[str]]:
    """The plan of `network`, and what its report says was tried in it."""
    judge = MeasuredJudge(tuner, options)
    optimize = partial(compiler.optimize_graph, network(), judge=judge, target=tuner.target)
    file = compiler.build_plan(optimize(options), tuner, options, optimize=optimize)
    decisions: list[dict[str, str]] = file.plan.notes["decisions"]  # type: ignore[assignment]
    return file.plan, [d["text"] for d in decisions if d["subject"] == "the network" or d["pass_name"] == "refine"]


def tactics(plan: Plan) -> list[str]:
    return [layer.tactic for layer in plan.layers]


def test_a_rival_that_is_faster_in_the_network_takes_the_place() -> None:
    with Played(lambda plan: float(len(plan.launches))) as tuner:
        before, _ = built(tuner)
    slow = tactics(before)[0]
    with Played(lambda plan: len(plan.launches) + (0.0 if tactics(plan)[0] != slow else 1.0)) as tuner:
        plan, told = built(tuner)
    assert tactics(plan)[0] != slow
    assert tactics(plan)[1:] == tactics(before)[1:]
    assert f"{tactics(plan)[0]} instead of {slow}: the network takes 3.0 us instead of 4.0" in told
    assert told[-1] == "2 of 2 problems tried with other tactics in the network, 1 changed: 3.0 us instead of 4.0"


def test_a_rival_that_is_not_right_does_not() -> None:
    with Played(lambda plan: float(len(plan.launches))) as tuner:
        before, _ = built(tuner)
    slow = tactics(before)[0]
    with Played(lambda plan: len(plan.launches) + (0.0 if tactics(plan)[0] != slow else 1.0)) as tuner:
        tuner.wrong = "wrong numbers at 3 of 64 elements"
        plan, told = built(tuner)
    assert tactics(plan) == tactics(before)
    assert any("faster in the network, but not right: wrong numbers at 3 of 64" in text for text in told)
    assert told[-1].endswith("0 changed: 4.0 us instead of 4.0")


def test_a_rival_that_is_faster_only_once_does_not() -> None:
    readings: dict[tuple[str, ...], int] = {}

    def lucky(plan: Plan) -> float:
        """The first reading of every plan but the first is too good."""
        key = tuple(tactics(plan))
        readings[key] = readings.get(key, 0) + 1
        return len(plan.launches) - (0.5 if len(readings) > 1 and readings[key] == 1 else 0.0)

    with Played(lambda plan: float(len(plan.launches))) as tuner:
        before, _ = built(tuner)
    with Played(lucky) as tuner:
        plan, told = built(tuner, replace(OPTIONS, without=("fuse_horizontal",)))
    assert len(plan.layers) == 4
    assert "0 changed" in told[-1]
    assert before.notes["tactics"] == {"measured": 0, "table": 0, "of": 3}


@pytest.mark.parametrize("gain", [1.0, 0.001], ids=["faster without", "within the noise"])
def test_a_rule_that_the_network_is_faster_without_is_left_out(gain: float) -> None:
    """The judge saw two launches become one; the network is slower for it."""

    def microseconds(plan: Plan) -> float:
        if len(plan.layers) <= 2:  # what the judge sees
            return float(len(plan.launches))
        return 10.0 - gain * (len(plan.layers) == 4)

    with Played(microseconds, rivals=0) as tuner:
        plan, told = built(tuner)
    (found,) = plan.notes["gains"]  # type: ignore[misc]
    assert list(plan.notes["seconds"]) == ["fusions", "kernels", "network"]  # type: ignore[call-overload]
    assert found == {"name": "fuse_horizontal", "with_it": 10.0, "without": 10.0 - gain, "kept": gain < 1.0}
    if gain == 1.0:
        assert len(plan.layers) == 4
        assert told == ["left out: 9.0 us without it, 10.0 us with it"]
    else:
        assert len(plan.layers) == 3
        assert told == ["kept: 10.0 us without it, 10.0 us with it"]


def test_what_cannot_be_timed_stays_and_the_report_says_so() -> None:
    def dies(plan: Plan) -> float:
        if len(plan.layers) > 2:
            raise WorkerFailure("the GPU worker died of SIGKILL")
        return float(len(plan.launches))

    with Played(dies) as tuner:
        plan, told = built(tuner)
    assert len(plan.layers) == 3
    assert "the network without it could not be timed: the GPU worker died of SIGKILL" in told
    assert sum("could not be timed in the network: the GPU worker died of SIGKILL" in text for text in told) == 2


def test_when_the_time_is_over_nothing_more_is_tried() -> None:
    with Played(lambda plan: float(len(plan.launches))) as tuner:
        tuner.over = True  # type: ignore[misc]
        _, told = built(tuner)
    assert told[-1] == "0 of 2 problems tried with other tactics in the network, 0 changed: the time was over"
    assert set(told[:-1]) <= {"the network was not timed without it: the time was over"}
    assert not any("softmax" in way for ways in tuner.asked for way in ways)


def test_ctrl_c_keeps_the_plan_as_it_stands() -> None:
    def interrupted(plan: Plan) -> float:
        if len(plan.layers) > 2:
            raise KeyboardInterrupt
        return float(len(plan.launches))

    with Played(interrupted) as tuner:
        plan, told = built(tuner)
    assert len(plan.layers) == 3
    assert told == []
    assert tuner.heard == ["interrupted: the plan stays as it stands"]


def test_ctrl_c_keeps_what_was_found_before() -> None:
    with Played(lambda plan: float(len(plan.launches))) as tuner:
        before, _ = built(tuner)
    slow = tactics(before)

    def second_interrupts(plan: Plan) -> float:
        """The softmaxes, which take longest, have a faster rival; at the convolution's somebody presses Ctrl-C."""
        if len(plan.layers) > 2 and tactics(plan)[0] != slow[0]:
            raise KeyboardInterrupt
        return len(plan.launches) + (1.0 if tactics(plan)[1:] == slow[1:] else 0.0)

    with Played(second_interrupts) as tuner:
        plan, _ = built(tuner)
    assert tactics(plan)[0] == slow[0] and tactics(plan)[1:] != slow[1:]
    assert tuner.heard == ["interrupted: the plan stays as it stands"]
