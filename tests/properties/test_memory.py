"""The arena under every legal order: random graphs with branches, concats, views, workspaces and results in place.

A plan's launches wait for each other as `Hazards` has it, and no more. That no legal order goes wrong is shown twice:
every two launches that may run side by side touch no byte that one of them writes; and in an order drawn at random,
every launch finds what it should read in an arena of rubbish.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitrt.graph import Graph, TensorType, Value, f32, interpret
from jitrt.graph.graph import Node
from jitrt.graph.op import Array, Op, Trait
from jitrt.graph.ops import Add, Concat, Exp, Mul, Neg, Permute, Region, Relu, Reshape, Slice, Softmax
from jitrt.passes import PassContext, optimize, root_of
from jitrt.passes.hazards import Footprint, Hazards
from jitrt.passes.plan_memory import ALIGNMENT, MemoryPlan, plan_memory

Offers = dict[str, dict[str, str | None]]


def alone(body: Graph) -> str | None:
    """Kernels that run one op."""
    return None if len(body.nodes) == 1 else "one at a time"


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """An optimised graph of matrices of 1 to 4 rows and 1 to 24 columns, every op a region of its own."""
    graph = Graph("random")
    values = [graph.add_input(name, TensorType(f32, (2, 8))) for name in "xy"]
    for _ in range(draw(st.integers(3, 14))):
        op, operands = step(draw, values)
        values.append(graph.add(op, *operands))
    unread = [v for v in values[2:] if not v.uses]
    graph.mark_output(*unread[-2:], graph.add(Softmax(1), values[-1]))
    return optimize(graph, PassContext(accepts=alone))


def step(draw: st.DrawFn, values: list[Value]) -> tuple[Op, list[Value]]:
    """An op and what it reads."""
    x = draw(st.sampled_from(values))
    rows, columns = x.type.shape
    kind = draw(st.sampled_from(["unary", "unary", "binary", "binary", "softmax", "concat", "concat", "view"]))
    if kind == "binary":
        alike = [v for v in values if v.type.shape == x.type.shape]
        return draw(st.sampled_from([Add(), Mul()])), [x, draw(st.sampled_from(alike))]
    if kind == "softmax":
        return Softmax(draw(st.integers(0, 1))), [x]
    if kind == "concat":
        axis = draw(st.integers(0, 1))
        fitting = [
            v
            for v in values
            if v.type.shape[1 - axis] == x.type.shape[1 - axis]
            and v.type.shape[axis] + x.type.shape[axis] <= (4, 24)[axis]
        ]
        if fitting:
            return Concat(axis), [x, draw(st.sampled_from(fitting))]
    if kind == "view" and columns > 1 and draw(st.booleans()):
        cut = draw(st.integers(1, columns - 1))
        return draw(st.sampled_from([Slice((0, cut), x.type.shape, (1, 1)), Slice((0, 0), (rows, cut), (1, 1))])), [x]
    if kind == "view" and rows * columns <= 24 and draw(st.booleans()):
        return Reshape((1, rows * columns)), [x]
    if kind == "view" and columns <= 4:
        return Permute((1, 0)), [x]
    return draw(st.sampled_from([Neg(), Relu(), Exp()])), [x]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Graph, dict[str, int], Offers]:
    """A graph, the workspace of some regions, and what their kernels offer to overwrite: operands in the result's own
    place, read elementwise, if the kernel is in the mood."""
    graph = draw(graphs())
    mood = random.Random(draw(st.integers(0, 2**16)))
    workspace, offers = dict[str, int](), Offers()
    for node in launching(graph):
        out = node.output
        workspace[out.name] = mood.choice([0, 0, 100, 700])
        body = node.op.body.nodes  # type: ignore[attr-defined]
        alike = [v for v in node.inputs if v.type.shape == out.type.shape and v.type.strides == out.type.strides]
        willing = all(n.has(Trait.ELEMENTWISE) for n in body) and mood.random() < 0.8
        offers[out.name] = {v.name: None if willing else "not today" for v in alike if not v.is_constant}
    return graph, workspace, offers


def launching(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if isinstance(node.op, Region)]


# -- what a launch touches -------------------------------------------------------------------------------------------


class Bytes:
    """The memory of one plan: the arena, and a buffer for everything that lies outside it."""

    def __init__(self, graph: Graph, plan: MemoryPlan, workspace: Mapping[str, int]) -> None:
        self.graph, self.plan, self.workspace = graph, plan, workspace
        self.spaces = {"": np.full(plan.arena_bytes, 0xFF, np.uint8)}
        for value in graph.values():
            root = root_of(graph, value)
            if root.name not in plan.offsets:
                self.spaces[root.name] = np.full(4 * (root.type.offset + root.type.span), 0xFF, np.uint8)

    def place(self, value: Value) -> tuple[str, int]:
        """(space, first byte) of a value."""
        root = root_of(self.graph, value)
        if root.name in self.plan.offsets:
            return "", self.plan.offsets[root.name] + 4 * value.type.offset
        return root.name, 4 * value.type.offset

    def array(self, value: Value) -> Array:
        space, first = self.place(value)
        return np.ndarray(value.type.shape, np.float32, self.spaces[space], first, [4 * s for s in value.type.strides])

    def footprints(self, node: Node) -> tuple[list[Footprint], list[Footprint]]:
        """What a launch reads and writes, as `assemble` has it."""
        reads = [Footprint.of(*self.place(v), v.type) for v in node.inputs if not v.is_constant]
        writes = [Footprint.of(*self.place(node.output), node.output.type)]
        if self.workspace.get(node.output.name):
            writes.append(Footprint.block("", self.plan.workspace[node.output.name], self.workspace[node.output.name]))
        return reads, writes

    def marks(self, footprints: list[Footprint]) -> dict[str, Array]:
        """The bytes of footprints, one by one."""
        marked = {space: np.zeros(data.size, bool) for space, data in self.spaces.items()}
        for footprint in footprints:
            at = np.array([footprint.first])
            for stride, extent in footprint.dims:
                at = np.add.outer(at, stride * np.arange(extent)).ravel()
            marked[footprint.space][at] = True  # type: ignore[index]
        return marked

    def launch(self, node: Node) -> None:
        """A result over an operand is made row by row, as if by programs that know nothing of each other."""
        out, operands = self.array(node.output), [self.array(v) for v in node.inputs]
        over = node.output.name in self.plan.in_place.over
        for rows in [slice(row, row + 1) for row in range(len(out))] if over else [slice(None)]:
            (result,) = node.op.eval(*(x.copy() for x in operands))
            out[rows] = result[rows]

    def run(self, order: list[Node], inputs: list[Array]) -> list[Array]:
        for value, array in zip(self.graph.inputs, inputs, strict=True):
            self.array(value)[...] = array
        for node in order:
            if self.workspace.get(node.output.name):
                first = self.plan.workspace[node.output.name]
                self.spaces[""][first : first + self.workspace[node.output.name]] = 0xFF
            self.launch(node)
        return [self.array(value).copy() for value in self.graph.outputs]


def waits_of(memory: Bytes) -> list[set[int]]:
    """All launches that each launch waits for, by way of others too."""
    hazards, before = Hazards(), list[set[int]]()
    for node in launching(memory.graph):
        after = hazards.add(*memory.footprints(node))
        before.append(set(after).union(*(before[i] for i in after)))
    return before


def needed_by(graph: Graph) -> list[set[int]]:
    """All launches whose results each launch reads, by way of others too: what it must wait for in any memory."""
    steps = {node: i for i, node in enumerate(launching(graph))}

    def producers(node: Node) -> Iterator[Node]:
        for value in node.inputs:
            if value.producer in steps:
                yield value.producer
            elif value.producer is not None:
                yield from producers(value.producer)

    before: list[set[int]] = []
    for node in steps:
        direct = {steps[p] for p in producers(node)}
        before.append(direct.union(*(before[i] for i in direct)))
    return before


def some_order(before: list[set[int]], seed: int) -> list[int]:
    chance, order = random.Random(seed), list[int]()
    while len(order) < len(before):
        order.append(chance.choice([i for i in range(len(before)) if i not in order and before[i] <= set(order)]))
    return order


# -- the properties --------------------------------------------------------------------------------------------------


@given(problems(), st.booleans(), st.integers(0, 99))
@settings(max_examples=150)
def test_no_legal_order_goes_wrong(problem: tuple[Graph, dict[str, int], Offers], parallel: bool, seed: int) -> None:
    graph, workspace, offers = problem
    plan = plan_memory(graph, workspace, parallel=parallel, in_place=offers)
    memory = Bytes(graph, plan, workspace)
    nodes, before = launching(graph), waits_of(memory)
    inputs = [np.random.default_rng(i).standard_normal((2, 8)).astype(np.float32) for i in range(2)]
    with np.errstate(all="ignore"):
        expected = interpret(graph, inputs)
        actual = memory.run([nodes[i] for i in some_order(before, seed)], inputs)
    for got, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    touched = [tuple(map(memory.marks, memory.footprints(node))) for node in nodes]
    for late, (loads, stores) in enumerate(touched):
        for early in set(range(late)) - before[late]:
            loaded, stored = touched[early]
            clash = (stores[s] & (stored[s] | loaded[s]) | loads[s] & stored[s] for s in memory.spaces)
            assert not any(c.any() for c in clash), f"launches {early} and {late} may run side by side"


@given(problems())
def test_branches_wait_for_nothing_but_what_they_read(problem: tuple[Graph, dict[str, int], Offers]) -> None:
    """Where branches may take as much memory as they like, memory makes none of them wait."""
    graph, workspace, offers = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["jitrt.passes.plan_memory"], "_PRICE", 100)
        plan = plan_memory(graph, workspace, parallel=True, in_place=offers)
    assert waits_of(Bytes(graph, plan, workspace)) == needed_by(graph)


@given(problems(), st.booleans())
def test_sizes_are_bounded_and_plans_the_same_every_time(
    problem: tuple[Graph, dict[str, int], Offers], parallel: bool
) -> None:
    graph, workspace, offers = problem
    plan = plan_memory(graph, workspace, parallel=parallel, in_place=offers)
    apart = plan_memory(graph, workspace)
    assert plan.lower_bound <= plan.arena_bytes <= plan.naive_bytes == apart.naive_bytes
    if not parallel:
        assert plan.arena_bytes <= apart.arena_bytes
    assert plan == plan_memory(graph.clone(), dict(workspace), parallel=parallel, in_place=offers)


@given(problems())
def test_blocks_that_live_together_lie_apart(problem: tuple[Graph, dict[str, int], Offers]) -> None:
    graph, workspace, offers = problem
    plan = plan_memory(graph, workspace, in_place=offers)
    for i, (a, at) in enumerate(plan.placed):
        assert at % ALIGNMENT == 0
        assert at + a.nbytes <= plan.arena_bytes
        for b, other in plan.placed[:i]:
            handed_over = plan.in_place.over.get(a.name) == b.name and a.first == b.last and not a.workspace
            if a.overlaps(b) and not handed_over:
                assert at + a.nbytes <= other or other + b.nbytes <= at, (a, b)
    for name, operand in plan.in_place.over.items():
        assert plan.offsets[name] == plan.offsets[operand]
