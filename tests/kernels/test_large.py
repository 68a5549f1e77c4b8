"""Tensors beyond 2^31 elements: where the kernels reach, without the memory."""

from __future__ import annotations

import math

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.errors import CompileError, KernelError
from jitrt.graph import Graph, TensorType, f16
from jitrt.graph.op import Op
from jitrt.graph.ops import AvgPool, LayerNorm, Matmul, MaxPool, Pad, ReduceMean, ReduceSum, Relu, Softmax
from jitrt.graph.types import channels_last
from jitrt.kernels.base import Config, Problem, Tactic, templates
from jitrt.testing import make_problem
from jitrt.testing.corners import corners
from tests.kernels.convolutions import computed_problem, conv_problem, linear_problem, transposed_problem
from tests.kernels.test_conv_pool import pooled
from tests.kernels.test_depthwise_pointwise import separable

SAME = ((1, 1), (1, 1))
BATCH = (4096, 64, 112, 112)  # 3.3e9 elements
IMAGE = (1, 64, 8192, 8192)  # 4.3e9, in one image
CLIP = (1, 64, 64, 1024, 1024)  # as many, in planes
DEEP = ((1, 1), (0, 0), (0, 0))
POOL3 = AvgPool((2, 2, 2), (2, 2, 2), (0, 0, 0))
DOUBLE = {"stride": (2, 2), "padding": SAME}


def one_op(op: Op, *shapes: tuple[int, ...], nhwc: bool = False) -> Problem:
    """A single op over operands of these shapes; with `nhwc` all of them, and the result, are channels-last."""
    body = Graph("region")
    values = [body.add_input(f"x{i}", TensorType(f16, shape)) for i, shape in enumerate(shapes)]
    values.append(body.add(op, *values, name="y"))
    body.mark_output(values[-1])
    return make_problem(body, strides={v.name: channels_last(v.type.shape) for v in values} if nhwc else {})


def smallest(config: Config) -> int:
    return math.prod(size for name, size in config.items() if name.startswith("BLOCK"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("conv2d", conv_problem(BATCH, 64, (3, 3), padding=SAME, residual=True), id="conv"),
        pytest.param("conv2d", conv_problem(IMAGE, 64, (3, 3), padding=SAME), id="conv of one image"),
        pytest.param("conv2d", conv_problem(IMAGE, 16, (1, 1), nchw_in=True), id="conv of one NCHW image"),
        pytest.param(
            "conv2d",
            conv_problem((1, 3, 32768, 32768), 8, (3, 3), nchw_in=True, padding=SAME),
            id="conv of few channels",
        ),
        pytest.param("conv2d", conv_problem(IMAGE, 64, (3, 3), padding=SAME, groups=2, nchw_in=True), id="grouped"),
        pytest.param("depthwise", conv_problem(IMAGE, 64, (3, 3), padding=SAME, groups=64), id="depthwise"),
        pytest.param(
            "depthwise", conv_problem(IMAGE, 64, (3, 3), padding=SAME, groups=64, nchw_in=True), id="depthwise NCHW"
        ),
        pytest.param("conv2d", conv_problem(CLIP, 16, (3, 3, 3), padding=((1, 1),) * 3), id="conv of one clip"),
        pytest.param(
            "conv2d", conv_problem(CLIP, 16, (3, 1, 1), padding=DEEP, nchw_in=True), id="conv of one NCDHW clip"
        ),
        pytest.param(
            "depthwise", conv_problem(CLIP, 64, (3, 3, 3), padding=((1, 1),) * 3, groups=64), id="depthwise 3-d"
        ),
        pytest.param("conv_transpose", transposed_problem((8192, 32, 56, 112), 16, (4, 4), **DOUBLE), id="transposed"),
        pytest.param("conv_transpose", transposed_problem(IMAGE, 8, (2, 2), stride=(1, 2)), id="transposed image"),
        pytest.param("conv_transpose", transposed_problem(CLIP, 8, (3, 2, 2), stride=(1, 2, 1)), id="transposed clip"),
        pytest.param("conv_pool", pooled(BATCH, 64), id="conv and pool"),
        pytest.param("conv_pool", pooled(CLIP, 16, (3, 3, 3), POOL3), id="conv and pool of one clip"),
        pytest.param("depthwise_pointwise", separable((600, 16, 448, 448), 64), id="separable"),
        pytest.param(
            "depthwise_pointwise", separable((1, 24, 8192, 8192), 64, residual=True, nchw=True), id="separable image"
        ),
        pytest.param("conv2d", linear_problem((600_000, 4096), 64), id="linear"),
        pytest.param("conv2d", linear_problem((16, 16384), 200_000), id="linear with large weights"),
        pytest.param("conv1x1", computed_problem("scale, shift and relu", BATCH, 64), id="conv of what is computed"),
        pytest.param("conv1x1", computed_problem("gate", (16, 64, 2048, 2048), 16, nchw=True), id="gated NCHW"),
        pytest.param("pointwise", one_op(Relu(), BATCH), id="pointwise"),
        pytest.param("pool", one_op(MaxPool((3, 3), (1, 1), (1, 1)), BATCH, nhwc=True), id="pool"),
        pytest.param("pool", one_op(AvgPool((3, 3), (1, 1), (1, 1)), IMAGE), id="pool of one NCHW image"),
        pytest.param("reduce", one_op(ReduceMean((2, 3), True), BATCH, nhwc=True), id="reduce"),
        pytest.param("softmax", one_op(Softmax(1), (3_000_000, 1000)), id="softmax"),
        pytest.param("norm", one_op(LayerNorm(1), (3_000_000, 1000), (1000,), (1000,)), id="norm"),
        pytest.param("matmul", one_op(Matmul(), (3000, 1000, 1000), (3000, 1000, 1000)), id="matmul"),
    ],
)
def test_first_and_last_elements_are_reached(name: str, problem: Problem) -> None:
    template = templates()[name]
    assert template.accepts(problem.body) is None
    config = min(template.candidates(problem, TARGETS[90]), key=smallest)
    reach = corners(problem, Tactic.make(template, config))[-1]
    types = {str(i): value.type for i, value in enumerate(problem.body.inputs)} | {"y": problem.output.type}
    assert set(reach) == set(types)
    for operand, extent in reach.items():
        type = types[operand]
        assert extent == (0, type.span * type.dtype.itemsize - 1), operand


def test_a_pad_writes_its_last_element() -> None:
    """Its corners lie outside the operand."""
    problem = one_op(Pad(((0, 0), (0, 0), (1, 1), (1, 1))), BATCH, nhwc=True)
    template = templates()["pad"]
    (reach,) = corners(problem, Tactic.make(template, template.candidates(problem, TARGETS[90])[0]))
    assert reach == {"y": (0, problem.output.type.span * 2 - 1)}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("pointwise", one_op(Relu(), (3 * 2**30,))),
        ("pointwise", one_op(Relu(), (3 * 2**30, 2))),
        ("reduce", one_op(ReduceSum((0, 1, 2, 3), True), BATCH)),
    ],
    ids=["columns", "rows", "reduced"],
)
def test_more_than_an_index_can_count_is_refused(name: str, problem: Problem) -> None:
    template = templates()[name]
    with pytest.raises(CompileError, match=r"counted by one 32-bit index: reshape the tensor"):
        template.lower(problem, template.candidates(problem, TARGETS[90])[0], TARGETS[90])


def test_reaching_too_far_is_noticed() -> None:
    problem = one_op(Relu(), (7, 5))
    tactic = Tactic.make(templates()["pointwise"], {"BLOCK_M": 8, "BLOCK_K": 8, "FLAT": False, "num_warps": 1})
    assert corners(problem, tactic) == [{"0": (0, 69), "y": (0, 69)}]
    problem.body.inputs[0].type = TensorType(f16, (7, 4))  # less than the kernel will read
    with pytest.raises(KernelError, match=r"touches bytes 0 to 57 of Operand\(index=0\), which has 56"):
        corners(problem, tactic)
