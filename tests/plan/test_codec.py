from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitrt.errors import PlanError
from jitrt.plan.codec import plan_from_json, plan_to_json
from jitrt.plan.schema import Binding, Constant, Kernel, Launch, Layer, Plan, Pointer, Scalar, TensorMap


def test_round_trip(file):
    assert plan_from_json(json.loads(plan_to_json(file.plan))) == file.plan


def test_canonical(file):
    text = plan_to_json(file.plan)
    again = replace(file.plan, notes=dict(reversed(file.plan.notes.items())))
    assert plan_to_json(again) == text
    assert text.startswith('{"arch":90,"arena_bytes":1024,')


ints = st.integers(-(2**63), 2**63 - 1)
dims = st.lists(st.integers(0, 2**40), max_size=4).map(tuple)
floats = st.floats(allow_nan=False, allow_infinity=False)
pointers = st.builds(Pointer, st.sampled_from(["arena", "constants", "zeros", "input", "output"]), ints, ints)
arguments = st.one_of(
    pointers,
    st.builds(Scalar, st.sampled_from(["i32", "i64"]), ints),
    st.builds(Scalar, st.just("f32"), floats),
    st.builds(TensorMap, pointers, st.text(), dims, dims, dims, ints, dims),
)
triples = st.tuples(ints, ints, ints)
plans = st.builds(
    Plan,
    name=st.text(),
    arch=ints,
    inputs=st.lists(st.builds(Binding, st.text(), st.text(), dims, dims), max_size=2).map(tuple),
    outputs=st.just(()),
    kernels=st.lists(st.builds(Kernel, st.text(), st.text(), ints, ints, triples), max_size=2).map(tuple),
    launches=st.lists(
        st.builds(Launch, ints, triples, st.lists(arguments, max_size=4).map(tuple), dims, ints, st.booleans()),
        max_size=3,
    ).map(tuple),
    layers=st.lists(st.builds(Layer, *[st.text()] * 5, floats, ints, ints), max_size=2).map(tuple),
    constants=st.lists(st.builds(Constant, st.text(), st.text(), dims, ints, ints), max_size=2).map(tuple),
    arena_bytes=ints,
    zeros_bytes=ints,
    constants_bytes=ints,
    structure=st.recursive(st.none() | ints | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)),
    notes=st.dictionaries(st.text(), floats | st.text() | st.none()),
)


@given(plans)
def test_every_plan_comes_back(plan):
    assert plan_from_json(json.loads(plan_to_json(plan))) == plan


def test_a_field_with_a_default_may_be_absent(file):
    value = json.loads(plan_to_json(file.plan))
    del value["notes"], value["kernels"][0]["registers"], value["launches"][0]["arguments"][0]["index"]
    plan = plan_from_json(value)
    assert plan.notes == {}
    assert plan.kernels[0].registers == 0
    assert plan.launches == file.plan.launches


def put(value, path, new):
    """Set value[a][b]... = new, for the path (a, b, ...)."""
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


@pytest.mark.parametrize(
    ("path", "new", "complaint"),
    [
        (["version"], 2, "plan version 2, but this jitrt reads version 1; build the plan again"),
        (["version"], None, "plan version None"),
        (["arch"], "90", 'plan.arch is "90", expected a whole number'),
        (["arch"], True, "plan.arch is true, expected a whole number"),
        (["arch"], 90.0, "plan.arch is 90.0, expected a whole number"),
        (["name"], 3, "plan.name is 3, expected text"),
        (["surprise"], 1, "plan has the unknown field 'surprise'"),
        (["kernels", 0, "cluster"], [1, 1], "plan.kernels[0].cluster is [1, 1], expected a list of 3"),
        (["kernels", 0, "spill"], 0, "plan.kernels[0] has the unknown field 'spill'"),
        (["kernels"], {}, "plan.kernels is {}, expected a list"),
        (["inputs", 0], 7, "plan.inputs[0] is 7, expected a Binding"),
        (["inputs", 0, "shape", 1], None, "plan.inputs[0].shape[1] is null, expected a whole number"),
        (["launches", 1, "dependent"], 1, "plan.launches[1].dependent is 1, expected true or false"),
        (["launches", 0, "arguments", 0, "space"], "stack", 'is "stack", expected one of arena, constants'),
        (["launches", 0, "arguments", 0, "space"], ["arena"], "expected one of arena, constants"),
        (
            ["launches", 0, "arguments", 1],
            {"space": "arena", "kind": "i32"},
            "expected one of Pointer, Scalar, TensorMap",
        ),
        (["launches", 0, "arguments", 1], 5, "arguments[1] is 5, expected one of Pointer, Scalar, TensorMap"),
        (["launches", 1, "arguments", 1, "value"], "1", 'value is "1", expected one of int, float'),
        (["launches", 1, "arguments", 1, "value"], True, "value is true, expected one of int, float"),
        (["layers", 0, "microseconds"], "fast", 'microseconds is "fast", expected a number'),
        (["notes"], [], "plan.notes is [], expected an object"),
    ],
)
def test_what_does_not_fit_the_schema_is_named(file, path, new, complaint):
    value = json.loads(plan_to_json(file.plan))
    put(value, path, new)
    with pytest.raises(PlanError) as caught:
        plan_from_json(value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named(file):
    value = json.loads(plan_to_json(file.plan))
    del value["launches"][0]["grid"]
    with pytest.raises(PlanError, match=r"plan.launches\[0\] lacks the field 'grid'"):
        plan_from_json(value)


@pytest.mark.parametrize("value", [None, [], "plan", 3])
def test_json_that_is_no_plan(value):
    with pytest.raises(PlanError, match="plan version None"):
        plan_from_json(value)


@pytest.mark.parametrize("note", [float("nan"), float("inf"), object(), {1, 2}])
def test_notes_that_json_cannot_hold(file, note):
    with pytest.raises(PlanError, match="plan 'tiny' cannot be written as JSON"):
        plan_to_json(replace(file.plan, notes={"note": note}))
