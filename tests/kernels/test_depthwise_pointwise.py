"""A depthwise convolution and the 1x1 convolution of it in one kernel, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32
from jitrt.graph.ops import Add, Cast, Clamp, Conv, HardSwish, Mul, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem
from jitrt.kernels.depthwise_pointwise import DepthwisePointwise, pack_taps
from jitrt.testing import check_problem, compiles, make_problem


def separable(
    shape: Sequence[int] = (2, 20, 7, 5),
    filters: int = 18,
    kernel: int = 3,
    stride: int = 1,
    *,
    dtype: DType = f16,
    residual: bool = False,
    nchw: bool = False,
    swish: bool = False,
) -> Problem:
    """pointwise(clamp(depthwise(x) + bias)) + bias (+ residual); with `swish` x * sigmoid(x) stands for the clamp."""
    body = Graph("region")
    channels = shape[1]

    def lie(type: TensorType) -> TensorType:
        return type if nchw else type.with_layout(Layout(channels_last(type.shape)))

    x = body.add_input("x", lie(TensorType(dtype, tuple(shape))))
    v = body.add_input("v", TensorType(dtype, (channels, 1, kernel, kernel)))
    inner = body.add_input("inner", TensorType(f32, (channels, 1, 1)))
    w = body.add_input("w", TensorType(dtype, (filters, channels, 1, 1)))
    outer = body.add_input("outer", TensorType(f32, (filters, 1, 1)))
    pad = kernel // 2
    deep = body.add(Conv((stride, stride), ((pad, pad), (pad, pad)), (1, 1), channels), x, v)
    deep = body.add(Add(), deep, inner)
    deep = body.add(Mul(), deep, body.add(Sigmoid(), deep)) if swish else body.add(Clamp(0.0, 6.0), deep)
    deep = body.add(Cast(dtype), deep)
    deep.type = lie(deep.type)
    value = body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), deep, w)
    value = body.add(Cast(dtype), body.add(Add(), value, outer))
    if residual:
        value = body.add(Add(), value, body.add_input("residual", lie(value.type)))
    value.type = lie(value.type)
    body.mark_output(value)
    return make_problem(body, weights=["v", "inner", "w", "outer"])


def config(m: int = 16, n: int = 16, k: int = 16, split: int = 1, stages: int = 1) -> dict[str, Any]:
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "SPLIT_K": split, "num_warps": 4, "num_stages": stages}


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(separable(), config(), id="3x3"),
        pytest.param(separable((1, 33, 6, 7), 9, 5, 2, dtype=bf16, swish=True), config(k=16, split=2), id="5x5 by 2"),
        pytest.param(separable(residual=True), config(m=32, n=32, k=32), id="residual, one tile"),
        pytest.param(separable((1, 17, 5, 4), 16, dtype=f32, nchw=True), config(split=2), id="float32, NCHW"),
    ],
)
def test_numbers(problem: Problem, config: dict[str, Any]) -> None:
    check_problem(problem, DepthwisePointwise(), [config])


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(separable((1, 384, 14, 14), 64), config(16, 64, 32, 6), id="few pixels"),
        pytest.param(separable((8, 144, 56, 56), 24, stride=2), config(64, 32, 32), id="many pixels"),
    ],
)
def test_compiles_without_spills(problem: Problem, config: dict[str, Any]) -> None:
    compiles(problem, DepthwisePointwise(), config)


def test_few_tiles_are_split_and_many_are_not() -> None:
    few = DepthwisePointwise().candidates(separable((1, 960, 7, 7), 160), TARGETS[90])
    many = DepthwisePointwise().candidates(separable((8, 96, 56, 56), 24), TARGETS[90])
    assert few[0]["SPLIT_K"] > 1 and many[0]["SPLIT_K"] == 1


def test_pack_puts_the_channels_of_a_tap_side_by_side() -> None:
    v = np.arange(2 * 3 * 3).reshape(2, 1, 3, 3)
    assert np.array_equal(pack_taps(v)[1, 2], v[:, 0, 1, 2])


def test_it_refuses() -> None:
    def reason(problem: Problem) -> str:
        return DepthwisePointwise().accepts(problem.body) or ""

    assert "49 taps" in reason(separable(kernel=7))
    grouped = separable().body
    grouped.nodes[0].op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 10)
    assert "anchor" in (DepthwisePointwise().accepts(grouped) or "")
    computed = Graph("region")
    x = computed.add_input("x", TensorType(f16, (1, 8, 5, 5)))
    v, w = (
        computed.add_input("v", TensorType(f16, (8, 1, 3, 3))),
        computed.add_input("w", TensorType(f16, (4, 8, 1, 1))),
    )
    deep = computed.add(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 8), computed.add(HardSwish(), x), v)
    computed.mark_output(computed.add(Relu(), computed.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), deep, w)))
    assert "must lie in memory" in (DepthwisePointwise().accepts(computed) or "")
    live = separable()
    live = Problem(live.body, (False,) * 5, live.alignment)
    assert "constant weights" in (DepthwisePointwise().supports(live, TARGETS[90]) or "")
