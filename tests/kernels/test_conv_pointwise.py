"""A convolution and the 1x1 convolution of it in one kernel, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32
from jitrt.graph.ops import Add, Conv, MaxPool, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from jitrt.kernels.conv_pointwise import ConvPointwise, describe
from jitrt.kernels.conv_pointwise_cost import configs
from jitrt.testing import check_problem, compiles, make_problem

SAME = ((1, 1), (1, 1))


def bottleneck(
    shape: Sequence[int] = (2, 20, 7, 5),
    width: int = 18,
    filters: int = 50,
    kernel: int = 3,
    stride: int = 1,
    *,
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None,
    dtype: DType = f16,
    residual: bool = True,
    gap: int = 0,
    swish: bool = False,
) -> Problem:
    """relu(pointwise(relu(conv(x) + bias)) + bias (+ residual)); with `swish` x * sigmoid(x) stands for the first relu.
    The result has `gap` foreign channels after each pixel."""
    body = Graph("region")

    def lie(type: TensorType, more: int = 0) -> TensorType:
        n, c, *rest = type.shape
        return type.with_layout(Layout(channels_last((n, c + more, *rest))))

    x = body.add_input("x", lie(TensorType(dtype, tuple(shape))))
    v = body.add_input("v", lie(TensorType(dtype, (width, shape[1], kernel, kernel))))
    inner = body.add_input("inner", TensorType(dtype, (width, 1, 1)))
    w = body.add_input("w", TensorType(dtype, (filters, width, 1, 1)))
    outer = body.add_input("outer", TensorType(dtype, (filters, 1, 1)))
    around = padding or ((kernel // 2,) * 2,) * 2
    first = body.add(Add(), body.add(Conv((stride, stride), around, (1, 1)), x, v), inner)
    first = body.add(Sigmoid() if swish else Relu(), first)
    first.type = lie(first.type)
    value = body.add(Add(), body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), first, w), outer)
    if residual:
        value = body.add(Add(), value, body.add_input("residual", lie(value.type)))
    value = body.add(Relu(), value)
    value.type = lie(value.type, gap)
    body.mark_output(value)
    return make_problem(body, weights=["v", "inner", "w", "outer"])


def config(m: int = 16, n: int = 16, k: int = 16, ahead: int = 1, stages_n: int = 0, **others: int) -> dict[str, Any]:
    """`stages_n` 0: the second weights are loaded first."""
    kept = {"AHEAD": ahead, "RESIDENT": not stages_n, "STAGES_N": max(1, stages_n)}
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, **kept, "num_warps": 4, "num_stages": 2, **others}


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(bottleneck(), config(), id="weights first"),
        pytest.param(bottleneck(), config(n=32, ahead=0, stages_n=2), id="weights later"),
        pytest.param(bottleneck(gap=6), config(m=32, ahead=3), id="all residuals first, a slice of a concat"),
        pytest.param(
            bottleneck((1, 16, 9, 8), 33, 30, 5, 2, padding=((2, 1), (0, 2)), dtype=bf16, residual=False, swish=True),
            config(n=32, stages_n=2),
            id="5x5 by 2, uneven padding, bfloat16",
        ),
        pytest.param(bottleneck((3, 32, 6, 6), 16, 16, 2, padding=((0, 0), (0, 0))), config(m=64), id="no padding"),
    ],
)
def test_numbers(problem: Problem, config: dict[str, Any]) -> None:
    check_problem(problem, ConvPointwise(), [config])


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(bottleneck((8, 64, 56, 56), 64, 256), config(64, 64, 64, num_stages=3), id="64 channels"),
        pytest.param(
            bottleneck((8, 128, 28, 28), 128, 512), config(64, 64, 64, stages_n=2, num_stages=4), id="128 channels"
        ),
        pytest.param(bottleneck((1, 64, 56, 56), 64, 256), config(32, 128, 64, num_stages=4), id="few pixels"),
    ],
)
def test_compiles_without_spills(problem: Problem, config: dict[str, Any]) -> None:
    compiles(problem, ConvPointwise(), config)


def test_weights_that_are_computed_are_not_loaded_early() -> None:
    """Before the launch that computes them has ended."""
    known = bottleneck((8, 64, 56, 56), 64, 256)
    live = Problem(known.body, (False,) * len(known.weights), known.alignment)
    assert any(each["RESIDENT"] for each in configs(describe(known).shape, TARGETS[90]))
    assert not any(each["RESIDENT"] for each in configs(describe(live).shape, TARGETS[90]))


def test_candidates_differ_in_their_tiles() -> None:
    candidates = ConvPointwise().candidates(bottleneck((8, 64, 56, 56), 64, 256), TARGETS[90])
    tiles = [(each["BLOCK_M"], each["BLOCK_N"], each["BLOCK_K"], each["RESIDENT"]) for each in candidates]
    assert len(tiles) > 8 and all(tiles.count(tile) <= 2 for tile in tiles)


def changed(problem: Problem, **ops: Any) -> Graph:
    for node in problem.body.nodes:
        if node.op.name == "conv":
            name = "first" if node.inputs[1].name == "v" else "second"
            node.op = ops.get(name, node.op)
    return problem.body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (bottleneck(kernel=1).body, "anchor is no"),
        (changed(bottleneck(), second=Conv((1, 1), SAME, (1, 1))), "anchor is no"),
        (changed(bottleneck(), first=Conv((1, 1), SAME, (1, 1), 2)), "anchor is no"),
        (bottleneck(dtype=f32).body, "16-bit floats do"),
        (bottleneck(width=300).body, "300 channels"),
    ],
)
def test_it_refuses(body: Graph, reason: str) -> None:
    assert reason in (ConvPointwise().accepts(body) or "")


def test_it_refuses_what_else_is_in_between() -> None:
    def reason(prologue: bool = False, pool: bool = False, twice: bool = False) -> str:
        body = Graph("region")
        x, v = body.add_input("x", TensorType(f16, (1, 8, 5, 5))), body.add_input("v", TensorType(f16, (4, 8, 3, 3)))
        w = body.add_input("w", TensorType(f16, (4, 4, 1, 1)))
        first = body.add(Relu(), body.add(Conv((1, 1), SAME, (1, 1)), body.add(Relu(), x) if prologue else x, v))
        if pool:
            first = body.add(MaxPool((3, 3), (1, 1), (1, 1)), first)
        value = body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), first, w)
        body.mark_output(body.add(Add(), value, first) if twice else value)
        return ConvPointwise().accepts(body) or ""

    assert reason() == ""
    assert "must lie in memory" in reason(prologue=True)
    assert "anchor is no" in reason(pool=True)
    assert "read after them" in reason(twice=True)


def test_it_does_not_support_images_beyond_32_bits() -> None:
    large = bottleneck((700, 64, 224, 224), 64, 64, residual=False)
    assert "too large" in (ConvPointwise().supports(large, TARGETS[90]) or "")
