"""Convolutions of several kinds in one launch: numbers in the interpreter, resources in the compiler."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32, verify
from jitrt.graph.ops import Add, Concat, Conv, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem, accepts
from jitrt.kernels.conv_group import ConvGroup
from jitrt.testing import check_problem, compiles
from tests.kernels.test_conv2d import config

Branch = tuple[int, int, int]  # channels of its input, filters, size of the filter


def group_problem(
    branches: Sequence[Branch],
    image: tuple[int, int, int] = (2, 5, 6),
    *,
    dtype: DType = f16,
    shared: bool = False,
    row_gap: int = 0,
    groups: int = 1,
) -> Problem:
    """concat of conv + bias + activation, the last with a sigmoid, the others with a relu. `shared`: all read one
    tensor. `row_gap` adds channels between the output's pixels."""
    body = Graph("region")
    n, h, w = image

    def nhwc(type: TensorType) -> TensorType:
        return type.with_layout(Layout(channels_last(type.shape)))

    weights: list[bool] = []
    results = []
    first = None
    for number, (channels, filters, size) in enumerate(branches):
        if first is None or not shared:
            first = body.add_input(f"x{number}", nhwc(TensorType(dtype, (n, channels, h, w))))
            weights.append(False)
        filter = body.add_input(f"w{number}", nhwc(TensorType(dtype, (filters, channels // groups, size, size))))
        bias = body.add_input(f"b{number}", TensorType(dtype, (filters, 1, 1)))
        weights += [True, True]
        pad = ((size // 2, size // 2),) * 2
        y = body.add(Conv((1, 1), pad, (1, 1), groups), first, filter)
        y = body.add(Add(), y, bias)
        results.append(body.add(Sigmoid() if number == len(branches) - 1 else Relu(), y))
    out = body.add(Concat(1), *results)
    row = out.type.shape[1] + row_gap
    out.type = out.type.with_layout(Layout((h * w * row, 1, w * row, row)))
    body.mark_output(out)
    verify(body)
    aligned = 16 if row_gap == 0 else 2
    return Problem(body, tuple(weights), (aligned,) * (len(body.inputs) + 1))


INCEPTION = [(16, 20, 3), (8, 9, 5), (19, 12, 1)]


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(group_problem(INCEPTION), id="three of different input, filter and channels"),
        pytest.param(group_problem([(16, 8, 1), (16, 24, 3)], shared=True), id="two readers of one tensor"),
        pytest.param(group_problem(INCEPTION, row_gap=7), id="into part of a larger concat"),
        pytest.param(group_problem(INCEPTION, dtype=bf16), id="bf16"),
        pytest.param(group_problem(INCEPTION[:2], (1, 4, 3), dtype=f32), id="fp32"),
    ],
)
def test_numbers(problem: Problem) -> None:
    assert ConvGroup().accepts(problem.body) is None
    assert accepts(problem.body) is None
    check_problem(problem, ConvGroup(), [config()])


def test_each_splits_its_reduction_as_far_as_it_goes() -> None:
    """The 3x3 has nine steps and is shared by four programs a tile, the 1x1 has one and is not."""
    problem = group_problem([(16, 20, 3), (16, 9, 1)], (1, 5, 5))
    check_problem(problem, ConvGroup(), [config(split=4)])


@pytest.mark.parametrize("dtype", [f16, f32])
def test_compiles_for_every_target(dtype: DType) -> None:
    problem = group_problem([(96, 128, 3), (16, 32, 5), (192, 32, 1)], (1, 28, 28), dtype=dtype)
    compiles(problem, ConvGroup(), config(32, 32, 32, split=2))
    for arch in (80, 90, 100):
        best = ConvGroup().candidates(problem, TARGETS[arch])[0]
        compiles(problem, ConvGroup(), best, targets=(arch,), spills=64)


def test_tiles_are_no_wider_than_the_widest_and_there_is_always_one() -> None:
    for filters, widest in ((4, 16), (20, 32), (130, 256)):
        problem = group_problem([(16, filters, 3), (16, 3, 1)], (1, 14, 14))
        found = ConvGroup().candidates(problem, TARGETS[90])
        assert found
        assert max(config["BLOCK_N"] for config in found) <= widest
    # The best of all tiles would be wider than any of these.
    many = group_problem([(192, 16, 5), (192, 20, 3), (192, 20, 1), (192, 16, 3)], (8, 56, 56))
    assert all(ConvGroup().candidates(many, TARGETS[arch]) for arch in (80, 90, 100))


def test_refusals() -> None:
    alone = group_problem([(16, 8, 1), (16, 24, 3)])
    convs = [node for node in alone.body.nodes if isinstance(node.op, Conv)]
    single = Graph("region")
    x, w = (single.add_input(v.name, v.type) for v in convs[0].inputs)
    single.mark_output(single.add(convs[0].op, x, w))
    assert ConvGroup().accepts(single) == "anchor is no concat of channels"
    grouped = group_problem([(16, 8, 1), (16, 24, 3)], groups=2)
    assert ConvGroup().accepts(grouped.body) == "every operand of the concat is to be a dense convolution"
