"""1x1 convolutions and linear layers that compute their input on the way in, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, TensorType, bf16, f16, f32, f64
from jitrt.graph.ops import Add, Cast, Conv, Linear, Mul, Relu, Sigmoid
from jitrt.kernels.base import Problem, accepts, templates
from jitrt.kernels.conv1x1 import Conv1x1
from jitrt.kernels.in_place import in_place_offers
from jitrt.passes.region import make_region
from jitrt.testing import check_problem, compiles, make_problem
from tests.kernels.convolutions import computed_problem as computed

SMALL = {
    "BLOCK_M": 16,
    "BLOCK_N": 16,
    "BLOCK_K": 16,
    "SPLIT_K": 1,
    "EARLY": False,
    "ALIGNED": False,
    "num_warps": 4,
    "num_stages": 2,
}


def config(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


def linear(shape: Sequence[int] = (2, 5, 37), filters: int = 19, *, strides: Sequence[int] | None = None) -> Problem:
    """linear(x * gate), the gate by the first dimension and the channel."""
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, tuple(shape)))
    gate = body.add_input("gate", TensorType(f16, (shape[0], *(1 for _ in shape[1:-1]), shape[-1])))
    w = body.add_input("w", TensorType(f16, (filters, shape[-1])))
    body.mark_output(body.add(Linear(), body.add(Cast(f16), body.add(Mul(), x, gate)), w))
    return make_problem(body, strides={} if strides is None else {"x": strides}, weights=["w"], alignment=2)


def sequence() -> Problem:
    """A one-dimensional convolution of relu(x)."""
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, (2, 21, 9)))
    w = body.add_input("w", TensorType(f16, (18, 21, 1)))
    body.mark_output(body.add(Conv((1,), ((0, 0),), (1,)), body.add(Relu(), x), w))
    return make_problem(body, weights=["w"], alignment=2)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(computed("scale, shift and relu"), id="scale, shift and relu"),
        pytest.param(computed("scale, shift and relu", gap=6), id="out of a concat's slice"),
        pytest.param(computed("scale, shift and relu", nchw=True), id="NCHW"),
        pytest.param(computed("scale, shift and relu", (1, 48, 4, 4), live=True), id="live weights, whole blocks"),
        pytest.param(computed("scale, shift and relu", stored=f32), id="stored in float32"),
        pytest.param(computed("gate"), id="gate"),
        pytest.param(computed("gate before its activation", residual=True), id="hard_sigmoid and residual"),
        pytest.param(computed("gate of every pixel"), id="gate of every pixel"),
        pytest.param(computed("gate of every image"), id="gate of every image"),
        pytest.param(computed("sum of two", gap=3), id="sum of two"),
        pytest.param(computed("gate", dtype=bf16), id="bf16"),
        pytest.param(computed("gate", dtype=f32), id="fp32"),
        pytest.param(computed("scale, shift and relu", dtype=f32, tf32=True), id="tf32"),
        pytest.param(sequence(), id="one dimension"),
        pytest.param(linear(), id="linear"),
        pytest.param(linear(strides=(400, 40, 1)), id="linear of rows not evenly spaced"),
        pytest.param(linear((3, 40)), id="linear of a matrix"),
        pytest.param(linear((1, 40)), id="linear of one row"),
    ],
)
@pytest.mark.parametrize("aligned", [False, True], ids=["", "aligned"])
def test_numbers(problem: Problem, aligned: bool) -> None:
    check_problem(problem, Conv1x1(), [config(ALIGNED=aligned)])


def test_channels_that_are_not_there_are_zero_whatever_is_computed_from_them() -> None:
    """log(0) is an infinity, which times a weight of zero would be NaN."""
    check_problem(computed("logarithm", (1, 19, 3, 3)), Conv1x1(), [config()])


def test_a_float32_result_shows_how_its_input_was_rounded() -> None:
    """What lies between two float16 numbers may go to either of them, which is no fault of a kernel."""
    body = Graph("region")
    x, scale = body.add_input("x", TensorType(f16, (64, 96))), body.add_input("scale", TensorType(f32, (96,)))
    w = body.add_input("w", TensorType(f16, (40, 96)))
    halves = body.add(Cast(f16), body.add(Sigmoid(), body.add(Mul(), body.add(Cast(f32), x), scale)))
    body.mark_output(body.add(Cast(f32), body.add(Linear(), halves, w)))
    check_problem(make_problem(body, weights=["scale", "w"]), Conv1x1(), [config()], extremes=False, seed=8)


def test_split_k_adds_the_parts_and_leaves_the_counters_zero() -> None:
    problem = computed("gate", (2, 90, 3, 3), residual=True)
    check_problem(problem, Conv1x1(), [config(SPLIT_K=2), config(SPLIT_K=6, ALIGNED=True)], extremes=False)


def test_early_residual() -> None:
    problem = computed("scale, shift and relu", residual=True)
    check_problem(problem, Conv1x1(), [config(EARLY=True)], extremes=False)
    compiles(problem, Conv1x1(), config(EARLY=True, BLOCK_M=32, BLOCK_N=32, BLOCK_K=32))


def test_an_operand_read_on_the_way_in_may_be_added_afterwards_but_not_written_over() -> None:
    """linear(x * gate) + x + skip: other programs still read x when one has its rows of the result."""
    graph = Graph("net")
    x, skip = (graph.add_input(name, TensorType(f16, (40, 33))) for name in ("x", "skip"))
    gate, w = graph.add_input("gate", TensorType(f16, (33,))), graph.add_input("w", TensorType(f16, (33, 33)))
    product = graph.add(Linear(), graph.add(Cast(f16), graph.add(Mul(), x, gate)), w)
    out = graph.add(Add(), graph.add(Add(), product, x), skip)
    graph.mark_output(out)
    check_problem(make_problem(graph.clone(), alignment=2), Conv1x1(), [config()], extremes=False)
    region = make_region(graph, graph.nodes, out)
    problem = Problem.of(region)
    assert in_place_offers(region, problem, Conv1x1(), Conv1x1().lower(problem, config(), TARGETS[90])) == {
        "x": "other programs of conv1x1 read it too, as inputs",
        "skip": None,
    }


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(computed("scale, shift and relu", (1, 256, 28, 28), 128, gap=256), id="DenseNet"),
        pytest.param(computed("gate", (8, 480, 14, 14), 80), id="EfficientNet"),
        pytest.param(computed("gate", (8, 72, 28, 28), 40, dtype=f32), id="float32"),
    ],
)
def test_best_guess_compiles_for_every_target(problem: Problem) -> None:
    for arch in (80, 90, 100):
        compiles(problem, Conv1x1(), Conv1x1().candidates(problem, TARGETS[arch])[0], targets=(arch,))


def test_gates_are_rows_of_numbers_where_tiles_keep_to_an_image() -> None:
    def kinds(problem: Problem) -> set[bool]:
        return {found["ALIGNED"] for found in Conv1x1().candidates(problem, TARGETS[90])}

    assert kinds(computed("gate", (8, 480, 14, 14), 80)) == {False, True}
    assert kinds(computed("gate", (1, 480, 14, 14), 80)) == {False}
    assert kinds(computed("scale, shift and relu", (8, 480, 14, 14), 80)) == {False}
    assert kinds(linear((64, 128), 128)) == {False}


def test_candidates_fit_the_chip() -> None:
    for arch, target in TARGETS.items():
        found = Conv1x1().candidates(computed("sum of two", (8, 512, 28, 28), 128), target)
        for each in found:
            shared = (2 * each["BLOCK_M"] + each["BLOCK_N"]) * each["BLOCK_K"] * 2 * each["num_stages"]
            assert shared <= target.shared, (arch, each)


def test_few_tiles_are_split() -> None:
    assert any(c["SPLIT_K"] > 1 for c in Conv1x1().candidates(computed("gate", (1, 1024, 7, 7), 64), TARGETS[90])[:12])


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (computed("gate", kernel=3, padding=1), "a 3x3 convolution would compute what is before it once for every tap"),
        (computed("gate", stride=2), "a 1x1 convolution with a stride or padding cannot compute what is before it"),
        (computed("gate", padding=1), "a 1x1 convolution with a stride or padding cannot compute what is before it"),
        (computed("gate", (2, 36, 5, 3), 18, groups=2), "a grouped convolution cannot compute what is before it"),
    ],
)
def test_refuses_other_convolutions(problem: Problem, reason: str) -> None:
    assert Conv1x1().accepts(problem.body) == reason
    assert reason in (accepts(problem.body) or "")


def body_of(*, dtype: DType = f16, before: str = "relu") -> Graph:
    """linear(relu(x)) and what is no prologue like it."""
    body = Graph("region")
    x = body.add_input("x", TensorType(f32 if before == "cast" else dtype, (4, 16)))
    w = body.add_input("w", TensorType(dtype, (16, 16)))
    match before:
        case "cast":
            value = body.add(Cast(dtype), x)
        case "nothing":
            value = x
        case _:
            value = body.add(Relu(), x)
    y = body.add(Linear(), value, body.add(Relu(), w) if before == "weights" else w)
    body.mark_output(body.add(Add(), y, value) if before == "both" else y)
    return body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (body_of(before="nothing"), "anchor has nothing before it to compute"),
        (body_of(before="cast"), "anchor has nothing before it to compute"),
        (body_of(before="weights"), "weights cannot be computed inside a convolution's loop"),
        (body_of(before="both"), "what is before the convolution is read after it too"),
        (body_of(dtype=f64), "f64 convolutions have no kernel"),
    ],
)
def test_refuses(body: Graph, reason: str) -> None:
    assert Conv1x1().accepts(body) == reason


def test_plain_convolutions_are_left_to_their_kernel() -> None:
    assert Conv1x1().accepts(body_of(before="nothing")) is not None
    assert templates()["conv2d"].accepts(body_of(before="nothing")) is None
