from __future__ import annotations

from dataclasses import replace

import pytest

from jitrt.graph import Graph, Layout, TensorType, Value, f32, parse
from jitrt.graph.ops import Neg
from jitrt.passes.in_place import InPlace, find_in_place
from jitrt.passes.plan_memory import ALIGNMENT, lifetimes, plan_memory

_CHAIN = """
    graph g(%x: f32[64]{1}) {
      %a = exp(%x) : f32[64]{1}
      %b = neg(%a) : f32[64]{1}
      %c = neg(%b) : f32[64]{1}
      %out = relu(%c) : f32[64]{1}
      return %out
    }"""
CHAIN_OFFERS = {"a": {"x": None}, "b": {"a": None}, "c": {"b": None}, "out": {"c": None}}


def found(graph: Graph, offers: dict[str, dict[str, str | None]], **waits: object) -> InPlace:
    sizes = {block.name: block.nbytes for block in lifetimes(graph.nodes, graph)}
    return find_in_place(graph, sizes, offers, **waits)  # type: ignore[arg-type]


def test_a_chain_needs_one_place():
    graph = parse(_CHAIN)
    chain = found(graph, CHAIN_OFFERS)
    assert chain.over == {"b": "a", "c": "b"}
    assert [chain.place_of(name) for name in "abc"] == ["a", "a", "a"]
    assert chain.refused == {
        "a": "it lies outside the arena: an input, output or constant of the graph",
        "out": "the result is an output of the graph",
    }
    plan = plan_memory(graph, in_place=CHAIN_OFFERS)
    assert (plan.arena_bytes, plan.lower_bound, plan.naive_bytes) == (ALIGNMENT, ALIGNMENT, 3 * ALIGNMENT)
    assert plan_memory(graph).arena_bytes == 2 * ALIGNMENT
    assert [block.name for block, _ in plan.placed] == ["a", "b", "c"]


def test_a_chain_of_branches_too():
    assert plan_memory(parse(_CHAIN), in_place=CHAIN_OFFERS, parallel=True).in_place.over == {"b": "a", "c": "b"}


_TWO = """
    graph g(%x: f32[64]{1}, %y: f32[64]{1}) {
      %a = exp(%x) : f32[64]{1}
      %b = exp(%y) : f32[64]{1}
      %sum = add(%a, %b) : f32[64]{1}
      %out = relu(%sum) : f32[64]{1}
      %late = neg(%READ) : f32[64]{1}
      return %out, %late
    }"""


@pytest.mark.parametrize(
    ("read", "place"), [("a", "b"), ("b", "a"), ("sum", "a")], ids=["first lives on", "second lives on", "both die"]
)
def test_any_operand_that_dies_will_do(read: str, place: str):
    graph = parse(_TWO.replace("READ", read))
    assert found(graph, {"sum": {"a": None, "b": None}}).over == {"sum": place}


def test_what_is_read_later_stays():
    graph = parse(_TWO.replace("READ", "a"))
    assert found(graph, {"sum": {"a": None}}).refused == {"sum": "it is read later"}


def test_the_kernel_has_the_first_word():
    graph = parse(_TWO.replace("READ", "sum"))
    assert found(graph, {"sum": {"a": "its neighbours read it", "b": None}}) == InPlace({"sum": "b"})
    assert found(graph, {"sum": {"a": "its neighbours read it"}}).refused == {"sum": "its neighbours read it"}
    assert found(graph, {}) == InPlace()


_BESIDE = """
    graph g(%x: f32[64]{1}) {
      %a = exp(%x) : f32[64]{1}
      %b = softmax(%a) <axis=0> : f32[64]{1}
      %c = neg(%a) : f32[64]{1}
      %out = add(%b, %c) : f32[64]{1}
      return %out
    }"""


def test_what_a_branch_beside_reads_stays_if_branches_run_side_by_side():
    """In the order of the nodes %b is done with %a; in parallel it may not be."""
    graph = parse(_BESIDE)
    offers = {"c": {"a": None}}
    assert plan_memory(graph, in_place=offers).in_place.over == {"c": "a"}
    apart = plan_memory(graph, in_place=offers, parallel=True)
    assert apart.in_place == InPlace({}, {"c": "a branch beside this one may still be reading it"})


def test_what_is_not_alone_in_its_storage_stays():
    graph = parse(
        """
        graph g(%x: f32[64]{1}) {
          %a = exp(%x) : f32[64]{1+0@%both}
          %b = neg(%x) : f32[64]{1+64@%both}
          %both = concat(%a, %b) <axis=0> : f32[128]{1}
          %c = slice(%both) <start=(0,), stop=(64,), step=(1,)> : f32[64]{1+0@%both}
          %d = slice(%both) <start=(64,), stop=(128,), step=(1,)> : f32[64]{1+64@%both}
          %e = neg(%c) : f32[64]{1}
          %f = add(%e, %d) : f32[64]{1+0@%end}
          %g = exp(%e) : f32[64]{1+64@%end}
          %end = concat(%f, %g) <axis=0> : f32[128]{1}
          %h = mul(%end, %end) : f32[128]{1}
          %out = relu(%h) : f32[128]{1}
          return %out
        }"""
    )
    offers = {"e": {"c": None}, "f": {"d": None}, "g": {"e": None}, "h": {"end": None}}
    assert found(graph, offers) == InPlace(
        {},
        {
            "e": "it is a part of something larger",
            "f": "the result has its place in a concat",
            "g": "the result has its place in a concat",
            "h": "the kernel reads its storage twice",
        },
    )


def test_a_place_that_leaves_gaps_is_given_up():
    """%d over %c would pin one unit of memory where the last two results need three in a row."""
    graph = Graph("gaps")
    last = graph.add_input("x", TensorType(f32, (64,), Layout((1,))))
    made: dict[str, Value] = {}
    for name, units, source in (
        ("a", 2, last),
        ("b", 3, "a"),
        ("c", 1, "a"),
        ("d", 1, "c"),
        ("e", 2, "d"),
        ("f", 3, "d"),
        ("out", 1, "d"),
    ):
        operand = source if isinstance(source, Value) else made[source]
        type = TensorType(f32, (64 * units,), Layout((1,)))  # of the right size, whatever the op
        made[name] = graph.append(Neg(), [operand], names=[name], types=[type]).output
    graph.mark_output(made["out"])
    plan = plan_memory(graph, in_place={"d": {"c": None}})
    assert plan.in_place == InPlace({}, {"d": "the arena is smaller without"})
    assert plan == replace(plan_memory(graph), in_place=plan.in_place)
