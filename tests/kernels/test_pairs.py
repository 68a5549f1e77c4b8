"""Epilogues that end in a pair: a channel shuffle written by one kernel."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, TensorType, f16
from jitrt.graph.ops import Add, Concat, Conv, Relu, Reshape
from jitrt.kernels.base import Config, Problem, templates
from jitrt.testing import check_problem, compiles, make_problem


def pair(
    dtype: DType = f16,
    *,
    first: bool = True,
    separable: bool = False,
    c: int = 20,
    k: int = 13,
    pitch: int = 0,
    size: tuple[int, int] = (5, 3),
) -> Problem:
    """relu(conv(x) + bias) interleaved with a tensor of its shape; `first`: that tensor has the even channels. It is a
    part of something larger with `pitch` more channels, as in ShuffleNet."""
    (h, w), pixels = size, size[0] * size[1]
    body = Graph("region")
    x = body.add_input("x", TensorType(dtype, (2, c, h, w)))
    value, weights = x, ["w", "b"]
    if separable:
        weights.append("v")
        v = body.add_input("v", TensorType(dtype, (c, 1, 3, 3)))
        value = body.add(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), c), x, v)
    weight = body.add_input("w", TensorType(dtype, (k, c, 1, 1)))
    bias = body.add_input("b", TensorType(dtype, (k, 1, 1)))
    kept = body.add_input("kept", TensorType(dtype, (2, 1, k, h, w)))
    value = body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), value, weight)
    value = body.add(Reshape((2, 1, k, h, w)), body.add(Relu(), body.add(Add(), value, bias)))
    out = body.add(Concat(1), *((kept, value) if first else (value, kept)), name="out")
    body.mark_output(out)
    wide = k + pitch
    strides = {
        "x": (pixels * c, 1, w * c, c),
        "kept": (pixels * wide, pixels * wide, 1, w * wide, wide),
        "out": (2 * pixels * k, 1, 2, 2 * w * k, 2 * k),
        "w": (c, 1, c, c),
        "v": (9, 1, 3, 1),
    }
    return make_problem(body, strides=strides, weights=weights, alignment=2)


def split(configs: Sequence[Config]) -> list[Config]:
    """The likeliest configuration, and one whose reduction is split."""
    return [configs[0], *[c for c in configs if c.get("SPLIT_K", 1) > 1][:1]]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", [DType.f16, DType.bf16, DType.f32])
def test_numbers(dtype: DType, first: bool) -> None:
    posed, template = pair(dtype, first=first, pitch=5), templates()["conv2d"]
    configs = template.candidates(posed, TARGETS[90])
    early = [c for c in configs if c["EARLY"]][:1]
    check_problem(posed, template, [*split(configs), *early])


def test_numbers_of_a_split_reduction() -> None:
    posed, template = pair(c=300), templates()["conv2d"]
    configs = [c for c in template.candidates(posed, TARGETS[90]) if c["SPLIT_K"] > 1]
    check_problem(posed, template, configs[:1])
    assert configs


def test_numbers_after_a_depthwise_convolution() -> None:
    check_problem(pair(separable=True, pitch=3), templates()["depthwise_pointwise"])


@pytest.mark.parametrize("name", ["conv2d", "depthwise_pointwise"])
def test_resources(name: str) -> None:
    compiles(pair(separable=name != "conv2d", c=64, k=58, pitch=58), templates()[name])


def test_other_templates_take_no_pair() -> None:
    body = pair().body
    taking = {name for name, template in templates().items() if template.accepts(body) is None}
    assert taking == {"conv2d"}
    assert templates()["stem"].accepts(pair(c=3).body) == "reshape is not elementwise"


def test_three_are_no_pair() -> None:
    body = pair().body
    node = body.nodes[-1]
    three = body.add(Concat(1), *node.inputs, node.inputs[0])
    body.outputs = [three]
    assert "not elementwise" in str(templates()["conv2d"].accepts(body))
