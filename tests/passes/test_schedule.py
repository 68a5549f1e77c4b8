from __future__ import annotations

from jitrt.graph import parse
from jitrt.passes import optimize, plan_memory
from jitrt.passes.pipeline import PIPELINE
from jitrt.passes.plan_memory import lifetimes, peak
from jitrt.passes.schedule import schedule

# Two long branches: finishing one before the other is begun keeps one large value alive instead of two.
_BRANCHES = """
    graph g(%x: f32[1,64]) {
      %a0 = expand(%x) <shape=(64, 64)> : f32[64,64]
      %a = softmax(%a0) <axis=0> : f32[64,64]
      %b = softmax(%a0) <axis=1> : f32[64,64]
      %c = reduce_sum(%a) <axes=(1,), keepdims=False> : f32[64]
      %d = reduce_sum(%b) <axes=(1,), keepdims=False> : f32[64]
      %e = maximum(%c, %d) : f32[64]
      return %e
    }"""


def _unscheduled():
    return optimize(parse(_BRANCHES), passes=PIPELINE[:-1])


def test_a_branch_is_finished_before_the_next_is_begun(apply):
    before = _unscheduled()
    outcome = apply(schedule, before)
    large, small = 64 * 64 * 4, 256
    assert peak(lifetimes(before.nodes, before)) == 2 * large + small
    assert peak(lifetimes(outcome.graph.nodes, outcome.graph)) == large + small
    regions = [node.op.body.nodes[0].op.name for node in outcome.graph.nodes if node.op.name == "region"]
    assert regions == ["softmax", "reduce_sum", "softmax", "reduce_sum"]
    assert outcome.done[0].startswith("order changed: ")
    assert plan_memory(outcome.graph).arena_bytes < plan_memory(before).arena_bytes


def test_an_order_that_is_no_worse_stays(apply):
    outcome = apply(schedule, _unscheduled())
    again = apply(schedule, outcome.graph)
    assert again.graph == outcome.graph
    assert len(again.report) == 0


def test_an_empty_graph(apply):
    assert apply(schedule, "graph g(%x: f32[2]{1}) {\nreturn\n}").graph.nodes == []
