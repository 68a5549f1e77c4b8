from __future__ import annotations

from dataclasses import replace

import pytest

from jitrt.errors import PlanError
from jitrt.plan.file import write_plan
from jitrt.plan.schema import Binding, Pointer, Scalar, TensorMap
from jitrt.plan.verify import check_plan, extent_bytes, problems, verify_plan

MAP = TensorMap(Pointer("input"), "f16", (8, 64), (128,), (8, 64), 128)


def test_nothing_is_wrong_with_a_good_plan(file, tmp_path):
    assert list(problems(file)) == []
    path = tmp_path / "a.plan"
    write_plan(path, file)
    assert verify_plan(path).plan == file.plan


def test_a_bad_plan_is_refused_by_name(file, tmp_path):
    bad = replace(file, plan=replace(file.plan, arena_bytes=-1))
    with pytest.raises(PlanError, match="plan 'tiny': arena_bytes is -1"):
        check_plan(bad)
    path = tmp_path / "a.plan"
    write_plan(path, bad)
    with pytest.raises(PlanError, match=r"a.plan: plan 'tiny': arena_bytes is -1"):
        verify_plan(path)


def test_a_damaged_file_is_refused(file, tmp_path):
    path = tmp_path / "a.plan"
    write_plan(path, file)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(PlanError, match="truncated"):
        verify_plan(path)


def only(file, **changes) -> str:
    """The one problem of a changed plan."""
    (problem,) = problems(replace(file, plan=replace(file.plan, **changes)))
    return problem


def test_constants(file):
    (constant,) = file.plan.constants
    assert "constants_bytes is 600, but there are 512" in only(file, constants_bytes=600)
    for wrong in ({"offset": 300}, {"offset": -1}, {"nbytes": -1}):
        assert only(file, constants=(replace(constant, **wrong),)) == "constant 'w' lies outside the constants"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dtype": "f8"}, "unknown dtype 'f8'"),
        ({"shape": (8,)}, "has 1 dimensions and 2 strides"),
        ({"shape": (0, 64)}, "has shape (0, 64)"),
        ({"strides": (-64, 1)}, "strides (-64, 1)"),
    ],
)
def test_bindings(file, change, complaint):
    binding = replace(file.plan.outputs[0], shape=(8, 64), strides=(64, 1), dtype="f16")
    plan = replace(file.plan, outputs=(file.plan.outputs[0], replace(binding, name="z", **change)))
    assert any(complaint in problem for problem in problems(replace(file, plan=plan)))


def test_a_name_that_is_there_twice(file):
    assert only(file, outputs=(file.plan.outputs[0],) * 2) == "output 'y' is there twice"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image": "cubin.9"}, "in the cubin 'cubin.9', which the plan does not have"),
        ({"entry": ""}, "a kernel has no entry point"),
        ({"num_warps": 33}, "33 warps"),
        ({"num_warps": 0}, "0 warps"),
        ({"shared_bytes": 228 << 10}, "wants 233472 bytes of shared memory; a block has at most 232448"),
        ({"shared_bytes": -1}, "wants -1 bytes"),
        ({"scratch_bytes": -1}, "-1 bytes of scratch"),
        ({"cluster": (4, 4, 2)}, "clusters of (4, 4, 2) blocks"),
        ({"cluster": (0, 1, 1)}, "clusters of (0, 1, 1) blocks"),
    ],
)
def test_kernels(file, change, complaint):
    kernels = (replace(file.plan.kernels[0], **change),)
    assert complaint in next(problems(replace(file, plan=replace(file.plan, kernels=kernels))))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kernel": 1}, "there is no kernel 1"),
        ({"kernel": -1}, "there is no kernel -1"),
        ({"layer": 1}, "there is no layer 1"),
        ({"grid": (0, 1, 1)}, "a grid of (0, 1, 1) cannot be launched"),
        ({"grid": (1, 65536, 1)}, "a grid of (1, 65536, 1) cannot be launched"),
        ({"grid": (2**30, 1, 1)}, "cannot be launched"),  # clusters of two
        ({"after": (1,)}, "waits for launch 1, which does not come before it"),
        ({"after": (-1,)}, "waits for launch -1"),
        ({"after": (0, 0)}, "waits for a launch twice"),
        ({"cooperative": True, "dependent": True}, "it is cooperative"),
    ],
)
def test_launches(file, change, complaint):
    launches = (file.plan.launches[0], replace(file.plan.launches[1], **change))
    problem = only(file, launches=launches)
    assert problem.startswith("launch 1: ")
    assert complaint in problem


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        (Pointer("arena", 1024), "byte 1024 lies outside the arena, which has 1024"),
        (Pointer("arena", -4), "byte -4 lies outside the arena"),
        (Pointer("arena", 0, 1), "there is no arena 1"),
        (Pointer("constants", 512), "outside the constants, which has 512"),
        (Pointer("zeros", 256), "outside the zeros, which has 256"),
        (Pointer("input", 1024), "outside input 0, which has 1024"),
        (Pointer("input", 0, 1), "there is no input 1"),
        (Pointer("output", 0, -1), "there is no output -1"),
        (Pointer("output", 32), "outside output 0, which has 32"),
        (Scalar("i32", 2**31), "2147483648 is no i32"),
        (Scalar("i32", 1.0), "1.0 is no i32"),
        (Scalar("i64", -(2**63) - 1), "is no i64"),
        (replace(MAP, dtype="f8"), "unknown dtype 'f8'"),
        (replace(MAP, shape=(8,)), "1 to 5 dimensions"),
        (replace(MAP, shape=(1,) * 6, strides=(128,) * 5, box=(1,) * 6), "1 to 5 dimensions"),
        (replace(MAP, box=(8,)), "a box of the same rank"),
        (replace(MAP, swizzle=16), "cannot swizzle by 16 bytes"),
        (replace(MAP, swizzle=64), "a box row of 128 bytes is wider than the swizzle of 64"),
        (replace(MAP, box=(257, 64)), "cannot have the box (257, 64)"),
        (replace(MAP, box=(8, 4)), "cannot have the box (8, 4)"),
        (replace(MAP, steps=(9, 1)), "every (9, 1)-th element"),
        (replace(MAP, steps=(1, 2)), "1 along the innermost dimension"),
        (replace(MAP, steps=(2,)), "every (2,)-th element"),
        (replace(MAP, strides=(120,)), "must be multiples of 16 bytes"),
        (replace(MAP, pointer=Pointer("input", 8), shape=(7, 64)), "must be multiples of 16 bytes"),
        (replace(MAP, shape=(9, 64)), "reaches to byte 1152 of input 0, which has 1024"),
        (replace(MAP, shape=(0, 64)), "cannot have the shape (0, 64)"),
        (replace(MAP, pointer=Pointer("input", 0, 2)), "there is no input 2"),
    ],
)
def test_arguments(file, argument, complaint):
    launches = (replace(file.plan.launches[0], arguments=(Pointer("arena"), argument)),)
    problem = only(file, launches=launches)
    assert problem.startswith("launch 0: argument 1: ")
    assert complaint in problem


def test_structure(file):
    assert only(file, structure=[{"a": {"output": 1}}]) == "the structure names output 1, which there is not"
    assert only(file, structure={"output": -1}) == "the structure names output -1, which there is not"


def test_extent_counts_from_the_first_element_to_the_last():
    assert extent_bytes(Binding("x", "f16", (2, 3), (10, 2))) == 2 * (10 + 4 + 1)
    assert extent_bytes(Binding("x", "f32", (), ())) == 4
    assert extent_bytes(Binding("x", "f32", (4, 4), (0, 1))) == 16
