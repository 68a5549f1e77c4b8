"""Plans against each other on the fake GPU, whose clock is exact."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from jitrt.plan.schema import Binding, Kernel, Launch, Layer, Plan, PlanFile, Pointer
from jitrt.plan.verify import problems
from jitrt.runtime.fake_driver import FakeDriver, FakeKernel
from jitrt.runtime.memory import Resources
from jitrt.tune import contest as module
from jitrt.tune.contest import contest, repeated


def copy(driver: FakeDriver, grid: object, source: int, target: int) -> None:
    driver.array(target, (8,), "f32")[:] = driver.array(source, (8,), "f32")


KERNELS = {"slow": FakeKernel(("ptr", "ptr"), copy, 5.0), "fast": FakeKernel(("ptr", "ptr"), copy, 2.0)}


def plan(entry: str, launches: tuple[tuple[int, ...], ...] = ((), (0,))) -> PlanFile:
    """Launches of one kernel that wait for each other as given; each copies the input to the output or the arena."""
    binding = Binding("x", "f32", (8,), (1,))
    last = len(launches) - 1
    made = tuple(
        Launch(
            0, (1, 1, 1), (Pointer("input"), Pointer("output") if i == last else Pointer("arena", 256 * i)), after, 0
        )
        for i, after in enumerate(launches)
    )
    layer = Layer("y", "pointwise", "copy", "", "", 0.0, 64, 0)
    whole = Plan(
        "plan", 90, (binding,), (replace(binding, name="y"),), (Kernel(entry, "cubin.a", 0, 4),), made, (layer,), (),
        arena_bytes=256 * len(launches), zeros_bytes=0, constants_bytes=0,
    )  # fmt: skip
    return PlanFile(whole, b"", {"cubin.a": b"cubin"})


def test_the_times_are_those_of_one_run():
    slow, fast = contest(FakeDriver(KERNELS), [plan("slow"), plan("fast")])
    assert slow / fast == pytest.approx(5.0 / 2.0, rel=0.05)
    assert fast == pytest.approx(2 * 2.0, rel=0.2)


def test_nothing_is_left_on_the_device():
    driver = FakeDriver(KERNELS)
    contest(driver, [plan("slow")])
    free = driver.memory_info()[0]
    contest(driver, [plan("slow"), plan("fast")])
    assert driver.memory_info()[0] == free


def test_a_repeated_plan_begins_again_when_all_of_it_has_ended():
    """0 and 1 start together, 2 waits for 0: the next run waits for 1 and 2."""
    file = plan("fast", ((), (), (0,)))
    twice = repeated(file.plan, 2)
    assert [launch.after for launch in twice.launches] == [(), (), (0,), (1, 2), (1, 2), (3,)]
    assert list(problems(replace(file, plan=twice))) == []


def test_a_dependent_launch_stays_so_only_behind_a_single_one():
    file = plan("fast", ((), (0,)))
    launches = tuple(replace(launch, dependent=True) for launch in file.plan.launches)
    assert [x.dependent for x in repeated(replace(file.plan, launches=launches), 2).launches] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("elements", [5, 10, 64, 1000])
def test_a_large_input_repeats_a_few_random_numbers(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(module, "_RANDOM", 10)
    driver = FakeDriver({})
    with driver.active(), closing(Resources(driver, driver)) as resources:
        address = module._random(driver, resources, Binding("x", "f16", (elements,), (1,)))
        data = driver.array(address, (elements,), "f16").copy()
    assert len(set(data[:10])) == min(10, elements)
    assert (data == np.resize(data[:10], elements)).all()
