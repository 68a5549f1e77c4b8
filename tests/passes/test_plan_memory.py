from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitrt.graph import Graph, parse
from jitrt.passes.plan_memory import ALIGNMENT, Block, MemoryPlan, arrange, lifetimes, peak, plan_memory

_CHAIN = """
    graph g(%x: f32[1000]{1}) {
      const %w: f32[1000]{1} = #w
      %a = relu(%x) : f32[1000]{1}
      %b = add(%a, %w) : f32[1000]{1}
      %c = neg(%b) : f32[1000]{1}
      %out = relu(%c) : f32[1000]{1}
      return %out
    }"""


def _chain() -> Graph:
    import numpy as np

    return parse(_CHAIN, {"w": np.ones(1000, np.float32)})


def test_a_chain_needs_two_blocks():
    plan = plan_memory(_chain())
    assert set(plan.offsets) == {"a", "b", "c"}  # inputs, outputs and constants lie elsewhere
    assert plan.offsets["a"] == plan.offsets["c"] != plan.offsets["b"]
    assert plan.arena_bytes == plan.lower_bound == 2 * 4096
    assert plan.naive_bytes == 3 * 4096


def test_workspace_lives_while_its_region_runs():
    plan = plan_memory(_chain(), {"b": 5000, "c": 0})
    assert set(plan.workspace) == {"b"}
    assert plan.arena_bytes == 2 * 4096 + 5120
    places = {(block.first, block.name): start for block, start in plan.placed}
    assert len({*places.values()}) == len(places) - 1  # %c takes the place of %a


_BRANCHES = """
    graph g(%x: f32[1000]{1}) {
      %a = exp(%x) : f32[1000]{1}
      %b = neg(%a) : f32[1000]{1}
      %c = relu(%b) : f32[1000]{1}
      %d = log(%x) : f32[1000]{1}
      %e = neg(%d) : f32[1000]{1}
      %f = relu(%e) : f32[1000]{1}
      %out = add(%c, %f) : f32[1000]{1}
      return %out
    }"""


def test_branches_that_run_side_by_side_share_no_memory(monkeypatch: pytest.MonkeyPatch):
    graph = parse(_BRANCHES)

    def places(plan: MemoryPlan, names: str, region: str) -> set[int]:
        return {plan.workspace[region], *(plan.offsets[name] for name in names)}

    sharing = plan_memory(graph, {"b": 4096, "e": 4096})
    assert places(sharing, "abc", "b") & places(sharing, "def", "e")
    monkeypatch.setattr(sys.modules["jitrt.passes.plan_memory"], "_PRICE", 10)
    apart = plan_memory(graph, {"b": 4096, "e": 4096}, parallel=True)
    assert not places(apart, "abc", "b") & places(apart, "def", "e")
    assert apart.offsets["a"] == apart.offsets["c"]  # within a branch nothing has changed
    assert apart.lower_bound == sharing.lower_bound


def test_branches_share_memory_where_it_would_cost_too_much():
    graph = parse(_BRANCHES)
    assert plan_memory(graph, parallel=True) == plan_memory(graph)


def test_views_keep_their_root_alive_and_slices_share_it():
    graph = parse(
        """
        graph g(%x: f32[64]{1}) {
          %a = relu(%x) : f32[64]{1+0@%both}
          %b = neg(%x) : f32[64]{1+64@%both}
          %both = concat(%a, %b) <axis=0> : f32[128]{1}
          %view = reshape(%both) <shape=(2, 64)> : f32[2,64]{64,1+0@%both}
          %c = exp(%x) : f32[64]{1}
          %out = softmax(%view) <axis=1> : f32[2,64]{64,1}
          %end = softmax(%c) <axis=0> : f32[64]{1}
          return %out, %end
        }"""
    )
    blocks = {block.name: block for block in lifetimes(graph.nodes, graph)}
    assert blocks["both"] == Block("both", 512, 0, 3)
    assert blocks["c"] == Block("c", 256, 2, 4)
    assert set(plan_memory(graph).offsets) == {"both", "c"}


def test_nothing_to_plan():
    graph = parse("graph g(%x: f32[2]{1}) {\n%y = relu(%x) : f32[2]{1}\nreturn %y\n}")
    plan = plan_memory(graph)
    assert (plan.arena_bytes, plan.naive_bytes, plan.lower_bound, plan.placed) == (0, 0, 0, ())


def test_an_unknown_region_is_an_error():
    with pytest.raises(KeyError):
        plan_memory(_chain(), {"nobody": 1})


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12), st.integers(0, 5)), max_size=25))
def test_any_lifetimes_are_planned_without_overlap(spans: list[tuple[int, int, int]]) -> None:
    blocks = [Block(f"b{i}", size * ALIGNMENT, first, first + length) for i, (size, first, length) in enumerate(spans)]
    places = arrange(blocks)
    for block in blocks:
        for other in blocks:
            if block is not other and block.overlaps(other):
                a, b = places[block], places[other]
                assert a + block.nbytes <= b or b + other.nbytes <= a
    extent = max((places[b] + b.nbytes for b in blocks), default=0)
    assert peak(blocks) <= extent <= sum(b.nbytes for b in blocks)
