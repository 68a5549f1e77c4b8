"""Which candidates are tried, in what order, and how the cost model and the budget share out the work."""

from __future__ import annotations

from collections import Counter

import planted
import pytest

from jitrt.codegen.compile import Binary
from jitrt.codegen.target import target_of
from jitrt.errors import OptionError, TuningError
from jitrt.graph import Graph, TensorType, f16, f32
from jitrt.graph.ops import Linear
from jitrt.kernels.base import KernelCall, Lowered, Problem, Template, templates
from jitrt.tune.budget import Budget, Clock, next_share
from jitrt.tune.candidates import candidates_of, over_limits, spilled
from jitrt.tune.cost import estimate, floor_seconds, weight

TARGET = target_of(90)
PROBLEM = planted.relu_problem(4096, 4096)


def names(offered: dict[str, Template], keep: int | None = None) -> list[str]:
    found = candidates_of(PROBLEM, TARGET, offered, keep)
    return [f"{c.tactic.template}{dict(c.tactic.config)['choice']}" for c in found]


def test_a_templates_own_order_stands() -> None:
    offered: dict[str, Template] = {"a": planted.Listed(3, "a", grids=[10, 1_000_000, 132])}
    assert names(offered) == ["a0", "a1", "a2"]
    assert names(offered, keep=2) == ["a0", "a1"]


def test_templates_take_turns() -> None:
    offered: dict[str, Template] = {"b": planted.Listed(3, "b"), "a": planted.Listed(2, "a")}
    assert names(offered) == ["b0", "a0", "b1", "a1", "b2"]
    assert names(offered, keep=3) == ["b0", "a0", "b1"]


def test_among_several_templates_the_hopeless_are_left_out_but_no_first_guess() -> None:
    # One program on 132 SMs takes about a hundred times what 1,000 programs take.
    offered: dict[str, Template] = {
        "a": planted.Listed(3, "a", grids=[1, 1, 1000]),
        "b": planted.Listed(2, "b", grids=[1000, 1]),
    }
    assert names(offered) == ["a0", "b0", "a2"]


def test_templates_that_refuse_are_left_out() -> None:
    offered: dict[str, Template] = {"a": planted.Listed(1, "a", refuses="is busy"), "b": planted.Listed(1, "b")}
    assert names(offered) == ["b0"]
    with pytest.raises(TuningError, match=r"(?s)on sm_90:\n  a: is busy\n.*relu"):
        candidates_of(PROBLEM, TARGET, {"a": offered["a"]}, None)


def test_templates_of_tests_are_not_on_offer() -> None:
    assert not {"listed", "bad_compile"} & set(templates())


def binary(shared: int = 0, registers: int = 32, spills: int = 0, warps: int = 4) -> Binary:
    return Binary(b"", "k", shared, warps, (1, 1, 1), 0, registers, spills)


def test_static_limits() -> None:
    assert over_limits([binary(TARGET.shared), binary(registers=255)], TARGET) is None
    assert over_limits([binary(), binary(TARGET.shared + 1)], TARGET) == (
        "needs 232449 bytes of shared memory, a block of sm_90 has 232448"
    )
    assert over_limits([binary(registers=255, warps=16)], TARGET) == (
        "needs 255 registers for each of 512 threads, an SM has 65536"
    )
    assert spilled([binary(), binary(spills=8), binary(spills=4)]) == 12


# -- the cost model ----------------------------------------------------------------------------------------------------


def linear(rows: int, dtype: object = f16, tf32: bool = False) -> Problem:
    body = Graph("region")
    x = body.add_input("x", TensorType(dtype, (rows, 4096)))  # type: ignore[arg-type]
    w = body.add_input("w", TensorType(dtype, (4096, 4096)))  # type: ignore[arg-type]
    body.mark_output(body.add(Linear(tf32), x, w))
    return Problem(body, (False, True), (16, 16, 16))


def test_the_floor_is_bytes_or_arithmetic() -> None:
    weights = 4096 * 4096 * 2 / TARGET.bandwidth
    assert floor_seconds(linear(1), TARGET) == pytest.approx(weights, rel=0.01)
    assert floor_seconds(linear(8192), TARGET) == pytest.approx(2 * 8192 * 4096 * 4096 / TARGET.flops16, rel=0.01)
    ieee, tf32 = (floor_seconds(linear(8192, f32, tf32=fast), TARGET) for fast in (False, True))
    assert ieee > 4 * tf32
    assert weight(planted.relu_problem(1), TARGET) > 1e-6, "a launch is not free"


def lowered(*programs: int, warps: int = 8, workspace: int = 0) -> Lowered:
    calls = tuple(KernelCall(None, {}, {}, (n, 1, 1), num_warps=warps) for n in programs)
    return Lowered(calls, workspace_bytes=workspace)


def test_waves_are_quantised() -> None:
    full, one_more = (estimate(linear(8192), lowered(n), TARGET) for n in (132, 133))
    assert one_more > 1.8 * full
    assert estimate(linear(8192), lowered(1320), TARGET) < 1.1 * full
    assert estimate(linear(8192), lowered(66), TARGET) > 1.8 * full


def test_launches_workspace_and_tiny_tiles_cost() -> None:
    one = estimate(PROBLEM, lowered(1320), TARGET)
    assert estimate(PROBLEM, lowered(1320, 132), TARGET) > one + 2e-6
    assert estimate(PROBLEM, lowered(1320, workspace=1 << 28), TARGET) > 2 * one
    assert estimate(PROBLEM, lowered(1_320_000), TARGET) > 5 * one


# -- the budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "budget"),
    [
        ("60s", Budget(60.0, 24)),
        ("2m", Budget(120.0, 48)),
        ("1.5 min", Budget(90.0, 36)),
        ("1h", Budget(3600.0, 1440)),
        (5, Budget(5.0, 24)),
        ("heuristic", Budget(0.0, 48)),
        ("exhaustive", Budget(None, None)),
    ],
)
def test_budgets(mode: str | float, budget: Budget) -> None:
    assert Budget.parse(mode) == budget


@pytest.mark.parametrize("mode", ["", "fast", "0s", "-5", "5 days", "1.2.3s", "nan", float("inf"), -1])
def test_a_budget_that_is_none_is_refused(mode: str | float) -> None:
    with pytest.raises(OptionError, match="give a time such as '60s'"):
        Budget.parse(mode)


def test_shares_follow_weights() -> None:
    weights, given = {0: 6.0, 1: 3.0, 2: 1.0}, Counter[int]()
    for _ in range(100):
        given[next_share(weights, given)] += 1
    assert given == {0: 60, 1: 30, 2: 10}
    assert next_share({3: 1.0, 1: 1.0}, Counter()) == 1


def test_the_clock_estimates_what_is_left() -> None:
    now = 100.0
    clock = Clock(60.0, lambda: now)
    assert clock.remaining(0, 10) == 60
    assert clock.remaining(0, 0) == 0
    now = 110.0
    assert clock.remaining(5, 10) == 10
    assert clock.remaining(1, 100) == 50
    assert not clock.over
    now = 160.0
    assert clock.over
    assert clock.remaining(5, 10) == 0
    assert Clock(None).remaining(0, 10) is None
    assert not Clock(None).over
