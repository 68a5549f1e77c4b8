"""A mean and the linear layer or 1x1 convolution after it in one kernel, against numpy."""

from __future__ import annotations

from typing import Any

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, Layout, TensorType, bf16, f16, f32
from jitrt.graph.ops import Add, Conv, Linear, Mul, ReduceMax, ReduceMean, Relu, Sigmoid
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Problem, accepts
from jitrt.kernels.mean_linear import MeanLinear
from jitrt.testing import check_problem, compiles, make_problem


def config(m: int = 2, r: int = 4, k: int = 16, n: int = 16, split_k: int = 1, split_r: int = 1) -> dict[str, Any]:
    blocks = {"BLOCK_M": m, "BLOCK_R": r, "BLOCK_K": k, "BLOCK_N": n}
    return {**blocks, "SPLIT_K": split_k, "SPLIT_R": split_r, "num_warps": 4}


def head(
    shape: tuple[int, ...] = (3, 20, 5, 3),
    filters: int = 19,
    *,
    dtype: DType = f16,
    conv: bool = False,
    scaled: bool = False,
    nchw: bool = False,
    tf32: bool = False,
) -> Problem:
    """relu(linear(mean(x)) + bias); with `scaled` it is the mean of relu(x * scale); with `conv` a 1x1 convolution."""
    body = Graph("region")
    x = body.add_input("x", TensorType(dtype, shape, None if nchw else Layout(channels_last(shape))))
    if scaled:
        scale = body.add_input("scale", TensorType(dtype, (shape[1], 1, 1)))
        x = body.add(Relu(), body.add(Mul(), x, scale))
    mean = body.add(ReduceMean((2, 3), conv), x)
    w = body.add_input("w", TensorType(dtype, (filters, shape[1], *[1, 1][: 2 * conv])))
    bias = body.add_input("bias", TensorType(f32, (filters, 1, 1) if conv else (filters,)))
    op = Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1, tf32) if conv else Linear(tf32)
    body.mark_output(body.add(Relu(), body.add(Add(), body.add(op, mean, w), bias)))
    return make_problem(body, weights=["scale", "w", "bias"])


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(head(), config(), id="linear"),
        pytest.param(head(), config(m=16, r=1, n=32), id="one tile"),
        pytest.param(head(), config(split_k=2), id="channels split"),
        pytest.param(head((1, 37, 5, 3), conv=True, dtype=bf16), config(split_k=4), id="1x1 convolution, bfloat16"),
        pytest.param(head((1, 17, 7, 7), 10, scaled=True), config(m=1), id="something before the mean"),
        pytest.param(head((17, 18, 2, 2), 10, dtype=f32), config(m=16), id="more images than a tile, float32"),
    ],
)
def test_numbers(problem: Problem, config: dict[str, Any]) -> None:
    check_problem(problem, MeanLinear(), [config])


def test_the_image_split() -> None:
    """Not with infinite weights, which constants are not."""
    check_problem(head(), MeanLinear(), [config(split_r=2), config(4, 2, 16, 16, 2, 4)], extremes=False)
    live = head()
    live = Problem(live.body, (False,) * 3, live.alignment)
    assert all(c["SPLIT_R"] == 1 for c in MeanLinear().candidates(live, TARGETS[90]))


def test_a_mean_of_tokens() -> None:
    body = Graph("region")
    x, w = body.add_input("x", TensorType(f16, (2, 9, 24))), body.add_input("w", TensorType(f16, (10, 24)))
    body.mark_output(body.add(Sigmoid(), body.add(Linear(), body.add(ReduceMean((1,)), x), w)))
    problem = make_problem(body, weights=["w"])
    check_problem(problem, MeanLinear(), [config(split_k=2)])


@pytest.mark.parametrize("batch", [1, 8])
def test_compiles_without_spills(batch: int) -> None:
    template, problem = MeanLinear(), head((batch, 2048, 7, 7), 1000)
    compiles(problem, template)
    splits = [c["SPLIT_K"] * c["SPLIT_R"] for c in template.candidates(problem, TARGETS[90])]
    assert max(splits) > 1


def test_a_squeeze_of_a_large_image_is_split_along_the_image() -> None:
    first = MeanLinear().candidates(head((1, 32, 112, 112), 8, conv=True), TARGETS[90])[0]
    assert first["SPLIT_R"] > 1


def test_it_refuses() -> None:
    template = MeanLinear()
    assert "innermost" in (template.accepts(head(nchw=True).body) or "")
    body = head().body
    body.nodes[0].op = ReduceMax((2, 3))
    assert "anchor is no linear layer of means" in (template.accepts(body) or "")
    body = Graph("region")
    x, w = body.add_input("x", TensorType(f16, (2, 9, 24))), body.add_input("w", TensorType(f16, (24, 24)))
    mean = body.add(ReduceMean((1,)), x)
    body.mark_output(body.add(Add(), body.add(Linear(), mean, w), mean))
    assert "read elsewhere" in (template.accepts(body) or "")
    body = Graph("region")
    x, w = body.add_input("x", TensorType(f16, (2, 9, 24))), body.add_input("w", TensorType(f16, (24, 24)))
    body.mark_output(body.add(Linear(), body.add(ReduceMean((1,)), x), body.add(Relu(), w)))
    assert "computed" in (template.accepts(body) or "")


def test_no_other_template_takes_two_anchors() -> None:
    body = head(nchw=True).body
    assert "innermost" in (accepts(body) or "")
