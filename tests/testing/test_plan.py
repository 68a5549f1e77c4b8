"""The machine that runs plans: right plans run, and every way a plan can be wrong is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from jitrt.compiler import Options
from jitrt.errors import KernelError
from jitrt.graph import Graph, TensorType, f32, interpret
from jitrt.graph.ops import Add, Concat, Conv, MaxPool, Relu
from jitrt.passes.pipeline import RULES
from jitrt.plan.schema import Launch, Pointer
from jitrt.testing.plan import Planned, plan_interpreted, some_order

SAME = ((1, 1), (1, 1))


def network() -> Graph:
    """A convolution, two more side by side that are joined, a pool."""
    rng = np.random.default_rng(0)
    graph = Graph("small")
    x = graph.add_input("x", TensorType(f32, (1, 8, 5, 4)))

    def conv(value, filters):  # type: ignore[no-untyped-def]
        w = graph.add_constant(rng.standard_normal((filters, value.type.shape[1], 3, 3)).astype(np.float32))
        b = graph.add_constant(rng.standard_normal((filters, 1, 1)).astype(np.float32))
        return graph.add(Relu(), graph.add(Add(), graph.add(Conv((1, 1), SAME, (1, 1)), value, w), b))

    first = conv(x, 8)
    joined = graph.add(Concat(1), conv(first, 4), conv(first, 6))
    graph.mark_output(graph.add(MaxPool((2, 2), (2, 2), (0, 0)), joined))
    return graph


@pytest.fixture(scope="module")
def planned() -> Planned:
    """Launch 0, the two convolutions 1 and 2, and the pool 3."""
    return split(1)


def split(parts: int) -> Planned:
    """The network with so many programs to each tile of a convolution, and a launch for each of its four layers."""
    return plan_interpreted(
        network(),
        Options(without=tuple(rule.name for rule in RULES)),
        pick=lambda found: next((c for c in found if dict(c.tactic.config).get("SPLIT_K") == parts), found[0]),
    )


X = [np.random.default_rng(1).standard_normal((1, 8, 5, 4)).astype(np.float32)]


@pytest.mark.parametrize("seed", range(3))
def test_right_numbers_in_any_order(planned: Planned, seed: int) -> None:
    (expected,) = interpret(network(), X, exact=True)
    (actual,) = planned.run(X, seed=seed)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_orders_are_those_the_plan_allows(planned: Planned) -> None:
    orders = {some_order(planned.plan, seed) for seed in range(20)}
    assert orders == {(0, 1, 2, 3), (0, 2, 1, 3)}


def changed(planned: Planned, index: int, edit: Callable[[Launch], Launch]) -> Planned:
    """The plan with one launch edited."""
    launches = list(planned.plan.launches)
    launches[index] = edit(launches[index])
    return replace(planned, file=replace(planned.file, plan=replace(planned.plan, launches=tuple(launches))))


def moved(launch: Launch, position: int, by: int) -> Launch:
    arguments = list(launch.arguments)
    pointer = arguments[position]
    assert isinstance(pointer, Pointer)
    arguments[position] = replace(pointer, offset=pointer.offset + by)
    return replace(launch, arguments=tuple(arguments))


def test_a_launch_that_does_not_wait_is_noticed(planned: Planned) -> None:
    wrong = changed(planned, 3, lambda launch: replace(launch, after=(1,)))
    with pytest.raises(KernelError, match=r"nobody stored|launches 2 and 3 may run side by side"):
        wrong.run(X)
    wrong = changed(planned, 2, lambda launch: replace(launch, after=(), dependent=False))
    with pytest.raises(KernelError, match=r"nobody stored|launches 0 and 2 may run side by side"):
        wrong.run(X)


def test_a_result_over_what_other_programs_read_is_noticed() -> None:
    """A convolution in place: its programs read their neighbours' pixels."""
    rng = np.random.default_rng(0)
    graph = Graph("in place")
    value = graph.add_input("x", TensorType(f32, (1, 8, 24, 24)))
    for _ in range(3):
        w = graph.add_constant(rng.standard_normal((8, 8, 3, 3)).astype(np.float32))
        value = graph.add(Conv((1, 1), SAME, (1, 1)), value, w)
    graph.mark_output(value)
    planned, x = plan_interpreted(graph), [np.ones((1, 8, 24, 24), np.float32)]
    assert len(planned.run(x)) == 1
    wrong = changed(planned, 1, lambda launch: replace(launch, arguments=(launch.arguments[1], *launch.arguments[1:])))
    with pytest.raises(KernelError, match=r"that another program has loaded|that the result has overwritten"):
        wrong.run(x)


def test_a_shared_workspace_is_noticed() -> None:
    """One after the other, as here, the two convolutions give right numbers; at the same time they would not."""
    planned = split(2)
    assert planned.plan.launches[2].after == (1,)
    wrong = changed(planned, 2, lambda launch: replace(launch, after=(0,)))
    with pytest.raises(KernelError, match="launches 1 and 2 may run side by side, but share memory"):
        wrong.run(X)


@pytest.mark.parametrize(
    ("index", "position", "by", "message"),
    [
        pytest.param(0, 1, 4, "promised an alignment", id="an operand beside its place"),
        pytest.param(3, 1, 256, "outside its space|nobody stored", id="an operand far from its place"),
        pytest.param(3, 0, 64, "outside its space", id="a result beyond its space"),
        pytest.param(0, 0, 1 << 20, "outside its space", id="a result outside all memory"),
        pytest.param(1, 0, 16, "beside|share|nobody", id="a result over its neighbour's"),
    ],
)
def test_a_wrong_address_is_noticed(planned: Planned, index: int, position: int, by: int, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        changed(planned, index, lambda launch: moved(launch, position, by)).run(X)


def test_arguments_that_are_not_the_kernels_are_noticed(planned: Planned) -> None:
    with pytest.raises(KernelError, match="the plan has None where the kernel takes"):
        changed(planned, 3, lambda launch: replace(launch, arguments=launch.arguments[:-1])).run(X)
    with pytest.raises(KernelError, match="more arguments"):
        changed(planned, 3, lambda launch: replace(launch, arguments=(*launch.arguments, Pointer("arena")))).run(X)


def test_an_early_launch_that_waits_for_two_is_noticed(planned: Planned) -> None:
    with pytest.raises(KernelError, match="may start early, but"):
        changed(planned, 3, lambda launch: replace(launch, dependent=True)).run(X)


def test_a_layer_without_its_launch_is_noticed(planned: Planned) -> None:
    with pytest.raises(KernelError, match="not the launches of its tactic"):
        changed(planned, 3, lambda launch: replace(launch, layer=2)).run(X)


def test_serial_plans_run_too() -> None:
    (expected,) = interpret(network(), X, exact=True)
    (actual,) = plan_interpreted(network(), Options("fp16", parallel=False)).run(X)
    np.testing.assert_allclose(actual, expected, rtol=2e-2, atol=2e-2)
