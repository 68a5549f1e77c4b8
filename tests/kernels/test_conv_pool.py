"""A convolution and the pool of it in one kernel, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, TensorType, bf16, f16, f32
from jitrt.graph.op import Op
from jitrt.graph.ops import AdaptiveAvgPool, AdaptiveMaxPool, Add, AvgPool, Cast, Conv, HardSwish, MaxPool, Mul, Relu
from jitrt.kernels.base import Problem, Tactic
from jitrt.kernels.conv_pool import ConvPool
from jitrt.testing import check_problem, compiles, make_problem, random_operands, run_interpreted
from tests.kernels.convolutions import gapped, nhwc

HALVES = MaxPool((2, 2), (2, 2), (0, 0))


def pooled(
    shape: Sequence[int] = (2, 19, 9, 7),
    filters: int = 21,
    kernel: Sequence[int] = (3, 3),
    pool: Op = HALVES,
    *,
    stride: int = 1,
    padding: int | tuple[tuple[int, int], ...] = 1,
    dilation: int = 1,
    groups: int = 1,
    dtype: DType = f16,
    tf32: bool = False,
    cast_from: DType | None = None,
    activation: Op | None = None,
    before: Sequence[int] | None = None,
    after: Sequence[int] | None = None,
    row_gap: int = 0,
    nchw: bool = False,
) -> Problem:
    """pool(relu(conv(x) + bias)). `before` and `after` are the shapes of operands that the pool's input is multiplied
    by, or that is added to its result; `row_gap` adds channels of somebody else's after each pixel of the result."""
    dims = len(kernel)
    body = Graph("region")
    x_type = TensorType(cast_from or dtype, tuple(shape))
    x = body.add_input("x", x_type if nchw else nhwc(x_type))
    w = body.add_input("w", nhwc(TensorType(dtype, (filters, shape[1] // groups, *kernel))))
    bias = body.add_input("bias", TensorType(dtype, (filters, *(1,) * dims)))
    value = body.add(Cast(dtype), x) if cast_from else x
    pads = ((padding, padding),) * dims if isinstance(padding, int) else padding
    op = Conv((stride,) * dims, pads, (dilation,) * dims, groups, tf32)
    value = body.add(activation or Relu(), body.add(Add(), body.add(op, value, w), bias))
    if before is not None:
        value = body.add(Mul(), value, body.add_input("before", TensorType(dtype, tuple(before))))
    value = body.add(pool, value)
    if after is not None:
        added = body.add_input("after", TensorType(dtype, tuple(after)))
        value = body.add(HardSwish(), body.add(Add(), value, added))
    if not nchw:
        value.type = gapped(value.type, row_gap)
    body.mark_output(value)
    return make_problem(body, weights=["w", "bias"], alignment=16 if row_gap == 0 else 2)


def config(m: int = 16, n: int = 16, k: int = 16, **more: Any) -> dict[str, Any]:
    rest = {"SPLIT_K": 1, "FLATTEN": False, "EARLY": False, "num_warps": 4, "num_stages": 2}
    return {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, **rest, **more}


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(pooled(), config(), id="VGG, odd sizes"),
        pytest.param(pooled((1, 16, 8, 10), 16, dtype=bf16, row_gap=3), config(32), id="bfloat16, into a slice"),
        pytest.param(pooled((1, 16, 6, 5), 17, dtype=f32, nchw=True), config(), id="float32, NCHW"),
        pytest.param(
            pooled((1, 16, 6, 6), 8, (1, 1), padding=0, cast_from=f32), config(), id="1x1, cast on the way in"
        ),
        pytest.param(
            pooled((1, 16, 13, 11), 9, stride=2, padding=2, dilation=2), config(), id="strided, padded, dilated"
        ),
        pytest.param(pooled((2, 48, 5, 6), 20), config(SPLIT_K=4), id="split"),
        pytest.param(pooled((1, 3, 11, 9), 12, (5, 5), padding=2), config(FLATTEN=True), id="flattened"),
        pytest.param(pooled((1, 64, 4, 4), 128, groups=16), config(), id="bundled groups"),
        pytest.param(
            pooled((2, 8, 7, 10), 9, pool=MaxPool((3, 3), (3, 3), (0, 0))), config(), id="nine of sixteen rows"
        ),
        pytest.param(pooled((2, 8, 7, 6), 9, pool=AvgPool((2, 3), (2, 3), (0, 0))), config(), id="mean of six"),
        pytest.param(pooled((2, 8, 4, 6), 9, pool=AdaptiveAvgPool((2, 3))), config(SPLIT_K=2), id="adaptive mean"),
        pytest.param(pooled((2, 8, 4, 4), 9, pool=AdaptiveMaxPool((1, 1))), config(), id="a window that is an image"),
        pytest.param(pooled((2, 8, 13), 9, (3,), MaxPool((3,), (3,), (0,), dilation=(1,))), config(), id="1-d"),
        pytest.param(
            pooled((1, 8, 5, 4, 6), 9, (3, 1, 3), MaxPool((3, 1, 2), (3, 1, 2), (0,) * 3, dilation=(1,) * 3)),
            config(),
            id="3-d, six of eight rows",
        ),
        pytest.param(
            pooled(
                (1, 8, 1, 4, 6), 9, (1, 3, 3), AvgPool((2, 1, 2), (2, 1, 2), (0,) * 3), padding=((0, 1), (1, 1), (1, 1))
            ),
            config(),
            id="3-d from a plane",
        ),
        pytest.param(
            pooled(activation=HardSwish(), before=(21, 1, 1), after=(2, 21, 4, 3)),
            config(EARLY=True),
            id="operands before and after the pool",
        ),
    ],
)
def test_numbers(problem: Problem, config: dict[str, Any]) -> None:
    check_problem(problem, ConvPool(), [config])


@pytest.mark.parametrize("pool", [HALVES, AvgPool((2, 2), (2, 2), (0, 0))])
def test_one_pixel_that_is_nan_is_enough(pool: Op) -> None:
    problem = pooled((1, 3, 4, 8), 5, (1, 1), pool, padding=0)
    x, w, bias = random_operands(problem)
    for window in range(4):  # each of them at another position
        x[0, 1, window // 2, 2 * window + window % 2] = np.nan
    got = run_interpreted(problem, Tactic.make(ConvPool(), config()), [x, w, bias], TARGETS[90])
    assert np.isnan(got[:, :, 0]).all() and not np.isnan(got[:, :, 1]).any()


def test_compiles_for_every_target_without_spills() -> None:
    problem = pooled((1, 512, 28, 28), 512)
    for arch in (80, 90, 100):
        split = next(c for c in ConvPool().candidates(problem, TARGETS[arch]) if c["SPLIT_K"] > 1)
        compiles(problem, ConvPool(), split, targets=(arch,))
    compiles(pooled((1, 64, 14, 14), 64, dtype=f32), ConvPool(), config(64, 32, 32))


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (pooled(pool=MaxPool((3, 3), (2, 2), (0, 0))), "windows overlap"),
        (pooled(pool=MaxPool((2, 2), (2, 2), (1, 1))), "padded"),
        (pooled(pool=MaxPool((2, 2), (3, 3), (0, 0))), "leave pixels out"),
        (pooled(pool=MaxPool((2, 2), (2, 2), (0, 0), dilation=(2, 2))), "dilated"),
        (pooled(pool=MaxPool((2, 2), (2, 2), (0, 0), ceil_mode=True)), "beyond the image"),
        (pooled(pool=AdaptiveMaxPool((4, 3))), "differ in size"),
        (pooled(pool=MaxPool((5, 5), (5, 5), (0, 0))), "a window of 25 pixels"),
        (pooled(pool=MaxPool((1, 1), (1, 1), (0, 0))), "a window of 1 pixels"),
        (pooled(before=(2, 21, 9, 7)), "more than a number for each channel"),
        (pooled(before=(2, 21, 1, 1)), "more than a number for each channel"),
        (pooled(after=(3, 2, 21, 4, 3)), "must have its shape"),
        (pooled((1, 8, 6, 6), 8, groups=8), "depthwise"),
        (pooled((1, 4, 6, 6, 6, 6), 4, (1,) * 4, AdaptiveMaxPool((3,) * 4), padding=0), "4-d"),
    ],
)
def test_it_refuses(problem: Problem, reason: str) -> None:
    assert reason in (ConvPool().accepts(problem.body) or "")


def test_grouped_weights_must_be_constants() -> None:
    grouped = pooled((1, 24, 6, 6), 12, groups=3)
    live = Problem(grouped.body, (False, False, True), grouped.alignment)
    assert "constant weights" in (ConvPool().supports(live, TARGETS[90]) or "")


def test_rows_are_counted_in_32_bits() -> None:
    image = pooled((600, 1, 2000, 2000), 1, (1, 1), padding=0)
    assert "too many pixels" in (ConvPool().supports(image, TARGETS[90]) or "")
