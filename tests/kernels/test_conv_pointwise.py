"""The Gluon kernel for a convolution and the 1x1 convolution of it: what it takes, how it tiles, what it compiles to.
Its numbers are checked as compiled (test_conv_pointwise_compiled.py) and on the GPU (tests/gpu/test_two_anchors.py)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.errors import KernelError
from jitrt.graph import Graph, TensorType, f16, f32
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Conv, MaxPool, Permute, Relu, Tanh
from jitrt.kernels import conv_pointwise
from jitrt.kernels.base import Problem, templates
from jitrt.kernels.conv_pointwise import ConvPointwise
from jitrt.kernels.conv_pointwise_cost import products_of, units_of
from jitrt.kernels.conv_pointwise_shape import shape_of
from jitrt.kernels.conv_tma_cost import box_of
from jitrt.testing import compiles, make_problem
from jitrt.tune.candidates import candidates_of
from tests.kernels.bottlenecks import bottleneck

H200 = TARGETS[90]
TEMPLATE = ConvPointwise()
SAME = ((1, 1), (1, 1))


def reason(problem: Problem) -> str:
    return TEMPLATE.accepts(problem.body) or TEMPLATE.supports(problem, H200) or ""


PROBLEMS = {
    "64 at 56": bottleneck((128, 64, 56, 56), 64, 256),
    "64 at 56, batch 8": bottleneck((8, 64, 56, 56), 64, 256),
    "128 at 28": bottleneck((128, 128, 28, 28), 128, 512),
    "128 at 56, by 2": bottleneck((128, 128, 56, 56), 128, 512, stride=2),
    "odd": bottleneck((64, 72, 35, 29), 56, 200, gap=24),
    "no residual": bottleneck((128, 64, 56, 56), 64, 256, residual=False, swish=True),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_compiles_without_spills(name: str) -> None:
    problem = PROBLEMS[name]
    assert reason(problem) == ""
    config = TEMPLATE.candidates(problem, H200)[len(name) % 3]
    (binary,) = compiles(problem, TEMPLATE, config, targets=(90,))
    assert binary.num_warps == 4 + config["num_warps"] * config["CONSUMERS"]
    assert (binary.shared_bytes + 1024) * config["PROGRAMS"] <= H200.shared + 1024
    assert binary.registers * 32 * binary.num_warps * config["PROGRAMS"] <= 65536


@pytest.mark.parametrize("name", PROBLEMS)
def test_candidates(name: str) -> None:
    """Few, of several tiles, that cover the result."""
    problem = PROBLEMS[name]
    shape, candidates = shape_of(problem), TEMPLATE.candidates(problem, H200)
    assert len(candidates) == 16
    assert len({(math.prod(box_of(each)), each["BLOCK_N"], each["CONSUMERS"]) for each in candidates[:6]}) > 3
    for config in candidates:
        pixels = math.prod(box_of(config))
        assert units_of(shape, config) * pixels >= shape.first.rows
        assert products_of(shape, config) * config["BLOCK_N"] >= shape.filters
        assert config["GROUP"] == 1 or shape.first.refuse_group(box_of(config)) is None
        assert config["BUFFERS"] >= (2 if shape.handed is not None else 1)


# Measured on an H200: /jitrt/bench/RESULTS.md.
BEST = {
    "64 at 56": {"LINES": 8, "IMAGES": 1, "COLUMNS": 8, "GROUP": 3, "BUFFERS": 4, "V_STAGES": 0, "W_STAGES": 0},
    "64 at 56, batch 8": {"LINES": 8, "IMAGES": 1, "COLUMNS": 8, "GROUP": 3, "BUFFERS": 4, "V_STAGES": 0},
    "128 at 28": {"LINES": 4, "IMAGES": 4, "COLUMNS": 4, "GROUP": 3, "BUFFERS": 3, "V_STAGES": 5, "W_STAGES": 3},
}


@pytest.mark.parametrize("name", BEST)
def test_what_was_fastest_is_among_the_first(name: str) -> None:
    best = BEST[name] | {"BLOCK_N": 64, "CONSUMERS": 2, "num_warps": 4, "PROGRAMS": 1}
    assert any(best.items() <= config.items() for config in TEMPLATE.candidates(PROBLEMS[name], H200)[:4])


def test_what_is_loaded() -> None:
    """Of x the lines that rows of the filter share, or every other line and column; of weights all channels between."""
    problem = PROBLEMS["64 at 56"]
    arguments = TEMPLATE.lower(problem, TEMPLATE.candidates(problem, H200)[1], H200).calls[0].arguments
    x, v, w, y = (arguments[name] for name in ("x", "v", "w", "y"))
    assert (x.box[0], x.steps) == (x.block[0] + 2, ())
    assert (v.shape, v.block) == ((64, 9, 64), (64, 1, 64))
    assert (w.shape, w.block[1]) == ((256, 64), 64)
    assert (y.shape, y.block[:3]) == ((56, 128, 56, 256), x.block[:3])
    stepped = PROBLEMS["128 at 56, by 2"]
    x = TEMPLATE.lower(stepped, TEMPLATE.candidates(stepped, H200)[0], H200).calls[0].arguments["x"]
    assert x.steps == (2, 1, 2, 1) and x.box == (2 * x.block[0], x.block[1], 2 * x.block[2], 64)


def test_weights_that_are_computed_wait_for_the_launch_before() -> None:
    known = PROBLEMS["64 at 56"]
    live = Problem(known.body, (False,) * len(known.weights), known.alignment)
    fixed = [
        TEMPLATE.lower(each, TEMPLATE.candidates(each, H200)[0], H200).calls[0].constexprs["FIXED"]
        for each in (known, live)
    ]
    assert fixed == [True, False]


def test_no_other_template_takes_both_convolutions() -> None:
    found = candidates_of(PROBLEMS["64 at 56"], H200, templates(), None)
    assert {c.tactic.template for c in found} == {"conv_pointwise"}


def changed(problem: Problem, **ops: Op) -> Problem:
    """With another op for the first convolution or the second."""
    for node in problem.body.nodes:
        if node.op.name == "conv":
            name = "first" if node.inputs[1].name == "v" else "second"
            node.op = ops.get(name, node.op)
    return problem


def large(**others: Any) -> Problem:
    return bottleneck((128, 64, 56, 56), **{"width": 64, "filters": 256, **others})


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (large(kernel=1), "anchor is no"),
        (changed(large(), second=Conv((1, 1), SAME, (1, 1))), "anchor is no"),
        (changed(large(), first=Conv((1, 1), SAME, (1, 1), 2)), "anchor is no"),
        (changed(large(), first=Conv((1, 1), SAME, (2, 2))), "groups or dilation"),
        (large(kernel=9), "too large"),
        (large(dtype=f32), "16-bit floats"),
        (large(width=136), "136 channels between the convolutions are more than a program keeps (128)"),
        (bottleneck((128, 60, 56, 56), 64, 256), "x does not lie at multiples of 16 bytes"),
        (large(width=60), "the second convolution's w does not lie at multiples of 16 bytes"),
        (large(filters=252), "the result does not lie at multiples of 16 bytes"),
        (bottleneck((1, 64, 14, 14), 64, 256), "196 rows are too few"),
        (bottleneck((1, 128, 28, 28), 128, 512), "two kernels are estimated to take"),
        (bottleneck((8, 128, 28, 28), 128, 512), "two kernels are estimated to take"),
    ],
)
def test_it_refuses(problem: Problem, why: str) -> None:
    assert why in reason(problem)


def in_between(
    *ops: Op, prologue: bool = False, twice: bool = False, image: bool = False, after: Op | None = None
) -> str:
    """Why a region with `ops` between the convolutions is refused."""
    body = Graph("region")
    x, v = body.add_input("x", TensorType(f16, (64, 32, 56, 56))), body.add_input("v", TensorType(f16, (64, 32, 3, 3)))
    w = body.add_input("w", TensorType(f16, (64, 64, 1, 1)))
    first = body.add(Conv((1, 1), SAME, (1, 1)), body.add(Relu(), x) if prologue else x, v)
    if image:
        first = body.add(Add(), first, body.add_input("image", first.type))
    for op in ops:
        first = body.add(op, first)
    value = body.add(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), first, w)
    value = body.add(Add(), value, first) if twice else value
    body.mark_output(body.add(after, value) if after else value)
    return reason(make_problem(body, weights=["v", "w"]))


def test_it_refuses_what_else_is_in_between() -> None:
    assert "channels apart" in in_between(Relu())  # nothing but the layout is wrong
    assert "computed" in in_between(prologue=True)
    assert "anchor is no" in in_between(MaxPool((3, 3), (1, 1), (1, 1)))
    assert "read after them" in in_between(twice=True)
    assert "permute between the convolutions is not elementwise" in in_between(Permute((0, 1, 3, 2)))
    assert "anchor is no" in in_between(after=MaxPool((3, 3), (1, 1), (1, 1)))


def test_a_long_epilogue_takes_small_tiles() -> None:
    problem = large(residual=False)
    body = problem.body
    (relu,) = (node for node in body.nodes if node.output is body.outputs[0])
    relu.op = Tanh()
    for config in TEMPLATE.candidates(problem, H200):
        assert math.prod(box_of(config)) * max(config["BLOCK_N"], 64) <= 64 * 32 * config["num_warps"]


def test_what_cannot_be_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PROBLEMS["64 at 56"]
    assert "no wgmma" in (TEMPLATE.supports(problem, TARGETS[100]) or "")
    assert "no wgmma" in (TEMPLATE.supports(problem, TARGETS[80]) or "")
    assert "fit into shared memory" in (TEMPLATE.supports(problem, replace(H200, shared=20 << 10)) or "")
    with pytest.raises(KernelError, match="take the two convolutions apart"):
        shape_of(bottleneck((128, 60, 56, 56), 64, 256))
    monkeypatch.setattr(conv_pointwise, "LACKING", "this Triton's Gluon has no warp specialisation")
    assert "no warp specialisation" in reason(problem)
