from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from jitrt.errors import PlanError
from jitrt.plan.file import write_plan
from jitrt.runtime import Engine, load
from jitrt.runtime.fake_driver import H200, FakeDriver
from jitrt.runtime.loaded import nester


def test_everything_is_given_back_when_loading_fails(small, driver):
    kernels = (*small.plan.kernels[:2], replace(small.plan.kernels[2], entry="missing"))
    broken = Engine(replace(small, plan=replace(small.plan, kernels=kernels)), driver=driver)
    with pytest.raises(PlanError, match="cannot load kernel 'missing'"):
        _ = broken.loaded
    gc.collect()
    assert driver.leaks() == {}


def test_a_plan_for_another_architecture(small, driver, tmp_path):
    path = tmp_path / "other.plan"
    for arch in (80, 100):
        write_plan(path, replace(small, plan=replace(small.plan, arch=arch)))
        with pytest.raises(PlanError, match=rf"other.plan.*for sm_{arch}.*is sm_90.*build it again on that machine"):
            load(path, driver=driver)
    gc.collect()
    assert driver.leaks() == {}


def test_a_newer_minor_version_is_the_same_architecture(small, driver, x):
    plan = replace(small.plan, arch=80)
    newer = FakeDriver(driver._kernels, replace(H200, arch=86))
    assert len(Engine(replace(small, plan=plan), driver=newer)(x)) == 2
    older = FakeDriver(driver._kernels, replace(H200, arch=80))
    with pytest.raises(PlanError, match="sm_86"):
        Engine(replace(small, plan=replace(plan, arch=86)), driver=older)(x)


def test_a_gpu_with_less_shared_memory(small, driver, x):
    narrow = FakeDriver(driver._kernels, replace(H200, shared_bytes=48 << 10))
    with pytest.raises(PlanError, match="wants 65536 bytes of shared memory, but Fake H200 gives a block 49152"):
        Engine(small, driver=narrow)(x)


def test_a_gpu_with_fewer_sms_than_a_cooperative_launch_needs(small, driver, x):
    launches = tuple(replace(launch, cooperative=launch.grid[0] > 2) for launch in small.plan.launches)
    file = replace(small, plan=replace(small.plan, launches=launches))
    assert len(Engine(file, driver=driver)(x)) == 2
    few = FakeDriver(driver._kernels, replace(H200, sms=2))
    with pytest.raises(PlanError, match="kernel 'increment' needs 3 SMs at the same time, but Fake H200 has 2"):
        Engine(file, driver=few)(x)


def test_a_cubin_the_driver_refuses(small, driver, x):
    with pytest.raises(PlanError, match=r"cannot load kernel 'add'.*update the driver or build the plan"):
        Engine(replace(small, images={**small.images, "cubin.a": b""}), driver=driver)(x)


@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: (*a, a[0]), lambda a: (a[-1], *a[1:])])
def test_a_launch_whose_arguments_are_not_its_kernels(small, driver, change):
    launches = list(small.plan.launches)
    launches[3] = replace(launches[3], arguments=change(launches[3].arguments))
    engine = Engine(replace(small, plan=replace(small.plan, launches=tuple(launches))), driver=driver)
    with pytest.raises(PlanError, match=r"launch 3 has parameters of .* kernel 'add' takes \(8, 8, 8, 4, 8, 8\)"):
        _ = engine.loaded


def test_a_plan_that_makes_no_sense_is_not_loaded(small, driver):
    with pytest.raises(PlanError, match="constants_bytes"):
        _ = Engine(replace(small, constants=b""), driver=driver).loaded
    assert driver.leaks() == {}


@pytest.mark.parametrize(
    ("structure", "nested"),
    [
        ({"output": 0}, "a"),
        ([{"output": 1}, {"output": 0}], ["b", "a"]),
        ({"logits": {"output": 0}, "rest": [{"output": 1}, None, 3]}, {"logits": "a", "rest": ["b", None, 3]}),
        ({"output": [{"output": 1}]}, {"output": ["b"]}),  # the caller's own key
        (None, ("a", "b")),
    ],
)
def test_outputs_are_nested_as_the_model_nested_them(structure, nested):
    assert nester(structure, 2)(["a", "b"]) == nested


def test_one_output_without_a_structure_stands_for_itself():
    assert nester(None, 1)(["a"]) == "a"


def test_of_plans_for_several_architectures_the_one_that_fits_is_run(small, driver, x):
    """The fake GPU is an sm_90; the plan for sm_80 comes first and asks for kernels that it does not have."""
    kernels = tuple(replace(kernel, entry=f"{kernel.entry}_80") for kernel in small.plan.kernels)
    older = replace(small, plan=replace(small.plan, arch=80, kernels=kernels))
    engine = Engine(replace(older, others=(small,)), driver=driver)
    assert engine.plan.arch == 80
    np.testing.assert_allclose(engine(x)[0], Engine(small, driver=driver)(x)[0])
    assert engine.plan.arch == 90
    assert "sm_80, sm_90" in repr(engine)
