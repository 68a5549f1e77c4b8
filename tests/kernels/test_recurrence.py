"""Recurrent layers: the plain kernel in the interpreter, the resident one on the PTX machine, both in the compiler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS, Target
from jitrt.errors import KernelError
from jitrt.graph import DType, Graph, TensorType, f16, f32
from jitrt.graph.op import Array
from jitrt.graph.ops import Recurrence, Relu
from jitrt.kernels.base import Config, Problem, templates
from jitrt.testing import check_problem, compiles, disagrees, make_problem, random_operands
from jitrt.testing.ptx_races import WatchedBlock
from jitrt.tune.candidates import candidates_of
from tests.kernels import compiled

OPS = {
    "lstm": Recurrence("lstm"),
    "lstm both, c": Recurrence("lstm", (False, True), cell=True),
    "gru back": Recurrence("gru", (True,)),
    "gru both": Recurrence("gru", (False, True)),
    "tanh": Recurrence("tanh"),
    "relu both": Recurrence("relu", (False, True)),
}
H200 = TARGETS[90]


def problem(op: Recurrence, steps=3, batch=5, hidden=21, dtype=f16, turned=False, tail=None, **given) -> Problem:
    """A layer; with `turned` batch first in memory. `tail` is an op after it."""
    body = Graph("region")
    d = len(op.reverse)
    shapes = {
        "gates": (steps, batch, d * op.gates * hidden),
        "w": (d, op.gates * hidden, hidden),
        "h0": (d, batch, hidden),
    }
    if op.kind in ("lstm", "gru"):
        shapes["extra"] = (d, batch, hidden) if op.kind == "lstm" else (d, hidden)
    out = body.add(op, *(body.add_input(name, TensorType(dtype, shape)) for name, shape in shapes.items()), name="y")
    body.mark_output(out if tail is None else body.add(tail, out))
    strides = given.pop("strides", {})
    if turned:
        for name, shape in (("gates", shapes["gates"]), ("y", out.type.shape)):
            strides[name] = (shape[2], shape[0] * shape[2], 1)
    return make_problem(body, weights=["w"], strides=strides, **given)


# -- the plain kernel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "turned"), [(op, at % 2 == 1) for at, op in enumerate(OPS.values())], ids=list(OPS))
def test_numbers(op, turned):
    """A launch a step with several programs, and all steps in one."""
    template, posed = templates()["recurrence"], problem(op, turned=turned)
    small = {"BLOCK_B": 16, "BLOCK_U": 16, "BLOCK_K": 16, "num_warps": 4}
    check_problem(posed, template, [{"STEPS": 1, **small}, {"STEPS": 3, **small, "BLOCK_U": 32}])


def test_candidates_in_float32():
    template, posed = templates()["recurrence"], problem(OPS["lstm"], dtype=f32, hidden=40)
    check_problem(posed, template, template.candidates(posed, H200), extremes=False)


# -- the resident kernel -----------------------------------------------------------------------------------------------


def run_compiled(
    posed: Problem,
    config: Config,
    arrays: Sequence[Array],
    target: Target = H200,
    machine: type[WatchedBlock] = WatchedBlock,
) -> Array:
    """What the compiler made of a resident candidate, on the PTX machine, which watches for races."""
    return compiled.run(posed, templates()["recurrence_resident"], config, arrays, target, machine)


RESIDENT = [
    (problem(OPS["lstm"], batch=1, hidden=64), (4, 1, 1, 4, 150), 90),
    (problem(OPS["tanh"], batch=1, hidden=30), (16, 1, 1, 4, 0), 80),  # with weights that are infinite, in few rows
    (problem(OPS["lstm both, c"], hidden=40, turned=True), (8, 8, 1, 4, 150), 90),
    (problem(OPS["gru back"], batch=20, hidden=40, dtype=DType.bf16), (16, 8, 2, 4, 0), 80),  # two launches
    (problem(OPS["gru both"], hidden=96), (32, 8, 1, 8, 0), 100),
    (problem(OPS["tanh"], batch=20, hidden=30), (16, 16, 2, 4, 150), 90),
    (problem(OPS["relu both"], hidden=40, strides={"y": (600, 100, 1)}), (4, 8, 1, 4, 150), 90),
]


@pytest.mark.parametrize(("posed", "config", "arch"), RESIDENT)
def test_resident_numbers(posed, config, arch):
    """Programs that wait for each other's numbers get them all, and the right ones."""
    chosen = dict(zip(("UNITS", "ITEMS", "TILES", "num_warps", "PAUSE"), config, strict=True))
    target = TARGETS[arch]
    assert chosen in templates()["recurrence_resident"].candidates(posed, target) or chosen["TILES"] > 1
    for extreme in (False, True):
        arrays = random_operands(posed, extreme=extreme)
        wrong = disagrees(posed, arrays, run_compiled(posed, chosen, arrays, target))
        assert wrong is None, wrong


class AnotherNaN(WatchedBlock):
    """Arithmetic that gives the NaN that means "not yet" in 16 bits, as PTX allows."""

    nan = 0xFFFFFFFF


@pytest.mark.parametrize("machine", [WatchedBlock, AnotherNaN])
def test_what_means_not_yet_may_come_in_as_a_number(machine):
    """The NaN that stands for a missing state is one in h0 and gates, too; what is made of it is another NaN."""
    posed = problem(OPS["tanh"], hidden=32)
    arrays = random_operands(posed)
    arrays[0].view(np.int16)[1, 2, 3] = arrays[2].view(np.int16)[0, 1, 5] = -1
    config = templates()["recurrence_resident"].candidates(posed, H200)[0]
    got = run_compiled(posed, config, arrays, machine=machine)
    assert disagrees(posed, arrays, got) is None
    assert np.isnan(got.astype(np.float32)).any()
    assert (got.view(np.int16) != -1).all()


@pytest.mark.parametrize(
    ("kind", "batch", "arch"), [("lstm", 1, 90), ("lstm", 32, 80), ("lstm", 32, 90), ("lstm", 32, 100), ("gru", 32, 90)]
)
def test_weights_stay_in_registers(kind, batch, arch):
    template, target = templates()["recurrence_resident"], TARGETS[arch]
    posed = problem(Recurrence(kind), 128, batch, 512)
    config = template.candidates(posed, target)[0]
    _, binary = compiles(posed, template, config, [arch])
    assert binary.registers > 4 * config["UNITS"] * (512 // config["num_warps"]) // 64
    _, call = template.lower(posed, config, target).calls
    assert call.cooperative
    assert call.grid[0] <= target.sms


def test_a_batch_too_large_for_the_gpu_goes_in_several_launches():
    posed, template = problem(OPS["lstm"], 4, 300, 512), templates()["recurrence_resident"]
    for config in template.candidates(posed, H200):
        _, *calls = template.lower(posed, config, H200).calls
        starts = [call.arguments["start"].value for call in calls]
        assert starts == list(range(0, 300, config["TILES"] * config["ITEMS"]))
        assert all(call.grid[0] <= H200.sms for call in calls)


def test_the_resident_kernel_is_the_first_choice():
    posed = problem(OPS["lstm"], 8, 4, 512)
    names = [c.tactic.template for c in candidates_of(posed, H200, templates(), None)]
    assert names[0] == "recurrence_resident"
    assert "recurrence" in names


def test_plain_candidates_compile():
    template = templates()["recurrence"]
    compiles(problem(OPS["gru both"], 1, 32, 512), template)  # a launch a step
    compiles(problem(OPS["lstm"], 4, 3, 64), template, targets=[90])  # all steps in one


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_the_interpreter_refuses_programs_that_wait_for_each_other():
    posed, template = problem(OPS["lstm"], hidden=32), templates()["recurrence_resident"]
    with pytest.raises(KernelError, match="check their plain twin"):
        check_problem(posed, template)


@pytest.mark.parametrize("name", ["recurrence", "recurrence_resident"])
@pytest.mark.parametrize(
    ("posed", "reason"),
    [
        (problem(OPS["tanh"], tail=Relu()), "nothing else runs in its kernel"),
        (problem(OPS["tanh"], dtype=DType.f64), "a recurrence of f64 has no kernel"),
        (problem(OPS["tanh"], strides={"gates": (1, 3, 15)}), "along their last dimension"),
        (problem(OPS["tanh"], strides={"w": (441, 1, 21)}), "along their last dimension"),
        (problem(OPS["tanh"], strides={"y": (1, 3, 15)}), "writes along the last dimension"),
        (problem(OPS["tanh"], strides={"y": (2**30, 21, 1)}), "in 32 bits"),
    ],
)
def test_what_no_kernel_takes(posed, reason, name):
    assert reason in templates()[name].accepts(posed.body)


def test_it_is_for_recurrences():
    body = Graph("region")
    body.mark_output(body.add(Relu(), body.add_input("x", TensorType(f16, (3, 4)))))
    assert templates()["recurrence"].accepts(body) == "anchor is no recurrence"


@pytest.mark.parametrize(
    ("posed", "reason"),
    [
        (problem(OPS["lstm"], hidden=21), "an even number of hidden units"),
        (problem(OPS["lstm"], hidden=40, strides={"y": (215, 43, 1)}), "strides and alignment to match"),
        (problem(OPS["lstm"], hidden=40, alignment=2), "strides and alignment to match"),
        (problem(OPS["lstm"], hidden=2048), "does not fit into the registers of 132 SMs"),
    ],
)
def test_what_the_resident_kernel_leaves_to_the_other(posed, reason):
    template = templates()["recurrence_resident"]
    assert template.accepts(posed.body) is None
    assert reason in template.supports(posed, H200)
    assert templates()["recurrence"].supports(posed, H200) is None


def test_float32_is_not_for_tensor_cores():
    assert "16-bit" in templates()["recurrence_resident"].accepts(problem(OPS["lstm"], dtype=f32).body)
