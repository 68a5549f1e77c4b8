"""The judge that measures: what it tunes, what it times, and how it decides, with the GPU played by a function."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from jitrt.codegen.target import target_of
from jitrt.errors import TuningError
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.ops import Add, Conv, Region, Relu, Softmax
from jitrt.judge import MeasuredJudge
from jitrt.passes import PassContext, optimize
from jitrt.passes.base import fewer_kernels
from jitrt.passes.proposal import Match
from jitrt.planner import Options, problems_of
from jitrt.tune import tuner as tuner_module
from jitrt.tune.budget import Clock
from jitrt.tune.progress import Event
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


def optimized(microseconds, options=Options("fp16")):  # noqa: B008
    with FakeGpuTuner(microseconds) as tuner:
        context = PassContext("fp16", judge=MeasuredJudge(tuner, options))
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


@pytest.mark.parametrize(("one_kernel", "convs"), [(5.5, 6), (5.3, 3)])
def test_where_a_rule_has_its_doubts_more_must_be_gained(one_kernel, convs, monkeypatch):
    monkeypatch.setattr("jitrt.passes.fuse_horizontal.Match", partial(Match, doubt="it may lose"))
    made, _, _ = optimized(lambda plan: one_kernel if len(plan.launches) == 1 else 6.0)
    assert made == convs


def test_a_contest_that_fails_changes_nothing_and_says_so():
    def dies(plan):
        raise WorkerFailure("the GPU worker died of SIGKILL")

    convs, _, told = optimized(dies)
    assert convs == 6
    assert "could not be timed: the GPU worker died of SIGKILL" in told[0]


def test_a_kernel_that_is_wrong_costs_its_proposal_and_not_the_build():
    proposals = proposals_of_widths([8, 16, 24])
    (wrong,) = problems_of(proposals[1].after)

    class Strict(FakeGpuTuner):
        def attempt(self, problems, others):
            if wrong.key in [problem.key for problem in problems]:
                raise TuningError("no candidate survives for this region")
            return super().attempt(problems, others)

    with Strict(lambda plan: 3.0 * len(plan.launches)) as tuner:
        verdicts = MeasuredJudge(tuner, Options("fp16"))(proposals)
    assert [verdict.accepted for verdict in verdicts] == [True, False, True]
    assert verdicts[1].text == "no kernel of it compiles and is right"


def test_a_workspace_above_the_limit_costs_its_proposal_and_not_the_build():
    convs, asked, told = optimized(lambda plan: 3.0 * len(plan.launches), Options("fp16", workspace_limit=-1))
    assert convs == 6 and not asked
    assert "above workspace_limit=-1" in told[0]


def proposals_of_widths(widths):
    """Two siblings that read one tensor, for every width."""
    made = []
    for width in widths:
        rng = np.random.default_rng(0)
        graph = Graph("siblings")
        x = graph.add_input("x", TensorType(f16, (1, width, 8, 8)))
        for _ in range(2):
            w = graph.add_constant(rng.standard_normal((16, width, 1, 1)).astype(np.float16))
            y = graph.add(Relu(), graph.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, w))
            graph.mark_output(graph.add(Softmax(1), y))
        optimize(graph, PassContext("fp16", judge=lambda asked: made.extend(asked) or fewer_kernels(asked)))
    return [proposal for proposal in made if proposal.rule == "fuse_horizontal"]


def test_of_many_that_differ_in_sizes_a_dozen_are_measured():
    proposals = proposals_of_widths(range(8, 32))
    faster_from = 20  # input channels

    def microseconds(plan):
        merged = len(plan.launches) == 1
        return 5.0 if merged == (plan.inputs[0].shape[1] >= faster_from) else 9.0

    with FakeGpuTuner(microseconds) as tuner:
        verdicts = MeasuredJudge(tuner, Options("fp16"))(proposals)
    assert len(tuner.asked) == 12
    assert [verdict.accepted for verdict in verdicts] == [width >= faster_from for width in range(8, 32)]
    assert sum(verdict.text.startswith("a similar place was measured: ") for verdict in verdicts) == 12
    assert not verdicts[0].text.startswith("a similar") and not verdicts[-1].text.startswith("a similar")


def asked(monkeypatch, *, mode, elapsed=0.0):
    """(seconds, patience) of each selection, and the tuner that makes them."""
    now, modes = [elapsed], []

    class Slow(Clock):
        def __init__(self, seconds, began=None):
            super().__init__(seconds, lambda: now[0], began=0.0)

    monkeypatch.setattr(tuner_module, "Clock", Slow)
    monkeypatch.setattr(tuner_module, "attempt", lambda *_, mode, patience, **__: modes.append((mode, patience)) or [])
    monkeypatch.setattr(Tuner, "measures", True)
    return Tuner(target_of(90), mode=mode), modes, now


def test_a_judge_takes_no_more_of_the_time_than_its_problems_are_of_all(monkeypatch):
    problems = [problem for p in proposals_of_widths([16, 64]) for problem in problems_of(p.before)]
    tuner, modes, now = asked(monkeypatch, mode="100s")
    with tuner:
        tuner.attempt(problems[:1], problems[1:])
        tuner.attempt(problems[:1], problems * 1000)
        tuner.attempt(problems, [])
        now[0] = 44.0
        tuner.attempt(problems, [])
    assert 20 < modes[0][0] < 40
    assert modes[1] == (2.0, None)
    assert modes[2][0] == pytest.approx(0.4 * 90)  # a tenth is for what is done when the time is over
    assert modes[3][0] == pytest.approx(2 / 3), "half of the time at most is for fusions, patience included"


def test_when_half_of_the_time_is_over_fewer_kernels_win():
    proposals = proposals_of_widths([16, 64])

    class Late(FakeGpuTuner):
        judges = False

    with Late(lambda plan: 9.0) as tuner:
        verdicts = MeasuredJudge(tuner, Options("fp16"))(proposals)
    assert tuner.asked == []
    assert [verdict.text for verdict in verdicts] == ["2 kernels become 1 (not measured): the time was over"] * 2
    assert all(verdict.accepted for verdict in verdicts)


@pytest.mark.parametrize("cut", ["time", "Ctrl-C"])
def test_what_costs_most_is_judged_before_the_time_is_over(cut):
    """The time, or somebody's patience, lasts for one contest."""
    proposals = proposals_of_widths([16, 256, 64])

    class Short(FakeGpuTuner):
        judges = property(lambda self: not self.interrupted and (cut != "time" or not self.asked))

        def contest(self, files):
            if cut == "Ctrl-C" and self.asked:
                raise KeyboardInterrupt
            return super().contest(files)

    with Short(lambda plan: 3.0 * len(plan.launches)) as tuner:
        verdicts = MeasuredJudge(tuner, Options("fp16"))(proposals)
        assert tuner.interrupted == (cut == "Ctrl-C")
    late = "2 kernels become 1 (not measured): the time was over"
    assert [verdict.text for verdict in verdicts] == [late, "3.0 us instead of 6.0", late]


def test_a_kernel_that_had_no_turn_leaves_its_proposal_to_the_number_of_kernels():
    proposals = proposals_of_widths([16, 64])
    (slow,) = problems_of(proposals[0].after)

    class Short(FakeGpuTuner):
        def attempt(self, problems, others):
            chosen = super().attempt(problems, others)
            return [None if p.key == slow.key else c for p, c in zip(problems, chosen, strict=True)]

    with Short(lambda plan: 3.0 * len(plan.launches)) as tuner:
        verdicts = MeasuredJudge(tuner, Options("fp16"))(proposals)
    late = "2 kernels become 1 (not measured): the time was over"
    assert [verdict.text for verdict in verdicts] == [late, "3.0 us instead of 6.0"]


def test_the_last_selection_has_what_is_left_and_ctrl_c_is_meant_for_all_of_them(monkeypatch):
    tuner, modes, now = asked(monkeypatch, mode="100s")
    with tuner:
        tuner.select([], share=0.75)
        assert modes[-1][0] == pytest.approx(67.5)
        tuner._measurer, now[0] = object(), 50.0
        tuner.select([], share=0.75)
        assert modes[-1] == (pytest.approx(30), pytest.approx(15)), "all that is left, for what has no tactic"
        now[0] = 95.0
        tuner.select([], share=0.75)
        assert modes[-1] == (2.0, 15.0), "rather late than not verified"
        tuner._hear(Event("note", "interrupted: keeps what was measured", 0, 0, 0.0, None))
        now[0] = 96.5
        tuner.select([])
        assert modes[-1] == (pytest.approx(1e-3), pytest.approx(0.5)), "two seconds after Ctrl-C, and not two for each"
        with pytest.raises(KeyboardInterrupt):
            tuner._hear(Event("note", "interrupted: once more", 0, 0, 0.0, None))
        tuner._measurer = None
