"""The Gluon kernel for 1x1 convolutions: what it takes, what it compiles to, and its barriers. The interpreter runs no
Gluon: its numbers are checked as compiled (test_gemm_tma_compiled.py) and on the GPU (tests/gpu/test_gemm_tma.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.errors import KernelError
from jitrt.graph import Graph, Layout, TensorType, bf16, f16, f32
from jitrt.graph import ops as o
from jitrt.graph.op import Op
from jitrt.graph.types import channels_last
from jitrt.kernels import gemm_tma
from jitrt.kernels.base import Descriptor, Problem, templates
from jitrt.kernels.gemm_tma import GemmTma
from jitrt.kernels.gemm_tma_shape import refuse_body, shape_of
from jitrt.testing import compiles
from jitrt.tune.candidates import candidates_of
from tests.kernels.convolutions import conv_problem, gapped
from tests.kernels.pointwise_products import linear_problem, pointwise_problem
from tests.kernels.ring import run

H200 = TARGETS[90]
TEMPLATE = GemmTma()
RESNET = pointwise_problem((128, 256, 14, 14), 1024, residual=True)


def reason(problem: Problem) -> str:
    return TEMPLATE.accepts(problem.body) or TEMPLATE.supports(problem, H200) or ""


PROBLEMS = {
    "residual": RESNET,
    "no residual": pointwise_problem((128, 128, 28, 28), 512, then=()),
    "odd rows, no bias": pointwise_problem((37, 256, 27, 27), 512, bias=False),
    "odd channels": pointwise_problem((64, 200, 28, 28), 264),
    "few channels": pointwise_problem((64, 32, 56, 56), 128),
    "bfloat16": pointwise_problem((128, 512, 7, 7), 2048, residual=True, dtype=bf16),
    "bfloat16 to float16": pointwise_problem((128, 256, 14, 14), 1024, dtype=bf16, out=f16),
    "stride 2": pointwise_problem((64, 256, 56, 56), 512, stride=2, residual=True),
    "stride 2, one dimension": pointwise_problem((64, 256, 1000), 512, stride=2),
    "into a slice": pointwise_problem((64, 256, 28, 28), 512, gap=64),
    "from a slice": pointwise_problem((64, 256, 28, 28), 512, input_gap=8),
    "hardswish": pointwise_problem((64, 256, 28, 28), 512, residual=True, then=(o.HardSwish(),)),
    "gelu": linear_problem((32, 197, 768), 3072, then=(o.Gelu(),)),
    "tanh, silu, round": linear_problem((32, 197, 768), 3072, then=(o.Tanh(), o.Silu(), o.Round())),
    "clamp": linear_problem((20000, 256), 512, then=(o.Clamp(-1.0, 6.0), o.Log1p())),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_compiles_without_spills(name: str) -> None:
    problem = PROBLEMS[name]
    assert reason(problem) == ""
    candidates = TEMPLATE.candidates(problem, H200)
    assert 1 < len(candidates) <= 24
    config = candidates[len(name) % 3]
    (binary,) = compiles(problem, TEMPLATE, config, targets=(90,))
    assert binary.num_warps == 4 + config["num_warps"] * config["CONSUMERS"]


@pytest.mark.parametrize("name", ["residual", "no residual", "stride 2"])
def test_all_candidates_fit(name: str) -> None:
    problem = PROBLEMS[name]
    for config in TEMPLATE.candidates(problem, H200)[::6]:
        (binary,) = compiles(problem, TEMPLATE, config, targets=(90,))
        assert (binary.shared_bytes + 1024) * config["PROGRAMS"] <= H200.shared + 1024
        assert binary.registers * 32 * binary.num_warps * config["PROGRAMS"] <= 65536


def test_it_stands_beside_conv2d() -> None:
    found = candidates_of(RESNET, H200, templates(), None)
    assert {c.tactic.template for c in found} == {"conv2d", "gemm_tma"}
    assert {c.tactic.template for c in candidates_of(RESNET, TARGETS[80], templates(), None)} == {"conv2d"}


def test_rows_of_a_strided_convolution_are_lines() -> None:
    shape = shape_of(PROBLEMS["stride 2"])
    assert (shape.x.dims, shape.y.dims) == (
        ((64 * 28, 2 * 56 * 256), (28, 2 * 256)),
        ((64 * 28, 28 * 512), (28, 512)),
    )
    assert (shape.line, shape.runs, shape.tiles(64)) == (32, 1, 64 * 28 // 2)
    (call,) = TEMPLATE.lower(PROBLEMS["stride 2"], TEMPLATE.candidates(PROBLEMS["stride 2"], H200)[0], H200).calls
    x = call.arguments["x"]
    assert isinstance(x, Descriptor)
    assert (x.shape, x.strides) == ((64 * 28, 28, 256), (2 * 56 * 256, 2 * 256))
    assert shape_of(pointwise_problem((64, 256, 112, 112), 64, stride=2)).runs == 7  # of 8 pixels: none is empty


def test_a_slice_keeps_its_stride() -> None:
    assert shape_of(PROBLEMS["into a slice"]).y.dims == ((64 * 28 * 28, 576),)
    assert shape_of(PROBLEMS["from a slice"]).x.dims == ((64 * 28 * 28, 264),)


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (conv_problem((8, 64, 56, 56), 64, (3, 3)), "more than one pixel"),
        (conv_problem((8, 64, 56, 56), 64, (1, 1), groups=2), "groups or padding"),
        (conv_problem((8, 64, 56, 56), 64, (1, 1), padding=((1, 1), (1, 1))), "groups or padding"),
        (conv_problem((8, 64, 56, 56), 64, (1, 1), dtype=f32), "16-bit floats"),
        (conv_problem((8, 64, 56, 56), 64, (1, 1), cast_from=f32), "computed"),
        (pointwise_problem((128, 256, 14, 14), 1024, out=f32), "16-bit floats"),
        (conv_problem((64, 64, 56, 56), 64, (1, 1), nchw_in=True), "x has its channels apart"),
        (conv_problem((64, 64, 56, 56), 64, (1, 1), nchw_out=True), "the result has its channels apart"),
        (pointwise_problem((128, 256, 14, 14), 1024, alignment=8), "x does not lie at multiples of 16 bytes"),
        (pointwise_problem((128, 252, 14, 14), 1024), "x does not lie at multiples of 16 bytes"),
        (pointwise_problem((128, 256, 14, 14), 1028), "the result does not lie at multiples"),
        (pointwise_problem((128, 256, 14, 14), 1024, gap=4), "the result does not lie at multiples"),
        (pointwise_problem((33, 256, 15, 15), 512, stride=2), "not evenly spaced"),
        (pointwise_problem((1, 256, 14, 14), 1024), "196 rows are too few"),
        (linear_problem((20000, 8192), 8192, then=(o.Gelu(),)), ""),
    ],
)
def test_it_refuses(problem: Problem, why: str) -> None:
    assert why in reason(problem) if why else not reason(problem)


def test_it_refuses_epilogues() -> None:
    def posed(op: Op, *operands: TensorType, power: bool = False) -> str:
        body = Graph("region")
        x = body.add_input("x", gapped(TensorType(f16, (128, 256, 14, 14)), 0))
        w = body.add_input("w", gapped(TensorType(f16, (1024, 256, 1, 1)), 0))
        value = body.add(o.Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1), x, w)
        for index, type in enumerate(operands):
            extra = body.add_input(f"extra{index}", type)
            value = body.add(op, value, extra if type.dtype == f16 else body.add(o.Cast(f16), extra))
        if power:
            value = body.add(o.Pow(), value, body.add_input("power", TensorType(f16, (1024, 1, 1))))
        value.type = gapped(value.type, 0)
        body.mark_output(value)
        return reason(Problem(body, (False, True, *(False,) * (len(body.inputs) - 2)), (16,) * (len(body.inputs) + 1)))

    full = TensorType(f16, (128, 1024, 14, 14))
    lying = full.with_layout(Layout(channels_last(full.shape)))
    assert posed(o.Add(), lying) == ""
    assert "several operands" in posed(o.Add(), lying, lying)
    assert "the residual has its channels apart" in posed(o.Add(), full)
    assert "not the result's shape and dtype" in posed(o.Add(), replace(lying, dtype=f32))
    assert "depends on the row" in posed(o.Mul(), TensorType(f16, (128, 1024, 1, 1)))
    assert "Gluon cannot call" in posed(o.Add(), lying, power=True)


def test_what_is_estimated_to_be_slower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "conv2d is estimated to be faster" in reason(pointwise_problem((64, 2048, 7, 7), 16))
    assert "no wgmma" in (TEMPLATE.supports(RESNET, TARGETS[100]) or "")
    deep = replace(H200, shared=20 << 10)
    assert "fit into shared memory" in (TEMPLATE.supports(RESNET, deep) or "")
    with pytest.raises(KernelError, match="take a tactic of conv2d"):
        shape_of(pointwise_problem((128, 252, 14, 14), 1024))
    monkeypatch.setattr(gemm_tma, "LACKING", "this Triton's Gluon has no warp specialisation")
    assert "no warp specialisation" in reason(RESNET)


def test_no_other_region_comes_near() -> None:
    body = Graph("region")
    x = body.add_input("x", TensorType(f16, (4, 8)))
    body.mark_output(body.add(o.Relu(), x))
    assert refuse_body(body) == "anchor is missing"


def test_barriers() -> None:
    """Every ring the template offers for some problems, with loads that arrive in any order."""
    seen = set()
    for problem in (RESNET, *(PROBLEMS[n] for n in ("no residual", "few channels", "bfloat16", "stride 2", "gelu"))):
        steps = -(-shape_of(problem).channels // 64)
        for config in TEMPLATE.candidates(problem, H200):
            seen.add(
                (steps, *(config[n] for n in ("PARTS", "CONSUMERS", "STAGES", "BUFFERS")), len(problem.body.inputs) > 3)
            )
    for steps, parts, consumers, stages, buffers, _ in sorted(seen):
        order = consumers == 2 and stages % (2 * steps) != 0
        for handed in (False, True)[: 1 + (buffers > 1)]:
            for seed in range(3):
                run(7, steps, parts, consumers, stages, buffers, handed, order, seed)


def test_consumers_must_wait_for_each_other_unless_slots_are_their_own() -> None:
    """Six slots and tiles of two blocks: the block before one in its slot was the other consumer's."""

    def often(order: bool) -> None:
        for seed in range(200):
            run(9, 2, 1, 2, 6, 4, True, order, seed)

    often(True)
    with pytest.raises(AssertionError):
        often(False)


def test_one_buffer_for_residuals_would_hang() -> None:
    with pytest.raises(AssertionError, match="all of them wait"):
        run(4, 2, 1, 1, 4, 1, True, False, 0)
